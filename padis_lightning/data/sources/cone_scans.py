"""Cone-beam scans: measured projections of volumes with their geometry, one file or a folder of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from padis_lightning.ct import ConeGeometry
from padis_lightning.data.containers import HDF5, load_keys, shapes_of
from padis_lightning.data.conventions import MILLIMETRES
from padis_lightning.data.names import natural, unique
from padis_lightning.data.ranges import decide_measured
from padis_lightning.data.sources.base import Item, Source
from padis_lightning.data.sources.measurements import CONE, FIELDS, FLAT, MEASURED, line_integrals, pixels_of, read_scan
from padis_lightning.errors import InputError

SUFFIXES = (".npz", *HDF5)
ONLY = tuple(key for key in CONE.needed if key not in FLAT.keys)  # what no scan of a slice has
UNITS = ("um", "mm", "cm", "m")
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class ScannedVolume:
    """Names a volume that was scanned, and its place among those of a file."""

    name: str
    group: str
    path: Path
    place: int


def _open(path: Path, data_range: Sequence[float] | None) -> tuple[dict[str, Any], list[ScannedVolume]]:
    """Read what a file says of its projections: what must be one for all files of a source, and the volumes that they are of."""
    key, shape = _projections(path)
    arrays = load_keys(path, (*CONE.keys, "axis", "range", "hu_window", "patient", "unit"))
    count = shape[0] if len(shape) == 4 else 1
    names = [path.stem] if count == 1 else [f"{path.stem}_{k:04d}" for k in range(count)]
    groups = np.atleast_1d(arrays.get("patient", names))
    if groups.shape != (count,):
        raise InputError(f"{path} has patient of shape {arrays['patient'].shape}; wanted {count} entries, one a volume")
    unit = str(arrays["unit"]) if "unit" in arrays else None
    if unit not in (None, *UNITS):
        raise InputError(f"{path} has unit {unit!r}; wanted {', '.join(UNITS)}")
    shared = {
        "geometry": read_scan(CONE, arrays, key, shape, path),
        "range": decide_measured(path, key, arrays, named=data_range),
        "unit": unit,
        "pixels": cone_pixels(path),
    }
    return shared, [ScannedVolume(name, str(groups[k]), path, k) for k, name in enumerate(names)]


def _projections(path: Path) -> tuple[str, tuple[int, ...]]:
    """Return the key of a scan's projections, and their shape."""
    shapes = shapes_of(path, (*MEASURED, "images"))
    if len(shapes) > 1:
        raise InputError(f"{path} has {' and '.join(sorted(shapes))}; wanted the projections of volumes alone")
    ((key, shape),) = shapes.items()
    if len(shape) not in (3, 4) or 0 in shape:
        raise InputError(f"{path} has {key} of shape {shape}; wanted (views, rows, bins), or (n, views, rows, bins)")
    return key, shape


def cone_geometry(path: Path) -> ConeGeometry:
    """Read the scan of a file's projections, which are not read."""
    return read_scan(CONE, load_keys(path, (*CONE.keys, "axis")), *_projections(path), path)


def cone_pixels(path: Path) -> str | None:
    """Return what the pixels of a slice stand for, where the file says so."""
    return pixels_of(load_keys(path, ("pixels",)), path)


def is_cone(path: Path) -> bool:
    """Return whether a ``.npz`` or HDF5 file holds projections of volumes, by their axes or by their geometry's keys."""
    if path.suffix not in SUFFIXES or not path.is_file():
        return False
    shapes = shapes_of(path, (*MEASURED, *CONE.needed))
    axes = next((len(shapes[key]) for key in MEASURED if key in shapes), 0)
    if axes == 4 or (axes and any(key in shapes for key in ONLY)):
        return True
    beside = path.with_suffix(".json")
    undescribed = axes == 3 and not set(CONE.needed) & shapes.keys()
    return undescribed and beside.is_file() and f'"{ConeGeometry.FORMAT}"'.encode() in beside.read_bytes()


def cone_files(path: Path) -> list[Path]:
    """Return the scans of a file, or of a folder in the order in which people count; none where there is no cone-beam scan.

    Raises:
        InputError: the file cannot be read, or beside scans a folder has files that are none.
    """
    if not path.is_dir():
        return [path] if is_cone(path) else []
    files = sorted((p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file()), key=natural)
    found = [p for p in files if _reads_as_cone(p)]
    others = [p for p in files if found and p not in found]
    if others:
        raise InputError(f"{path} has {found[0].name}, a cone-beam scan, and {others[0].name}; wanted cone-beam scans alone")
    return found


def _reads_as_cone(path: Path) -> bool:
    try:
        return is_cone(path)
    except InputError:  # as what lies beside DICOM may be
        return False


class ConeSource(Source):
    """Yields measured projections ``(1, views, rows, bins)`` of volumes; those of a file are read when they are asked for.

    Volumes are named after their file, and their place in it where it is of several.

    Args:
        files: of one geometry, range and unit.
        data_range: in place of the files' ``range``.
        description: a line for a checkpoint's provenance.
    """

    has_images = False
    takes = ("axis",)

    def __init__(self, files: Sequence[Path], data_range: Sequence[float] | None, description: str) -> None:
        described, volumes = zip(*[_open(path, data_range) for path in files], strict=True)
        for path, others in zip(files, described, strict=True):
            for what, value in described[0].items():
                if others[what] != value:
                    raise InputError(f"{path} has another {what} than {files[0].name}; wanted one for all, or one file")
        self.volumes = unique([one for of_file in volumes for one in of_file])
        self.groups = [one.group for one in self.volumes]
        self.geometry, self.normalisation, unit, _ = described[0].values()
        self.description, self.image_shape = description, (1, *self.geometry.size)
        self.affine = affine(self.geometry, MILLIMETRES[unit]) if unit else None

    def name(self, index: int) -> str:
        """Return the name of the volume."""
        return self.volumes[index].name

    def __getitem__(self, index: int) -> Item:
        one = self.volumes[index]
        arrays = load_keys(one.path, (*MEASURED, *FIELDS))
        stacked = {key: arrays[key].reshape(-1, *self.geometry.shape) for key in MEASURED if key in arrays}
        found = line_integrals({**arrays, **stacked}, one.path, axes=4)
        values, weights = (np.broadcast_to(part, found.y.shape)[one.place, None].astype(np.float32) for part in found[:2])
        counted = None if "y" in stacked else torch.from_numpy(weights)
        return Item(index, one.name, one.group, None, torch.from_numpy(values) / self.normalisation.upper, counted)


def affine(geometry: ConeGeometry, millimetres: float) -> np.ndarray:
    """Return the affine from (row, column, slice, 1) of a scan's volume to LPS millimetres.

    The scan's x, y and z run to the right, the front and the head; ``millimetres`` are those of its unit of length.
    """
    depth, height, width = geometry.size
    pixel, thick = geometry.pixel_spacing, geometry.slice_spacing
    places = np.zeros((4, 4))
    places[0, 1], places[1, 0], places[2, 2] = pixel, -pixel, thick
    places[:3, 3] = -pixel * (width - 1) / 2, pixel * (height - 1) / 2, -thick * (depth - 1) / 2
    places *= millimetres
    places[3, 3] = 1
    return TO_LPS @ places
