"""The score of a whole image from a denoiser of patches."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from padis_lightning.diffusion import PatchModel, coordinates
from padis_lightning.diffusion.positions import NoPositions
from padis_lightning.errors import InputError
from padis_lightning.priors.base import Prior
from padis_lightning.priors.tiling import RandomTiling, Tiling
from padis_lightning.random import Generators


class PatchPrior(Prior):
    r"""Denoise the patches of a partition and put them together.

    .. math:: D(x; \sigma) = \mathrm{join}(D_\theta(\mathrm{split}(x); \sigma, \mathrm{split}(\text{coordinates})))

    A model of whole images is the case of one patch without padding. A model without positions serves images of any size.

    Source: Hu et al., PaDIS, NeurIPS 2024, sections 3.1 to 3.3.

    Args:
        checkpoint: ``prior.safetensors``, a checkpoint of ``fit``, a bundled prior's name, or a model in memory.
        tiling: how the canvas is partitioned (default: at a random offset in every call).
        chunk_size: most patches in one call of the network; it bounds memory and changes no result
            (DPS keeps the graph of all chunks for its gradient: there the batch size bounds it).
    """

    def __init__(self, checkpoint: str | PatchModel = "ct_phantoms", tiling: Tiling | None = None, chunk_size: int = 64) -> None:
        super().__init__()
        if chunk_size < 1:
            raise InputError(f"chunk_size is {chunk_size}; wanted at least 1")
        model = PatchModel.load(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
        self.denoiser = model.denoiser.eval().requires_grad_(False)
        self.image_shape, self.pad = model.image_shape, model.pad
        self.patch = max(model.patch_sizes)
        self.sigma_data, self.normalisation = model.denoiser.sigma_data / model.denoiser.gain, model.normalisation
        self.tiling = tiling or RandomTiling()
        self.chunk_size = chunk_size
        self._place()

    def _place(self) -> None:
        self.register_buffer("positions", coordinates(*self.canvas_shape[1:])[None], persistent=False)

    def resize(self, image_shape: tuple[int, ...]) -> None:
        """Serve images of another size, with the least padding that tiles them at any offset; only without positions."""
        stationary = isinstance(self.denoiser.positions, NoPositions) and max(self.pad) > 0
        if not stationary or image_shape[0] != self.image_shape[0]:
            super().resize(image_shape)
            return
        if min(image_shape[1:]) < self.patch:
            raise InputError(f"the images are {tuple(image_shape[1:])}; wanted sides of at least the patch size {self.patch}")
        if tuple(image_shape) != tuple(self.image_shape):
            self.image_shape = tuple(image_shape)
            self.pad = tuple((n // self.patch + 1) * self.patch - n for n in image_shape[1:])
            self._place()

    def forward(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        """The posterior mean of a canvas ``(B, C, H, W)``, its border zero."""
        tiles = self.tiling.draw(self.image_shape[1:], self.pad, self.patch, generator)
        patches = tiles.split(x)
        positions = tiles.split(self.positions.expand(len(x), -1, -1, -1))
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        levels = levels.repeat_interleave(len(patches) // len(x))
        chunks = zip(*(part.split(self.chunk_size) for part in (patches, levels, positions)), strict=True)
        return tiles.join(torch.cat([self.denoiser(*chunk) for chunk in chunks]))
