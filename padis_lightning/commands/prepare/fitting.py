"""Slices of any size and spacing on one grid, and where its pixels lie in the patient."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional

from padis_lightning.data.sources.base import resize
from padis_lightning.data.sources.series import Series, resized_affine
from padis_lightning.errors import InputError


class Frame(NamedTuple):
    """How the slices of a series are brought to a grid.

    Attributes:
        before: rows and columns that a slice has.
        scale: new pixels an old one, down and across; None where the field of view is kept.
        corner: row and column, after resampling, of the first pixel that is kept; negative where a border is added.
        after: rows and columns of the result.
    """

    before: tuple[int, int]
    scale: tuple[float, float] | None
    corner: tuple[int, int]
    after: tuple[int, int]


def _factors(scale: tuple[float, float]) -> tuple[int, int] | None:
    """Whole numbers of old pixels a new one, if they are whole down and across."""
    whole = round(1 / scale[0]), round(1 / scale[1])
    return whole if min(whole) > 0 and all(abs(s * f - 1) < 1e-6 for s, f in zip(scale, whole, strict=True)) else None


def frame(series: Series, size: int | None, spacing: float | None) -> Frame:
    """The grid for the slices of a series.

    Args:
        series: the series.
        size: side of a square grid (default: as the slices are).
        spacing: mm from pixel to pixel; slices are then resampled to it and cut or bordered to ``size``, not stretched.

    Raises:
        InputError: the spacing is not known, or as large as a slice, or slices that are not square were to be squares.
    """
    before = series.shape[:2]
    if spacing is None and size is not None and before[0] != before[1]:
        raise InputError(f"{series.name} has slices of {before[0]}x{before[1]}; wanted square ones for --size, or --spacing")
    if spacing is None:
        return Frame(before, None, (0, 0), (size, size) if size else before)
    if series.spacing is None:
        raise InputError(f"{series.name} has no pixel spacing; wanted one for --spacing {spacing:g}")
    scale = series.spacing[0] / spacing, series.spacing[1] / spacing
    factors = _factors(scale)
    inner = [n // factors[i] if factors else math.floor(n * scale[i]) for i, n in enumerate(before)]
    if min(inner) < 1:
        raise InputError(f"spacing is {spacing:g} mm; wanted less than the sides of {series.name}")
    after = (size, size) if size else (inner[0], inner[1])
    return Frame(before, scale, ((inner[0] - after[0]) // 2, (inner[1] - after[1]) // 2), after)


def fit(image: Tensor, to: Frame, border: float) -> Tensor:
    """Bring ``(C, H, W)`` to its grid: box means for whole factors, anti-aliased bilinear for others.

    Args:
        image: the slice.
        to: the grid.
        border: value of pixels outside of the slice.
    """
    if to.scale is None:
        return image if to.after == to.before else resize(image[None], to.after[0])[0]
    factors = _factors(to.scale)
    if factors is None:
        image = functional.interpolate(image[None], scale_factor=list(to.scale), mode="bilinear", antialias=True)[0]
    elif factors != (1, 1):
        image = functional.avg_pool2d(image, factors)
    (height, width), (top, left) = image.shape[-2:], to.corner
    return functional.pad(image, (-left, to.after[1] + left - width, -top, to.after[0] + top - height), value=border)


def fitted_affine(affine: np.ndarray, k: int, to: Frame) -> np.ndarray:
    """The affine of slice ``k`` on its grid, ``(4, 4)``: from (row, column, 0, 1) to millimetres.

    Args:
        affine: of the series, from (row, column, slice, 1).
        k: the slice.
        to: the grid.
    """
    out = np.array(affine, dtype=float)
    out[:3, 3] += k * out[:3, 2]
    resampled = to.after if to.scale is None else (to.before[0] * to.scale[0], to.before[1] * to.scale[1])
    out = resized_affine(out, to.before, resampled)
    out[:3, 3] += out[:3, :2] @ to.corner
    return out
