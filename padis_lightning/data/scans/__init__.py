"""Scans of other programs. A new format is one new module here: what recognises and reads it, and ``SCAN``.

A reader returns the arrays that a ``.npz`` of ours has: ``y``, or ``counts`` with ``flat`` and ``dark``, of axes (rows, views,
bins), ``angles`` and perhaps ``angle_unit``, and what the format says of lengths and distances.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import numpy as np

from padis_lightning.data.conventions import Named, complete, to_radians
from padis_lightning.data.scans.base import Format

SHARED = ("base", "frames")
FORMATS: dict[str, Format] = {
    m.name: importlib.import_module(f"{__name__}.{m.name}").SCAN for m in pkgutil.iter_modules(__path__) if m.name not in SHARED
}


def find_format(path: Path) -> Format | None:
    """Return the format of another program's scan; None for everything else."""
    return next((one for one in FORMATS.values() if one.recognises(path)), None)


def read_foreign(path: Path, named: Named) -> dict[str, np.ndarray] | None:
    """Return the arrays of another program's scan under our names, angles in radians; None for everything else."""
    found = find_format(path)
    if found is None:
        return None
    arrays = to_radians(found.read(path, named), path, degrees=True)
    return complete(arrays, "y" if "y" in arrays else "counts", named, path)
