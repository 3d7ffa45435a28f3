"""The exceptions that the command line turns into one sentence and an exit code, and what such sentences are made of."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Input that cannot be used (exit code 2); the message is one sentence with the value seen and the value wanted."""


class RunError(RuntimeError):
    """A run that ended before its end, or whose images failed (exit code 1); the message is one sentence."""


def one_line(message: object) -> str:
    """An error's message, or any text, without its line breaks."""
    return " ".join(str(message).split())


def some(values: Sequence[object]) -> str:
    """The first eight, and whether there are more."""
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
