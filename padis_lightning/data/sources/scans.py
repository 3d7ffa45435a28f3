"""The scan of a file of projections: keys of the file, or a geometry in ``.json`` beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from padis_lightning.ct import ConeGeometry, Geometry
from padis_lightning.data.sources.contents import numbers
from padis_lightning.errors import InputError

FEWEST = 36  # turns in which a helix rises by what the detector sees, from which on its angles are doubted


class Form(NamedTuple):
    """How a file describes one kind of scan.

    Attributes:
        kind: of the geometry.
        axes: of the projections of one item.
        lengths: keys that it must have, besides ``angles`` and ``size``.
        others: keys that it may have.
    """

    kind: type[Geometry | ConeGeometry]
    axes: tuple[str, ...]
    lengths: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def needed(self) -> tuple[str, ...]:
        """All keys without which the scan is not known."""
        return "angles", "size", *self.lengths

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys."""
        return *self.needed, *self.others


FLAT = Form(Geometry, ("views", "bins"), ("pixel_spacing", "bin_spacing"), ("source_distance", "detector_distance", "curved"))
CONE = Form(
    ConeGeometry,
    ("views", "rows", "bins"),
    ("pixel_spacing", "slice_spacing", "row_spacing", "bin_spacing", "source_distance", "detector_distance"),
    ("heights", "row_offset", "bin_offset"),
)


def read_scan(form: Form, arrays: dict[str, np.ndarray], key: str, shape: tuple[int, ...], path: Path) -> Geometry | ConeGeometry:
    """The scan of the projections ``key``, of ``shape``: the axes of the form, perhaps after one of items.

    Raises:
        InputError: there is no geometry, a key is missing, or the geometry does not fit the projections.
    """
    beside = path.with_suffix(".json")
    missing = [name for name in form.needed if name not in arrays]
    if len(missing) == len(form.needed) and beside.is_file():
        geometry = form.kind.load(beside)
        _check_order(form, key, shape, len(geometry.angles), path)
        if geometry.shape != shape[-len(form.axes) :]:
            seen, wanted = ((n[0], "x".join(map(str, n[1:]))) for n in (geometry.shape, shape[-len(form.axes) :]))
            raise InputError(f"{beside} has {seen[0]} views of {seen[1]} bins; wanted {wanted[0]} of {wanted[1]}, those of {key}")
        _check_radians(geometry, beside)
        return geometry
    if missing:
        raise InputError(f"{path} has {key} without {', '.join(missing)}; wanted its geometry beside it")
    _check_order(form, key, shape, arrays["angles"].size, path)
    described = _described(form, arrays, shape, path)
    try:
        geometry = form.kind.read(described)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    _check_radians(geometry, path)
    return geometry


def _described(form: Form, arrays: dict[str, np.ndarray], shape: tuple[int, ...], path: Path) -> dict[str, Any]:
    """What a geometry is read from."""
    views, *sides = shape[-len(form.axes) :]
    described: dict[str, Any] = dict(zip(form.axes[1:], sides, strict=True))
    if "heights" in form.others:
        arrays = {"heights": np.zeros(views), **arrays}
    for name in (name for name in form.keys if name in arrays):
        along = (views,) if name in ("angles", "heights") else ()
        along = (len(form.axes),) if name == "size" and arrays[name].ndim else along
        described[name] = numbers(arrays, name, along, path).tolist()
    return described


def _check_order(form: Form, key: str, shape: tuple[int, ...], views: int, path: Path) -> None:
    found, *others = shape[-len(form.axes) :]
    if found != views and views in others:
        axes = ", ".join(("n", *form.axes)[-len(shape) :])
        raise InputError(f"{path} has {key} of shape {shape} and {views} angles, so it looks transposed; wanted ({axes})")


def _check_radians(geometry: Geometry | ConeGeometry, path: Path) -> None:
    angles = np.asarray(geometry.angles)
    steps = np.diff(angles)
    even = len(steps) and np.ptp(steps) <= 0.01 * np.abs(steps).max()
    if even and np.abs(angles).max() > 4 * np.pi and not _winds(geometry):
        raise InputError(
            f"{path} has angles from {angles[0]:g} to {angles[-1]:g} in steps of {steps.mean():g}, which look like degrees; "
            "wanted radians (of several turns, their remainders)"
        )


def _winds(geometry: Geometry | ConeGeometry) -> bool:
    """Whether it is a helix that rises in each turn by more than a small part of what the detector sees at the axis."""
    if not isinstance(geometry, ConeGeometry):
        return False
    seen = geometry.rows * geometry.row_spacing * geometry.source_distance / geometry.reach
    turns = np.ptp(geometry.angles) / (2 * math.pi)
    return bool(FEWEST * np.ptp(geometry.heights) > turns * seen)
