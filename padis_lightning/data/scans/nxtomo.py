"""NXtomo: NeXus files whose frames a key tells apart, projections 0, flat fields 1 and dark fields 2.

Source: the NeXus application definition NXtomo.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from padis_lightning.data.containers import hdf5
from padis_lightning.data.conventions import MILLIMETRES, Named
from padis_lightning.data.scans.base import NEXUS, Format, field, opened, rows_of, stack_of, unit_of
from padis_lightning.errors import InputError

if TYPE_CHECKING:
    import h5py

PROJECTION, FLAT, DARK = range(3)


def _names(path: Path) -> dict[str, str]:
    """Return where a file has ``image_key`` with ``data`` beside it, and ``rotation_angle``; nothing for other files."""
    if path.suffix.lower() not in NEXUS or not path.is_file():
        return {}
    found: dict[str, str] = {}

    def look(name: str, one: h5py.Group | h5py.Dataset) -> None:
        parent, _, last = name.rpartition("/")
        if last == "image_key" and hasattr(one.parent.get("data"), "shape"):
            found.setdefault("image_key", name)
            found.setdefault("data", f"{parent}/data")
        elif last in ("rotation_angle", "x_pixel_size") and hasattr(one, "shape"):
            found.setdefault(last, name)

    with hdf5(path) as file:
        file.visititems(look)
    return found if "data" in found else {}


def read(path: Path, named: Named) -> dict[str, np.ndarray]:
    """Read the projections, the means of the flat and the dark fields, the angles of the projections, and the pixels' width."""
    names = _names(path)
    if "rotation_angle" not in names:
        raise InputError(f"{path} has {names['data']} without rotation_angle; wanted the angles of its views")
    with opened(path, names["data"]) as (file, frames):
        keys, angles = np.asarray(file[names["image_key"]][()]), np.asarray(file[names["rotation_angle"]][()])
        for name, values in (("image_key", keys), ("rotation_angle", angles)):
            if values.shape != frames.shape[:1]:
                raise InputError(f"{path} has {name} of shape {values.shape}; wanted ({frames.shape[0]},), one a frame")
        if not (keys == PROJECTION).any():
            raise InputError(f"{path} has no frame with image_key 0; wanted projections")
        rows = named.pick(frames.shape[1], path)
        values = rows_of(frames, rows, path)
        arrays = {"counts": values[:, keys == PROJECTION], "angles": angles[keys == PROJECTION], **stack_of(rows, path)}
        fields = {name: field(values[:, keys == key]) for name, key in (("flat", FLAT), ("dark", DARK)) if (keys == key).any()}
        width = {"bin_spacing": _millimetres(file[names["x_pixel_size"]], path)} if "x_pixel_size" in names else {}
        return {**arrays, **fields, **width, **unit_of(file[names["rotation_angle"]], path)}


def _millimetres(size: h5py.Dataset, path: Path) -> np.ndarray:
    """Read the width of a pixel in millimetres; a unit that is not named is taken to be these."""
    unit = size.attrs.get("units", "mm")
    unit = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)
    value = np.asarray(size[()]).astype(float).squeeze() if size.dtype.kind in "uif" else np.asarray(np.nan)
    if unit.strip() not in MILLIMETRES or value.ndim or not 0 < value < np.inf:
        raise InputError(f"{path} has x_pixel_size {value} {unit:.20}; wanted one above 0 in {', '.join(MILLIMETRES)}")
    return value * MILLIMETRES[unit.strip()]


SCAN = Format("NXtomo", lambda path: bool(_names(path)), read)
