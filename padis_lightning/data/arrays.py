"""Arrays in files: what they may hold, and one sentence for what they may not."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from padis_lightning.ct import Geometry
from padis_lightning.data.sources import ArraySource, resize
from padis_lightning.errors import InputError
from padis_lightning.types import Normalisation

SCAN = ("angles", "size", "pixel_spacing", "bin_spacing")
FAN = ("source_distance", "detector_distance", "curved")


def _open(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the arrays ``keys`` that a file has; ``images`` for a bare array.

    Raises:
        InputError: there is no such file, or it is not one of arrays, or it has neither images nor y.
    """
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; wanted data in .npz or .npy")
    if path.suffix not in (".npz", ".npy"):
        raise InputError(f"{path} ends in {path.suffix!r}; wanted .npz or .npy")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"images": content}
        names, arrays = content.files, {key: content[key] for key in keys if key in content.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); wanted arrays of numbers in .npz or .npy") from error
    if "images" not in names and "y" not in names:
        raise InputError(f"{path} has the arrays {', '.join(sorted(names)) or '(none)'}; wanted 'images' or 'y'")
    return arrays


def _numbers(arrays: dict[str, np.ndarray], key: str, shape: tuple[int | None, ...], path: Path) -> np.ndarray:
    """The array ``key`` if it holds finite real numbers of ``shape``, where None stands for any length above 0.

    Raises:
        InputError: it does not.
    """
    values = arrays[key]
    fits = values.ndim == len(shape) and all(n in (m, None) and m > 0 for n, m in zip(shape, values.shape, strict=False))
    if not fits or values.dtype.kind not in "uifb":
        wanted = ", ".join("n" if n is None else str(n) for n in shape)
        raise InputError(f"{path} has {key} of type {values.dtype} and shape {values.shape}; wanted real numbers, ({wanted})")
    broken = ~np.isfinite(values)
    if broken.any():
        kind = "NaN" if np.isnan(values).any() else "infinity"
        place = f"[{int(np.argwhere(broken)[0][0])}]" if values.ndim else ""
        raise InputError(f"{path} has {kind} in {key}{place}; wanted finite numbers")
    return values


def _pair(arrays: dict[str, np.ndarray], key: str, path: Path) -> tuple[float, float] | None:
    if key not in arrays:
        return None
    low, high = _numbers(arrays, key, (2,), path).tolist()
    return float(low), float(high)


def _normalisation(arrays: dict[str, np.ndarray], data_range: Sequence[float] | None, path: Path) -> Normalisation:
    """The file's range: as asked for, as the file says, or what its type of numbers implies."""
    window, named = _pair(arrays, "hu_window", path), _pair(arrays, "range", path)
    named = tuple(float(v) for v in data_range) if data_range is not None else named
    if "y" in arrays and (named is None or named[0] != 0):
        seen = "no 'range'" if named is None else f"a range from {named[0]:g}"
        raise InputError(f"{path} has y and {seen}; wanted the range (0, value that becomes 1) in the units of y per length")
    if named is not None:
        return Normalisation(*named, window)
    if window is not None:  # values are stored as HU above the window's lower end
        return Normalisation(0.0, window[1] - window[0], window)
    images = arrays["images"]
    if images.dtype == np.uint8:
        return Normalisation(0.0, 255.0)
    low, high = float(images.min()), float(images.max())
    if np.issubdtype(images.dtype, np.integer) or low < 0 or high > 1:
        raise InputError(
            f"{path} has values from {low:g} to {high:g} and no 'range'; wanted values from 0 to 1, 8-bit integers, "
            "or the range named: --data.range '[LOWER, UPPER]'"
        )
    return Normalisation(0.0, 1.0)


