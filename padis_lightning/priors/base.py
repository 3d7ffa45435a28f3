"""What a solver sees of a diffusion model."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from padis_lightning.canvas import axis_names, box, zero_pad
from padis_lightning.errors import InputError
from padis_lightning.linalg import per_image
from padis_lightning.random import Generators
from padis_lightning.types import Normalisation


class Prior(nn.Module, ABC):
    """A denoiser of whole images on a zero-padded canvas.

    Attributes:
        image_shape: channels, height and width of an image; channels, slices, height and width of a volume.
        pad: zeros on every side of it, an entry an axis; the canvas of an image is ``H + 2 pad[0]`` by ``W + 2 pad[1]``.
        sigma_data: root mean square of clean images.
        normalisation: the stored values that its 0 and 1 stand for, or None where it does not matter.
        precision: in which a network computes, None for that of its input; what comes in and goes out keeps its own.
        arrays: float32 arrays of the size of the canvas that an evaluation holds at most, beside its argument and its result.
    """

    image_shape: tuple[int, ...]
    pad: tuple[int, ...]
    sigma_data: float
    normalisation: Normalisation | None = None
    precision: torch.dtype | None = None
    arrays: float = 0.0

    @property
    def canvas_shape(self) -> tuple[int, ...]:
        """As ``image_shape``, of the canvas."""
        channels, *size = self.image_shape
        return channels, *(n + 2 * m for n, m in zip(size, self.pad, strict=True))

    def resize(self, image_shape: tuple[int, ...]) -> None:
        """Serve images of this shape from now on, where the prior can.

        Raises:
            InputError: it was trained on another one and cannot.
        """
        if tuple(image_shape) != tuple(self.image_shape):
            raise InputError(
                f"the prior was trained on images of {tuple(self.image_shape)} ({axis_names(self.image_shape)}); "
                f"wanted {tuple(image_shape)}, what the operator takes"
            )

    @abstractmethod
    def forward(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        r""":math:`E[x_0 \mid x_0 + \sigma z = x]` for a canvas ``(B, C, H, W)`` and sigma a number or ``(B,)``."""

    def inside(self, x: Tensor, sigma: float | Tensor, generator: Generators, *told: Tensor) -> Tensor:
        """:meth:`forward` of images ``(B, C, H, W)`` with zeros around, without what is around."""
        canvas = self(zero_pad(x, self.pad), sigma, generator, *told)
        return canvas[box(self.pad, x.shape[2:])].contiguous()

    def score(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        r"""Tweedie: :math:`\nabla \ln p_\sigma(x) = (D(x; \sigma) - x) / \sigma^2`, of the shape of ``x``."""
        level = per_image(sigma, x) if isinstance(sigma, Tensor) else sigma
        return (self(x, sigma, generator) - x) / level**2
