"""NumPy's ``.npz`` and ``.npy``: series whose slices are read one by one, however large the file is."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from padis_lightning.data.containers import ARRAYS, NUMPY, images_name, load_keys, names_of, require_images
from padis_lightning.data.names import unique
from padis_lightning.data.ranges import Scale, decide, file_scale
from padis_lightning.data.sources.combined import combined_series
from padis_lightning.data.sources.kspace import find_kspace
from padis_lightning.data.sources.series import SERIES_BYTES, Reader, Series
from padis_lightning.errors import InputError
from padis_lightning.inputs import load_array, open_array, read_header, reading, require_size


class StoredImages:
    """Reads the images of a ``.npz`` or ``.npy`` one by one; one that is read forward is unpacked once.

    An array whose first index runs fastest has no image in one piece: it is mapped from a ``.npy``, and read whole from a
    ``.npz``.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._process = path, 0
        self._opened: Any = None  # what _open returns
        with reading(path, ARRAYS):
            self.name = "" if path.suffix == ".npy" else images_name(path)
            stream, length = open_array(path, self.name)
            self.shape, self.by_columns, self.dtype = read_header(stream, length)
            self.offset = stream.tell()
            stream.close()
        if len(self.shape) == 2:  # one image
            self.shape = (1, *self.shape)
        require_size(path, math.prod(self.shape[1:]) * self.dtype.itemsize, path.stat().st_size)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_process": 0, "_opened": None}

    def _open(self) -> np.ndarray | IO[bytes]:
        if not self.by_columns:
            return open_array(self.path, self.name)[0]
        return np.load(self.path, mmap_mode="r") if self.path.suffix == ".npy" else load_array(self.path, self.name)

    def __getitem__(self, k: int) -> np.ndarray:
        if self._process != os.getpid():  # processes must not share a place in a file
            self._process, self._opened = os.getpid(), self._open()
        if self.by_columns:
            return self._opened.reshape(self.shape)[k]
        count = math.prod(self.shape[1:])
        self._opened.seek(self.offset + k * count * self.dtype.itemsize)
        return np.frombuffer(self._opened.read(count * self.dtype.itemsize), self.dtype, count).reshape(self.shape[1:])


def open_arrays(path: str | Path, data_range: Sequence[float] | None = None) -> list[Series]:
    """Return the images of a file, a series for each run of one patient, or for each image without ``patient``.

    Fully sampled k-space is one series of complex images.
    Runs rather than patients: series after series, the file is then read forward, and a compressed one unpacked once.

    Args:
        path: the file; keys as in :func:`padis_lightning.data.sources.arrays.read_arrays`.
        data_range: what becomes 0 and 1, where the file does not say; values of any size are then taken.
    """
    path = Path(path)
    if found := find_kspace(path):
        return combined_series(found)
    described = {} if path.suffix == ".npy" else load_keys(path, ("patient", "range", "hu_window"))
    if path.suffix != ".npy" and images_name(path) not in names_of(path):
        raise InputError(f"{path} has no array 'images'; wanted images")
    images = StoredImages(path)
    require_images("images", images.shape, images.dtype, path)
    scale = file_scale(described, images.dtype, path)
    unit = scale.range is None and data_range is None and images.dtype.kind in "fb"
    count = images.shape[0]
    require_size(path, SERIES_BYTES * count, path.stat().st_size)
    groups = described.get("patient", np.array([f"{path.stem}_{i:04d}" for i in range(count)]))
    if groups.shape != (count,):
        raise InputError(f"{path} has patient of shape {groups.shape}; wanted {count} entries, one an image")
    bounds = [0, *(np.flatnonzero(groups[1:] != groups[:-1]) + 1).tolist(), count]
    return unique(
        [
            Series(
                name=str(groups[start]),
                group=str(groups[start]),
                count=stop - start,
                shape=images.shape[1:],
                load=partial(_values, images, scale, unit),
                units=scale.units,
                range=(0.0, 1.0) if unit else scale.range,
                files=(path,),
                first=start,
            )
            for start, stop in pairwise(bounds)
        ]
    )


def _values(images: StoredImages, scale: Scale, unit: bool, k: int) -> np.ndarray:
    with reading(images.path, ARRAYS, f" at image {k}"):
        values = images[k]
    if unit:  # values that are not from 0 to 1 are refused
        decide(images.path, extremes=(float(values.min()), float(values.max())))
    return scale.apply(values)


READER = Reader("NumPy arrays", NUMPY, open_arrays, folder="never")  # pictures may have arrays beside them
