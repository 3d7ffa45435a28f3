"""MATLAB files: ``images`` H x W x n, or H x W x 3 x n in colours, as the authors of PaDIS share them."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from padis_lightning.data.containers import hdf5
from padis_lightning.data.matlab import WHOLE, described, load_array
from padis_lightning.data.ranges import implied_range
from padis_lightning.data.sources.series import Reader, Series, single_series
from padis_lightning.errors import InputError
from padis_lightning.inputs import reading, require_size


def read(path: Path) -> list[Series]:
    """Return a series of one slice for each image of ``images``, or of the only array of three or four axes.

    Axes are MATLAB's: H x W x n, or H x W x 3 x n in colours. Files of version 7.3 are HDF5, which has them in reverse.
    """
    import h5py

    reverse = bool(h5py.is_hdf5(path))
    found = described(path)
    arrays = {name: one for name, one in found.items() if name == "images" or len(one[0]) in (3, 4)}
    key = "images" if "images" in arrays else next(iter(arrays)) if len(arrays) == 1 else None
    if key is None:
        seen = ", ".join(f"{name} {shape}" for name, (shape, _) in arrays.items()) or "no array of 3 or 4 axes"
        raise InputError(f"{path} has {seen}; wanted 'images', H x W x n or H x W x 3 x n")
    shape, dtype = arrays[key]
    colours = len(shape) == 4
    if len(shape) not in (3, 4) or not all(shape) or (colours and shape[2] != 3) or dtype.kind not in "uifb":
        raise InputError(f"{path} has {key} of type {dtype} and shape {shape}; wanted real numbers, H x W x n or H x W x 3 x n")
    if not colours and shape[1] == shape[2] != shape[0]:
        raise InputError(f"{path} has {key} of shape {shape}, which looks like n x H x W; wanted H x W x n")
    require_size(path, math.prod(shape if not reverse else shape[:-1]) * dtype.itemsize, path.stat().st_size)
    values = partial(_values_hdf5 if reverse else _values, path, key)
    return single_series(path, shape[-1], values, shape=shape[:-1], range=implied_range(dtype))


@lru_cache(maxsize=1)
def _array(path: Path, key: str, changed: int) -> np.ndarray:
    """Read all images at once, since the file has them in one piece, which may be compressed."""
    with reading(path, WHOLE):
        array = load_array(path, key)
        if np.iscomplexobj(array):
            raise ValueError(f"{key} is complex")
        return array


def _values(path: Path, key: str, k: int) -> np.ndarray:
    return np.asarray(_array(path, key, path.stat().st_mtime_ns)[..., k], dtype=np.float32)


def _values_hdf5(path: Path, key: str, k: int) -> np.ndarray:
    with hdf5(path) as file:
        return np.asarray(file[key][k].T, dtype=np.float32)


READER = Reader("MATLAB (.mat)", (".mat",), read)
