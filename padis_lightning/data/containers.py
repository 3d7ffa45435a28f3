"""Named arrays of ``.npz``, ``.npy`` and HDF5 files: the one place where these are opened."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from padis_lightning.errors import InputError, one_line

if TYPE_CHECKING:
    import h5py

NUMPY, HDF5 = (".npz", ".npy"), (".h5", ".hdf5")
ARRAYS = "arrays of numbers in .npz or .npy"
CONTENTS = ("images", "y", "counts", "data")  # a file has one of these


@contextmanager
def reading(path: object, wanted: str, place: str = "") -> Iterator[None]:
    """Turn whatever libraries raise for a broken file into one sentence, an :class:`InputError`."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise anything
        raise InputError(f"{path} cannot be read{place} ({one_line(error)[:200]}); wanted {wanted}") from error


@contextmanager
def hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; one that is none or is cut off is refused."""
    import h5py

    with reading(path, "HDF5 that is whole"), h5py.File(path, "r") as file:
        yield file


def load_keys(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Read those of the arrays ``keys`` that a file has, attributes of HDF5 among them; ``images`` for a bare array.

    Raises:
        InputError: there is no such file, or it is not one of arrays, or it has neither images nor a measurement.
    """
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; wanted data in .npz or .npy")
    if path.suffix not in (*NUMPY, *HDF5):
        raise InputError(f"{path} ends in {path.suffix!r}; wanted .npz or .npy, or a measurement in {' or '.join(HDF5)}")
    if path.suffix in HDF5:
        names, arrays = load_hdf5(path, keys)
    else:
        with reading(path, ARRAYS):
            content = np.load(path, allow_pickle=False)
            names = {"images": content} if isinstance(content, np.ndarray) else content
            arrays = {key: names[key] for key in keys if key in names}
    if not {*CONTENTS} & {*names}:
        raise InputError(f"{path} has the arrays {', '.join(sorted(names)) or '(none)'}; wanted 'images' or 'y' or 'counts'")
    return arrays


def load_hdf5(path: Path, keys: Sequence[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Read all names in an HDF5 file, and those of the arrays and attributes ``keys`` that it has."""
    import h5py

    with hdf5(path) as file:
        arrays = {key: np.asarray(file.attrs[key]) for key in keys if key in file.attrs}
        for key in keys:
            if isinstance(file.get(key), h5py.Dataset):
                text = h5py.check_string_dtype(file[key].dtype) is not None
                arrays[key] = np.asarray((file[key].asstr() if text else file[key])[()])
        return [*file], arrays


def shapes_of(path: Path, keys: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of those of the arrays ``keys`` that a ``.npz`` or HDF5 file has; only headers are read."""
    if path.suffix in HDF5:
        with hdf5(path) as file:
            held = {key: file.attrs.get(key, file.get(key)) for key in keys}
            return {key: getattr(value, "shape", None) or () for key, value in held.items() if value is not None}
    with reading(path, ARRAYS), zipfile.ZipFile(path) as archive:
        held = {*keys} & {name.removesuffix(".npy") for name in archive.namelist()}
        return {key: read_header(archive.open(f"{key}.npy"))[0] for key in held}


def read_header(handle: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read shape, whether the first index runs fastest, and type of the ``.npy`` array that begins there."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return readers[np.lib.format.read_magic(handle)](handle)


def numbers(arrays: dict[str, np.ndarray], key: str, shape: tuple[int | None, ...], path: Path) -> np.ndarray:
    """Return the array ``key`` of the file at ``path``, whose ``shape`` has None for any length above 0.

    Raises:
        InputError: it does not hold finite real numbers of this shape.
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
    return tuple(map(float, numbers(arrays, key, (2,), path))) if key in arrays else None


def require_images(key: str, shape: Sequence[int], dtype: np.dtype, path: Path) -> None:
    """Refuse an array that is not one of real images ``(n, H, W)`` or ``(n, H, W, C)``, or looks like ``(H, W, n)``."""
    wanted = "(n, H, W) or (n, H, W, C)"
    if dtype.kind not in "uifb" or len(shape) not in (3, 4) or 0 in shape:
        raise InputError(f"{path} has {key} of type {dtype} and shape {tuple(shape)}; wanted real numbers, {wanted}")
    if len(shape) == 3 and shape[0] == shape[1] != shape[2]:
        raise InputError(f"{path} has images of shape {tuple(shape)}, which look like (H, W, n); wanted {wanted}")
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] > 4:
        raise InputError(f"{path} has images of shape {tuple(shape)}, which look like (n, C, H, W); wanted {wanted}")
