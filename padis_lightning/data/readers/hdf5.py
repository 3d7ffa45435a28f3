"""HDF5: what ``prepare`` writes, images with the keys of ``.npz``, LoDoPaB's ground truth, or one array."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from padis_lightning.data.containers import HDF5, hdf5, load_hdf5, require_images
from padis_lightning.data.names import safe
from padis_lightning.data.ranges import Scale, file_scale
from padis_lightning.data.sources.measurements import is_measured
from padis_lightning.data.sources.prepared import PreparedSource, is_prepared
from padis_lightning.data.sources.series import Reader, Series
from padis_lightning.errors import InputError


def read(path: Path) -> list[Series]:
    """Return a series of one slice for each image, since nothing says which lie in a row.

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
    require_images(key, shape, dtype, path)
    _, described = load_hdf5(path, ("hu_window", "range", "patient"))
    scale = file_scale(described, dtype, path)
    lodopab = key == "data" and dtype.kind == "f"
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
            read=partial(_values, path, key, k, scale),
            units=scale.units,
            range=(0.0, 1.0) if scale.range is None and lodopab else scale.range,
            files=(path,),
        )
        for k in range(shape[0])
    ]


def _values(path: Path, key: str, place: int, scale: Scale, k: int) -> np.ndarray:
    with hdf5(path) as file:
        values = np.asarray(file[key][place + k], dtype=np.float32)
    values = values * np.float32(scale.slope) + np.float32(scale.intercept)
    return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values


READER = Reader("HDF5", HDF5, read)
