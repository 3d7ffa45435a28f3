"""Named arrays of ``.npz``, ``.npy`` and HDF5 files: the one place where HDF5 is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from padis_lightning.errors import InputError
from padis_lightning.inputs import array_names, load_array, open_array, read_header, reading, require_size
from padis_lightning.types import pair_of

if TYPE_CHECKING:
    import h5py

NUMPY, HDF5 = (".npz", ".npy"), (".h5", ".hdf5")
ARRAYS = "arrays of numbers in .npz or .npy"
CONTENTS = ("images", "y", "counts", "data")  # a file has one of these


@contextmanager
def hdf5(path: Path, wanted: str = "HDF5 that is whole") -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; one that is none, is cut off, or takes content from other files is refused."""
    import h5py

    with reading(path, wanted):
        about = path.stat()
        _require_own_content(path, about.st_mtime_ns, about.st_size)
        with h5py.File(path, "r") as file:
            yield file


@lru_cache(maxsize=256)
def _require_own_content(path: Path, changed: int, size: int) -> None:
    """Refuse links, storage and sources in other files, anywhere in an HDF5 file; none of them is opened."""
    import h5py

    def elsewhere(name: str, found: object) -> str | None:
        kind = None
        if isinstance(found, h5py.ExternalLink):
            kind = f"a link into the file {found.filename!r}"
        elif isinstance(found, h5py.Dataset) and found.is_virtual:
            kind = f"a virtual data set of {[source.file_name for source in found.virtual_sources()][:1]}"
        elif isinstance(found, h5py.Dataset) and found.external:
            kind = f"stored in the file {found.external[0][0]!r}"
        return kind and f"{name!r}, {kind}"

    with h5py.File(path, "r") as file:
        seen = file.visititems_links(elsewhere) or file.visititems(elsewhere)
    if seen:
        raise InputError(f"{path} has {seen}; wanted a file that holds all of its content")


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
            names = ["images"] if path.suffix == ".npy" else array_names(path)
            images = "images" if path.suffix == ".npy" else images_name(path)
            held = {key: images if key == "images" else key for key in keys}
            arrays = {key: load_array(path, name) for key, name in held.items() if name in names}
            names = ["images" if name == images else name for name in names]
    if not {*CONTENTS, "convention"} & {*names}:
        raise InputError(f"{path} has the arrays {', '.join(sorted(names)) or '(none)'}; wanted 'images' or 'y' or 'counts'")
    return arrays


def load_hdf5(path: Path, keys: Sequence[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Read all names in an HDF5 file, and those of the arrays and attributes ``keys`` that it has."""
    import h5py

    with hdf5(path) as file:
        arrays = {key: np.asarray(file.attrs[key]) for key in keys if key in file.attrs}
        for key in keys:
            if isinstance(file.get(key), h5py.Dataset):
                require_size(path, file[key].nbytes, path.stat().st_size)
                text = h5py.check_string_dtype(file[key].dtype) is not None
                arrays[key] = np.asarray((file[key].asstr() if text else file[key])[()])
        return [*file], arrays


def names_of(path: Path) -> list[str]:
    """Return the names of what a ``.npz`` or an HDF5 file has at its top, attributes among them."""
    if path.suffix in HDF5:
        with hdf5(path) as file:
            return [*file, *file.attrs]
    with reading(path, ARRAYS):
        return array_names(path)


def images_name(path: Path) -> str:
    """Return the array of a ``.npz`` that holds its images: ``images``, or its only one, of two axes or more."""
    with reading(path, ARRAYS):
        first, *others = array_names(path) or CONTENTS
        if others or first in CONTENTS:
            return "images"
        stream, length = open_array(path, first)
        with stream:
            return first if len(read_header(stream, length)[0]) > 1 else "images"


def shapes_of(path: Path, keys: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of those of the arrays ``keys`` that a ``.npz`` or HDF5 file has; only headers are read."""
    if path.suffix in HDF5:
        with hdf5(path) as file:
            held = {key: file.attrs.get(key, file.get(key)) for key in keys}
            return {key: getattr(value, "shape", None) or () for key, value in held.items() if value is not None}
    with reading(path, ARRAYS):
        return {key: read_header(*open_array(path, key))[0] for key in {*keys} & {*array_names(path)}}


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
    return pair_of(numbers(arrays, key, (2,), path)) if key in arrays else None


def require_images(key: str, shape: Sequence[int], dtype: np.dtype, path: Path) -> None:
    """Refuse an array that is not one of real images ``(n, H, W)`` or ``(n, H, W, C)``, or looks like ``(H, W, n)``."""
    wanted = "(n, H, W) or (n, H, W, C)"
    if dtype.kind not in "uifb" or len(shape) not in (3, 4) or 0 in shape:
        raise InputError(f"{path} has {key} of type {dtype} and shape {tuple(shape)}; wanted real numbers, {wanted}")
    if len(shape) == 3 and shape[0] == shape[1] != shape[2]:
        raise InputError(f"{path} has images of shape {tuple(shape)}, which look like (H, W, n); wanted {wanted}")
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] > 4:
        raise InputError(f"{path} has images of shape {tuple(shape)}, which look like (n, C, H, W); wanted {wanted}")
