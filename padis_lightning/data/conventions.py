"""Units of angles and lengths, and names and axes that other programs have for a scan: the one place that makes them ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from padis_lightning.data.containers import numbers
from padis_lightning.data.notes import note
from padis_lightning.errors import InputError, require_above, require_at_least

Arrays = dict[str, np.ndarray]

UNITS = {"degrees": np.pi / 180, "radians": 1.0}
SPELLINGS = {"deg": "degrees", "degree": "degrees", "°": "degrees", "rad": "radians", "radian": "radians"}
MILLIMETRES = {"mm": 1.0, "m": 1e3, "cm": 10.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "microns": 1e-3, "nm": 1e-6}
MOST = 4 * np.pi  # above it angles are no radians, unless somebody says so
NAME_IT = "the key angle_unit with degrees or radians"


class Named(NamedTuple):
    """Holds what the user says of a scan, where its file does not.

    Attributes:
        rows: those to take of a scan of several, one or more, counted from 0 (default: all).
        size: side of the image in pixels.
        pixel_spacing: side of a pixel, in the lengths of the file.
        remove_stripes: take off stripes of the sinogram, which are rings in the image.
        views: take so many of the views, evenly spread (default: all).
        coils: combine the coils of k-space to so many (default: all).
    """

    rows: int | list[int] | None = None
    size: int | None = None
    pixel_spacing: float | None = None
    remove_stripes: bool = False
    views: int | None = None
    coils: int | None = None

    def spread(self, count: int, path: Path) -> list[int]:
        """Return the numbers of the views to take of ``count``."""
        if self.views is not None and not 1 <= self.views <= count:
            raise InputError(f"views is {self.views} and {path} has {count}; wanted 1 to {count}")
        return np.linspace(0, count, self.views or count, endpoint=False).astype(int).tolist()

    def pick(self, count: int, path: Path) -> list[int]:
        """Return the numbers of the rows to take of ``count``."""
        rows = list(range(count)) if self.rows is None else [self.rows] if isinstance(self.rows, int) else list(self.rows)
        beyond = [row for row in rows if not 0 <= row < count]
        if beyond or not rows:
            raise InputError(f"rows is {self.rows} and {path} has {count}; wanted rows from 0 to {count - 1}")
        return rows


def read_unit(text: object, path: Path) -> str:
    """Return ``degrees`` or ``radians`` for a name of either."""
    text = text.item() if isinstance(text, np.ndarray) and text.size == 1 else text
    text = text.decode() if isinstance(text, bytes) else str(text)
    unit = SPELLINGS.get(text.strip().lower(), text.strip().lower())
    if unit not in UNITS:
        raise InputError(f"{path} has angles in {text!r:.40}; wanted {' or '.join(UNITS)}")
    return unit


def to_radians(arrays: Arrays, path: Path, degrees: bool = False) -> Arrays:
    """Return the arrays with angles in radians: by their key ``angle_unit``, else by their size.

    Args:
        arrays: what a file holds.
        path: the file.
        degrees: take angles above 4 pi for degrees and say so, as other programs' files mean them; ours leave them as they are.
    """
    arrays = dict(arrays)
    unit = arrays.pop("angle_unit", None)
    if "angles" not in arrays:
        return arrays
    angles = numbers(arrays, "angles", (None,) * np.ndim(arrays["angles"]), path).astype(float)
    if unit is not None:
        return {**arrays, "angles": angles * UNITS[read_unit(unit, path)], "angle_unit": np.asarray("radians")}
    largest = np.abs(angles).max()
    if largest > MOST and degrees:
        note(f"{path} has angles from {angles.min():g} to {angles.max():g} without a unit; they are taken for degrees")
        return {**arrays, "angles": angles * UNITS["degrees"], "angle_unit": np.asarray("radians")}
    whole = angles.size > 2 and not (angles % 1).any()  # as degrees often are, and radians never
    if largest <= MOST and (largest > 2 * np.pi + 0.01 or (whole and largest > 2)):
        note(f"{path} has angles from {angles.min():g} to {angles.max():g}, taken for radians; {NAME_IT} says otherwise")
    return arrays


def complete(arrays: Arrays, key: str, named: Named, path: Path) -> Arrays:
    """Return the arrays of a flat scan with the image's grid, which covers the width of the detector where nothing names it.

    As many pixels as bins lie over the detector's width, scaled to the axis for a fan. The user's ``size`` lays so many over it;
    the user's ``pixel_spacing`` keeps them of that side.
    """
    arrays = {"bin_spacing": np.asarray(1.0), **arrays}
    bins = arrays[key].shape[-1]
    lengths = {k: float(numbers(arrays, k, (), path)) for k in ("bin_spacing", "pixel_spacing") if k in arrays}
    width = bins * lengths["bin_spacing"]
    if "source_distance" in arrays:
        source, detector = (float(numbers(arrays, k, (), path)) for k in ("source_distance", "detector_distance"))
        require_above(0, source_distance=source)
        require_at_least(0, detector_distance=detector)
        width *= source / (source + detector)
    assumed = {"size", "pixel_spacing"} - arrays.keys()
    if named.size is not None and "size" in assumed:
        require_at_least(1, size=named.size)
        arrays["size"] = np.asarray(named.size)
    if named.pixel_spacing is not None and "pixel_spacing" in assumed:
        require_above(0, pixel_spacing=named.pixel_spacing)
        arrays["pixel_spacing"] = np.asarray(named.pixel_spacing)
    if "size" not in arrays:
        pixel = arrays.get("pixel_spacing")
        arrays["size"] = np.asarray(bins if pixel is None else max(1, round(width / float(pixel))))
    arrays.setdefault("pixel_spacing", np.asarray(width / np.max(arrays["size"])))
    if assumed:
        chosen = " (data.size)" if named.size is not None and "size" in assumed else ""
        side, spacing = np.max(arrays["size"]), float(arrays["pixel_spacing"])
        note(
            f"{path} names no image: {side}x{side} pixels{chosen} of {spacing:.6g} for {width:.6g} that its detector sees; "
            "--data.size and --data.pixel_spacing set others"
        )
    return arrays


def translate(arrays: Arrays, path: Path) -> Arrays:
    """Return the arrays of a file that names a ``convention`` as ours."""
    name = str(arrays["convention"])
    if name not in CONVENTIONS:
        raise InputError(f"{path} has the convention {name!r:.40}; wanted {', '.join(CONVENTIONS)}")
    arrays = {k: v for k, v in arrays.items() if k != "convention"}
    for other in ("sinogram", "projections"):
        if other in arrays:
            arrays.setdefault("y", arrays.pop(other))
    if "y" not in arrays and "counts" not in arrays:
        raise InputError(f"{path} has the convention {name!r} and no measurement; wanted y, or sinogram")
    return CONVENTIONS[name](arrays, "y" if "y" in arrays else "counts", path)


def _renamed(arrays: Arrays, names: dict[str, str]) -> Arrays:
    """Return arrays under our names; those that we have already stay."""
    return {**{names[k]: v for k, v in arrays.items() if k in names}, **{k: v for k, v in arrays.items() if k not in names}}


def _skimage(arrays: Arrays, key: str, path: Path) -> Arrays:
    """Translate what ``radon`` returns, (bins, views) or several, and its ``theta`` in degrees.

    It turns about pixel and bin N // 2, the bins of ``circle=False`` about that of the padded picture.
    """
    arrays = {"angle_unit": np.asarray("degrees"), **_renamed(arrays, {"theta": "angles"})}
    y = np.swapaxes(numbers(arrays, key, (None,) * arrays[key].ndim, path), -1, -2)
    bins, circle = y.shape[-1], bool(arrays.pop("circle", True))
    arrays = {"bin_spacing": np.asarray(1.0), "pixel_spacing": np.asarray(1.0), "centre": np.asarray("pixel"), **arrays, key: y}
    if "size" not in arrays:
        arrays["size"] = np.asarray(bins if circle else int(np.floor(bins / np.sqrt(2))))
    if bins % 2 == 0:
        arrays.setdefault("bin_offset", np.asarray(-0.5 * float(arrays["bin_spacing"])))
    return arrays


def _astra(arrays: Arrays, key: str, path: Path) -> Arrays:
    """Translate what ASTRA calls a projection geometry, ``parallel`` or ``fanflat``; its angles and bins run as ours do."""
    arrays = _renamed(arrays, {
        "ProjectionAngles": "angles", "DetectorWidth": "bin_spacing", "DetectorSpacingX": "bin_spacing",
        "DistanceOriginSource": "source_distance", "DistanceOriginDetector": "detector_distance",
    })  # fmt: skip
    arrays.pop("DetectorCount", None)
    kind = str(arrays.pop("type", "parallel"))
    if kind not in ("parallel", "fanflat"):
        raise InputError(f"{path} has the type {kind!r:.40}; wanted parallel or fanflat")
    grid = [arrays.pop(name, None) for name in ("GridRowCount", "GridColCount")]
    if None not in grid:
        arrays = {"size": np.asarray(grid), "pixel_spacing": np.asarray(1.0), **arrays}
    return arrays


def _tigre(arrays: Arrays, key: str, path: Path) -> Arrays:
    """Translate TIGRE's projections (views, 1, bins) and the names of its ``geo``; images are its own, row 0 being the lowest y.

    Its source starts on the x axis and turns from x to y; rows of its images run along y, ours against it. In our picture the
    source then starts on the right and turns clockwise, which is the angle pi / 2 - t, and bins run to the left.
    """
    arrays = _renamed(arrays, {"DSO": "source_distance"})
    across = {"dDetector": "bin_spacing", "dVoxel": "pixel_spacing", "offDetector": "bin_offset"}
    for name, ours in across.items():
        if name in arrays:
            arrays[ours] = np.asarray(np.ravel(arrays.pop(name))[-1], dtype=float)
    if "nVoxel" in arrays:
        arrays["size"] = np.asarray(np.ravel(arrays.pop("nVoxel"))[-2:])
    if "DSD" in arrays:
        arrays["detector_distance"] = numbers(arrays, "DSD", (), path) - numbers(arrays, "source_distance", (), path)
        arrays.pop("DSD")
    if str(arrays.pop("mode", "cone")) == "parallel":
        arrays = {k: v for k, v in arrays.items() if k not in ("source_distance", "detector_distance")}
    arrays.pop("nDetector", None)
    y = arrays[key]
    y = y[..., 0, :] if y.ndim == 3 and y.shape[1] == 1 else y
    arrays = to_radians(arrays, path)
    angles = np.pi / 2 - numbers(arrays, "angles", (None,), path)
    if "bin_offset" in arrays:
        arrays["bin_offset"] = -arrays["bin_offset"]
    return {**arrays, key: y[..., ::-1], "angles": angles}


CONVENTIONS: dict[str, Callable[[Arrays, str, Path], Arrays]] = {"skimage": _skimage, "astra": _astra, "tigre": _tigre}
THEIRS = (  # keys that a convention is read from
    "sinogram", "projections", "theta", "circle", "type", "ProjectionAngles", "DetectorWidth", "DetectorSpacingX",
    "DetectorCount", "DistanceOriginSource", "DistanceOriginDetector", "GridRowCount", "GridColCount", "DSD", "DSO", "nDetector",
    "dDetector", "nVoxel", "dVoxel", "offDetector", "mode",
)  # fmt: skip
