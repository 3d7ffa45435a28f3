"""Signals that end a command; in a training or a solve they end the step in progress instead, see there."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
GRACE = 1.0  # seconds that a step has to end after a signal
INTERRUPTED, FAILED = 130, 1  # exit codes


class Stopped(BaseException):
    """A signal has come; no error that a part of a command could make up for. The message is one sentence.

    Args:
        number: the signal.
        rest: of the sentence: where it came, and how to go on.
    """

    def __init__(self, number: int, rest: str = "; the same command begins again or goes on where this one stopped") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}{rest}")
        self.code = INTERRUPTED if number == signal.SIGINT else FAILED


def stop(number: int, frame: FrameType | None) -> None:
    """Handle a signal by ending the command here and now.

    Raises:
        Stopped: always.
    """
    raise Stopped(number)


class Signals:
    """Remember the signal at which a run is to stop, 0 for none.

    The step in progress may end within :data:`GRACE`. After that the run ends wherever it is.
    """

    number = 0

    def listen(self) -> None:
        """Take all signals to stop from now on; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in (*STOPPING, signal.SIGALRM):
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGALRM and self.number:
            raise Stopped(self.number, " within a step; the same command goes on from the last state that was kept")
        if number != signal.SIGALRM and not self.number:  # a group of processes may get one twice
            self.number = number
            signal.setitimer(signal.ITIMER_REAL, GRACE)

    def wait(self) -> None:
        """Give what follows all the time that it takes."""
        if self.number:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def obey(self) -> None:
        """Stop where a signal came.

        Raises:
            Stopped: there was one.
        """
        if self.number:
            self.wait()
            raise Stopped(self.number, "; the same command goes on where this one stopped")


@contextmanager
def stopping() -> Iterator[None]:
    """End a command within the block at a signal, and where it fails its workers; only in the main thread, which alone can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    others = multiprocessing.active_children()
    before = {number: signal.signal(number, stop) for number in STOPPING}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, signal.SIG_IGN)  # else one that comes late would kill
    try:
        yield
    except BaseException:
        _end_workers(others)
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_workers(others: Collection[BaseProcess]) -> None:
    """End the processes that load data, which hold nothing and else outlive their run by seconds, but no ``others``."""
    workers = [child for child in multiprocessing.active_children() if child.daemon and child not in others]
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes their end for a fault
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    signal.signal(signal.SIGCHLD, before)
