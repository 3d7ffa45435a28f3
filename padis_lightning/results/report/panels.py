"""What a page shows of an image: arrays in 16 bits between two ends, kept in one file an image."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional

from padis_lightning.ct import Projector
from padis_lightning.data.notes import note
from padis_lightning.errors import InputError
from padis_lightning.files import whole
from padis_lightning.inputs import load_array, reading
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.slices import Slices
from padis_lightning.results.pictures import ImageResult
from padis_lightning.results.voxels import CUBES, Spacing, average_to_fit
from padis_lightning.types import Normalisation

MOST_PIXELS = 2**21  # of a picture on a page
KINDS = ("truth", "measurement", "degraded", "baseline", "estimate", "sample", "deviation", "interval", "risk", "phase")


@dataclass(frozen=True)
class Panel:
    """An array as the page shows it, in whole numbers.

    Attributes:
        title: what it shows.
        kind: one of :data:`KINDS`; a ``degraded`` image is a measurement that covers the field of the truth, a ``phase`` is in
            radians.
        codes: uint16 ``(H, W)``, or uint8 ``(H, W, 3)`` for colours and ``(D, H, W, C)`` for volumes.
        lower: the value of code 0.
        upper: the value of the largest code.
        extent: of a volume, its sides along D, H and W in one unit.
        voxels: of a volume, how many there were along D, H and W before it was averaged to fit on a page.
    """

    title: str
    kind: str
    codes: np.ndarray
    lower: float
    upper: float
    extent: tuple[float, ...] = ()
    voxels: tuple[int, ...] = ()

    @property
    def values(self) -> np.ndarray:
        """Return the values that the codes stand for, float64, of the shape of ``codes``."""
        return self.lower + self.codes * ((self.upper - self.lower) / np.iinfo(self.codes.dtype).max)

    def is_sound(self) -> bool:
        """Return whether its parts are of the kinds that a page can show."""
        codes, numbers = self.codes, (self.lower, self.upper, *self.extent)
        axes = codes.dtype.name, codes.ndim, codes.shape[-1] if codes.ndim > 2 else 1
        known = isinstance(self.title, str) and self.kind in KINDS and codes.size > 0
        finite = all(isinstance(number, float | int) and math.isfinite(number) for number in numbers)
        sides = len(self.extent) == len(self.voxels) == 3 * (codes.ndim == 4)
        return known and finite and sides and axes in (("uint16", 2, 1), ("uint8", 3, 3), ("uint8", 4, 1), ("uint8", 4, 3))


def quantise(title: str, kind: str, values: Tensor, ends: tuple[float, float], spacing: Spacing = CUBES) -> Panel:
    """Return ``(C, H, W)`` as a panel: grey between its least and its greatest value, three colours between ``ends``.

    A volume ``(C, D, H, W)`` is one between ``ends``, with voxels of sides ``spacing``. Of more than :data:`MOST_PIXELS` pixels
    means are shown. Of a ``phase`` the values are real and imaginary part.
    """
    voxels = tuple(values.shape[1:]) if values.ndim == 4 else ()
    array = (average_to_fit(values) if voxels else _fitting(values)).detach().cpu().double().numpy()
    array = np.arctan2(array[1:], array[:1]) if kind == "phase" else array
    fine = len(array) == 1 and not voxels
    lower, upper = (float(array.min()), float(array.max())) if fine else ends
    share = (array - lower) / (upper - lower) if upper > lower else np.zeros_like(array)
    dtype = np.uint16 if fine else np.uint8
    codes = (np.iinfo(dtype).max * share.clip(0, 1)).round().astype(dtype)
    extent = tuple(n * step for n, step in zip(voxels, spacing, strict=bool(voxels)))
    return Panel(title, kind, codes[0] if fine else np.moveaxis(codes, 0, -1), lower, upper, extent, voxels)


def _fitting(picture: Tensor) -> Tensor:
    """Return means over the smallest squares that leave few enough pixels of ``(C, H, W)``, and say so."""
    height, width = picture.shape[1:]
    side = math.ceil(math.sqrt(height * width / MOST_PIXELS))
    if side == 1:
        return picture
    note(f"the report shows pictures of {height}x{width} by means of {side}x{side} pixels; results have all of them")
    return functional.avg_pool2d(picture.float(), side, ceil_mode=True)


def measurement_panel(operator: LinearOperator, y: Tensor, shape: Sequence[int], scale: Normalisation) -> Panel | None:
    """Return the measurement of an image of ``shape`` as a panel: a degraded image in its units, or anything of two axes.

    Of measurements slice by slice the middle slice is shown; there is none of measurements of other axes.
    """
    title, sliced = "measurement", any(isinstance(part, Slices) for part in operator.modules())
    if sliced:
        title, y = f"measurement of slice {len(y) // 2}", y[len(y) // 2]
    if y.ndim != 3 or len(y) not in (1, 3):
        return None
    channels, height, width = shape[0], *shape[-2:]
    projected = any(isinstance(part, Projector) for part in operator.modules())
    if projected or sliced or len(y) != channels or y.shape[1] * width != y.shape[2] * height:
        return quantise(title, "measurement", y.mean(0, keepdim=True), (0.0, 1.0))
    return quantise(title, "degraded", scale.restore(y), (scale.lower, scale.upper))


def image_panels(
    result: ImageResult, solver: str, operator: LinearOperator, scale: Normalisation, spacing: Spacing = CUBES
) -> list[Panel]:
    """Return truth, measurement, baselines, estimate, a sample and what is said of errors, in the units of ``scale``.

    Complex images are there by their magnitude, truth and estimate by their phase as well.
    """
    ends, phases = (scale.lower, scale.upper), [one for one in result.images if one[0] in ("truth", "estimate")]
    phases, result = phases if len(result.estimate) == 2 else [], result.shown
    titles = {"estimate": solver}
    out = [quantise(titles.get(k, name), k, scale.restore(image), ends, spacing) for k, name, image in result.images]
    measured = (
        None if result.measurement is None else measurement_panel(operator, result.measurement, result.estimate.shape, scale)
    )
    if measured is not None:
        out.insert(result.truth is not None, measured)
    out += [quantise(f"phase of {titles.get(k, k)}", "phase", image, (-math.pi, math.pi), spacing) for k, _, image in phases]
    if result.deviation is not None:
        deviation = result.deviation.mean(0, keepdim=True) * (scale.upper - scale.lower)
        out.append(quantise("deviation", "deviation", deviation, (0.0, float(deviation.max())), spacing))
    if result.interval is not None and result.risk is not None:
        interval = result.interval.mean(0, keepdim=True) * (scale.upper - scale.lower)
        out.append(quantise("half of the 90 % interval", "interval", interval, (0.0, float(interval.max())), spacing))
        title = f"risk of an error above {result.large * (scale.upper - scale.lower):.3g}"
        out.append(quantise(title, "risk", 100 * result.risk.mean(0, keepdim=True), (0.0, 100.0), spacing))
    return out


def save_panels(path: Path, panels: Sequence[Panel]) -> None:
    """Write panels whole."""
    described = json.dumps([[p.title, p.kind, p.lower, p.upper, p.extent, p.voxels] for p in panels])
    codes: dict[str, Any] = {f"codes{k}": p.codes for k, p in enumerate(panels)}
    with whole(path) as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, described=described, **codes)


def read_panels(path: Path) -> list[Panel]:
    """Read what :func:`save_panels` wrote.

    Raises:
        InputError: there is no such file, or it is not one of panels.
    """
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; wanted the panels that predict writes")
    with reading(path, "the panels that predict writes"):
        panels = [
            Panel(title, kind, load_array(path, f"codes{k}"), lower, upper, *map(tuple, rest))
            for k, (title, kind, lower, upper, *rest) in enumerate(json.loads(str(load_array(path, "described"))))
        ]
        if not panels or not all(map(Panel.is_sound, panels)):
            raise ValueError("a panel has other numbers, or other axes")
        return panels


def to_png(codes: np.ndarray) -> str:
    """Return codes as the data URI of a PNG: of 16 bits, the high byte is red and the low one green; 8-bit ones stay.

    The slices of a volume lie in rows, the first on the left of the first.
    """
    if codes.dtype == np.uint16:
        codes = np.stack([codes >> 8, codes & 255, np.zeros_like(codes)], -1).astype(np.uint8)
    elif codes.ndim == 4:
        codes = _atlas(codes)
    data = io.BytesIO()
    Image.fromarray(codes).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _atlas(codes: np.ndarray) -> np.ndarray:
    """Lay the slices of ``(D, H, W, C)`` out in about a square, ``(rows H, columns W)`` for one channel."""
    depth, height, width, channels = codes.shape
    columns = max(1, round(math.sqrt(depth * height / width)))
    rows = -(-depth // columns)
    full = np.zeros((rows * columns, height, width, channels), np.uint8)
    full[:depth] = codes
    placed = full.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return placed.reshape(rows * height, columns * width, *[channels] * (channels > 1))
