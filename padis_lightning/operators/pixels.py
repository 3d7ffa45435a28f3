"""Operators that are defined on pixels measure pictures of any size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.linalg import per_image
from padis_lightning.memory import device_of
from padis_lightning.operators.base import LinearOperator
from padis_lightning.operators.diagonalisable import Diagonalisable


class PixelOperator(Diagonalisable):
    """An operator on pixels is made anew for pictures of another size, or with other channels.

    Attributes:
        factor: pixels of the image along a side of one of the measurement.
    """

    factor: int = 1

    @abstractmethod
    def resized(self, image_shape: Sequence[int]) -> LinearOperator:
        """Return the same measurement of images ``(C, H, W)`` of another shape."""

    def for_image_shape(self, shape: Sequence[int]) -> LinearOperator:
        """Return the same measurement of images of this shape."""
        if tuple(shape) == tuple(self.image_shape):
            return self
        device = device_of(self)
        return self.resized(tuple(shape)) if device is None else self.resized(tuple(shape)).to(device)

    def for_measurement(self, shape: Sequence[int]) -> LinearOperator:
        """Return the same measurement of the images of which measurements have this shape."""
        if len(shape) != 3:
            raise InputError(f"the measurement is {tuple(shape)}; wanted a picture, channels, height and width")
        channels, height, width = shape
        return self.for_image_shape((channels, self.factor * height, self.factor * width))

    def copies(self, y: Tensor) -> Tensor:
        """Return of how many equal channels each picture ``(B, C, H, W)`` is, ``(B, 1, 1, 1)``: C of a grey one, else 1.

        They are one measurement that counts C times, so that the variance of its noise does as well.
        """
        grey = (y == y[:, :1]).flatten(1).all(1)
        return per_image(torch.where(grey, y.shape[1], 1).to(y), y)
