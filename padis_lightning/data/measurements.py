"""Measured sinograms: line integrals or raw counts, with the scan that they were measured with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from padis_lightning.ct import Geometry
from padis_lightning.data.contents import HDF5, NUMPY, hdf5, load_keys, numbers
from padis_lightning.errors import InputError

SCAN = ("angles", "size", "pixel_spacing", "bin_spacing")
FAN = ("source_distance", "detector_distance", "curved")
SINOGRAMS = ("y", "counts", "data")  # the last one is LoDoPaB's
KEYS = (*SINOGRAMS, "flat", "dark", *SCAN, *FAN)
LODOPAB_SHAPE = (1000, 513)  # views and bins


def lodopab() -> dict[str, Any]:
    """LoDoPaB's range and scan: 362x362 pixels over 26 cm, 1000 views of 513 bins over the diagonal; lengths in metres.

    Its images have x along the first axis and y along the second, and its detector lies along (cos, sin) of the angle. With
    rows down and columns to the right that is the angle less a quarter turn; images are then as its ground truth stores them.

    Source: Leuschner et al., LoDoPaB-CT, Scientific Data 2021, and its technical reference.
    """
    angles = (np.arange(LODOPAB_SHAPE[0]) + 0.5) * np.pi / LODOPAB_SHAPE[0] - np.pi / 2
    lengths = {"pixel_spacing": 0.26 / 362, "bin_spacing": 0.0007167656083}
    return {k: np.asarray(v) for k, v in {"range": (0.0, 1.0), "angles": angles, "size": 362, **lengths}.items()}


def is_measured(path: Path) -> bool:
    """Whether an HDF5 file holds a measurement: ``y``, ``counts``, or LoDoPaB's observations.

    Raises:
        InputError: it cannot be read, or it is named as LoDoPaB's and has another shape.
    """
    with hdf5(path) as file:
        if "y" in file or "counts" in file:
            return True
        shape = getattr(file.get("data"), "shape", None)
    if shape is None:
        return False
    if "observation" in path.name and shape[1:] != LODOPAB_SHAPE:
        raise InputError(f"{path} has data of shape {shape}; wanted (n, 1000, 513), LoDoPaB's observations, or 'y' with its scan")
    return shape[1:] == LODOPAB_SHAPE


def load_measured(path: Path, keys: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The arrays of a measurement and those of ``keys`` that a file has, LoDoPaB's under the usual names.

    Raises:
        InputError: there is no such file, or it is not one of arrays, or it has neither images nor a measurement.
    """
    arrays = load_keys(path, (*KEYS, *keys))
    if "data" in arrays:
        arrays = {"y": arrays.pop("data"), **lodopab()}
    if "y" in arrays and "counts" in arrays:
        raise InputError(f"{path} has both y and counts; wanted one of them")
    return arrays


def read_geometry(path: str | Path) -> Geometry | None:
    """The scan that a file's sinograms were measured with; None where there are none.

    Keys of the file: ``angles`` (views,) in radians, ``size`` of the image in pixels (or height and width), ``pixel_spacing``,
    ``bin_spacing``; for a fan ``source_distance``, ``detector_distance`` and perhaps ``curved``. Without them, the geometry
    is read from the file of the same name that ends in ``.json``; see :class:`padis_lightning.ct.Geometry`. LoDoPaB's is known.

    Raises:
        InputError: there is no geometry, a key is missing, or the geometry does not fit the sinograms.
    """
    path = Path(path)
    if path.suffix in NUMPY or (path.suffix in HDF5 and path.is_file() and is_measured(path)):
        return geometry_of(load_measured(path), path)
    return None


