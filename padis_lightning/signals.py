"""Signals that end a command; in a training or a solve they end the step in progress instead, see there."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Collection, Iterator
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
    """End a command within the block at a signal, and where it fails its workers; only in the main thread, which alone can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    others = multiprocessing.active_children()
    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    except BaseException:
        _end_workers(others)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_workers(others: Collection[multiprocessing.Process]) -> None:
    """End the processes that load data, which hold nothing and else outlive their run by seconds, but no ``others``."""
    workers = [child for child in multiprocessing.active_children() if child.daemon and child not in others]
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes their end for a fault
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    signal.signal(signal.SIGCHLD, before)
