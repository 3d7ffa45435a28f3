"""Arrays in files: what they may hold, and one sentence for what they may not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from padis_lightning.data.sources.base import ArraySource, resize
from padis_lightning.data.sources.contents import check_axes, numbers, read_pair
from padis_lightning.data.sources.measurements import SINOGRAMS, geometry_of, line_integrals, load_measured
from padis_lightning.errors import InputError
from padis_lightning.types import Normalisation


def normalisation_of(
    arrays: dict[str, np.ndarray], measured: str | None, data_range: Sequence[float] | None, path: Path
) -> Normalisation:
    """The file's range: as asked for, as the file says, or what its type of numbers implies.

    Args:
        arrays: what the file says, with its images where it holds no measurement.
        measured: the key of its measurement, or None.
        data_range: in place of the file's ``range``.
        path: the file.

    Raises:
        InputError: nothing says what becomes 0 and 1, or it is no range of a measurement.
    """
    window, named = read_pair(arrays, "hu_window", path), read_pair(arrays, "range", path)
    named = tuple(float(v) for v in data_range) if data_range is not None else named
    if measured and (named is None or named[0] != 0):
        seen = "no 'range'" if named is None else f"a range from {named[0]:g}"
        raise InputError(
            f"{path} has {measured} and {seen}; wanted the range (0, value that becomes 1) in the units of y per length"
        )
    if named is not None:
        return Normalisation(*named, window)
    if window is not None:  # values are stored as HU above the window's lower end
        return Normalisation(0.0, window[1] - window[0], window)
    images = arrays["images"]
    if images.dtype == np.uint8:
        return Normalisation(0.0, 255.0)
    low, high = float(images.min()), float(images.max())
    if np.issubdtype(images.dtype, np.integer) or low < 0 or high > 1:
        raise InputError(
            f"{path} has values from {low:g} to {high:g} and no 'range'; wanted values from 0 to 1, 8-bit integers, "
            "or the range named: --data.range '[LOWER, UPPER]'"
        )
    return Normalisation(0.0, 1.0)


def _images(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """``(n, H, W)`` or ``(n, H, W, C)`` to ``(n, C, H, W)``."""
    axes = 4 if arrays["images"].ndim == 4 else 3
    values = numbers(arrays, "images", (None,) * axes, path)
    check_axes(values.shape, path)
    return np.moveaxis(values, -1, 1) if axes == 4 else values[:, None]


def read_arrays(path: str | Path, size: int | None = None, data_range: Sequence[float] | None = None) -> ArraySource:
    """Read a ``.npz`` or ``.npy`` file, or measurements in HDF5.

    Keys: ``images`` ``(n, H, W)`` or ``(n, H, W, C)``; or measured sinograms, ``y`` ``(n, views, bins)`` or raw ``counts`` with
    ``flat`` and perhaps ``dark`` (see :func:`padis_lightning.data.sources.measurements.line_integrals`), with their geometry (see
    :func:`padis_lightning.data.read_geometry`); or both. ``patient`` ``(n,)`` labels groups,
    and ``z`` ``(n,)`` is where in them slices lie. ``range`` (2,) names
    the values that become 0 and 1; ``hu_window`` (2,) says that values are HU above the window's lower end.

    Args:
        path: the file.
        size: side that images are brought to (default: as they are).
        data_range: in place of the file's ``range``.

    Raises:
        InputError: there is no such file, it has neither images nor sinograms, or values that are not finite or have no range.
    """
    path = Path(path)
    arrays = load_measured(path, ("images", "patient", "z", "range", "hu_window"))
    geometry = geometry_of(arrays, path)
    raw = _images(arrays, path) if "images" in arrays else None
    measured = next((key for key in SINOGRAMS if key in arrays), None)
    normalisation = normalisation_of(arrays, measured, data_range, path)
    images = measurements = None
    if raw is not None:
        images = normalisation.normalise(torch.from_numpy(raw.astype(np.float32)))
        images = resize(images, size) if size and not geometry else images
        if geometry and tuple(images.shape[-2:]) != geometry.size:
            images = resize(images, geometry.size[0])
    if geometry:
        measurements = torch.from_numpy(line_integrals(arrays, path))[:, None] / normalisation.upper
    count = len(images if images is not None else measurements)
    for key in ("y", "counts", "patient"):
        if key in arrays and np.shape(arrays[key])[:1] != (count,):
            raise InputError(f"{path} has {key} of shape {arrays[key].shape}; wanted {count} entries, one an image")
    groups = [str(p) for p in arrays["patient"]] if "patient" in arrays else [str(i) for i in range(count)]
    shape = (1, *geometry.size) if images is None else tuple(images.shape[1:])
    source = ArraySource(images, measurements, shape, normalisation, groups, f"{count} items of {path.name}")
    if "patient" in arrays and np.shape(arrays.get("z")) == (count,):
        source.heights = numbers(arrays, "z", (None,), path)
    return source
