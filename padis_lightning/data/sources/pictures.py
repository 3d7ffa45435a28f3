"""Measured pictures: noisy, blurred, shrunk or with holes when they came; and the truth beside a measurement."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from padis_lightning.data.containers import HDF5, load_keys, numbers, read_pair, shapes_of
from padis_lightning.data.ranges import NAME_IT, implied_range
from padis_lightning.data.sources.arrays import ArraySource
from padis_lightning.data.sources.base import Item, Source, Wrapped
from padis_lightning.data.sources.measurements import CONE, FLAT, MEASURED, is_measured
from padis_lightning.errors import InputError, first_few
from padis_lightning.types import Normalisation, pair_of

log = logging.getLogger(__name__)

NOISY = (-1.0, 2.0)  # between these lie noisy values of pictures from 0 to 1


def holds_pictures(path: Path) -> bool:
    """Return whether a ``.npz`` or HDF5 file has measured pictures: ``y`` of their axes, and no scan in it or beside it."""
    if path.suffix not in (".npz", *HDF5) or not path.is_file():
        return False
    shapes = shapes_of(path, ("y", *FLAT.keys, *CONE.keys))
    scanned = len(shapes) > 1 or path.with_suffix(".json").is_file()
    return "y" in shapes and not scanned and 2 <= len(shapes["y"]) <= 4


def holds_measurement(path: Path) -> bool:
    """Return whether a file of named arrays has measurements by name."""
    return path.suffix != ".npy" and (is_measured(path) if path.suffix in HDF5 else bool(shapes_of(path, MEASURED)))


def read_pictures(path: Path, data_range: Sequence[float] | None = None) -> ArraySource:
    """Read measured pictures of a ``.npz``, ``.npy`` or HDF5 file.

    Keys: ``y``, or ``images`` where there is none, ``(n, H, W)`` or ``(n, H, W, C)`` with 1 or 3 channels, or one picture
    ``(H, W)`` or ``(H, W, 3)``; ``range`` (2,) of the values that become 0 and 1; ``patient`` (n,) of labels.
    """
    arrays = load_keys(path, ("y", "images", "range", "patient"))
    key = "y" if "y" in arrays else "images"
    if key not in arrays:
        raise InputError(f"{path} has no 'y' and no 'images'; wanted measured pictures")
    values = arrays[key]
    single = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
    values = values[None] if single else values
    values = values[..., None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[-1] not in (1, 3):
        raise InputError(f"{path} has {key} of shape {arrays[key].shape}; wanted pictures (n, H, W) or (n, H, W, C), C 1 or 3")
    values = numbers({key: values}, key, (None,) * 4, path)
    normalisation = _normalisation(values, data_range or read_pair(arrays, "range", path), path)
    count = len(values)
    groups = arrays.get("patient", np.array([str(k) for k in range(count)]))
    if groups.shape != (count,):
        raise InputError(f"{path} has patient of shape {groups.shape}; wanted {count} entries, one a picture")
    y = normalisation.normalise(torch.from_numpy(np.moveaxis(values, -1, 1).astype(np.float32)))
    described = f"{count} measured pictures of {path.name}"
    source = ArraySource(None, y, tuple(y.shape[1:]), normalisation, list(map(str, groups)), described)
    source.pictured = True
    return source


def _normalisation(values: np.ndarray, named: Sequence[float] | None, path: Path) -> Normalisation:
    """Decide which values become 0 and 1; nothing is clipped."""
    pair = named if named is not None else implied_range(values.dtype, picture=True)
    if pair is None:
        low, high = float(values.min()), float(values.max())
        if values.dtype.kind in "ui" or low < NOISY[0] or high > NOISY[1]:
            raise InputError(f"{path} has values from {low:g} to {high:g} and no 'range'; wanted the range named: {NAME_IT}")
        log.warning("padis_lightning: %s does not say what its values mean; 0 is taken as black and 1 as white", path)
        pair = 0.0, 1.0
    return Normalisation(*pair_of(pair))


class ReferenceSource(Wrapped):
    """Yields the measurements of a source with the truth beside each, by its name, or the only one there is.

    Args:
        measured: of measurements.
        truth: of images, or of pictures like the measured ones; those that no measurement is named after are not used.

    Raises:
        InputError: a measurement has no truth.
    """

    def __init__(self, measured: Source, truth: Source) -> None:
        super().__init__(measured)
        self.truth, self.has_images = truth, False
        self.description = f"{measured.description}, compared with {truth.description}"
        places = {truth.name(k): k for k in range(len(truth))}
        names = [measured.name(k) for k in range(len(measured))]
        missing = [name for name in names if name not in places]
        if len(names) == len(places) == 1:
            self._truths = [0]
        elif missing:
            raise InputError(f"there is nothing for {first_few(missing)} in {truth.description}; wanted one of each name")
        else:
            self._truths = [places[name] for name in names]

    def reference_shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of the truth."""
        return self.truth.shape(self._truths[index])

    def __getitem__(self, index: int) -> Item:
        truth = self.truth[self._truths[index]]
        return self.inner[index]._replace(image=truth.measurement if self.truth.pictured else truth.image)
