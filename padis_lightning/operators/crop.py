"""Crop cuts the padding off a canvas, as an operator."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from padis_lightning.canvas import box, zero_pad
from padis_lightning.operators.diagonalisable import Diagonalisable


class Crop(Diagonalisable):
    """A crop cuts the image out of its canvas; its adjoint and its pseudo-inverse are zero-padding.

    Args:
        image_shape: channels, height and width of the image that comes out, or channels, slices, height and width.
        pad: what is cut off on every side of each axis.
    """

    orthonormal = True

    def __init__(self, image_shape: Sequence[int], pad: Sequence[int]) -> None:
        super().__init__()
        self.pad, self.measurement_shape = tuple(pad), tuple(image_shape)
        sides = (n + 2 * m for n, m in zip(self.measurement_shape[1:], self.pad, strict=True))
        self.image_shape = (self.measurement_shape[0], *sides)

    def forward(self, x: Tensor) -> Tensor:
        """Cut the borders off, ``(B, C, H + 2 p, W + 2 q) -> (B, C, H, W)``."""
        return x[box(self.pad, self.measurement_shape[1:])]

    def adjoint(self, y: Tensor) -> Tensor:
        """Put zeros around, ``(B, C, H, W) -> (B, C, H + 2 p, W + 2 q)``."""
        self.check(y, self.measurement_shape, "measurement")
        return zero_pad(y, self.pad)
