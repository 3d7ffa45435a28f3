"""Measured projections of a file: line integrals or raw counts, and the scan that they were measured with.

The scan is in keys of the file, or in a geometry of the same name in ``.json`` beside it.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Generic, NamedTuple, get_args

import numpy as np

from padis_lightning.ct import ConeGeometry, Geometry
from padis_lightning.ct.geometry import G, ScanGeometry
from padis_lightning.data.containers import hdf5, load_keys, names_of, numbers
from padis_lightning.data.conventions import MOST, THEIRS, Named, complete, to_radians, translate
from padis_lightning.data.corrections import LineIntegrals, corrected, from_counts
from padis_lightning.data.notes import note
from padis_lightning.data.scans import read_foreign
from padis_lightning.errors import InputError
from padis_lightning.operators.ct import Pixels

MEASURED = ("y", "counts")
FIELDS = ("flat", "dark")
LEAST_TURNS = 36  # turns in which a helix rises by what the detector sees, from which on its angles are doubted


class Form(NamedTuple, Generic[G]):
    """Says how a file describes a kind of scan: by the fields of its geometry, but for the ``axes`` of its projections."""

    kind: type[G]
    axes: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Return all keys of a scan."""
        return tuple(field.name for field in fields(self.kind) if field.name not in self.axes)

    @property
    def needed(self) -> tuple[str, ...]:
        """Return the keys without which the scan is not known; heights are those of a circle."""
        optional = {field.name for field in fields(self.kind) if field.default is not MISSING} | {"heights"}
        return tuple(key for key in self.keys if key not in optional)


FLAT, CONE = Form(Geometry, ("views", "bins")), Form(ConeGeometry, ("views", "rows", "bins"))
KEYS = (*MEASURED, "data", *FIELDS, *FLAT.keys, "axis", "angle_unit", "pixels")  # data are LoDoPaB's projections
ITEMS = ("images", "patient", "z", "range", "hu_window")
ORIGIN = ("converted_from", "converted_format", "converted_sha256")  # attributes that convert leaves
KNOWN = {*KEYS, *ITEMS, *ORIGIN, *CONE.keys, "unit", "convention", "scan", "bins"}
LODOPAB_SHAPE = (1000, 513)  # views and bins


def read_scan(form: Form[G], arrays: dict[str, np.ndarray], key: str, shape: tuple[int, ...], path: Path) -> G:
    """Read the scan of the projections ``key``, of ``shape``: the axes of the form, perhaps after one of items.

    Raises:
        InputError: there is no geometry, a key is missing, or the geometry does not fit the projections.
    """
    origin, measured = path, shape[-len(form.axes) :]
    missing = [name for name in form.needed if name not in arrays]
    if len(missing) == len(form.needed) and path.with_suffix(".json").is_file():
        origin = path.with_suffix(".json")
        geometry = form.kind.load(origin)
        _check_order(form, key, shape, len(geometry.angles), path)
        if geometry.shape != measured:
            seen, wanted = ((n[0], "x".join(map(str, n[1:]))) for n in (geometry.shape, measured))
            raise InputError(f"{origin} has {seen[0]} views of {seen[1]} bins; wanted {wanted[0]} of {wanted[1]}, those of {key}")
    elif missing:
        raise InputError(f"{path} has {key} without {', '.join(missing)}; wanted its geometry beside it")
    else:
        _check_order(form, key, shape, arrays["angles"].size, path)
        described = _described(form, arrays, measured, path)
        try:
            geometry = form.kind.read(described)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    if "angle_unit" not in arrays:
        _check_radians(geometry, origin)
    if "axis" not in arrays:
        return geometry
    if "bin_offset" in arrays:
        raise InputError(f"{path} has both axis and bin_offset; wanted one of them")
    return geometry.with_axis_at(float(numbers(arrays, "axis", (), path)))


