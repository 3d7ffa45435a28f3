"""A Gaussian as a prior: everything about it is known in closed form, which makes it the oracle of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from padis_lightning.linalg import per_image
from padis_lightning.priors.base import Prior
from padis_lightning.random import Generators


class GaussianPrior(Prior):
    r"""Independent pixels :math:`N(\mu, s^2)`, without padding.

    .. math:: D(x; \sigma) = \frac{s^2 x + \sigma^2 \mu}{s^2 + \sigma^2}

    Args:
        image_shape: channels, height and width; channels, slices, height and width of volumes.
        mean: mean of every pixel.
        std: standard deviation of every pixel.
    """

    def __init__(self, image_shape: Sequence[int], mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.pad = (0,) * (len(self.image_shape) - 1)
        self.mean, self.std = mean, std
        self.sigma_data = std

    def for_shape(self, image_shape: tuple[int, ...]) -> Self:
        """Return the same of images of another shape."""
        return self if tuple(image_shape) == self.image_shape else type(self)(image_shape, self.mean, self.std)

    def forward(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        """Return the posterior mean, ``(B, C, H, W) -> (B, C, H, W)``; nothing is random."""
        level = per_image(torch.as_tensor(sigma, dtype=x.dtype, device=x.device), x)
        return (self.std**2 * x + level**2 * self.mean) / (self.std**2 + level**2)
