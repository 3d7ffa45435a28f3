"""Zip archives, read in memory; those that could do harm are refused."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from functools import lru_cache
from pathlib import Path

from padis_lightning.errors import InputError
from padis_lightning.inputs import MOST_PIXELS, reading

WHOLE = "a zip of pictures that is whole"
MOST_BYTES, MOST_TIMES = 64 * 2**30, 1000  # what an archive may hold, and how many times its own size


def members(path: Path) -> list[str]:
    """Return the names of the files in a zip; one that is encrypted, too large, or names a place outside of itself is refused."""
    with reading(path, WHOLE), zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    for info in infos:
        name = info.orig_filename
        if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
            raise InputError(f"{path} holds {name!r}, which lies outside of it; wanted names below its own folder")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"{path} holds {name!r}, which is a symbolic link; wanted files")
        if info.flag_bits & 1:
            raise InputError(f"{path} holds {name!r}, which is encrypted; wanted a zip without a password")
    total, packed = sum(info.file_size for info in infos), path.stat().st_size
    if total > min(MOST_BYTES, MOST_TIMES * packed):
        raise InputError(f"{path} of {packed} bytes holds {total}; wanted at most {MOST_TIMES} times as many and 64 GiB")
    largest = max(infos, key=lambda info: info.file_size, default=None)
    if largest and largest.file_size > 8 * MOST_PIXELS:
        seen = f"{path} holds {largest.filename!r} of {largest.file_size} bytes"
        raise InputError(f"{seen}; wanted at most {8 * MOST_PIXELS}, of {MOST_PIXELS} pixels")
    return [info.filename for info in infos if not info.is_dir()]


def fetch(path: Path, member: str) -> bytes:
    """Return the content of one file in a zip."""
    with reading(path, WHOLE, f" at {member}"):
        return _archive(path, path.stat().st_mtime_ns, os.getpid()).read(member)


@lru_cache(maxsize=4)
def _archive(path: Path, changed: int, process: int) -> zipfile.ZipFile:
    """Open the archive, once a process: those that share a file would share the place in it."""
    return zipfile.ZipFile(path)