def _described(form: Form, arrays: dict[str, np.ndarray], measured: tuple[int, ...], path: Path) -> dict[str, Any]:
    """Collect what a geometry is read from."""
    described: dict[str, Any] = dict(zip(form.axes[1:], measured[1:], strict=True))
    if "heights" in form.keys:
        arrays = {"heights": np.zeros(measured[0]), **arrays}
    for name in (name for name in form.keys if name in arrays):
        if name == "centre" and arrays[name].dtype.kind in "USO":
            described[name] = str(arrays[name])
            continue
        along = measured[:1] if name in ("angles", "heights") else ()
        along = (len(form.axes),) if name == "size" and arrays[name].ndim else along
        along = (2,) if name == "centre" else measured[:1] if name == "bin_offset" and arrays[name].ndim else along
        described[name] = numbers(arrays, name, along, path).tolist()
    return described


def _check_order(form: Form, key: str, shape: tuple[int, ...], views: int, path: Path) -> None:
    if shape[-len(form.axes)] != views and views in shape:
        axes = ", ".join(("n", *form.axes)[-len(shape) :])
        raise InputError(f"{path} has {key} of shape {shape} and {views} angles, so it looks transposed; wanted ({axes})")


def _check_radians(geometry: ScanGeometry, path: Path) -> None:
    """Refuse angles of many turns, but for helices that rise in each turn by a part of what the detector sees.

    A geometry in .json is of this program, which writes radians: only even steps are doubted there.
    """
    angles = np.asarray(geometry.angles)
    steps = np.diff(angles)
    even = len(steps) and np.ptp(steps) <= 0.01 * np.abs(steps).max()
    if np.abs(angles).max() <= MOST or not (even or (path.suffix != ".json" and isinstance(geometry, Geometry))):
        return
    if isinstance(geometry, ConeGeometry):
        seen = geometry.rows * geometry.row_spacing * geometry.source_distance / geometry.reach  # at the axis
        if LEAST_TURNS * np.ptp(geometry.heights) > np.ptp(angles) / (2 * np.pi) * seen:
            return
    raise InputError(
        f"{path} has angles from {angles[0]:g} to {angles[-1]:g} in {'' if even else 'uneven '}steps of {steps.mean():g}, which "
        "look like degrees; wanted radians (of several turns, their remainders), or the key angle_unit with degrees"
    )


def lodopab() -> dict[str, Any]:
    """Return LoDoPaB's range and scan: 362x362 pixels over 26 cm, 1000 views of 513 bins over the diagonal; lengths in metres.

    Its images have x along the first axis and y along the second, and its detector lies along (cos, sin) of the angle. With
    rows down and columns to the right that is the angle less a quarter turn; images are then as its ground truth stores them.

    Source: Leuschner et al., LoDoPaB-CT, Scientific Data 2021, and its technical reference.
    """
    angles = (np.arange(LODOPAB_SHAPE[0]) + 0.5) * np.pi / LODOPAB_SHAPE[0] - np.pi / 2
    lengths = {"pixel_spacing": 0.26 / 362, "bin_spacing": 0.0007167656083, "bin_offset": 0.0}
    return {k: np.asarray(v) for k, v in {"range": (0.0, 1.0), "angles": angles, "size": 362, **lengths}.items()}


def is_measured(path: Path) -> bool:
    """Return whether an HDF5 file holds a measurement: ``y``, ``counts``, or LoDoPaB's observations."""
    with hdf5(path) as file:
        if "y" in file or "counts" in file or "convention" in file or "convention" in file.attrs:
            return True
        shape = getattr(file.get("data"), "shape", None)
    if shape is None:
        return False
    if "observation" in path.name:
        _require_lodopab(shape, path)
    return shape[1:] == LODOPAB_SHAPE


def _require_lodopab(shape: tuple[int, ...], path: Path) -> None:
    if shape[1:] != LODOPAB_SHAPE:
        raise InputError(f"{path} has data of shape {shape}; wanted (n, 1000, 513), LoDoPaB's observations, or 'y' with its scan")


