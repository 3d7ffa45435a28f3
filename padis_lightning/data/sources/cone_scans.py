"""Cone-beam scans: measured projections of volumes with their geometry, one file or a folder of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from padis_lightning.ct import ConeGeometry
from padis_lightning.data.containers import HDF5, load_keys, read_pair, shapes_of
from padis_lightning.data.names import natural, safe, unique
from padis_lightning.data.ranges import decide_measured
from padis_lightning.data.sources.base import Item, Source
from padis_lightning.data.sources.measurements import CONE, FIELDS, FLAT, MEASURED, line_integrals, read_scan
from padis_lightning.errors import InputError
from padis_lightning.types import Normalisation

SUFFIXES = (".npz", *HDF5)
ONLY = tuple(key for key in CONE.lengths if key not in FLAT.keys)  # what no scan of a slice has
MILLIMETRES = {"um": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1e3}
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class ConeFile:
    """Holds the projections of a file, which are read when they are asked for.

    Attributes:
        path: the file.
        count: volumes that it is of.
        geometry: the scan of each.
        normalisation: what line integrals become those of values from 0 to 1.
        groups: the patient of each volume, or None where the file does not say.
        millimetres: of the geometry's unit of length, or None where the file does not name it.
    """

    path: Path
    count: int
    geometry: ConeGeometry
    normalisation: Normalisation
    groups: tuple[str, ...] | None
    millimetres: float | None

    @classmethod
    def open(cls, path: Path, data_range: Sequence[float] | None = None) -> ConeFile:
        """Read what a file says of its projections; they themselves are not read.

        Raises:
            InputError: the geometry is not complete or does not fit them, or nothing says what becomes 1.
        """
        key, shape = _projections(path)
        arrays = load_keys(path, ("range", "hu_window", "patient", "unit"))
        count = shape[0] if len(shape) == 4 else 1
        groups = np.atleast_1d(arrays["patient"]) if "patient" in arrays else None
        if groups is not None and groups.shape != (count,):
            raise InputError(f"{path} has patient of shape {arrays['patient'].shape}; wanted {count} entries, one a volume")
        window, stored = read_pair(arrays, "hu_window", path), read_pair(arrays, "range", path)
        unit = str(arrays["unit"]) if "unit" in arrays else None
        if unit is not None and unit not in MILLIMETRES:
            raise InputError(f"{path} has unit {unit!r}; wanted {', '.join(MILLIMETRES)}")
        return cls(
            path,
            count,
            read_scan(CONE, load_keys(path, CONE.keys), key, shape, path),
            decide_measured(path, key, named=data_range, stored=stored, window=window),
            None if groups is None else tuple(map(str, groups)),
            MILLIMETRES.get(unit),
        )

    def read(self, place: int) -> torch.Tensor:
        """Read the line integrals of volume ``place``, ``(views, rows, bins)``, those of values from 0 to 1.

        Raises:
            InputError: they are not finite numbers, or raw counts that have no logarithm.
        """
        arrays = load_keys(self.path, (*MEASURED, *FIELDS))
        stacked = {key: arrays[key].reshape(self.count, *self.geometry.shape) for key in MEASURED if key in arrays}
        values = line_integrals({**arrays, **stacked}, self.path, axes=4)[place]
        return torch.from_numpy(values) / self.normalisation.upper


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
    """Read the scan of a file's projections, which are not read.

    Raises:
        InputError: there is no geometry, a key is missing, or the geometry does not fit the projections.
    """
    return read_scan(CONE, load_keys(path, CONE.keys), *_projections(path), path)


@dataclass(frozen=True)
class Scanned:
    """Names a volume that was scanned: its name, fit for a file's, and its place in a file."""

    name: str
    group: str
    file: ConeFile
    place: int


def is_cone(path: Path) -> bool:
    """Return whether a ``.npz`` or HDF5 file holds projections of volumes, by their axes or by their geometry's keys.

    Raises:
        InputError: it cannot be read.
    """
    if path.suffix not in SUFFIXES or not path.is_file():
        return False
    shapes = shapes_of(path, (*MEASURED, *CONE.needed))
    axes = next((len(shapes[key]) for key in MEASURED if key in shapes), 0)
    if axes == 4 or (axes and any(key in shapes for key in ONLY)):
        return True
    return axes == 3 and not set(CONE.needed) & shapes.keys() and _is_cone_geometry(path.with_suffix(".json"))


def _is_cone_geometry(path: Path) -> bool:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):  # none, or one that its reader tells of
        return False
    return isinstance(described, dict) and described.get("format") == ConeGeometry.FORMAT


def cone_files(path: Path) -> list[Path]:
    """Return the scans of a file, or of a folder in the order in which people count; none where there is no cone-beam scan.

    Raises:
        InputError: the file cannot be read, or beside scans a folder has files that are none.
    """
    if not path.is_dir():
        return [path] if is_cone(path) else []
    files = sorted((p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file()), key=lambda p: natural(p.name))
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

    Args:
        files: of one geometry, range and unit.
        data_range: in place of the files' ``range``.
        description: a line for a checkpoint's provenance.

    Raises:
        InputError: a file cannot be used, or the files do not go together.
    """

    has_images = False

    def __init__(self, files: Sequence[Path], data_range: Sequence[float] | None, description: str) -> None:
        opened = [ConeFile.open(path, data_range) for path in files]
        first = opened[0]
        for one in opened[1:]:
            for what, mine, theirs in (
                ("geometry", first.geometry, one.geometry),
                ("range", first.normalisation, one.normalisation),
                ("unit", first.millimetres, one.millimetres),
            ):
                if mine != theirs:
                    raise InputError(f"{one.path} has another {what} than {first.path.name}; wanted one for all, or one file")
        self.volumes = unique([scanned for one in opened for scanned in _scanned(one)])
        self.groups = [one.group for one in self.volumes]
        self.geometry, self.normalisation, self.description = first.geometry, first.normalisation, description
        self.image_shape = (1, *self.geometry.size)
        self.affine = None if first.millimetres is None else affine(self.geometry, first.millimetres)

    def name(self, index: int) -> str:
        """Return the name of the file, and the place in it where it is of several volumes."""
        return self.volumes[index].name

    def __getitem__(self, index: int) -> Item:
        one = self.volumes[index]
        return Item(index, one.name, one.group, None, one.file.read(one.place)[None])


def _scanned(file: ConeFile) -> list[Scanned]:
    stem = safe(file.path.stem)
    names = [stem] if file.count == 1 else [f"{stem}_{k:04d}" for k in range(file.count)]
    return [Scanned(name, group, file, k) for k, (name, group) in enumerate(zip(names, file.groups or names, strict=True))]


def affine(geometry: ConeGeometry, millimetres: float) -> np.ndarray:
    """Return the affine from (row, column, slice, 1) of a scan's volume to LPS millimetres.

    The scan's x, y and z run to the right, the front and the head.

    Args:
        geometry: the scan.
        millimetres: of its unit of length.
    """
    depth, height, width = geometry.size
    pixel, thick = geometry.pixel_spacing, geometry.slice_spacing
    places = np.zeros((4, 4))
    places[0, 1], places[1, 0], places[2, 2] = pixel, -pixel, thick
    places[:3, 3] = -pixel * (width - 1) / 2, pixel * (height - 1) / 2, -thick * (depth - 1) / 2
    places *= millimetres
    places[3, 3] = 1
    return TO_LPS @ places
