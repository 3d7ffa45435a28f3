"""One writer a folder: a lock that the operating system ends with its process."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from padis_lightning.errors import InputError, one_line

WAIT = 2.0  # seconds for another writer to end, or for another share to begin
UNWRITABLE = (  # errors of a folder that nothing can be written into, which the first write says better
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM,
    errno.EROFS,
)  # fmt: skip


class WriteLock:
    """Hold what a command writes, until the context ends or the process dies.

    A writer is alone, or has a share: shards of ``predict`` and rows of ``sweep`` write beside each other. Another share waits
    until this one has called :meth:`admit`. Where a file system has no locks, a line says so and the writer goes on.

    Args:
        path: the folder, or the file, that is written.
        share: which share of it; None for all.
        file: whether ``path`` is a file.

    Raises:
        InputError: another process writes; with its host, its number and its beginning. Or a folder in it is a link that leads
            out of it: whoever made it would decide where files go.
    """

    def __init__(self, path: Path, share: int | None = None, file: bool = False) -> None:
        self.path, self.share = path, share
        self._folder = path.parent if file else path
        self._gate = self._folder / (f".{path.name}.lock" if file else ".lock")
        self._held, self._open = ExitStack(), ExitStack()

    def __enter__(self) -> WriteLock:
        with ExitStack() as undone:
            undone.push(self.__exit__)
            self._held.enter_context(_folder(self._folder))
            if self.share is None:
                self._held.enter_context(self._lock(self._gate))
                self.require_alone()
            else:
                self._open.enter_context(self._lock(self._gate))
                self._held.enter_context(self._lock(self._own))
            if self._folder == self.path:
                _refuse_links(self.path)
            undone.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()
        self._held.close()

    @property
    def _own(self) -> Path:
        return self._gate.with_name(f"{self._gate.name}.{self.share}")

    def require_alone(self) -> None:
        """Refuse to go on where another share is being written; none can begin until :meth:`admit`.

        Raises:
            InputError: with the process that writes it.
        """
        for path in self._folder.glob(f"{self._gate.name}.*"):
            if path != self._own:
                with self._lock(path):
                    pass

    def admit(self) -> None:
        """Let other shares begin."""
        self._open.close()

    @contextmanager
    def _lock(self, path: Path) -> Iterator[None]:
        """Hold a lock file, which says who does and is removed in the end."""
        from filelock import FileLock, Timeout

        lock = FileLock(path, timeout=WAIT, poll_interval=0.05, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout:
            wanted = "wanted another --output, or the end of that process"
            raise InputError(f"{self.path} is being written by {_holder(path)}; {wanted}") from None
        except OSError as error:
            if error.errno not in UNWRITABLE:
                seen = f"{self._folder} has no locks ({error.strerror or one_line(error)})"
                print(f"padis_lightning: {seen}; nothing else must write there now", file=sys.stderr)
            yield
            return
        try:
            if path.stat().st_nlink == 1:
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}", encoding="utf-8")
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: who waits for it takes a new one
            lock.release()


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder, and remove it where nothing came into it; one that cannot be made is what the first write says."""
    there = path.exists()
    with suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if not there:
            with suppress(OSError):
                path.rmdir()


def _refuse_links(folder: Path) -> None:
    for place, names, _ in os.walk(folder):
        for path in (Path(place, name) for name in names):
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"{path} is a link to {path.resolve()}; wanted a folder of its own, or another --output")


def _holder(path: Path) -> str:
    try:
        text = path.read_bytes()[:120].decode("utf-8", "replace")
    except OSError:
        text = ""
    return one_line("".join(c for c in text if c.isprintable())) or "another process"