def load_measured(path: Path, keys: tuple[str, ...] = (), named: Named = Named()) -> dict[str, np.ndarray]:  # noqa: B008
    """Load the arrays of a measurement and those of ``keys`` that a file has, under our names, with angles in radians.

    Other programs' scans, their conventions and LoDoPaB's become what a ``.npz`` of ours holds. Keys that nobody reads are named.
    """
    foreign = read_foreign(path, named)
    if foreign is not None:
        _require_spacing(foreign, named, path)
        return _views(foreign, named, path)
    arrays = load_keys(path, (*KEYS, *keys, "convention", *THEIRS))
    convention = arrays.get("convention")
    if convention is None:
        arrays = {key: value for key, value in arrays.items() if key not in THEIRS}
    if "data" in arrays:
        _require_lodopab(arrays["data"].shape, path)
        arrays = {"y": arrays.pop("data"), **lodopab()}
    if "y" in arrays and "counts" in arrays:
        raise InputError(f"{path} has both y and counts; wanted one of them")
    if convention is not None:
        arrays = translate(arrays, path)
    key = next((key for key in MEASURED if key in arrays), None)
    if key is None:
        return arrays
    others = set(names_of(path)) - KNOWN - (set() if convention is None else {*THEIRS}) - {"data"}
    if others:
        note(f"{path} has {', '.join(sorted(others))}, which is not read")
    if arrays[key].ndim == 2 and ("angles" in arrays or convention is not None):
        arrays[key] = arrays[key][None]
    arrays = to_radians(arrays, path)
    arrays = arrays if convention is None else complete(arrays, key, named, path)
    _require_spacing(arrays, named, path)
    return _views(_rows(arrays, key, named, path), named, path)


def _require_spacing(arrays: dict[str, np.ndarray], named: Named, path: Path) -> None:
    """Refuse a side of pixels that the user names where the file names another."""
    spacing = named.pixel_spacing
    if spacing is not None and "pixel_spacing" in arrays:
        own = float(numbers(arrays, "pixel_spacing", (), path))
        if not np.isclose(own, spacing, rtol=1e-6, atol=0):
            raise InputError(f"pixel_spacing is {spacing:g} and {path} names {own:g}; wanted that of the file, or none")


def _views(arrays: dict[str, np.ndarray], named: Named, path: Path) -> dict[str, np.ndarray]:
    """Return the arrays with so many of the views as the user names."""
    count = np.size(arrays.get("angles", ()))
    if named.views is None or not count:
        return arrays
    kept = named.spread(count, path)
    along = {k: arrays[k] for k in ("angles", "bin_offset") if k in arrays and arrays[k].shape == (count,)}
    seen = {k: arrays[k] for k in (*MEASURED, *FIELDS) if k in arrays and arrays[k].shape[-2:-1] == (count,)}
    return {**arrays, **{k: v[kept] for k, v in along.items()}, **{k: v[..., kept, :] for k, v in seen.items()}}


def _rows(arrays: dict[str, np.ndarray], key: str, named: Named, path: Path) -> dict[str, np.ndarray]:
    """Return the arrays with the rows that the user names."""
    if named.rows is None:
        return arrays
    count = len(arrays[key])
    rows = named.pick(count, path)
    along = [k for k in (key, "images", "patient", "z") if k in arrays]
    along += [k for k in FIELDS if k in arrays and arrays[k].ndim == arrays[key].ndim and len(arrays[k]) == count]
    return {**arrays, **{k: arrays[k][rows] for k in along if len(arrays[k]) == count}}


def pixels_of(arrays: dict[str, np.ndarray], path: Path) -> str | None:
    """Return what the pixels of a scan stand for, where its file says so."""
    found = str(arrays["pixels"]) if "pixels" in arrays else None
    if found not in (None, *get_args(Pixels)):
        raise InputError(f"{path} has pixels {found!r:.40}; wanted {' or '.join(get_args(Pixels))}")
    return found


