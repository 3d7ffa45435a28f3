"""The scan of a measured file with its axis of rotation: as named, as the file says, or as found from the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from padis_lightning.ct import ConeGeometry, Geometry
from padis_lightning.ct.axis import find_axis
from padis_lightning.data.sources.measurements import line_integrals, load_measured, says_axis
from padis_lightning.data.sources.open import read_geometry
from padis_lightning.errors import InputError

AxisChoice = Literal["auto", "middle"] | float
CLOSE = 0.1  # bins up to which an axis that was found is taken for the middle, or for scikit-image's bin
SETS = "--data.axis sets another"


def scan_at_axis(path: str | Path, axis: AxisChoice | None = None) -> tuple[Geometry | ConeGeometry | None, str]:
    """Return what :func:`read_geometry` reads, with its axis, and words that say where it is and how that is known.

    Args:
        path: of the data; None is returned where it holds no scan.
        axis: its bin counted from 0, the ``middle`` of the detector, ``auto`` to find it; None to take what the file says, and
            to find it where a scan of slices does not say.

    Raises:
        InputError: the axis of a cone beam is to be found.
    """
    geometry = read_geometry(path)
    if geometry is None:
        return None, ""
    if axis == "middle" or isinstance(axis, (int, float)):
        place = (geometry.bins - 1) / 2 if axis == "middle" else float(axis)
        return geometry.with_axis_at(place), f"rotation axis at bin {place:g} of {geometry.bins}, as named"
    if isinstance(geometry, ConeGeometry):
        if axis == "auto":
            raise InputError("axis is 'auto' for a cone beam; wanted the bin of its rotation axis, counted from 0, or middle")
        return geometry, ""
    path = Path(path)
    arrays = load_measured(path)
    if axis is None and says_axis(arrays, path):
        return geometry, f"rotation axis at bin {np.mean(geometry.axis_bin):g} of {geometry.bins}, as the file says"
    return _found(geometry, line_integrals(arrays, path), "centre" in arrays)


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
