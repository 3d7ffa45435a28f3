"""Signals that end a command; in a training or a solve they end the step in progress instead, see there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(BaseException):
    """A signal has come; no error that a part of a command could make up for. The message is one sentence."""


def stop(number: int, frame: FrameType | None) -> None:
    """Handle a signal by ending the command here and now.

    Raises:
        Stopped: always.
    """
    raise Stopped(f"stopped by {signal.Signals(number).name}; the same command begins again or goes on where this one stopped")


@contextmanager
def stopping() -> Iterator[None]:
    """End a command within the block at a signal; only in the main thread, which alone can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
