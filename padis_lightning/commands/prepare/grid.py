"""Bring slices of any size and spacing to one grid of pixels, and say where its pixels lie in the patient."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional

from padis_lightning.data.sources.base import resize
from padis_lightning.data.sources.series import Series, resized_affine
from padis_lightning.errors import InputError


class Grid(NamedTuple):
    """The pixels that the slices of a series are resampled to.

    Attributes:
        before: rows and columns of a slice.
        scale: new pixels for each old one, down and across; None where slices are stretched to the same field of view.
        corner: row and column, after resampling, of the first pixel that is kept; negative where a border is added.
        after: rows and columns of the result.
    """

    before: tuple[int, int]
    scale: tuple[float, float] | None
    corner: tuple[int, int]
    after: tuple[int, int]

    @classmethod
    def of(cls, series: Series, size: int | None, spacing: float | None) -> Grid:
        """Return the grid for the slices of a series.

        Args:
            series: the series.
            size: side of a square grid (default: as the slices are).
            spacing: mm between pixels; slices are then resampled to it and cut or bordered to ``size``, not stretched.

        Raises:
            InputError: the spacing is unknown or larger than a slice, or slices to be stretched are not square.
        """
        before = series.shape[0], series.shape[1]
        if spacing is None:
            if size and before[0] != before[1]:
                seen = f"{series.name} has slices of {before[0]}x{before[1]}"
                raise InputError(f"{seen}; wanted square ones for --size, or --spacing")
            return cls(before, None, (0, 0), (size, size) if size else before)
        if series.spacing is None:
            raise InputError(f"{series.name} has no pixel spacing; wanted one for --spacing {spacing:g}")
        scale = series.spacing[0] / spacing, series.spacing[1] / spacing
        factors = _box(scale)
        height, width = (n // factors[i] if factors else math.floor(n * scale[i]) for i, n in enumerate(before))
        if min(height, width) < 1:
            raise InputError(f"spacing is {spacing:g} mm; wanted less than the sides of {series.name}")
        after = (size, size) if size else (height, width)
        return cls(before, scale, ((height - after[0]) // 2, (width - after[1]) // 2), after)

    def resample(self, image: Tensor, border: float) -> Tensor:
        """Return a slice ``(C, H, W)`` on the grid: box means for whole factors, anti-aliased bilinear for others.

        Pixels outside of the slice have the value ``border``.
        """
        if self.scale is None:
            return image if self.after == self.before else resize(image[None], self.after[0])[0]
        factors = _box(self.scale)
        if factors is None:
            image = functional.interpolate(image[None], scale_factor=list(self.scale), mode="bilinear", antialias=True)[0]
        elif factors != (1, 1):
            image = functional.avg_pool2d(image, factors)
        (height, width), (top, left) = image.shape[-2:], self.corner
        return functional.pad(image, (-left, self.after[1] + left - width, -top, self.after[0] + top - height), value=border)

    def slice_affine(self, affine: np.ndarray, k: int) -> np.ndarray:
        """Return the affine of slice ``k`` on the grid, ``(4, 4)`` from (row, column, 0, 1) to mm, given that of its series."""
        out = np.array(affine, dtype=float)
        out[:3, 3] += k * out[:3, 2]
        resampled = self.after if self.scale is None else (self.before[0] * self.scale[0], self.before[1] * self.scale[1])
        out = resized_affine(out, self.before, resampled)
        out[:3, 3] += out[:3, :2] @ self.corner
        return out


def _box(scale: tuple[float, float]) -> tuple[int, int] | None:
    """Return how many old pixels make a new one, down and across, where both are whole numbers."""
    whole = round(1 / scale[0]), round(1 / scale[1])
    return whole if min(whole) > 0 and all(abs(s * n - 1) < 1e-6 for s, n in zip(scale, whole, strict=True)) else None