def _images(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """``(n, H, W)`` or ``(n, H, W, C)`` to ``(n, C, H, W)``."""
    if arrays["images"].ndim == 4:
        return np.moveaxis(_numbers(arrays, "images", (None,) * 4, path), -1, 1)
    return _numbers(arrays, "images", (None,) * 3, path)[:, None]


def read_arrays(path: str | Path, size: int | None = None, data_range: Sequence[float] | None = None) -> ArraySource:
    """Read a ``.npz`` or ``.npy`` file.

    Keys of a ``.npz``: ``images`` ``(n, H, W)`` or ``(n, H, W, C)``; or a measured sinogram ``y`` ``(n, views, bins)`` with
    its geometry (see :func:`read_geometry`); or both. ``patient`` ``(n,)`` labels groups. ``range`` (2,) names the values that
    become 0 and 1; ``hu_window`` (2,) says that values are HU above the window's lower end.

    Args:
        path: the file.
        size: side that images are brought to (default: as they are).
        data_range: in place of the file's ``range``.

    Raises:
        InputError: there is no such file, it has neither images nor y, or values that are not finite or have no range.
    """
    path = Path(path)
    arrays = _open(path, ("images", "y", "patient", "range", "hu_window", *SCAN, *FAN))
    geometry = _geometry(arrays, path)
    raw = _images(arrays, path) if "images" in arrays else None
    normalisation = _normalisation(arrays, data_range, path)
    images = measurements = None
    if raw is not None:
        images = normalisation.normalise(torch.from_numpy(raw.astype(np.float32)))
        images = resize(images, size) if size and not geometry else images
        if geometry and tuple(images.shape[-2:]) != geometry.size:
            images = resize(images, geometry.size[0])
    if geometry:
        y = _numbers(arrays, "y", (None,) * 3, path)
        measurements = torch.from_numpy(y.astype(np.float32))[:, None] / normalisation.upper
    count = len(images if images is not None else measurements)
    for key in ("y", "patient"):
        if key in arrays and np.shape(arrays[key])[:1] != (count,):
            raise InputError(f"{path} has {key} of shape {arrays[key].shape}; wanted {count} entries, one an image")
    groups = [str(p) for p in arrays["patient"]] if "patient" in arrays else [str(i) for i in range(count)]
    shape = (1, *geometry.size) if images is None else tuple(images.shape[1:])
    return ArraySource(images, measurements, shape, normalisation, groups, f"{count} items of {path.name}")


def read_geometry(path: str | Path) -> Geometry | None:
    """The scan that a file's ``y`` was measured with; None where there is no ``y``.

    Keys of the file: ``angles`` (views,) in radians, ``size`` of the image in pixels (or height and width), ``pixel_spacing``,
    ``bin_spacing``; for a fan ``source_distance``, ``detector_distance`` and perhaps ``curved``. Without them, the geometry
    is read from the file of the same name that ends in ``.json``; see :class:`padis_lightning.ct.Geometry`.

    Raises:
        InputError: there is no geometry, a key is missing, or the geometry does not fit ``y``.
    """
    path = Path(path)
    return _geometry(_open(path, ("y", *SCAN, *FAN)), path)


def _geometry(arrays: dict[str, np.ndarray], path: Path) -> Geometry | None:
    if "y" not in arrays:
        return None
    _, views, bins = _numbers(arrays, "y", (None,) * 3, path).shape
    beside = path.with_suffix(".json")
    missing = [key for key in SCAN if key not in arrays]
    if len(missing) == len(SCAN) and beside.is_file():
        geometry = Geometry.load(beside)
        if (len(geometry.angles), geometry.bins) != (views, bins):
            raise InputError(
                f"{beside} has {len(geometry.angles)} views of {geometry.bins} bins; wanted {views} of {bins}, those of y"
            )
        return geometry
    if missing:
        raise InputError(f"{path} has y without {', '.join(missing)}; wanted its geometry beside it")
    described: dict[str, Any] = {"bins": bins, "angles": _numbers(arrays, "angles", (views,), path).astype(float).tolist()}
    size = arrays["size"]
    described["size"] = _numbers(arrays, "size", (2,) if size.ndim else (), path).tolist()
    for key in ("pixel_spacing", "bin_spacing", *(k for k in FAN if k in arrays)):
        described[key] = _numbers(arrays, key, (), path).item()
    try:
        return Geometry.read(described)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
