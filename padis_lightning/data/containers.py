"""Named arrays of ``.npz``, ``.npy`` and HDF5 files: the one place where these are opened."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from padis_lightning.errors import InputError

if TYPE_CHECKING:
    import h5py

NUMPY, HDF5 = (".npz", ".npy"), (".h5", ".hdf5")
UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)  # what broken or locked files raise
CONTENTS = ("images", "y", "counts", "data")  # a file has one of these


@contextmanager
def hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises:
        InputError: it is none, or it is cut off.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); wanted HDF5 that is whole") from error


@contextmanager
def numpy_file(path: Path, place: str = "") -> Iterator[None]:
    """Turn what broken ``.npz`` and ``.npy`` files raise into one sentence.

    Raises:
        InputError: in place of it.
    """
    try:
        yield
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read{place} ({error}); wanted arrays of numbers in .npz or .npy") from error


def load_keys(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Read those of the arrays ``keys`` that a file has, attributes of HDF5 among them; ``images`` for a bare array.

    Raises:
        InputError: there is no such file, or it is not one of arrays, or it has neither images nor a measurement.
    """
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; wanted data in .npz or .npy")
    if path.suffix not in (*NUMPY, *HDF5):
        raise InputError(f"{path} ends in {path.suffix!r}; wanted .npz or .npy, or a measurement in {' or '.join(HDF5)}")
    names, arrays = (load_hdf5 if path.suffix in HDF5 else _load_numpy)(path, keys)
    if not {*CONTENTS} & {*names}:
        raise InputError(f"{path} has the arrays {', '.join(sorted(names)) or '(none)'}; wanted 'images' or 'y' or 'counts'")
    return arrays


