"""Data sets that ``prepare`` wrote: images of one size in one contiguous block, mapped into memory."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from padis_lightning.data.containers import hdf5, load_hdf5, numbers, read_pair
from padis_lightning.data.ranges import decide, for_channels
from padis_lightning.data.sources.base import Item, Source, check_square
from padis_lightning.data.sources.series import Series, resized_affine, single_series
from padis_lightning.errors import InputError

FORMAT, VERSION = "padis_lightning", 1
PARTS = ("train", "validation", "test")
LABELS = ("name", "group", "part")
WHOLE = "wanted a whole file of 'prepare'"


def is_prepared(path: Path) -> bool:
    """Return whether an HDF5 file says that ``prepare`` wrote it."""
    with hdf5(path) as file:
        return file.attrs.get("format") == FORMAT


class PreparedSource(Source):
    """Maps images of an HDF5 file that ``prepare`` wrote; Hounsfield units are clipped to their window.

    Attributes of the file: ``format``, ``version``, ``slope`` and ``intercept`` (value = stored * slope + intercept), ``units``
    (``HU`` or empty), ``range`` (2,) of the values that become 0 and 1, ``window`` (2,) the same in HU, ``manifest``. Arrays:
    ``images`` (n, H, W) or (n, H, W, C), contiguous, of uint8, uint16 or float32; ``name``, ``group`` and ``part`` (n,) of
    text; ``affine`` (n, 4, 4) from (row, column, 0, 1) to millimetres towards left, back and head, NaN where it is not known.
    Two channels are real and imaginary part; ``scale`` (n,) is then the magnitude in the source that became 1.

    Args:
        path: the file.
        size: side that images are brought to (default: as they are).
        data_range: values that become 0 and 1, in place of the file's.
        hounsfield: values are Hounsfield units, where the file does not say so.
    """

    def __init__(
        self,
        path: Path,
        size: int | None = None,
        data_range: tuple[float, float] | None = None,
        hounsfield: bool = False,
    ) -> None:
        self.path, self.size = path, size
        self._mapped: np.ndarray | None = None
        self._find_images()
        needed = ("version", "slope", "intercept", "range", *LABELS, "affine")
        _, arrays = load_hdf5(path, (*needed, "units"))
        for key in needed:
            if key not in arrays:
                raise InputError(f"{path} has no {key!r}; {WHOLE}")
        if arrays["version"] != VERSION:
            raise InputError(f"{path} is of version {arrays['version']}; wanted {VERSION}")
        count, height, width, *channels = self.stored_shape
        for key, shape in {**dict.fromkeys(LABELS, (count,)), "affine": (count, 4, 4)}.items():
            if arrays[key].shape != shape:
                raise InputError(f"{path} has {key!r} of shape {arrays[key].shape}; wanted {shape}, one an image")
        self.slope, self.intercept = (float(numbers(arrays, key, (), path)) for key in ("slope", "intercept"))
        self.names, self.groups, self.parts = (arrays[label].tolist() for label in LABELS)
        self.affines = [one if np.isfinite(one).all() else None for one in arrays["affine"].astype(float)]
        matches = (re.fullmatch(r"(.+)_(\d+)", name) for name in self.names)  # as 'prepare' names a slice of a series
        numbered = [match for match in matches if match]
        if len(numbered) == len(self.names):
            self.labels, self.heights = [one[1] for one in numbered], [int(one[2]) for one in numbered]
        unknown = sorted({*self.parts} - {*PARTS})
        if unknown:
            raise InputError(f"{path} has the part {unknown[0]!r}; wanted {', '.join(PARTS)}")
        self.units = "HU" if hounsfield else str(arrays.get("units", ""))
        stored = read_pair(arrays, "range", path)
        scale = decide(path, named=data_range, stored=stored, hounsfield=self.units == "HU")
        self.normalisation = for_channels(scale, channels[0] if channels else 1, path)
        if size:
            check_square(height, width, size)
        self.image_shape = (*(channels or [1]), size or height, size or width)
        self.description = f"{count} prepared images of {path.name}"

    def _find_images(self) -> None:
        with hdf5(self.path) as file:
            images = file.get("images")
            if images is None or images.ndim not in (3, 4) or not all(images.shape):
                raise InputError(f"{self.path} has no images of 3 or 4 axes; {WHOLE}")
            self.stored_shape, self.dtype, self.offset = images.shape, images.dtype, images.id.get_offset()
            beyond = (self.offset or 0) + images.nbytes - self.path.stat().st_size
        if beyond > 0:
            raise InputError(f"{self.path} lacks {beyond} bytes of its images; {WHOLE}")
        if self.offset is None or self.dtype.name not in ("uint8", "uint16", "float32"):
            seen = f"{self.dtype}{' in chunks' if self.offset is None else ''}"
            raise InputError(f"{self.path} has images of {seen}; wanted a contiguous block of uint8, uint16 or float32")

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_mapped": None}  # a worker process maps the file itself

    def stored(self, index: int) -> np.ndarray:
        """Return image ``index`` as it is in the file, (H, W) or (H, W, C)."""
        if self._mapped is None:
            self._mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.stored_shape)
        return self._mapped[index]

    def values(self, index: int) -> np.ndarray:
        """Return image ``index`` in the units of the data, float32."""
        return (self.stored(index) * self.slope + self.intercept).astype(np.float32)

    def name(self, index: int) -> str:
        """Return the name that the file has."""
        return self.names[index]

    def slice_affine(self, index: int) -> np.ndarray | None:
        """Return the affine of image ``index`` at the size that it is brought to, or None where the file does not say."""
        affine = self.affines[index]
        return None if affine is None else resized_affine(affine, self.stored_shape[1:3], self.image_shape[-2:])

    def __getitem__(self, index: int) -> Item:
        return Item(index, self.name(index), self.groups[index], self.to_image(self.values(index)))

    def series(self) -> list[Series]:
        """Return a series of one slice for each image, with its place in the patient."""
        bounds = (self.normalisation.lower, self.normalisation.upper)
        shape = self.stored_shape[1:]
        single = single_series(self.path, len(self), self.values, self.groups, shape=shape, units=self.units, range=bounds)
        spacings = [None if a is None else tuple(np.linalg.norm(a[:3, :2], axis=0).tolist()) for a in self.affines]
        placed = zip(single, self.names, spacings, self.affines, strict=True)
        return [replace(one, name=name, spacing=spacing, affine=affine) for one, name, spacing, affine in placed]
