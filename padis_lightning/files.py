"""Files that are written whole or not at all, and names that are fit for them."""

from __future__ import annotations

import os
import re
import socket
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LONGEST = 200  # bytes of a name, so that those of its temporary files fit into the 255 that file systems have


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


def lies_in(path: Path, folder: Path) -> bool:
    """Return whether a path, with its links followed, is below ``folder``."""
    return path.resolve().is_relative_to(folder.resolve())


def safe_names(names: Sequence[str]) -> list[str]:
    """Return names for files: without folders, of at most 200 bytes of UTF-8, and no two alike where case does not count.

    Names that are so already stay as they are; others that would be alike get a number.
    """
    out, owners, numbers = [_safe(name) for name in names], dict[str, int](), Counter[str]()
    for k, name in enumerate(names):
        if name == out[k]:
            owners.setdefault(_key(name), k)
    for k, clean in enumerate(out):
        while owners.setdefault(_key(out[k]), k) != k:
            numbers[clean] += 1
            ending = f"_{numbers[clean] + 1}"
            out[k] = _cut(clean, LONGEST - len(ending)) + ending
    return out


def _safe(name: str) -> str:
    text = name.encode("utf-8", "replace").decode()
    return _cut(re.sub(r"[^\w.,()+=@ -]+", "_", text).strip(". "), LONGEST).rstrip(". ") or "unnamed"


def _cut(text: str, count: int) -> str:
    return text.encode()[:count].decode("utf-8", "ignore")


def _key(name: str) -> str:
    """Return what file systems that ignore case and the form of accents compare."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


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
