"""Super-resolution measures images on a coarser grid, by block means or by an anti-aliased bicubic filter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from padis_lightning.errors import InputError, require_at_least
from padis_lightning.linalg import at_least_single
from padis_lightning.operators.base import dimensions
from padis_lightning.operators.pixels import PixelOperator


class Downsampling(PixelOperator):
    """Downsampling yields an image on a coarser grid.

    Args:
        image_shape: channels, height and width, multiples of ``factor``.
        factor: pixels along an axis that become one.
    """

    def __init__(self, image_shape: Sequence[int] = (3, 256, 256), factor: int = 4) -> None:
        super().__init__()
        require_at_least(1, factor=factor)
        channels, height, width = self.image_shape = dimensions(image_shape)
        if height % factor or width % factor:
            raise InputError(f"the image is {height}x{width}; wanted multiples of {factor}, the factor")
        self.factor, self.measurement_shape = factor, (channels, height // factor, width // factor)

    def resized(self, image_shape: Sequence[int]) -> Downsampling:
        """Return the same of images of another shape."""
        return type(self)(image_shape, self.factor)

    def approximate_inverse(self, y: Tensor) -> Tensor:
        """Interpolate bicubically, ``(B, C, H / f, W / f) -> (B, C, H, W)``."""
        self.check(y, self.measurement_shape, "measurement")
        return functional.interpolate(y, self.image_shape[1:], mode="bicubic", align_corners=False)


class AveragePooling(Downsampling):
    """Average pooling takes the means of square blocks; with a factor f, ``A A' = I / f**2``."""

    def forward(self, x: Tensor) -> Tensor:
        """Average blocks, ``(B, C, H, W) -> (B, C, H / f, W / f)``."""
        return functional.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        """Spread each value evenly over its block, ``(B, C, H / f, W / f) -> (B, C, H, W)``."""
        self.check(y, self.measurement_shape, "measurement")
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1) / self.factor**2

    def singular_values(self, like: Tensor) -> Tensor:
        """Return ``1 / f``."""
        return like.new_ones(()) / self.factor


class BicubicDownsampling(Downsampling):
    r"""Bicubic downsampling filters without aliasing and samples: :math:`A X = M_h X M_w^T` with a small matrix for each axis.

    The singular values of A are the products of those of the two matrices, so pinv and prox are exact.

    Source: Keys, Cubic convolution interpolation for digital image processing, 1981, with a = -1/2, widened by the factor as
    in PyTorch's and Pillow's resizing.

    Args:
        image_shape: channels, height and width, multiples of ``factor``.
        factor: f, pixels along an axis that become one.
    """

    pixelwise = False

    def __init__(self, image_shape: Sequence[int] = (3, 256, 256), factor: int = 4) -> None:
        super().__init__(image_shape, factor)
        for axis, size in zip(("rows", "columns"), self.image_shape[1:], strict=True):
            identity = torch.eye(size, dtype=torch.float64)[None, None]
            matrix = functional.interpolate(identity, (size // factor, size), mode="bicubic", antialias=True)[0, 0]
            left, values, right = torch.linalg.svd(matrix, full_matrices=False)
            for name, part in (("matrix", matrix), ("left", left), ("values", values), ("right", right)):
                self.register_buffer(f"{axis}_{name}", part, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Filter and sample, ``(B, C, H, W) -> (B, C, H / f, W / f)``."""
        return self._between(x, *self._parts("matrix"))

    def adjoint(self, y: Tensor) -> Tensor:
        """Multiply with the transposed matrices, ``(B, C, H / f, W / f) -> (B, C, H, W)``."""
        self.check(y, self.measurement_shape, "measurement")
        return self._between(y, *(part.t() for part in self._parts("matrix")))

    def singular_values(self, like: Tensor) -> Tensor:
        """Return the products of the values of both axes."""
        rows, columns = self._parts("values")
        return (rows[:, None] * columns).to(like)

    def to_spectrum(self, y: Tensor) -> Tensor:
        """Multiply with the left singular vectors of both axes."""
        return self._between(y, *(part.t() for part in self._parts("left")))

    def from_spectrum(self, coefficients: Tensor) -> Tensor:
        """Multiply with the right singular vectors of both axes."""
        return self._between(coefficients, *(part.t() for part in self._parts("right")))

    def _parts(self, name: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"rows_{name}"), self.get_buffer(f"columns_{name}")

    @staticmethod
    def _between(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Return ``L X R'`` of every channel."""
        with torch.autocast(x.device.type, enabled=False):  # data terms keep their precision
            wide = at_least_single(x)
            return (left.to(wide) @ wide @ right.to(wide).t()).to(x.dtype)
