"""Padding as an operator."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from padis_lightning.canvas import box, zero_pad
from padis_lightning.operators.base import LinearOperator


class Crop(LinearOperator):
    """The image out of its canvas; its adjoint and its pseudo-inverse are zero-padding.

    Args:
        image_shape: channels, height and width of the image that comes out, or channels, slices, height and width.
        pad: what is cut off on every side of each axis.
    """

    def __init__(self, image_shape: Sequence[int], pad: Sequence[int]) -> None:
        super().__init__()
        self.orthonormal = self.closed_form = True
        channels, *size = image_shape
        self.pad = tuple(pad)
        self.measurement_shape = (channels, *size)
        self.image_shape = (channels, *(n + 2 * m for n, m in zip(size, self.pad, strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H + 2 p, W + 2 q) -> (B, C, H, W)``."""
        return x[box(self.pad, self.measurement_shape[1:])]

    def adjoint(self, y: Tensor) -> Tensor:
        """Zeros around, ``(B, C, H, W) -> (B, C, H + 2 p, W + 2 q)``."""
        return zero_pad(y, self.pad)

    def pinv(self, y: Tensor, iterations: int = 0, tolerance: float = 0.0) -> Tensor:
        """Zeros around; nothing to iterate."""
        return self.adjoint(y)

    def prox(
        self,
        v: Tensor,
        y: Tensor,
        weight: float | Tensor = 0.0,
        precision: Tensor | None = None,
        iterations: int = 0,
        tolerance: float = 0.0,
    ) -> Tensor:
        """``(P y + w v) / (P + w)`` inside, v around."""
        inside = self(v)
        share = 1 if precision is None else precision
        return v + self.adjoint(share * (y - inside) / (share + weight))
