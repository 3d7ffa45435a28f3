"""A prior of slices as one of volumes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import InputError, require_at_least
from padis_lightning.linalg import concatenated, per_image
from padis_lightning.memory import on_device_of
from padis_lightning.operators.slices import SLICES_AT_ONCE, slices, volumes
from padis_lightning.priors.base import Prior
from padis_lightning.priors.patch import PatchPrior
from padis_lightning.priors.slice_variation import slice_tv_step
from padis_lightning.random import Generators


class SlicePrior(Prior):
    r"""Denoise every slice of a volume on its own, and bring slices together by total variation if asked.

    .. math:: D(x; \sigma) = \arg\min_v \tfrac{1}{2} \|v - D_\theta(x; \sigma)\|^2 + w \sigma \|\nabla_z v\|_1

    Each slice has a partition of its own. The prior takes volumes of any number of slices, as many at once as
    :data:`padis_lightning.operators.slices.SLICES_AT_ONCE`. They are denoised where the slices' prior is, and come back to
    where the volume is.

    Args:
        checkpoint: the slices' prior, as :class:`PatchPrior` takes it, or one in memory.
        depth: slices of a volume; a solver takes that of its operator.
        slice_tv: w; 0 leaves slices as they are, so that D is a posterior mean.
        options: the other arguments of :class:`PatchPrior`.
    """

    def __init__(
        self,
        checkpoint: str | PatchModel | PatchPrior = "ct_phantoms",
        depth: int = 32,
        slice_tv: float = 0.0,
        **options: Any,  # noqa: ANN401 - checked and named by PatchPrior
    ) -> None:
        super().__init__()
        require_at_least(0, slice_tv=slice_tv)
        self.prior = checkpoint if isinstance(checkpoint, PatchPrior) else PatchPrior(checkpoint, **options)
        self.slice_tv = slice_tv
        self.sigma_data, self.normalisation = self.prior.sigma_data, self.prior.normalisation
        self._lay_out(depth)

    def _lay_out(self, depth: int) -> None:
        require_at_least(1, depth=depth)
        self.image_shape = (self.prior.image_shape[0], depth, *self.prior.image_shape[1:])
        self.pad = (0, *self.prior.pad)

    def for_shape(self, image_shape: tuple[int, ...]) -> Self:
        """Return a prior of volumes of this shape, where the slices' prior can serve their slices.

        Raises:
            InputError: it cannot, or these are no volumes.
        """
        if len(image_shape) != 4:
            raise InputError(
                f"the operator takes images of {tuple(image_shape)}; wanted volumes (channels, slices, height, width)"
            )
        channels, depth, *size = image_shape
        twin = self._twin()
        twin.prior = self._slices_prior(channels, tuple(size))
        twin._lay_out(depth)
        return twin

    def _slices_prior(self, channels: int, size: tuple[int, ...]) -> PatchPrior:
        return self.prior.for_shape((channels, *size))

    def forward(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        """Return the posterior mean of canvases ``(B, C, D, H, W)``, their border zero."""
        return self._bring_together(self.denoise(self.prior, x, sigma, generator), sigma)

    def on_images(self, x: Tensor, sigma: float | Tensor, generator: Generators, *condition: Tensor) -> Tensor:
        """Denoise volumes ``(B, C, D, H, W)``; so many slices at a time have canvases."""
        return self._bring_together(self.denoise(self.prior.on_images, x, sigma, generator), sigma)

    def _bring_together(self, v: Tensor, sigma: float | Tensor) -> Tensor:
        """Lower the variation across slices, of so many rows at a time as have the voxels of the slices of one call."""
        if self.slice_tv == 0:
            return v
        count, _, depth, height, _ = v.shape
        weights = self.slice_tv * per_image(torch.as_tensor(sigma, dtype=v.dtype, device=v.device).expand(count), v)
        rows = max(1, SLICES_AT_ONCE * height // (count * depth))
        return torch.cat([on_device_of(self.prior, slice_tv_step)(part, weights) for part in v.split(rows, 3)], 3)

    def denoise(self, compute: Callable[..., Tensor], x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        """Apply ``compute`` to the slices of volumes."""
        depth = x.shape[2]
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x)).repeat_interleave(depth)
        return volumes(self.in_turn(compute, slices(x), levels, generator.split(depth)), depth)

    def in_turn(
        self, compute: Callable[..., Tensor], images: Tensor, levels: Tensor, streams: Generators, *condition: Tensor
    ) -> Tensor:
        """Apply ``compute`` to ``(n, C, H, W)`` with ``(n,)`` levels, so many of them at a time that memory is bounded."""

        def part(cut: slice) -> Tensor:
            def denoised(x: Tensor, levels: Tensor, *condition: Tensor) -> Tensor:
                return compute(x, levels, streams[cut], *condition)

            return on_device_of(self.prior, denoised)(images[cut], levels[cut], *(value[cut] for value in condition))

        cuts = (slice(first, first + SLICES_AT_ONCE) for first in range(0, len(images), SLICES_AT_ONCE))
        return concatenated(map(part, cuts), len(images))
