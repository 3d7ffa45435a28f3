"""The scan of a measured file with its axis of rotation: as named, as the file says, or as found from the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from padis_lightning.ct import ConeGeometry, Geometry
from padis_lightning.ct.axis import OTHER_WAY, find_axis, other_way
from padis_lightning.ct.geometry import G
from padis_lightning.data.conventions import Named
from padis_lightning.data.notes import note
from padis_lightning.data.ranges import calibrate
from padis_lightning.data.sources.cone_scans import cone_files, cone_pixels
from padis_lightning.data.sources.measurements import corrected_integrals, geometry_of, load_measured, pixels_of
from padis_lightning.data.sources.open import is_flat_scan, read_geometry
from padis_lightning.errors import InputError

AxisChoice = Literal["auto", "middle"] | float
CLOSE = 0.1  # bins up to which an axis that was found is taken for the middle, or for scikit-image's bin
SETS = "--data.axis sets another"


class DescribedScan(NamedTuple):
    """Holds what measured data is of.

    Attributes:
        geometry: of the scan, or None where the data is none.
        axis: words that say where its axis is and how that is known.
        range: what the values are calibrated to, where neither user nor file names it.
        pixels: what they stand for, where the file says so.
    """

    geometry: Geometry | ConeGeometry | None
    axis: str = ""
    range: tuple[float, float] | None = None
    pixels: str | None = None


def describe_scan(
    path: str | Path,
    named: Named = Named(),  # noqa: B008
    axis: AxisChoice | None = None,
    calibrated: bool | None = None,
) -> DescribedScan:
    """Read the scan of measured data as :func:`read_geometry` does, find its axis, and calibrate its values.

    Args:
        path: of the data.
        named: what the user says of the scan.
        axis: its bin counted from 0, the ``middle`` of the detector, ``auto`` to find it; None to take what the file says, and
            to find it where a scan of slices does not say.
        calibrated: whether to calibrate its values; None to do so where the file names no range.

    Raises:
        InputError: the axis of a cone beam is to be found.
    """
    path = Path(path)
    if not is_flat_scan(path):
        geometry = read_geometry(path, named)
        if geometry is None:
            return DescribedScan(None)
        pixels = cone_pixels(cone_files(path)[0])
        if axis is None:
            return DescribedScan(geometry, pixels=pixels)
        if axis == "auto":
            raise InputError("axis is 'auto' for a cone beam; wanted the bin of its rotation axis, counted from 0, or middle")
        return DescribedScan(*_named(geometry, axis), pixels=pixels)
    arrays = load_measured(path, ("range", "hu_window"), named)
    geometry = geometry_of(arrays, path)
    if geometry is None:
        return DescribedScan(None)
    y = corrected_integrals(arrays, path, named).y
    if axis is None and says_axis(arrays, path):
        words = f"rotation axis at bin {np.mean(geometry.axis_bin):g} of {geometry.bins}, as the file says"
    elif axis is None or axis == "auto":
        geometry, words = _found(geometry, y, "centre" in arrays)
    else:
        geometry, words = _named(geometry, axis)
    if other_way(y, geometry) < OTHER_WAY:
        note(f"{path}: its views fit each other far better the other way round; wanted its angles negated, or bins reversed")
    if calibrated is None:
        calibrated = not {"range", "hu_window"} & arrays.keys()
    return DescribedScan(geometry, words, calibrate(path, y, geometry) if calibrated else None, pixels_of(arrays, path))


def says_axis(arrays: dict[str, np.ndarray], path: Path) -> bool:
    """Tell whether a file, or the geometry beside it, says where the axis is."""
    if {"axis", "bin_offset"} & arrays.keys():
        return True
    beside = path.with_suffix(".json")
    return "angles" not in arrays and beside.is_file() and '"bin_offset"' in beside.read_text(encoding="utf-8")


def _named(geometry: G, axis: float | Literal["middle"]) -> tuple[G, str]:
    """Put the axis where the user says."""
    place = (geometry.bins - 1) / 2 if axis == "middle" else float(axis)
    return geometry.with_axis_at(place), f"rotation axis at bin {place:g} of {geometry.bins}, as named"


def _found(geometry: Geometry, y: np.ndarray, centred: bool) -> tuple[Geometry, str]:
    """Find the axis; one that is scikit-image's says where the image is centred, unless the file does."""
    bins, middle = geometry.bins, (geometry.bins - 1) / 2
    found = find_axis(y, geometry)
    centred_scan = geometry.with_axis_at(middle)
    if not found.sure:
        words = f"its rotation axis cannot be told from the data and is taken to be the middle, bin {middle:g} of {bins}; {SETS}"
        return centred_scan, words
    place = round(middle - found.offset / geometry.bin_spacing, 2)  # so that another processor finds the same
    if abs(place - middle) <= CLOSE:
        return centred_scan, f"rotation axis found in the middle, at bin {middle:g} of {bins}; {SETS}"
    half = bins // 2
    if not centred and geometry.size == (bins, bins) and bins % 2 == 0 and abs(place - half) <= CLOSE:
        words = f"rotation axis found at bin {half} of {bins}: image and detector are taken to turn about pixel and bin {half}"
        return replace(geometry.with_axis_at(half), centre="pixel"), f"{words}, as scikit-image has it; {SETS}"
    return geometry.with_axis_at(place), f"rotation axis found at bin {place:.1f} of {bins} (middle: {middle:g}); {SETS}"
