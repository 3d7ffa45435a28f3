"""HDF5: what ``prepare`` writes, images with the keys of ``.npz``, LoDoPaB's ground truth, or one array."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from padis_lightning.data.containers import HDF5, hdf5, load_hdf5, require_images
from padis_lightning.data.ranges import Scale, file_scale
from padis_lightning.data.sources.combined import combined_series
from padis_lightning.data.sources.kspace import find_kspace
from padis_lightning.data.sources.measurements import is_measured
from padis_lightning.data.sources.prepared import PreparedSource, is_prepared
from padis_lightning.data.sources.series import Reader, Series, single_series
from padis_lightning.errors import InputError
from padis_lightning.inputs import require_size


def read(path: Path) -> list[Series]:
    """Return a series of one slice for each image, since nothing says which lie in a row.

    The images are in ``images``, in LoDoPaB's ``data`` (0 to 1), or in the only array of three or four axes: ``(n, H, W)`` or
    ``(n, H, W, C)``. ``patient`` ``(n,)`` labels groups; ``range`` and ``hu_window`` are those of ``.npz``. Fully sampled
    ``kspace`` is one series of complex images.
    """
    if found := find_kspace(path):
        return combined_series(found)
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
    (count, *shape), dtype = arrays[key]
    require_images(key, (count, *shape), dtype, path)
    require_size(path, math.prod(shape) * dtype.itemsize, path.stat().st_size)
    _, described = load_hdf5(path, ("hu_window", "range", "patient"))
    scale = file_scale(described, dtype, path)
    if key == "data" and dtype.kind == "f" and scale.range is None:  # LoDoPaB's
        scale = scale._replace(range=(0.0, 1.0))
    groups = [str(p) for p in described["patient"]] if "patient" in described else None
    if groups is not None and len(groups) != count:
        raise InputError(f"{path} has {len(groups)} entries of patient; wanted {count}, one an image")
    shape = tuple(shape[:2] if shape[2:] == [1] else shape)
    return single_series(path, count, partial(_values, path, key, shape, scale), groups, shape=shape, units=scale.units,
                         range=scale.range)  # fmt: skip


def _values(path: Path, key: str, shape: tuple[int, ...], scale: Scale, k: int) -> np.ndarray:
    with hdf5(path) as file:
        return scale.apply(np.asarray(file[key][k], dtype=np.float32)).reshape(shape)


READER = Reader("HDF5", HDF5, read)
