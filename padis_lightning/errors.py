"""The exceptions that the command line turns into one sentence and an exit code, and checks that raise them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real


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


def _refuse_unless(fits: Callable[[float], bool], wanted: str, values: dict[str, float]) -> None:
    for name, value in values.items():
        number = isinstance(value, Real)
        if not (number and math.isfinite(value) and fits(value)):
            raise InputError(f"{name} is {format(value, 'g') if number else value}; wanted {wanted}")


def require_at_least(low: float, **values: float) -> None:
    """Refuse values, given by their names, that are below ``low`` or not finite.

    Raises:
        InputError: with the name and the value.
    """
    _refuse_unless(lambda value: value >= low, f"at least {low:g}", values)


def require_above(low: float, **values: float) -> None:
    """Refuse values, given by their names, that are not above ``low`` or not finite.

    Raises:
        InputError: with the name and the value.
    """
    _refuse_unless(lambda value: value > low, f"a value above {low:g}", values)


def require_between(low: float, high: float, **values: float) -> None:
    """Refuse values, given by their names, that are outside of ``[low, high]``.

    Raises:
        InputError: with the name and the value.
    """
    _refuse_unless(lambda value: low <= value <= high, f"a value between {low:g} and {high:g}", values)


def require_among(known: Sequence[object], **values: object) -> None:
    """Refuse values, given by their names, that are none of those that are known.

    Raises:
        InputError: with the name and the value.
    """
    for name, value in values.items():
        if value not in known:
            raise InputError(f"{name} is {value!r:.60}; wanted {' or '.join(map(repr, known))}")
