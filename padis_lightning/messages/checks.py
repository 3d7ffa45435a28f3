"""Checks of parsed settings that the parser does not do."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from padis_lightning.errors import InputError
from padis_lightning.messages.allowed import check_classes, entries_of, find_class
from padis_lightning.messages.parser import LINKED, hints, words
from padis_lightning.messages.paths import check_output, check_paths

# ruff: noqa: ANN401 - configs hold anything


def check_config(config: Any, groups: Sequence[str], modules: Sequence[str], args: Sequence[str], output: str) -> None:
    """Refuse a parsed config that nothing can use, or that names or writes what it may not.

    Args:
        config: the parser's namespace of a command.
        groups: keys that hold keys.
        modules: modules of the user's that a config may name.
        args: the command line; only it may name any folder for the output.
        output: the folder of the run.

    Raises:
        InputError: with the key and the value.
    """
    check_settings(config, groups)
    check_classes(config, modules)
    check_paths(config, Path(output))
    if not any(word.partition("=")[0] == "--output" for word in args):
        check_output(output)


def check_settings(settings: Any, groups: Sequence[str]) -> None:
    """Refuse what the parser lets through though nothing can use it.

    Args:
        settings: the parser's namespace of a command.
        groups: keys that hold keys.

    Raises:
        InputError: with the key and the value.
    """
    from padis_lightning.solvers import Solver

    for key in groups:
        if key in settings and not hasattr(settings[key], "as_flat"):
            raise InputError(f"{key} is {settings[key]!r}; wanted keys and values")
    check_numbers(vars(settings.as_flat()))
    if not 0 <= settings.seed_everything < 2**32:
        raise InputError(f"seed_everything is {settings.seed_everything}; wanted 0 to {2**32 - 1}")
    _check_nulls(settings, "")
    if settings.weights_only is False:
        raise InputError("weights_only is false; wanted true, a checkpoint with objects in it can run code")
    if "results" in groups and settings.ckpt_path is not None:
        raise InputError(f"ckpt_path is {settings.ckpt_path!r}; wanted --prior.checkpoint, which predict takes its weights from")
    for name, solver in (settings.get("results.baselines") or {}).items():
        if not issubclass(find_class(getattr(solver, "class_path", None)) or object, Solver):
            raise InputError(f"results.baselines.{name} is {str(solver)[:80]}; wanted a solver")


def _check_nulls(value: Any, key: str) -> None:
    """Refuse null where a class takes none, which the parser does not look at."""
    for item in value if isinstance(value, list) else ():
        _check_nulls(item, key)
    entries = entries_of(value)
    taken = hints(cls) if (cls := find_class(entries.get("class_path"))) else {}
    for name, item in entries_of(entries.get("init_args")).items():
        _check_null(item, None if name in LINKED else taken.get(name), f"{key}.{name}")
    for name, item in entries.items():
        _check_nulls(item, key if name == "init_args" else f"{key}.{name}".removeprefix("."))


def _check_null(value: Any, hint: Any, key: str) -> None:
    if value is None and hint is not None and words(hint) and type(None) not in (hint, *typing.get_args(hint)):
        raise InputError(f"{key} is null; wanted {words(hint)}")


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
    entries = entries_of(value)
    for item in entries.values() if entries else value if isinstance(value, (list, tuple)) else ():
        yield from _numbers(item)
