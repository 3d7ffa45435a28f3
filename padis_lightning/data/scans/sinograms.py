"""MATLAB files of one sinogram with its angles, of any program: parallel rays, or a fan where distances are beside them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from padis_lightning.data.conventions import Named, read_unit
from padis_lightning.data.matlab import described, load_array
from padis_lightning.data.notes import note
from padis_lightning.data.scans.base import Format
from padis_lightning.errors import InputError

PLAIN, MAYBE = ("sinogram", "sino"), ("projections", "data")  # names of sinograms, and of images as well
ANGLES = ("angles", "theta")
LENGTHS = ("bin_spacing", "pixel_spacing", "source_distance", "detector_distance", "axis", "bin_offset", "size")


def _names(path: Path) -> tuple[str, str] | None:
    """Return the names of sinogram and angles; the latter may be missing where the former can be nothing else."""
    if path.suffix.lower() != ".mat" or not path.is_file():
        return None
    return _found(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _found(path: Path, changed: int) -> tuple[str, str] | None:
    found = described(path)
    angles = next((name for name in ANGLES if name in found), "")
    y = next((name for name in (*PLAIN, *(MAYBE if angles else ())) if name in found and len(found[name][0]) == 2), None)
    return None if y is None or "images" in found else (y, angles)


def read(path: Path, named: Named) -> dict[str, np.ndarray]:
    """Read the sinogram, ``(views, bins)`` or, as MATLAB's ``radon`` has it, ``(bins, views)``, its angles, and lengths."""
    names = _names(path)
    assert names is not None
    y, angles = names[0], names[1]
    if not angles:
        raise InputError(f"{path} has {y} without angles; wanted {' or '.join(ANGLES)} beside it")
    found = described(path)
    values, turns = load_array(path, y), np.ravel(load_array(path, angles))
    if len(turns) not in values.shape:
        raise InputError(f"{path} has {y} of shape {values.shape} and {len(turns)} {angles}; wanted one angle a view")
    if values.shape[0] == values.shape[1]:
        note(f"{path} has {y} of as many rows as columns; its rows are taken for views")
    elif values.shape[1] == len(turns):
        values = values.T
    lengths = {name: np.squeeze(load_array(path, name)) for name in LENGTHS if name in found}
    if "source_distance" not in lengths:
        note(f"{path} has no source_distance; its rays are taken to be parallel")
    unit = {"angle_unit": np.asarray(read_unit(load_array(path, "angle_unit"), path))} if "angle_unit" in found else {}
    return {"y": values[None], "angles": turns, **lengths, **unit}


SCAN = Format("MATLAB sinograms", lambda path: _names(path) is not None, read)
