"""MATLAB structs of the Helsinki tomography challenge and of other scans of that laboratory: fans of one slice.

The source is below the slice at angle 0 and turns counter-clockwise; bins run to the right as seen from it, as ours do.

Source: Meaney, Silva de Moura and Siltanen, Helsinki Tomography Challenge 2022, Zenodo.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from padis_lightning.data.conventions import Named
from padis_lightning.data.matlab import load_struct, structs
from padis_lightning.data.scans.base import Format
from padis_lightning.errors import InputError

NEEDED = ("distanceSourceOrigin", "distanceSourceDetector", "angles")


@lru_cache(maxsize=1)
def _scan(path: Path, changed: int) -> dict[str, Any] | None:
    """Return the only struct of a file that has a sinogram and parameters."""
    found = [one for name in structs(path) if {"sinogram", "parameters"} <= (one := load_struct(path, name)).keys()]
    return found[0] if len(found) == 1 else None


def recognises(path: Path) -> bool:
    """Return whether a file holds such a struct; files of version 7.3 are another format."""
    if path.suffix.lower() != ".mat" or not path.is_file():
        return False
    import h5py

    return not h5py.is_hdf5(path) and _found(path) is not None


def _found(path: Path) -> dict[str, Any] | None:
    return _scan(path, path.stat().st_mtime_ns)


def read(path: Path, named: Named) -> dict[str, np.ndarray]:
    """Read sinogram, angles in degrees, and distances in the file's unit, millimetres."""
    scan = _found(path) or {}
    told, y = scan["parameters"], scan["sinogram"]
    spacing = next((key for key in ("pixelSizePost", "pixelSize") if key in told), "pixelSizePost")
    missing = [key for key in (*NEEDED, spacing) if key not in told]
    if missing or y.ndim != 2:
        seen = f"a sinogram of shape {y.shape}" if y.ndim != 2 else f"parameters without {', '.join(missing)}"
        raise InputError(f"{path} has {seen}; wanted (views, bins) with {', '.join((*NEEDED, spacing))}")
    source, reach, pixel = (np.asarray(told[key], dtype=float) for key in (*NEEDED[:2], spacing))
    count = int(told.get("numDetectorsPost", y.shape[1]))
    if y.shape[1] != count:
        raise InputError(f"{path} has a sinogram of {y.shape[1]} bins and numDetectorsPost {count}; wanted as many")
    return {
        "y": y[None],
        "angles": np.atleast_1d(told["angles"]),
        "angle_unit": np.asarray("degrees"),
        "bin_spacing": pixel,
        "source_distance": source,
        "detector_distance": reach - source,
    }


SCAN = Format("MATLAB structs of the Helsinki challenge", recognises, read)
