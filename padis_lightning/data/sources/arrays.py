"""Images, measurements or both, held in memory, and the files of named arrays that they are read from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from padis_lightning.data.containers import numbers, read_pair, require_images
from padis_lightning.data.conventions import Named
from padis_lightning.data.ranges import calibrate, decide, decide_measured
from padis_lightning.data.sources.base import Item, Source, resize, with_channels
from padis_lightning.data.sources.measurements import MEASURED, corrected_integrals, geometry_of, load_measured
from padis_lightning.errors import InputError
from padis_lightning.types import Normalisation


class ArraySource(Source):
    """Yields images, measurements or both, held in memory.

    Args:
        images: ``(n, C, H, W)`` normalised, or None.
        measurements: ``(n, ...)`` normalised, or None.
        image_shape: channels, height and width of an image.
        normalisation: what stored values became 0 and 1.
        groups: a label an item.
        description: a line for a checkpoint's provenance.

    Attributes:
        weights: how far entries of the measurements count, ``(n, ...)``, or None where all count alike.
    """

    weights: Tensor | None = None

    def __init__(
        self,
        images: Tensor | None,
        measurements: Tensor | None,
        image_shape: tuple[int, ...],
        normalisation: Normalisation,
        groups: list[str],
        description: str,
    ) -> None:
        self.images, self.measurements = images, measurements
        self.has_images = images is not None
        self.image_shape, self.normalisation = image_shape, normalisation
        self.groups, self.description = groups, description

    def with_channels(self, channels: int) -> ArraySource:
        """Return the same with so many channels of every picture."""
        twin = copy.copy(self)
        images, pictures = self.images, self.measurements if self.pictured else None
        twin.images = None if images is None else with_channels(images, channels)
        twin.measurements = self.measurements if pictures is None else with_channels(pictures, channels)
        twin.image_shape = (channels, *self.image_shape[1:])
        return twin

    def __getitem__(self, index: int) -> Item:
        image = None if self.images is None else self.images[index]
        measurement = None if self.measurements is None else self.measurements[index]
        weights = None if self.weights is None else self.weights[index]
        return Item(index, self.name(index), self.groups[index], image, measurement, weights)


def read_arrays(
    path: str | Path,
    size: int | None = None,
    data_range: Sequence[float] | None = None,
    named: Named = Named(),  # noqa: B008
    *,
    hounsfield: bool = False,
) -> ArraySource:
    """Read a ``.npz`` or ``.npy`` file, measurements in HDF5, or another program's scan.

    Keys: ``images`` ``(n, H, W)`` or ``(n, H, W, C)``; or measured sinograms, ``y`` ``(n, views, bins)`` or raw ``counts`` with
    ``flat`` and perhaps ``dark`` (see :func:`padis_lightning.data.sources.measurements.line_integrals`), with their geometry
    (see :func:`padis_lightning.data.sources.open.read_geometry`); or both. ``patient`` ``(n,)`` labels groups, and ``z``
    ``(n,)`` is where in them slices lie. ``range`` (2,) names the values that become 0 and 1; ``hu_window`` (2,) says that
    values are HU above the window's lower end.

    Args:
        path: the file.
        size: side that images are brought to (default: as they are).
        data_range: in place of the file's ``range``.
        named: what the user says of a scan.
        hounsfield: images are in Hounsfield units, where the file has no ``hu_window``.
    """
    path = Path(path)
    arrays = load_measured(path, ("images", "patient", "z", "range", "hu_window"), named)
    if "images" in arrays and arrays["images"].ndim == 2:
        arrays["images"] = arrays["images"][None]
    geometry = geometry_of(arrays, path)
    if hounsfield and geometry:
        raise InputError(f"hu is true and {path} has measurements; wanted images, or 'hu_window' in the file")
    integrals = corrected_integrals(arrays, path, named) if geometry else None
    if geometry and integrals and data_range is None and not {"range", "hu_window"} & arrays.keys():
        data_range = calibrate(path, integrals.y, geometry)
    normalisation = _normalisation(arrays, data_range, hounsfield, path)
    images = measurements = None
    if "images" in arrays:
        images = normalisation.normalise(torch.from_numpy(_channels_first(arrays["images"]).astype(np.float32)))
        if geometry and tuple(images.shape[-2:]) != geometry.size:
            images = resize(images, geometry.size[0])
        elif size and not geometry:
            images = resize(images, size)
        count, shape = len(images), tuple(images.shape[1:])
    if geometry and integrals:
        measurements = torch.from_numpy(integrals.y)[:, None] / normalisation.upper
        count, shape = (len(measurements), (1, *geometry.size)) if images is None else (count, shape)
    for key in ("y", "counts", "patient"):
        if key in arrays and np.shape(arrays[key])[:1] != (count,):
            raise InputError(f"{path} has {key} of shape {arrays[key].shape}; wanted {count} entries, one an image")
    groups = [str(p) for p in arrays["patient"]] if "patient" in arrays else [str(i) for i in range(count)]
    source = ArraySource(images, measurements, shape, normalisation, groups, f"{count} items of {path.name}")
    source.takes = ("rows", "pixel_spacing", "remove_stripes", "views", "axis") if geometry else ()
    source.weights = None if integrals is None else torch.from_numpy(integrals.weights)[:, None]
    if "patient" in arrays and "z" in arrays and arrays["z"].shape == (count,):
        source.heights = numbers(arrays, "z", (None,), path)
    return source


def _normalisation(
    arrays: dict[str, np.ndarray], data_range: Sequence[float] | None, hounsfield: bool, path: Path
) -> Normalisation:
    """Check the images, and decide which of their values become 0 and 1."""
    images = arrays.get("images")
    if images is not None:
        require_images("images", images.shape, images.dtype, path)
        numbers(arrays, "images", (None,) * images.ndim, path)
    measured = next((key for key in MEASURED if key in arrays), None)
    if measured:
        return decide_measured(path, measured, arrays, named=data_range)
    window, stored = read_pair(arrays, "hu_window", path), read_pair(arrays, "range", path)
    images = arrays["images"]
    hounsfield, extremes = hounsfield and window is None, (float(images.min()), float(images.max()))
    return decide(
        path, named=data_range, stored=stored, window=window, hounsfield=hounsfield, dtype=images.dtype, extremes=extremes
    )


def _channels_first(images: np.ndarray) -> np.ndarray:
    return np.moveaxis(images, -1, 1) if images.ndim == 4 else images[:, None]
