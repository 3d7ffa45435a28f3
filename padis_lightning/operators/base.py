"""Linear measurement operators: batch first, on any device, with an exact adjoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor, nn

from padis_lightning.linalg import conjugate_gradient, largest_eigenvalue


class LinearOperator(nn.Module, ABC):
    """A linear map A from images ``(B, C, H, W)`` to measurements ``(B, ...)``.

    Attributes:
        image_shape: channels, height and width of an image.
        measurement_shape: a measurement's shape without the batch.
    """

    image_shape: tuple[int, ...]
    measurement_shape: tuple[int, ...]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``A x``, ``(B, C, H, W) -> (B, *measurement_shape)``."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """``A' y``, the exact transpose, ``(B, *measurement_shape) -> (B, C, H, W)``."""

    def normal(self, x: Tensor) -> Tensor:
        """``A' A x``."""
        return self.adjoint(self(x))

    def pinv(self, y: Tensor, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
        r"""The minimum-norm least-squares solution :math:`A^+ y`, by conjugate gradients on the normal equations."""
        b = self.adjoint(y)
        return conjugate_gradient(self.normal, b, torch.zeros_like(b), iterations, tolerance)

    def direct(self, y: Tensor) -> Tensor:
        """The reconstruction that the field uses as its plain baseline; the pseudo-inverse where there is no better."""
        return self.pinv(y)

    @cached_property
    def norm_squared(self) -> float:
        r""":math:`\|A\|^2`, the largest eigenvalue of A'A, by power iteration."""
        like = next(self.buffers(), torch.zeros(()))
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        with torch.no_grad():
            return largest_eigenvalue(self.normal, torch.zeros(1, *self.image_shape, dtype=dtype, device=like.device))

    def __matmul__(self, other: LinearOperator) -> Composition:
        return Composition(self, other)


class Composition(LinearOperator):
    r"""The product :math:`A = L R`.

    Args:
        left: applied last.
        right: applied first.
    """

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        super().__init__()
        if left.image_shape != right.measurement_shape:
            raise ValueError(
                f"the right operator yields {right.measurement_shape}; wanted {left.image_shape}, what the left one takes"
            )
        self.left, self.right = left, right
        self.image_shape, self.measurement_shape = right.image_shape, left.measurement_shape

    def forward(self, x: Tensor) -> Tensor:
        """``L R x``."""
        return self.left(self.right(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """``R' L' y``."""
        return self.right.adjoint(self.left.adjoint(y))
