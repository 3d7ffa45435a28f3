"""Files that anybody may have made: what is wrong with one is a sentence, and none takes more memory than there is for it."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from padis_lightning.errors import InputError, one_line, require_above
from padis_lightning.memory import free_memory

LIMIT = "PADIS_LIGHTNING_UNPACKED_GIB"  #: environment variable: what one file may unpack to, in GiB; 4 by default
DEFLATE = 1100  # times that deflate shortens zeros, at most 1032, and a little
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**30 // 12  # of a picture, 2**30 bytes / 4 / 3
BLOCK = 2**20


@contextmanager
def reading(path: object, wanted: str, place: str = "") -> Iterator[None]:
    """Turn whatever libraries raise for a broken file into one sentence, an :class:`InputError`."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise anything
        raise InputError(f"{path} cannot be read{place} ({one_line(error)[:200]}); wanted {wanted}") from error


def require_size(path: object, claimed: int, held: int) -> None:
    """Refuse what takes more memory than there is, or is unpacked from ``held`` bytes to more than :data:`LIMIT` allows.

    Raises:
        InputError: ``claimed`` is above either; nothing has been allocated.
    """
    most = free_memory()
    if claimed > held:
        try:
            allowed = float(os.environ.get(LIMIT, "4"))
        except ValueError:
            raise InputError(f"{LIMIT} is {os.environ[LIMIT]!r}; wanted a number") from None
        require_above(0, **{LIMIT: allowed})
        most = min(most, int(allowed * 2**30))
    if claimed > most:
        seen, wanted = (f"{size / 2**30:.3g} GiB" for size in (claimed, most))
        raise InputError(f"{path} says that it takes {seen} of memory; wanted at most {wanted}, or a higher {LIMIT}")


def require_pixels(path: object, pixels: int) -> None:
    """Refuse a picture or a slice of more than :data:`MOST_PIXELS`."""
    if pixels > MOST_PIXELS:
        raise InputError(f"{path} says that it has {pixels} pixels; wanted at most {MOST_PIXELS}")


def require_inflated(path: object, stream: BinaryIO, most: int, wbits: int = zlib.MAX_WBITS) -> None:
    """Refuse a deflated stream that unpacks to more than ``most`` bytes; it is unpacked to there and forgotten."""
    unpacked, found = zlib.decompressobj(wbits), 0
    while not unpacked.eof and (data := unpacked.unconsumed_tail or stream.read(BLOCK)):
        found += len(unpacked.decompress(data, BLOCK))
        if found > most:
            raise InputError(f"{path} unpacks to more than the {most} bytes that it names; wanted a file that is whole")


def open_picture(source: str | Path | BinaryIO, formats: tuple[str, ...] | None = None) -> ImageFile.ImageFile:
    """Open a picture of at most :data:`MOST_PIXELS` by PIL, which raises an error for one of more."""
    with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
        return Image.open(source, formats=formats)


def open_array(path: Path, name: str = "") -> tuple[IO[bytes], int]:
    """Open the bytes of the array ``name`` of a ``.npz``, or of a ``.npy``; return them and how many there are."""
    held = path.stat().st_size
    if path.suffix == ".npy":
        return open(path, "rb"), held
    archive = zipfile.ZipFile(path)
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > DEFLATE * held:
        raise InputError(f"{path} of {held} bytes says that {name} has {info.file_size}; wanted at most {DEFLATE} times as many")
    return archive.open(info), info.file_size


def read_header(handle: IO[bytes], length: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read shape, whether the first index runs fastest, and type of the ``.npy`` array that begins there.

    Raises:
        ValueError: the ``length`` bytes do not hold what the header names.
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, by_columns, dtype = readers[np.lib.format.read_magic(handle)](handle)
    wanted = handle.tell() + math.prod(shape) * max(1, dtype.itemsize)
    if min(shape, default=0) < 0 or (wanted > length and not dtype.hasobject):
        raise ValueError(f"{length} bytes where shape {shape} and type {dtype} take {wanted}")
    return shape, by_columns, dtype


def load_array(path: Path, name: str = "") -> np.ndarray:
    """Read the array ``name`` of a ``.npz``, or that of a ``.npy``; one of Python's objects is refused."""
    stream, length = open_array(path, name)
    with stream:
        shape, _, dtype = read_header(stream, length)
        require_size(path, math.prod(shape) * dtype.itemsize, path.stat().st_size)
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays of a ``.npz``."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
