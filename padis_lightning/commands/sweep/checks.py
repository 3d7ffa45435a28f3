"""Parts of a sweep's file as what they have to be, or one sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from padis_lightning.errors import InputError, one_line

# ruff: noqa: ANN401 - parts are whatever YAML holds
KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
OWN = ("config", "output")  # what the sweep gives to each row


def read_yaml(path: Path, wanted: str) -> Any:
    """What a file holds.

    Raises:
        InputError: it is not YAML; ``wanted`` is what it should be.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML ({one_line(error)}); wanted {wanted}") from None


def mapping(raw: Any, where: str, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Keys with values; none but ``keys``, where they are given."""
    if not isinstance(raw, dict):
        raise InputError(f"{where} is {raw!r}; wanted keys with values")
    for key in raw:
        if keys is not None and key not in keys:
            raise InputError(f"{key!r} is not a key of {where}; wanted one of {', '.join(keys)}")
    return raw


def dotted(raw: Any, where: str) -> dict[str, Any]:
    """Values by dotted key of a config."""
    for key in mapping(raw, where):
        if not isinstance(key, str) or not KEY.fullmatch(key) or key in OWN:
            raise InputError(f"{key!r} is not a setting in {where}; wanted a dotted key of a config such as model.steps")
    return dict(raw)


def several(raw: Any, where: str) -> list[Any]:
    """At least one value, none twice."""
    if not isinstance(raw, list) or not raw:
        raise InputError(f"{where} is {raw!r}; wanted a list of values")
    if (double := first_double(raw)) is not None:
        raise InputError(f"{where} holds {raw[double]!r} twice; wanted values that differ")
    return raw


def first_double(values: Sequence[Any]) -> int | None:
    """The place of the first value that came before."""
    return next((k for k, value in enumerate(values) if value in values[:k]), None)


def flag(raw: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(raw, bool):
        raise InputError(f"{where} is {raw!r}; wanted true or false")
    return raw


def count(raw: Any, where: str, low: int) -> int:
    """A whole number of at least ``low``."""
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < low:
        raise InputError(f"{where} is {raw!r}; wanted a whole number of at least {low}")
    return raw


def number(raw: Any, where: str, integer: bool) -> float | int:
    """A finite number, also where YAML takes it for text, as it does 1e-4."""
    try:
        value = float("nan" if isinstance(raw, bool) else raw)
    except (TypeError, ValueError):
        value = float("nan")
    if not abs(value) < float("inf") or (integer and value != int(value)):
        raise InputError(f"{where} is {raw!r}; wanted a {'whole ' * integer}number")
    return int(value) if integer else value