def geometry_of(arrays: dict[str, np.ndarray], path: Path) -> Geometry | None:
    """Read the scan of the arrays that :func:`load_measured` yields as :func:`read_scan` does; None without sinograms."""
    key = next((key for key in MEASURED if key in arrays), None)
    if key is None:
        return None
    return read_scan(FLAT, arrays, key, numbers(arrays, key, (None,) * 3, path).shape, path)


def line_integrals(arrays: dict[str, np.ndarray], path: Path, axes: int = 3) -> LineIntegrals:
    """Return line integrals ``(n, views, bins)``: ``y`` as it is, or those of ``counts``, which weigh by their photons.

    Projections of volumes have four axes, ``(n, views, rows, bins)``.

    Raises:
        InputError: they are not finite numbers, the fields do not fit, there is no flat field, or most bins saw nothing.
    """
    if "y" in arrays:
        return LineIntegrals(numbers(arrays, "y", (None,) * axes, path), np.ones((1,) * axes))
    counts = numbers(arrays, "counts", (None,) * axes, path)
    if "flat" not in arrays:
        wanted = "the counts of a scan without an object beside them, or line integrals as y in .npz or .h5"
        raise InputError(f"{path} has counts without flat; wanted {wanted}")
    flat, dark = (_field(arrays, key, counts.shape, path) for key in ("flat", "dark"))
    _require_light(counts, np.broadcast_to(flat > dark, counts.shape), dark, "dark" if "dark" in arrays else "0", path)
    found = from_counts(counts, flat, dark)
    for line in found.notes:
        note(f"{path}: {line}")
    return found


def _require_light(counts: np.ndarray, lit: np.ndarray, dark: np.ndarray, least: str, path: Path) -> None:
    """Refuse counts that can be of no scan: no bin has a beam, or most of those that have one saw nothing through the object."""
    count, blind = int(lit.sum()), int((lit & (counts <= dark)).sum())
    if not count:
        raise InputError(f"{path} has flat not above {least} in any of {lit.size} bins; wanted photons")
    if 2 * blind > count:
        raise InputError(f"{path} has counts not above {least} in {blind} of {count} bins with a beam; wanted photons in most")


def corrected_integrals(arrays: dict[str, np.ndarray], path: Path, named: Named) -> LineIntegrals:
    """Return the line integrals of flat scans without what their detector added, float32, and how far each of them counts."""
    found = line_integrals(arrays, path)
    weights = np.broadcast_to(found.weights, found.y.shape)
    scans = [corrected(LineIntegrals(y, w), named.remove_stripes) for y, w in zip(found.y.astype(float), weights, strict=True)]
    alike: dict[str, list[tuple[int, str]]] = {}
    for k, scan in enumerate(scans):
        for line in scan.notes:
            alike.setdefault(re.sub(r"\d", "", line), []).append((k, line))
    for (k, line), *others in alike.values():
        few = ", ".join(str(other) for other, _ in others[:3]) + (" ..." if others[3:] else "")
        more = f" (scans {few} alike)" if others else ""
        note(f"{path}{f', scan {k}' if len(scans) > 1 else ''}: {line}{more}")
    weights = np.stack([scan.weights for scan in scans]).astype(np.float32)
    even = np.ones((len(scans), 1, 1), np.float32)
    return LineIntegrals(np.stack([scan.y for scan in scans]).astype(np.float32), even if (weights == 1).all() else weights)


def _field(arrays: dict[str, np.ndarray], key: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """Return counts without an object or without a beam, to be taken from counts of ``shape``; zero where there are none."""
    values = numbers(arrays, key, (None,) * arrays[key].ndim, path) if key in arrays else np.zeros(())
    try:
        np.broadcast_to(values, shape)
    except ValueError:
        wanted = ", ".join(f"({', '.join(map(str, shape[k:]))})" for k in range(len(shape) - 1, 0, -1))
        raise InputError(f"{path} has {key} of shape {values.shape}; wanted one value, or {wanted}") from None
    return values.astype(float)
