"""Start commands of the package quickly, as children that can be killed of a process that has imported everything.

forker = Forker()
child = forker.start(["fit", "--config", "ct.yaml", ...], cwd=tmp_path)
child.kill()
again = forker.start([...], cwd=tmp_path)
assert again.wait() == 0, again.stderr
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path


def _run(args: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """Run a command as a child does, in a session of its own."""
    os.setsid()
    threading.Thread(target=_end_with, args=[multiprocessing.parent_process().sentinel], daemon=True).start()
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    import torch

    from padis_lightning.cli import main

    torch.set_num_threads(1)
    if args[0] != "-c":
        main(args)
        return
    sys.argv = ["-c", *args[2:]]
    exec(args[1], {"__name__": "__main__"})  # noqa: S102


def _end_with(parent: int) -> None:
    """Kill this process and its children when the test run is gone, even one that was killed."""
    wait([parent])
    os.killpg(0, signal.SIGKILL)


class Child:
    """A running command.

    Attributes:
        pid: its process and its session.
    """

    def __init__(self, process: BaseProcess, out: Path, err: Path) -> None:
        self._process, self._out, self._err = process, out, err
        self.pid = process.pid

    def wait(self, timeout: float = 120) -> int:
        """Return the exit code; minus the signal that ended it.

        Raises:
            TimeoutError: it still runs; it is killed.
        """
        self._process.join(timeout)
        if self.alive:
            self.kill()
            raise TimeoutError(f"still running after {timeout} s; it had said {self.stderr!r}")
        return self._process.exitcode

    def send(self, number: int) -> None:
        """Send a signal to it and the processes it started."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """``kill -9`` it and the processes it started, and wait for its end."""
        try:
            self.send(signal.SIGKILL)
        except ProcessLookupError:
            self._process.kill()  # it has ended, or has no session yet
        self._process.join()

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.alive:
            self.kill()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.is_alive()

    @property
    def stdout(self) -> str:
        """Return what it has printed so far."""
        return self._out.read_text() if self._out.exists() else ""

    @property
    def stderr(self) -> str:
        """Return what it has said on stderr so far."""
        return self._err.read_text() if self._err.exists() else ""


class Forker:
    """Start commands as forks of one process, on one thread each.

    The process is shared by all Forkers of a test run and ends with it.
    """

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["padis_lightning.cli", __name__])
        self._said = tempfile.TemporaryDirectory()
        self._count = 0

    def start(self, args: Sequence[object], cwd: Path, env: Mapping[str, str] | None = None) -> Child:
        """Run ``python -m padis_lightning ARGS``, or ``python -c CODE ARGS``, in a folder.

        Args:
            args: what follows the program's name, or ``-c`` and what follows it.
            cwd: the folder.
            env: variables to set besides those of this process.
        """
        self._count += 1
        out, err = (Path(self._said.name) / f"{self._count}.{name}" for name in ("out", "err"))
        given = [str(arg) for arg in args], str(cwd), {**os.environ, **(env or {})}, str(out), str(err)
        process = self._context.Process(target=_run, args=given)
        process.start()
        child = Child(process, out, err)
        atexit.register(child.end)  # else the test run would wait for what a test has left running
        return child


def wait_for(condition, timeout: float = 120, pause: float = 0.005) -> None:
    """Look every 5 ms, or after each ``pause``, until ``condition()`` holds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("what was waited for did not come")
        time.sleep(pause)
