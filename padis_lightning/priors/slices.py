"""A prior of slices as one of volumes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.linalg import concatenated, per_image
from padis_lightning.memory import on_device_of
from padis_lightning.operators.slices import TOGETHER, slices, volumes
from padis_lightning.priors.base import Prior
from padis_lightning.priors.patch import PatchPrior
from padis_lightning.priors.slice_variation import smoothed
from padis_lightning.random import Generators

SMOOTHED = 1.0  # arrays of the size of the canvas that are held where slices are brought together


class SlicePrior(Prior):
    r"""Every slice of a volume on its own, each with a partition of its own, held together by total variation if asked.

    .. math:: D(x; \sigma) = \arg\min_v \tfrac{1}{2} \|v - D_\theta(x; \sigma)\|^2 + w \sigma \|\nabla_z v\|_1

    It takes volumes of any number of slices, as many at once as :data:`padis_lightning.operators.slices.TOGETHER`. They are
    denoised where the slices' prior is, and come back to where the volume is.

    Args:
        prior: denoiser of slices.
        depth: slices of a volume; a solver sets that of its operator.
        slice_tv: w; 0 leaves slices as they are, so that D is a posterior mean.
    """

    least = 1  #: slices that it takes

    def __init__(self, prior: PatchPrior, depth: int = 32, slice_tv: float = 0.0) -> None:
        super().__init__()
        if not (slice_tv >= 0 and math.isfinite(slice_tv)):
            raise InputError(f"slice_tv is {slice_tv:g}; wanted at least 0")
        self.prior, self.slice_tv = prior, slice_tv
        if slice_tv > 0:
            self.arrays = max(self.arrays, SMOOTHED)
        self.sigma_data, self.normalisation = prior.sigma_data, prior.normalisation
        self._serve(prior.image_shape[0], depth)

    def _serve(self, channels: int, depth: int) -> None:
        if depth < 1:
            raise InputError(f"depth is {depth}; wanted at least 1")
        self.image_shape, self.pad = (channels, depth, *self.prior.image_shape[1:]), (0, *self.prior.pad)

    @property
    def precision(self) -> torch.dtype | None:
        """That of the slices' prior."""
        return self.prior.precision

    @precision.setter
    def precision(self, kind: torch.dtype | None) -> None:
        self.prior.precision = kind

    def resize(self, image_shape: tuple[int, ...]) -> None:
        """Serve volumes of this shape, where the prior can serve its slices.

        Raises:
            InputError: it cannot, or these are no volumes.
        """
        if len(image_shape) != 4:
            raise InputError(
                f"the operator takes images of {tuple(image_shape)}; wanted volumes (channels, slices, height, width)"
            )
        channels, depth, *size = image_shape
        self._resize_slices(channels, tuple(size))
        self._serve(channels, depth)

    def _resize_slices(self, channels: int, size: tuple[int, ...]) -> None:
        self.prior.resize((channels, *size))

    def forward(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        """The posterior mean of canvases ``(B, C, D, H, W)``, their border zero."""
        return self.together(self.denoise(self.prior, x, sigma, generator), sigma)

    def inside(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        """The posterior mean of volumes ``(B, C, D, H, W)``; so many slices at a time have canvases."""
        return self.together(self.denoise(self.prior.inside, x, sigma, generator), sigma)

    def together(self, v: Tensor, sigma: float | Tensor) -> Tensor:
        """Volumes with less variation across slices, so many rows at a time as have the voxels of the slices of one call."""
        if self.slice_tv == 0:
            return v
        count, _, depth, height, _ = v.shape
        weights = self.slice_tv * per_image(torch.as_tensor(sigma, dtype=v.dtype, device=v.device).expand(count), v)
        rows = max(1, TOGETHER * height // (count * depth))
        return torch.cat([on_device_of(self.prior, smoothed)(part, weights) for part in v.split(rows, 3)], 3)

    def denoise(self, compute: Callable[..., Tensor], x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        """``compute`` on the slices of volumes."""
        depth = x.shape[2]
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x)).repeat_interleave(depth)
        return volumes(self.in_turn(compute, slices(x), levels, generator.split(depth)), depth)

    def in_turn(
        self, compute: Callable[..., Tensor], images: Tensor, levels: Tensor, streams: Generators, *told: Tensor
    ) -> Tensor:
        """``compute`` on ``(n, C, H, W)`` with ``(n,)`` levels, so many of them at a time that memory is bounded."""

        def part(cut: slice) -> Tensor:
            def denoised(x: Tensor, levels: Tensor, *told: Tensor) -> Tensor:
                return compute(x, levels, streams[cut], *told)

            return on_device_of(self.prior, denoised)(images[cut], levels[cut], *(value[cut] for value in told))

        cuts = (slice(first, first + TOGETHER) for first in range(0, len(images), TOGETHER))
        return concatenated(map(part, cuts), len(images))
