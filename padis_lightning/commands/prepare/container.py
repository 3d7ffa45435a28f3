"""The prepared file: images as one block of numbers, tables beside them, and a manifest that tells their hash."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from padis_lightning.commands.prepare.plan import Plan
from padis_lightning.data.readers.prepared import FORMAT, VERSION
from padis_lightning.errors import InputError

if TYPE_CHECKING:
    import h5py

PIECE = 1 << 20  # bytes that are hashed at a time
ROWS = 4096  # of a table that are written at a time


class Block(NamedTuple):
    """Where numbers lie in a file: ``shape`` of ``dtype`` from byte ``offset`` on, row by row."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def slice_bytes(self) -> int:
        """Bytes of one slice."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def map(self, start: int, stop: int) -> np.memmap:
        """Slices ``start`` to ``stop``, to be written."""
        return np.memmap(self.path, self.dtype, "r+", self.offset + start * self.slice_bytes, (stop - start, *self.shape[1:]))

    def digest(self) -> str:
        """SHA-256 of the numbers."""
        return sha256(self.path, self.offset, self.shape[0] * self.slice_bytes)


def sha256(path: Path, offset: int = 0, count: int | None = None) -> str:
    """SHA-256 of ``count`` bytes of a file from ``offset`` on (default: to its end)."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        handle.seek(offset)
        left = os.fstat(handle.fileno()).st_size - offset if count is None else count
        while left > 0 and (piece := handle.read(min(PIECE, left))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def _write_text(file: h5py.File, name: str, words: Callable[[int], str], count: int) -> None:
    """A table of ``count`` words in UTF-8, each with as much room as the longest takes."""
    import h5py

    longest = max(len(words(i).encode()) for i in range(count))
    _write_table(file, name, lambda i: words(i).encode(), (count,), h5py.string_dtype("utf-8", max(1, longest)))


def _write_table(file: h5py.File, name: str, row: Callable[[int], object], shape: tuple[int, ...], dtype: np.dtype) -> None:
    """A table, some rows at a time."""
    table = file.create_dataset(name, shape, dtype, track_times=False)
    for start in range(0, shape[0], ROWS):
        rows = [row(i) for i in range(start, min(start + ROWS, shape[0]))]
        table[start : start + len(rows)] = np.array(rows, dtype)


def create(path: Path, plan: Plan) -> Block:
    """Write a file with everything but the images and the manifest, and room for both.

    The same plan gives the same bytes: no times are stored.

    Raises:
        InputError: it cannot be written, for want of room for instance.
    """
    import h5py

    low, high = plan.range
    slope, intercept = plan.scale
    attributes: dict[str, Any] = {"format": FORMAT, "version": VERSION, "slope": slope, "intercept": intercept}
    attributes |= {"units": plan.units, "range": [low, high]} | ({"window": [low, high]} if plan.units == "HU" else {})
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    try:
        with h5py.File(path, "w", libver="earliest") as file:
            images = file.create_dataset("images", (plan.count, *plan.shape), plan.dtype, dcpl=early, track_times=False)
            for name, words in {"name": plan.name, "group": plan.group, "part": plan.part}.items():
                _write_text(file, name, words, plan.count)
            _write_table(file, "affine", plan.affine, (plan.count, 4, 4), np.dtype(float))
            file.attrs.update(attributes)
            block = Block(path, images.id.get_offset(), images.shape, images.dtype)
        with open(path, "rb+") as handle:
            if hasattr(os, "posix_fallocate"):  # a map that finds the disk full ends the process
                os.posix_fallocate(handle.fileno(), block.offset, block.shape[0] * block.slice_bytes)
            os.fsync(handle.fileno())
    except OSError as error:
        size = plan.count * math.prod(plan.shape) * plan.dtype.itemsize / 1e9
        raise InputError(f"{path} cannot be written ({error.strerror or error}); wanted room for {size:.2g} GB") from error
    return block


def seal(block: Block, manifest: dict[str, Any]) -> None:
    """Add the manifest to a file whose images are written."""
    import h5py

    with h5py.File(block.path, "r+") as file:
        file.attrs["manifest"] = json.dumps(manifest, indent=1)
    with open(block.path, "rb+") as handle:
        os.fsync(handle.fileno())


def verify(path: Path) -> tuple[int, str]:
    """Hash the images of a prepared file and compare with its manifest; the number of slices and the hash.

    Raises:
        InputError: the file was not written by ``prepare``, or its images are not those that were.
    """
    import h5py

    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; wanted one written by prepare")
    try:
        with h5py.File(path, "r") as file:
            images = file["images"]
            block = Block(path, images.id.get_offset(), images.shape, images.dtype)
            wanted = json.loads(file.attrs["manifest"])["images"]["sha256"]
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({error}); wanted a file written by prepare") from error
    found = block.digest()
    if found != wanted:
        raise InputError(f"{path} has images of SHA-256 {found}; wanted {wanted}, which its manifest names")
    return block.shape[0], found
