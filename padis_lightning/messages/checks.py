"""Checks of parsed settings that the parser does not do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from padis_lightning.errors import InputError
from padis_lightning.messages.allowed import find_class

# ruff: noqa: ANN401 - configs hold anything


def check_settings(settings: Any, groups: Sequence[str]) -> None:
    """Refuse what the parser lets through though nothing can use it.

    Args:
        settings: the parser's namespace of a command.
        groups: keys that hold keys.

    Raises:
        InputError: a group is a value, a required key is null, a number is not finite or has more than 64 bits, the seed is no
            seed, or a baseline is no solver.
    """
    from padis_lightning.solvers import Solver

    for key in groups:
        if key in settings and not hasattr(settings[key], "as_flat"):
            raise InputError(f"{key} is {settings[key]!r}; wanted keys and values")
    check_numbers(vars(settings.as_flat()))
    if not 0 <= settings.seed_everything < 2**32:
        raise InputError(f"seed_everything is {settings.seed_everything}; wanted 0 to {2**32 - 1}")
    for name, solver in (settings.get("results.baselines") or {}).items():
        if not issubclass(find_class(getattr(solver, "class_path", None)) or object, Solver):
            raise InputError(f"results.baselines.{name} is {str(solver)[:80]}; wanted a solver")


def check_numbers(values: Mapping[str, Any]) -> None:
    """Refuse numbers that are not finite or do not fit into 64 bits, wherever they are.

    Args:
        values: the flat config.

    Raises:
        InputError: with the key.
    """
    for key, value in values.items():
        for number in _numbers(value):
            large = isinstance(number, int) and not -(2**63) <= number < 2**63
            if large or not math.isfinite(number):
                seen = f"{key.replace('.init_args', '')} is {str(number)[:80]}"
                raise InputError(f"{seen}; wanted a finite number, a whole one of at most 64 bits")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)):
        yield value
    entries = vars(value) if type(value).__name__ == "Namespace" else value
    for item in entries.values() if isinstance(entries, dict) else entries if isinstance(entries, (list, tuple)) else ():
        yield from _numbers(item)