def _load_numpy(path: Path, keys: Sequence[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    with numpy_file(path):
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return ["images"], {"images": content}
        return content.files, {key: content[key] for key in keys if key in content.files}


def load_hdf5(path: Path, keys: Sequence[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Read all names in an HDF5 file, and those of the arrays and attributes ``keys`` that it has.

    Raises:
        InputError: it cannot be read.
    """
    import h5py

    with hdf5(path) as file:
        arrays = {key: np.asarray(file.attrs[key]) for key in keys if key in file.attrs}
        for key in keys:
            if isinstance(file.get(key), h5py.Dataset):
                text = h5py.check_string_dtype(file[key].dtype) is not None
                arrays[key] = np.asarray((file[key].asstr() if text else file[key])[()])
        return [*file], arrays


def shapes_of(path: Path, keys: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of those of the arrays ``keys`` that a ``.npz`` or HDF5 file has; only headers are read.

    Raises:
        InputError: it cannot be read.
    """
    if path.suffix in HDF5:
        with hdf5(path) as file:
            held = [(key, file.attrs[key] if key in file.attrs else file.get(key)) for key in keys]
            return {key: getattr(value, "shape", None) or () for key, value in held if value is not None}
    if not zipfile.is_zipfile(path):
        return {}
    with numpy_file(path), zipfile.ZipFile(path) as archive:
        held = {*keys} & {name.removesuffix(".npy") for name in archive.namelist()}
        return {key: _header(archive.open(f"{key}.npy"))[0] for key in held}


def _header(handle: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read shape, whether the first index runs fastest, and type of the array that begins there."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(handle)
    if version not in readers:
        raise ValueError(f"format {version} is not one of numbers")
    return readers[version](handle)


class Stream:
    """Unpacks a compressed array of a ``.npz`` from its beginning to where it is read; going back begins anew."""

    def __init__(self, path: Path, member: str) -> None:
        self.path, self.member = path, member
        self._process, self._opened = 0, None

    def __reduce__(self) -> tuple:
        return Stream, (self.path, self.member)

    def read(self, start: int, count: int) -> bytes:
        """Return ``count`` bytes from ``start`` on."""
        if self._opened is None or self._process != os.getpid():  # processes must not share a place in a file
            self._process, self._opened = os.getpid(), zipfile.ZipFile(self.path).open(self.member)
        self._opened.seek(start)
        return self._opened.read(count)


@dataclass(frozen=True)
class StoredArray:
    """Reads an array of a ``.npz`` or ``.npy`` file entry by entry, however large it is.

    Attributes:
        path: the file.
        shape: of the array.
        by_columns: the first index runs fastest.
        dtype: of the stored numbers.
        offset: bytes before the first number, in the file or in the stream.
        stream: the array, where it is compressed.
    """

    path: Path
    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype
    offset: int
    stream: Stream | None = None

    @classmethod
    def open(cls, path: Path, key: str) -> StoredArray:
        """Find the array ``key``, or a bare one; only headers are read.

        Raises:
            InputError: there is none, or the file is broken.
        """
        with numpy_file(path), open(path, "rb") as handle:
            if path.suffix == ".npy":
                return cls(path, *_header(handle), handle.tell())
            with zipfile.ZipFile(handle) as archive:
                if f"{key}.npy" not in archive.namelist():
                    raise InputError(f"{path} has no array {key!r}; wanted images")
                member = archive.getinfo(f"{key}.npy")
                with archive.open(member) as content:
                    described, offset = _header(content), content.tell()
            if member.compress_type != zipfile.ZIP_STORED:
                return cls(path, *described, offset, Stream(path, member.filename))
            handle.seek(member.header_offset + 26)
            lengths = np.frombuffer(handle.read(4), "<u2")  # of the name and of the extra field, which end the header
            return cls(path, *described, member.header_offset + 30 + int(lengths.sum()) + offset)

    @property
    def missing(self) -> int:
        """Return the bytes by which the file is too short; a compressed one says so only when it is read."""
        return 0 if self.stream else max(0, self.offset + math.prod(self.shape) * self.dtype.itemsize - self.path.stat().st_size)

    def __getitem__(self, k: int) -> np.ndarray:
        if self.stream is None:  # a map of its own: one that stayed would keep in memory all that was read
            return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, "F" if self.by_columns else "C")[k]
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        return np.frombuffer(self.stream.read(self.offset + k * size, size), self.dtype).reshape(self.shape[1:])


def numbers(arrays: dict[str, np.ndarray], key: str, shape: tuple[int | None, ...], path: Path) -> np.ndarray:
    """Return the array ``key`` if it holds finite real numbers of ``shape``, where None stands for any length above 0.

    Raises:
        InputError: it does not.
    """
    values = arrays[key]
    fits = values.ndim == len(shape) and all(n in (m, None) and m > 0 for n, m in zip(shape, values.shape, strict=False))
    if not fits or values.dtype.kind not in "uifb":
        wanted = ", ".join("n" if n is None else str(n) for n in shape)
        raise InputError(f"{path} has {key} of type {values.dtype} and shape {values.shape}; wanted real numbers, ({wanted})")
    broken = ~np.isfinite(values)
    if broken.any():
        kind = "NaN" if np.isnan(values).any() else "infinity"
        place = f"[{int(np.argwhere(broken)[0][0])}]" if values.ndim else ""
        raise InputError(f"{path} has {kind} in {key}{place}; wanted finite numbers")
    return values


def read_pair(arrays: dict[str, np.ndarray], key: str, path: Path) -> tuple[float, float] | None:
    """Return two finite numbers, or None where the file does not have them."""
    if key not in arrays:
        return None
    low, high = numbers(arrays, key, (2,), path).tolist()
    return float(low), float(high)


def require_images(key: str, shape: Sequence[int], dtype: np.dtype, path: Path) -> None:
    """Refuse an array that is not one of real images ``(n, H, W)`` or ``(n, H, W, C)``.

    Raises:
        InputError: it has other numbers or axes, or square slices along the last axis, or colours along the second.
    """
    wanted = "(n, H, W) or (n, H, W, C)"
    if dtype.kind not in "uifb" or len(shape) not in (3, 4) or 0 in shape:
        raise InputError(f"{path} has {key} of type {dtype} and shape {tuple(shape)}; wanted real numbers, {wanted}")
    if len(shape) == 3 and shape[0] == shape[1] != shape[2]:
        raise InputError(f"{path} has images of shape {tuple(shape)}, which look like (H, W, n); wanted {wanted}")
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] > 4:
        raise InputError(f"{path} has images of shape {tuple(shape)}, which look like (n, C, H, W); wanted {wanted}")
