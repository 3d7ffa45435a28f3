"""NumPy's ``.npz`` and ``.npy``: series whose slices are read one by one, however large the file is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from padis_lightning.data.containers import NUMPY, StoredArray, load_keys, numpy_file, require_images
from padis_lightning.data.names import safe, unique
from padis_lightning.data.ranges import Scale, file_scale, require_unit
from padis_lightning.data.sources.series import Reader, Series
from padis_lightning.errors import InputError


def open_arrays(path: str | Path, data_range: Sequence[float] | None = None) -> list[Series]:
    """Return the images of a file, a series for each run of one patient, or for each image without ``patient``.

    Runs rather than patients: series after series, the file is then read forward, and a compressed one unpacked once.

    Args:
        path: the file; keys as in :func:`padis_lightning.data.sources.arrays.read_arrays`.
        data_range: what becomes 0 and 1, where the file does not say; values of any size are then taken.

    Raises:
        InputError: there is no such file, or it does not hold images.
    """
    path = Path(path)
    described = {} if path.suffix == ".npy" else load_keys(path, ("patient", "range", "hu_window"))
    images = open_images(path)
    scale = file_scale(described, images.dtype, path)
    unit = scale.range is None and data_range is None and images.dtype.kind in "fb"
    count = images.shape[0]
    groups = described.get("patient", np.array([f"{path.stem}_{i:04d}" for i in range(count)]))
    if groups.shape != (count,):
        raise InputError(f"{path} has patient of shape {groups.shape}; wanted {count} entries, one an image")
    bounds = [0, *(np.flatnonzero(groups[1:] != groups[:-1]) + 1).tolist(), count]
    return unique(
        [
            Series(
                name=safe(str(groups[start])),
                group=str(groups[start]),
                count=stop - start,
                shape=images.shape[1:],
                read=partial(_values, images, scale, unit, start),
                units=scale.units,
                range=(0.0, 1.0) if unit else scale.range,
                files=(path,),
            )
            for start, stop in pairwise(bounds)
        ]
    )


def open_images(path: Path) -> StoredArray:
    """Find the images of a file; only headers are read.

    Raises:
        InputError: there are none, or they cannot be read one by one.
    """
    images = StoredArray.open(path, "images")
    require_images("images", images.shape, images.dtype, path)
    if images.stream and images.by_columns:
        raise InputError(f"{path} has images that are compressed and stored by columns; wanted rows (np.ascontiguousarray)")
    if images.missing:
        raise InputError(f"{path} ends {images.missing} bytes before its images do; wanted the whole file")
    return images


def _values(images: StoredArray, scale: Scale, unit: bool, first: int, k: int) -> np.ndarray:
    with numpy_file(images.path, f" at image {first + k}"):
        values = images[first + k].astype(np.float32)
    if unit:
        require_unit(values, images.path)
    values *= scale.slope
    values += scale.intercept
    return values


READER = Reader("NumPy arrays", NUMPY, open_arrays, folder="never")  # pictures may have arrays beside them
