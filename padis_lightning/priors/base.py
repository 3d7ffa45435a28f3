"""What a solver sees of a diffusion model."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from padis_lightning.errors import InputError
from padis_lightning.random import Generators
from padis_lightning.types import Normalisation


class Prior(nn.Module, ABC):
    """A denoiser of whole images on a zero-padded canvas.

    Attributes:
        image_shape: channels, height and width of an image.
        pad: zeros on every side of it, height and width; the canvas is ``H + 2 pad[0]`` by ``W + 2 pad[1]``.
        sigma_data: root mean square of clean images.
        normalisation: the stored values that its 0 and 1 stand for, or None where it does not matter.
        precision: in which a network computes, None for that of its input; what comes in and goes out keeps its own.
    """

    image_shape: tuple[int, int, int]
    pad: tuple[int, int]
    sigma_data: float
    normalisation: Normalisation | None = None
    precision: torch.dtype | None = None

    @property
    def canvas_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the canvas."""
        c, h, w = self.image_shape
        return c, h + 2 * self.pad[0], w + 2 * self.pad[1]

    def resize(self, image_shape: tuple[int, ...]) -> None:
        """Serve images of this shape from now on, where the prior can.

        Raises:
            InputError: it was trained on another one and cannot.
        """
        if tuple(image_shape) != tuple(self.image_shape):
            raise InputError(
                f"the prior was trained on images of {tuple(self.image_shape)} (channels, height, width); "
                f"wanted {tuple(image_shape)}, what the operator takes"
            )

    @abstractmethod
    def forward(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        r""":math:`E[x_0 \mid x_0 + \sigma z = x]` for a canvas ``(B, C, H, W)`` and sigma a number or ``(B,)``."""

    def score(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        r"""Tweedie: :math:`\nabla \ln p_\sigma(x) = (D(x; \sigma) - x) / \sigma^2`, of the shape of ``x``."""
        level = sigma.reshape(-1, 1, 1, 1) if isinstance(sigma, Tensor) else sigma
        return (self(x, sigma, generator) - x) / level**2