def geometry_of(arrays: dict[str, np.ndarray], path: Path) -> Geometry | None:
    """The scan of the arrays that :func:`load_measured` yields; None where there are no sinograms.

    Raises:
        InputError: there is no geometry, a key is missing, or the geometry does not fit the sinograms.
    """
    key = next((key for key in SINOGRAMS if key in arrays), None)
    if key is None:
        return None
    shape = numbers(arrays, key, (None,) * 3, path).shape
    beside = path.with_suffix(".json")
    missing = [name for name in SCAN if name not in arrays]
    if len(missing) == len(SCAN) and beside.is_file():
        geometry = Geometry.load(beside)
        _check_order(key, shape, len(geometry.angles), path)
        if (len(geometry.angles), geometry.bins) != shape[1:]:
            views, bins = shape[1:]
            raise InputError(
                f"{beside} has {len(geometry.angles)} views of {geometry.bins} bins; wanted {views} of {bins}, those of {key}"
            )
        _check_radians(np.asarray(geometry.angles), beside)
        return geometry
    if missing:
        raise InputError(f"{path} has {key} without {', '.join(missing)}; wanted its geometry beside it")
    _check_order(key, shape, arrays["angles"].size, path)
    angles = numbers(arrays, "angles", shape[1:2], path).astype(float)
    _check_radians(angles, path)
    described: dict[str, Any] = {"bins": shape[2], "angles": angles.tolist()}
    size = arrays["size"]
    described["size"] = numbers(arrays, "size", (2,) if size.ndim else (), path).tolist()
    for name in ("pixel_spacing", "bin_spacing", *(k for k in FAN if k in arrays)):
        described[name] = numbers(arrays, name, (), path).item()
    try:
        return Geometry.read(described)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _check_order(key: str, shape: tuple[int, ...], views: int, path: Path) -> None:
    if shape[1] != views == shape[2]:
        raise InputError(f"{path} has {key} of shape {shape} and {views} angles, so it looks transposed; wanted (n, views, bins)")


def _check_radians(angles: np.ndarray, path: Path) -> None:
    steps = np.diff(angles)
    if len(steps) and np.abs(angles).max() > 4 * np.pi and np.ptp(steps) <= 0.01 * np.abs(steps).max():
        raise InputError(
            f"{path} has angles from {angles[0]:g} to {angles[-1]:g} in steps of {steps.mean():g}, which look like degrees; "
            "wanted radians (of several turns, their remainders)"
        )


def sinograms(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """Line integrals ``(n, views, bins)``, float32: ``y`` as it is, or ``-log((counts - dark) / (flat - dark))``.

    Raises:
        InputError: they are not finite numbers, the fields do not fit, or there is nothing to take the logarithm of.
    """
    if "y" in arrays:
        return numbers(arrays, "y", (None,) * 3, path).astype(np.float32)
    counts = numbers(arrays, "counts", (None,) * 3, path)
    if "flat" not in arrays:
        raise InputError(f"{path} has counts without flat; wanted the counts of a scan without an object beside them")
    flat, dark = (_field(arrays, key, counts.shape, path) for key in ("flat", "dark"))
    through, sent = counts - dark, flat - dark
    for key, signal in (("flat", sent), ("counts", through)):
        dead = int((signal <= 0).sum())
        if dead:
            above = "dark" if "dark" in arrays else "0"
            raise InputError(f"{path} has {dead} bins of {signal.size} with {key} not above {above}; wanted photons in every one")
    return -np.log(through / sent).astype(np.float32)


def _field(arrays: dict[str, np.ndarray], key: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """Counts without an object or without a beam, to be taken from counts of ``shape``; zeros where there are none."""
    if key not in arrays:
        return np.zeros(())
    values = numbers(arrays, key, (None,) * arrays[key].ndim, path)
    fits = values.ndim <= len(shape) and all(n in (1, m) for n, m in zip(values.shape[::-1], shape[::-1], strict=False))
    if not fits:
        raise InputError(f"{path} has {key} of shape {values.shape}; wanted one value, or ({shape[2]}), ({shape[1]}, {shape[2]})")
    return values.astype(float)
