"""Denoising: the image itself is measured."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from padis_lightning.operators.pixels import PixelOperator


class Identity(PixelOperator):
    """The identity measures the image itself, A = I.

    Args:
        image_shape: channels, height and width.
    """

    orthonormal = True

    def __init__(self, image_shape: Sequence[int] = (1, 128, 128)) -> None:
        super().__init__()
        self.image_shape = self.measurement_shape = tuple(image_shape)

    def resized(self, image_shape: Sequence[int]) -> Identity:
        """Return the identity of images of another shape."""
        return Identity(image_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return the image."""
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the image."""
        return self(y)
