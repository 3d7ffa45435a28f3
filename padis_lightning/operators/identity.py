"""Denoising: the image itself is measured."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from padis_lightning.operators.base import LinearOperator


class Identity(LinearOperator):
    """A = I.

    Args:
        image_shape: channels, height and width.
    """

    def __init__(self, image_shape: Sequence[int] = (1, 128, 128)) -> None:
        super().__init__()
        self.orthonormal = self.closed_form = True
        self.image_shape = self.measurement_shape = tuple(image_shape)

    def forward(self, x: Tensor) -> Tensor:
        """The image."""
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """The image."""
        return y

    def pinv(self, y: Tensor, iterations: int = 0, tolerance: float = 0.0) -> Tensor:
        """The image; nothing to iterate."""
        return y

    def prox(
        self,
        v: Tensor,
        y: Tensor,
        weight: float | Tensor = 0.0,
        precision: Tensor | None = None,
        iterations: int = 0,
        tolerance: float = 0.0,
    ) -> Tensor:
        """``(P y + w v) / (P + w)``."""
        share = 1 if precision is None else precision
        return (share * y + weight * v) / (share + weight)
