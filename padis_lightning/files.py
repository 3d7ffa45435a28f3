"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()
_HOST = re.sub(r"\W", "_", socket.gethostname())[:32]
_LEFTOVER = re.compile(rf"\..+\.{_HOST}-(\d+)\.part")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; it takes the place of ``path`` when the block ends without an error.

    Raises:
        OSError: with ``path`` as its file where the error names none, as that of a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(0o666 & ~_UMASK)  # some libraries write for the owner alone
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` whole."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sweep_up(folder: Path, pattern: str = "**/.*.part") -> None:
    """Remove the temporaries of :func:`whole` in ``folder`` and below that dead processes of this host have left."""
    for path in folder.glob(pattern):
        name = _LEFTOVER.fullmatch(path.name)
        if name and not _lives(int(name[1])):
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True
