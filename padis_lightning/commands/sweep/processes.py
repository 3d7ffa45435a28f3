"""Rows as processes, which end with the sweep and not without a word."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PROMPT = "$ "  # before a command in a log
PASSED_ON = (*ENDING, signal.SIGUSR1)


class Processes:
    """Processes that get the signals that this one gets, each once.

    Args:
        jobs: how many run at once; they share the processors, unless ``OMP_NUM_THREADS`` says otherwise.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs, self.stopped, self.running = jobs, 0, set()
        self._lock = threading.RLock()  # a signal may come while another is passed on

    def run(self, words: Sequence[str], log: Path) -> int:
        """Run ``python -m padis_lightning`` with ``words``, all that it says into ``log``; its exit code."""
        command = [sys.executable, "-m", "padis_lightning", *words]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self.jobs > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.jobs)))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            out.write(f"{PROMPT}{shlex.join(command)}\n".encode())
            out.flush()
            with self._lock:
                if self.stopped:
                    return 128 + self.stopped
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,  # else a signal to the group would reach it twice
                )
                self.running.add(process)
            try:
                code = process.wait()
            finally:
                with self._lock:
                    self.running.discard(process)
        return 128 - code if code < 0 else code

    @contextmanager
    def passing_on(self) -> Iterator[None]:
        """Pass signals on meanwhile; one that ends programs also keeps others from starting."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._pass_on) for number in PASSED_ON}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if number in ENDING:
            self.stopped = number
        with self._lock:
            for process in self.running:
                process.send_signal(number)
