"""Images of ``.npz`` and ``.npy`` files as series whose slices are read one by one, however large the file is."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from padis_lightning.data.readers.names import safe, unique
from padis_lightning.data.sources.contents import UNREADABLE, check_axes, load_keys, read_header, read_pair
from padis_lightning.data.sources.series import Series
from padis_lightning.errors import InputError
from padis_lightning.types import Normalisation


class Stream:
    """A compressed array of a ``.npz``, unpacked from its beginning to where it is read; going back begins anew."""

    def __init__(self, path: Path, member: str) -> None:
        self.path, self.member = path, member
        self._process, self._opened = 0, None

    def __reduce__(self) -> tuple:
        return Stream, (self.path, self.member)

    def read(self, start: int, count: int) -> bytes:
        """``count`` bytes from ``start`` on."""
        if self._opened is None or self._process != os.getpid():  # processes must not share a place in a file
            self._process, self._opened = os.getpid(), zipfile.ZipFile(self.path).open(self.member)
        self._opened.seek(start)
        return self._opened.read(count)


@dataclass(frozen=True)
class Stack:
    """Where the images of a file lie, and what their numbers mean.

    Attributes:
        path: the file.
        shape: ``(n, H, W)`` or ``(n, H, W, C)``.
        dtype: of the stored numbers.
        columns: the first index runs fastest.
        offset: bytes before the first number, in the file or in the stream.
        stream: the array, where it is compressed.
        slope: units a stored step.
        intercept: units of a stored 0.
        unit: values outside of 0 to 1 are refused.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    columns: bool
    offset: int
    stream: Stream | None
    slope: float = 1.0
    intercept: float = 0.0
    unit: bool = False

    def read(self, first: int, k: int) -> np.ndarray:
        """Image ``first + k`` in units, float32.

        Raises:
            InputError: it cannot be read, or has values that the file's type does not stand for.
        """
        try:
            values = self._stored(first + k).astype(np.float32)
        except UNREADABLE as error:
            raise InputError(f"{self.path} cannot be read at image {first + k} ({error}); wanted arrays of numbers") from error
        if self.unit and (values.min() < 0 or values.max() > 1):
            low, high = values.min(), values.max()
            raise InputError(
                f"{self.path} has values from {low:g} to {high:g} and no 'range'; wanted values from 0 to 1, or the range named"
            )
        values *= self.slope
        values += self.intercept
        return values

    def _stored(self, i: int) -> np.ndarray:
        if self.stream is None:  # a map of its own: one that stayed would keep in memory all that was read
            return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, "F" if self.columns else "C")[i]
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        return np.frombuffer(self.stream.read(self.offset + i * size, size), self.dtype).reshape(self.shape[1:])


def _find(path: Path) -> Stack:
    """Where the images lie; only headers are read."""
    if path.suffix == ".npy":
        with open(path, "rb") as handle:
            shape, columns, dtype = read_header(handle)
            return Stack(path, shape, dtype, columns, handle.tell(), None)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("images.npy")
        with archive.open(member) as handle:
            shape, columns, dtype = read_header(handle)
            offset = handle.tell()
    if member.compress_type != zipfile.ZIP_STORED:
        return Stack(path, shape, dtype, columns, offset, Stream(path, member.filename))
    with open(path, "rb") as handle:
        handle.seek(member.header_offset + 26)
        lengths = np.frombuffer(handle.read(4), "<u2")  # of the name and of the extra field, which end the header
    return Stack(path, shape, dtype, columns, member.header_offset + 30 + int(lengths.sum()) + offset, None)


def _open(path: Path) -> Stack:
    """The images, if they are some.

    Raises:
        InputError: they are not.
    """
    try:
        stack = _find(path)
    except KeyError as error:
        raise InputError(f"{path} has no array 'images'; wanted images") from error
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read ({error}); wanted arrays of numbers in .npz or .npy") from error
    shape, dtype = stack.shape, stack.dtype
    if dtype.kind not in "uifb" or len(shape) not in (3, 4) or 0 in shape:
        raise InputError(f"{path} has images of type {dtype} and shape {shape}; wanted real numbers, (n, H, W) or (n, H, W, C)")
    check_axes(shape, path)
    if stack.stream and stack.columns:
        raise InputError(f"{path} has images that are compressed and stored by columns; wanted rows (np.ascontiguousarray)")
    missing = stack.offset + math.prod(shape) * dtype.itemsize - path.stat().st_size
    if stack.stream is None and missing > 0:
        raise InputError(f"{path} ends {missing} bytes before its images do; wanted the whole file")
    return stack


def _in_units(stack: Stack, described: dict[str, np.ndarray], ranged: bool) -> tuple[Stack, str, tuple[float, float] | None]:
    """The stack with the meaning of its numbers, their units, and the values that become 0 and 1 where the file tells."""
    window, stored = (read_pair(described, key, stack.path) for key in ("hu_window", "range"))
    if window is not None:
        low, high = stored or (0.0, window[1] - window[0])
        for pair in (window, (low, high)):
            Normalisation(*pair)  # refuses one that is not in order
        slope = (window[1] - window[0]) / (high - low)
        return replace(stack, slope=slope, intercept=window[0] - low * slope), "HU", window
    if stored is None and stack.dtype == np.uint8:
        stored = 0.0, 255.0
    if stored is None and not ranged and stack.dtype.kind in "fb":
        return replace(stack, unit=True), "", (0.0, 1.0)
    return stack, "", stored


def open_arrays(path: str | Path, data_range: Sequence[float] | None = None) -> list[Series]:
    """The images of a ``.npz`` or ``.npy`` file, a series for each run of one patient, or for each image without ``patient``.

    Runs rather than patients: series after series, the file is then read forward, and a compressed one unpacked once.

    Args:
        path: the file; keys as in :func:`padis_lightning.data.read_arrays`.
        data_range: what becomes 0 and 1, where the file does not say; values of any size are then taken.

    Raises:
        InputError: there is no such file, or it does not hold images.
    """
    path = Path(path)
    described = {} if path.suffix == ".npy" else load_keys(path, ("patient", "range", "hu_window"))
    stack, units, implied = _in_units(_open(path), described, data_range is not None)
    count = stack.shape[0]
    groups = described.get("patient", np.array([f"{path.stem}_{i:04d}" for i in range(count)]))
    if groups.shape != (count,):
        raise InputError(f"{path} has patient of shape {groups.shape}; wanted {count} entries, one an image")
    bounds = [0, *(np.flatnonzero(groups[1:] != groups[:-1]) + 1).tolist(), count]
    return unique(
        [
            Series(safe(group), group, stop - start, stack.shape[1:], partial(stack.read, start), units, implied, files=(path,))
            for start, stop in pairwise(bounds)
            for group in [str(groups[start])]
        ]
    )
