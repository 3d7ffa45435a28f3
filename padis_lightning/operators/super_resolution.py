"""Super-resolution: images on a coarser grid, by block means or by an anti-aliased bicubic filter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from padis_lightning.errors import InputError
from padis_lightning.linalg import damped_inverse
from padis_lightning.operators.base import LinearOperator, dimensions, working


def coarser(image_shape: Sequence[int], factor: int) -> tuple[int, int, int]:
    """Channels, height and width of an image on the coarser grid.

    Raises:
        InputError: the sides are not multiples of the factor.
    """
    channels, height, width = dimensions(image_shape)
    if factor < 1:
        raise InputError(f"factor is {factor}; wanted at least 1")
    if height % factor or width % factor:
        raise InputError(f"the image is {height}x{width}; wanted multiples of {factor}, the factor")
    return channels, height // factor, width // factor


def upsample(y: Tensor, shape: Sequence[int]) -> Tensor:
    """Bicubic interpolation, ``(B, C, h, w)`` to the image ``(B, *shape)``."""
    return functional.interpolate(y, tuple(shape[1:]), mode="bicubic", align_corners=False)


class AveragePooling(LinearOperator):
    """Means of square blocks; with a factor f, ``A A' = I / f**2``.

    Args:
        image_shape: channels, height and width, multiples of ``factor``.
        factor: f, pixels along a side of a block.
    """

    closed_form = True

    def __init__(self, image_shape: Sequence[int] = (3, 256, 256), factor: int = 4) -> None:
        super().__init__()
        self.image_shape, self.measurement_shape = dimensions(image_shape), coarser(image_shape, factor)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H / f, W / f)``."""
        self.check(x, self.image_shape, "image")
        return functional.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        """Each value spread evenly over its block, ``(B, C, H / f, W / f) -> (B, C, H, W)``."""
        return self.pinv(y) / self.factor**2

    def pinv(self, y: Tensor, iterations: int = 0, tolerance: float = 0.0) -> Tensor:
        """Each value repeated; nothing to iterate."""
        self.check(y, self.measurement_shape, "measurement")
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)

    def prox(
        self,
        v: Tensor,
        y: Tensor,
        weight: float | Tensor = 0.0,
        precision: Tensor | None = None,
        iterations: int = 0,
        tolerance: float = 0.0,
    ) -> Tensor:
        """``v + A+ P (y - A v) / (P + w f**2)``; v where both P and w are 0."""
        share = torch.ones_like(y) if precision is None else precision
        total = share + weight * self.factor**2
        step = share * (y - self(v)) / torch.where(total > 0, total, 1)
        return (v + self.pinv(step)).to(v.dtype)

    def approximate_inverse(self, y: Tensor) -> Tensor:
        """Bicubic interpolation."""
        self.check(y, self.measurement_shape, "measurement")
        return upsample(y, self.image_shape)

    @cached_property
    def norm_squared(self) -> float:
        """``1 / f**2``."""
        return 1 / self.factor**2


class BicubicDownsampling(LinearOperator):
    r"""An anti-aliased bicubic filter and its samples, :math:`A X = M_h X M_w^T` with a small matrix for each axis.

    The singular values of A are the products of those of the two matrices, so pinv and prox are exact.

    Source: Keys, Cubic convolution interpolation for digital image processing, 1981, with a = -1/2, widened by the factor as
    in PyTorch's and Pillow's resizing.

    Args:
        image_shape: channels, height and width, multiples of ``factor``.
        factor: f, pixels along an axis that become one.
    """

    closed_form = True

    def __init__(self, image_shape: Sequence[int] = (3, 256, 256), factor: int = 4) -> None:
        super().__init__()
        self.image_shape, self.measurement_shape = dimensions(image_shape), coarser(image_shape, factor)
        for axis, size in zip(("rows", "columns"), self.image_shape[1:], strict=True):
            identity = torch.eye(size, dtype=torch.float64)[None, None]
            matrix = functional.interpolate(identity, (size // factor, size), mode="bicubic", antialias=True)[0, 0]
            left, values, right = torch.linalg.svd(matrix, full_matrices=False)
            for name, part in (("matrix", matrix), ("left", left), ("values", values), ("right", right)):
                self.register_buffer(f"{axis}_{name}", part, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H / f, W / f)``."""
        self.check(x, self.image_shape, "image")
        return self._between(x, self.rows_matrix, self.columns_matrix)

    def adjoint(self, y: Tensor) -> Tensor:
        """The transposed matrices, ``(B, C, H / f, W / f) -> (B, C, H, W)``."""
        self.check(y, self.measurement_shape, "measurement")
        return self._between(y, self.rows_matrix.t(), self.columns_matrix.t())

    def pinv(self, y: Tensor, iterations: int = 0, tolerance: float = 0.0) -> Tensor:
        """Division by the singular values that :data:`~padis_lightning.linalg.CUTOFF` keeps; nothing to iterate."""
        self.check(y, self.measurement_shape, "measurement")
        return self._divide(working(y), 0.0).to(y.dtype)

    def prox(
        self,
        v: Tensor,
        y: Tensor,
        weight: float | Tensor = 0.0,
        precision: Tensor | None = None,
        iterations: int = 100,
        tolerance: float = 0.0,
    ) -> Tensor:
        """``v + A' (A A' + w)^-1 (y - A v)``, with ``A+`` for w = 0; with a precision by conjugate gradients."""
        start, data = working(v), working(y)
        weight = weight.to(start) if isinstance(weight, Tensor) else weight
        if precision is not None:
            return super().prox(start, data, weight, precision, iterations, tolerance).to(v.dtype)
        return (start + self._divide(data - self(start), weight)).to(v.dtype)

    def _divide(self, y: Tensor, weight: float | Tensor) -> Tensor:
        """``A' (A A' + w)^-1 y``."""
        values = (self.rows_values[:, None] * self.columns_values).to(y)
        inverse = damped_inverse(values, weight, self.norm_squared**0.5)
        inside = self._between(y, self.rows_left.t(), self.columns_left.t())
        return self._between(inverse * inside, self.rows_right.t(), self.columns_right.t())

    @staticmethod
    def _between(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """``L X R'`` of every channel."""
        with torch.autocast(x.device.type, enabled=False):  # data terms keep their precision
            wide = working(x)
            return (left.to(wide) @ wide @ right.to(wide).t()).to(x.dtype)

    def approximate_inverse(self, y: Tensor) -> Tensor:
        """Bicubic interpolation."""
        self.check(y, self.measurement_shape, "measurement")
        return upsample(y, self.image_shape)

    @cached_property
    def norm_squared(self) -> float:
        """The square of the product of the two largest singular values."""
        return float(self.rows_values.max() * self.columns_values.max()) ** 2
