"""Padding as an operator."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from padis_lightning.operators.base import LinearOperator


class Crop(LinearOperator):
    """The image out of its canvas; its adjoint and its pseudo-inverse are zero-padding.

    Args:
        image_shape: channels, height and width of the image that comes out.
        pad: what is cut off on every side, height and width.
    """

    def __init__(self, image_shape: Sequence[int], pad: Sequence[int]) -> None:
        super().__init__()
        self.orthonormal = self.closed_form = True
        channels, height, width = image_shape
        self.pad = tuple(pad)
        self.measurement_shape = (channels, height, width)
        self.image_shape = (channels, height + 2 * self.pad[0], width + 2 * self.pad[1])

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H + 2 p, W + 2 q) -> (B, C, H, W)``."""
        (top, left), (_, height, width) = self.pad, self.measurement_shape
        return x[..., top : top + height, left : left + width]

    def adjoint(self, y: Tensor) -> Tensor:
        """Zeros around, ``(B, C, H, W) -> (B, C, H + 2 p, W + 2 q)``."""
        top, left = self.pad
        return functional.pad(y, (left, left, top, top))

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
