"""The exceptions that the command line turns into one sentence and an exit code, and checks that raise them."""

from __future__ import annotations

import math
from collections.abc import Sequence


class InputError(ValueError):
    """Input that cannot be used (exit code 2); the message is one sentence with the value seen and the value wanted."""


class RunError(RuntimeError):
    """A run that ended before its end, or whose images failed (exit code 1); the message is one sentence."""


def one_line(message: object) -> str:
    """Return an error's message, or any text, without its line breaks."""
    return " ".join(str(message).split())


def first_few(values: Sequence[object]) -> str:
    """Return the first eight values as text, with dots where there are more."""
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")


def require_at_least(low: float, **values: float) -> None:
    """Refuse values, given by their names, that are below ``low`` or not finite.

    Raises:
        InputError: with the name and the value.
    """
    for name, value in values.items():
        if not (value >= low and math.isfinite(value)):
            raise InputError(f"{name} is {value:g}; wanted at least {low:g}")


def require_above(low: float, **values: float) -> None:
    """Refuse values, given by their names, that are not above ``low`` or not finite.

    Raises:
        InputError: with the name and the value.
    """
    for name, value in values.items():
        if not (value > low and math.isfinite(value)):
            raise InputError(f"{name} is {value:g}; wanted a value above {low:g}")


def require_between(low: float, high: float, **values: float) -> None:
    """Refuse values, given by their names, that are outside of ``[low, high]``.

    Raises:
        InputError: with the name and the value.
    """
    for name, value in values.items():
        if not low <= value <= high:
            raise InputError(f"{name} is {value:g}; wanted a value between {low:g} and {high:g}")
