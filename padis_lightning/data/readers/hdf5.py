"""HDF5: what ``prepare`` writes, images with the keys of ``.npz``, LoDoPaB's ground truth, or one array."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from padis_lightning.data.readers.names import safe
from padis_lightning.data.readers.prepared import PreparedSource, is_prepared
from padis_lightning.data.sources.contents import check_axes, hdf5, load_hdf5, read_pair
from padis_lightning.data.sources.measurements import is_measured
from padis_lightning.data.sources.series import Series
from padis_lightning.errors import InputError


def read(path: Path) -> list[Series]:
    """A series of one slice for each image, since nothing says which lie in a row.

    The images are in ``images``, in LoDoPaB's ``data`` (0 to 1), or in the only array of three or four axes: ``(n, H, W)`` or
    ``(n, H, W, C)``. ``patient`` ``(n,)`` labels groups; ``range`` and ``hu_window`` are those of ``.npz``.

    Raises:
        InputError: the file is broken, holds a measurement, or has no such array.
    """
    if is_prepared(path):
        return PreparedSource(path).series()
    if is_measured(path):
        raise InputError(f"{path} holds measurements; wanted images, or this file alone as --data.path of predict")
    with hdf5(path) as file:
        arrays = {name: (d.shape, d.dtype) for name, d in file.items() if len(getattr(d, "shape", ())) in (3, 4)}
        seen = [*file]
    key = next((k for k in ("images", "data") if k in arrays), next(iter(arrays)) if len(arrays) == 1 else None)
    if key is None:
        raise InputError(f"{path} has {', '.join(seen) or 'nothing'} in it; wanted 'images', 'data', or one array of 3 or 4 axes")
    shape, dtype = arrays[key]
    if dtype.kind not in "uifb" or not all(shape):
        raise InputError(f"{path} has {key} of type {dtype} and shape {shape}; wanted real numbers, (n, H, W) or (n, H, W, C)")
    check_axes(shape, path)
    _, described = load_hdf5(path, ("hu_window", "range", "patient"))
    window = read_pair(described, "hu_window", path)
    bounds = window or read_pair(described, "range", path) or _implied(key, dtype)
    names = [f"{safe(path.stem)}_{k:04d}" for k in range(shape[0])]
    groups = [str(p) for p in described["patient"]] if "patient" in described else names
    if len(groups) != shape[0]:
        raise InputError(f"{path} has {len(groups)} entries of patient; wanted {shape[0]}, one an image")
    return [
        Series(
            name=names[k],
            group=groups[k],
            count=1,
            shape=shape[1:3] if shape[3:] in ((), (1,)) else shape[1:],
            read=partial(_values, path, key, k, window[0] if window else 0.0),
            units="HU" if window else "",
            range=bounds,
            files=(path,),
        )
        for k in range(shape[0])
    ]


def _implied(key: str, dtype: np.dtype) -> tuple[float, float] | None:
    if dtype == np.uint8:
        return 0.0, 255.0
    return (0.0, 1.0) if key == "data" and dtype.kind == "f" else None


def _values(path: Path, key: str, place: int, shift: float, k: int) -> np.ndarray:
    with hdf5(path) as file:
        values = np.asarray(file[key][place + k], dtype=np.float32) + np.float32(shift)
    return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
