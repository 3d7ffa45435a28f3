"""Measured sinograms: line integrals or raw counts, with the scan that they were measured with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from padis_lightning.ct import Geometry
from padis_lightning.data.sources.contents import hdf5, load_keys, numbers
from padis_lightning.data.sources.scans import FLAT, read_scan
from padis_lightning.errors import InputError

MEASURED = ("y", "counts")
FIELDS = ("flat", "dark")
SINOGRAMS = (*MEASURED, "data")  # the last one is LoDoPaB's
KEYS = (*SINOGRAMS, *FIELDS, *FLAT.keys)
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


def geometry_of(arrays: dict[str, np.ndarray], path: Path) -> Geometry | None:
    """The scan of the arrays that :func:`load_measured` yields; None where there are no sinograms.

    Raises:
        InputError: there is no geometry, a key is missing, or the geometry does not fit the sinograms.
    """
    key = next((key for key in SINOGRAMS if key in arrays), None)
    if key is None:
        return None
    return read_scan(FLAT, arrays, key, numbers(arrays, key, (None,) * 3, path).shape, path)


def line_integrals(arrays: dict[str, np.ndarray], path: Path, axes: int = 3) -> np.ndarray:
    """Line integrals ``(n, views, bins)``, float32: ``y`` as it is, or ``-log((counts - dark) / (flat - dark))``.

    Projections of volumes have four axes, ``(n, views, rows, bins)``.

    Raises:
        InputError: they are not finite numbers, the fields do not fit, or there is nothing to take the logarithm of.
    """
    if "y" in arrays:
        return numbers(arrays, "y", (None,) * axes, path).astype(np.float32)
    counts = numbers(arrays, "counts", (None,) * axes, path)
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
        wanted = ", ".join(f"({', '.join(map(str, shape[k:]))})" for k in range(len(shape) - 1, 0, -1))
        raise InputError(f"{path} has {key} of shape {values.shape}; wanted one value, or {wanted}")
    return values.astype(float)
