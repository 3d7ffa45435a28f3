"""Named arrays of a file, whatever holds them, and one sentence for what they may not be."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from padis_lightning.errors import InputError

if TYPE_CHECKING:
    import h5py

NUMPY, HDF5 = (".npz", ".npy"), (".h5", ".hdf5")
UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)  # what broken or locked files raise
HOLDS = ("images", "y", "counts")  # one of these is what a file is about


@contextmanager
def hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file that is open for reading.

    Raises:
        InputError: it is none, or it is cut off.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); wanted HDF5 that is whole") from error


def load_keys(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the arrays ``keys`` that a file has, attributes of HDF5 among them; ``images`` for a bare array.

    Raises:
        InputError: there is no such file, or it is not one of arrays, or it has neither images nor a measurement.
    """
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; wanted data in .npz or .npy")
    if path.suffix not in (*NUMPY, *HDF5):
        raise InputError(f"{path} ends in {path.suffix!r}; wanted .npz or .npy, or a measurement in {' or '.join(HDF5)}")
    names, arrays = (load_hdf5 if path.suffix in HDF5 else _load_numpy)(path, keys)
    if not {*HOLDS, "data"} & {*names}:
        raise InputError(f"{path} has the arrays {', '.join(sorted(names)) or '(none)'}; wanted 'images' or 'y' or 'counts'")
    return arrays


def _load_numpy(path: Path, keys: Sequence[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return ["images"], {"images": content}
        return content.files, {key: content[key] for key in keys if key in content.files}
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read ({error}); wanted arrays of numbers in .npz or .npy") from error


def load_hdf5(path: Path, keys: Sequence[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    """All names in an HDF5 file, and those of the arrays and attributes ``keys`` that it has.

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


def read_header(handle: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first index runs fastest, and type of the array that begins there.

    Raises:
        ValueError: it is none of numbers.
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(handle)
    if version not in readers:
        raise ValueError(f"format {version} is not one of numbers")
    return readers[version](handle)


def outline(path: Path, keys: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of those of the arrays ``keys`` that a ``.npz`` or HDF5 file has, attributes among them; only headers are read.

    Raises:
        InputError: it cannot be read.
    """
    if path.suffix in HDF5:
        with hdf5(path) as file:
            held = [(key, file.attrs[key] if key in file.attrs else file.get(key)) for key in keys]
            return {key: getattr(value, "shape", None) or () for key, value in held if value is not None}
    if not zipfile.is_zipfile(path):
        return {}
    shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for key in {*keys} & {name.removesuffix(".npy") for name in archive.namelist()}:
                with archive.open(f"{key}.npy") as handle:
                    shapes[key] = read_header(handle)[0]
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read ({error}); wanted arrays of numbers in .npz or .npy") from error
    return shapes


def numbers(arrays: dict[str, np.ndarray], key: str, shape: tuple[int | None, ...], path: Path) -> np.ndarray:
    """The array ``key`` if it holds finite real numbers of ``shape``, where None stands for any length above 0.

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
    """Two finite numbers, or None where the file does not have them."""
    if key not in arrays:
        return None
    low, high = numbers(arrays, key, (2,), path).tolist()
    return float(low), float(high)


def check_axes(shape: Sequence[int], path: Path) -> None:
    """Refuse images whose axes are in another order than ``(n, H, W)`` or ``(n, H, W, C)``.

    Raises:
        InputError: square slices lie along the last axis, or colours along the second.
    """
    wanted = "wanted (n, H, W) or (n, H, W, C)"
    if len(shape) == 3 and shape[0] == shape[1] != shape[2]:
        raise InputError(f"{path} has images of shape {tuple(shape)}, which look like (H, W, n); {wanted}")
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] > 4:
        raise InputError(f"{path} has images of shape {tuple(shape)}, which look like (n, C, H, W); {wanted}")
