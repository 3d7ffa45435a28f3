"""The score of a whole image from a denoiser of patches."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from einops import repeat
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from padis_lightning.canvas import box, coordinates
from padis_lightning.diffusion import PatchModel, context_of
from padis_lightning.diffusion.model import NAME
from padis_lightning.diffusion.positions import NoPositions
from padis_lightning.errors import InputError, require_at_least
from padis_lightning.linalg import concatenated, per_image
from padis_lightning.memory import device_of, is_out_of_memory, on_device_of
from padis_lightning.priors.base import Prior, network_autocast, shown
from padis_lightning.priors.distance import Reference
from padis_lightning.priors.tiling import OverlapTiling, RandomTiling, Tiles, Tiling
from padis_lightning.random import Generators

log = logging.getLogger(__name__)

CHUNK = 64  #: patches of 48x48, or as many pixels, in one call on a processor, which more do not make faster
FADED = 32  #: pixels that patches of a side that is asked for share
KEPT = 256  #: patches on a processor whose derivatives are kept; of more they are computed again


class PatchPrior(Prior):
    r"""Denoise the patches of a partition and put them together.

    .. math:: D(x; \sigma) = \mathrm{join}(D_\theta(\mathrm{split}(x); \sigma, \mathrm{split}(\text{coordinates})))

    A model of whole images is the case of one patch without padding. A model without positions serves images of any size.
    A model of volumes has patches along all three axes. One with ``context`` sees the whole image, too, averaged down to the
    sides of a patch. Patches are denoised where the network is, and come back to where the canvas is.

    Source: Hu et al., PaDIS, NeurIPS 2024, sections 3.1 to 3.3.

    Args:
        checkpoint: ``prior.safetensors`` or its folder, a checkpoint of ``fit``, a bundled prior's name, one of the Hub
            (``hf://owner/name@revision``), or a model in memory.
        tiling: how the canvas is partitioned (default: at a random offset in every call; with ``patch`` by patches that overlap
            by :data:`FADED` pixels, fade into each other, and are turned at random).
        patch: side of the patches of a prior that serves any size, which may be larger than those trained; others keep theirs.
        chunk_size: most patches in one call of the network (default: all of them, on a processor :data:`CHUNK`); it bounds
            memory and changes no result. Where a gradient is wanted of more patches (on a processor by default of more than
            :data:`KEPT`), each chunk is computed again in the backward pass. A call that does not fit the memory is halved.
        precision: in which the network computes; bfloat16 is faster where the device has it. Data terms are not touched.
        compile_network: compile the network in place (needs a C++ compiler; minutes at first).
    """

    positions: Tensor

    def __init__(
        self,
        checkpoint: str | PatchModel = "ct_phantoms",
        tiling: Tiling | None = None,
        patch: int | None = None,
        chunk_size: int | None = None,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
        compile_network: bool = False,
    ) -> None:
        super().__init__()
        if chunk_size is not None:
            require_at_least(1, chunk_size=chunk_size)
        model = PatchModel.load(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
        self.model, self.denoiser = model, model.denoiser.eval().requires_grad_(False)
        self.image_shape, self.pad, self.patch = model.image_shape, model.pad, max(model.patch_sizes)
        whole = max(self.pad) == 0 and self.patch >= min(self.image_shape[-2:])
        self.any_size = isinstance(model.denoiser.positions, NoPositions) and not model.denoiser.context and not whole
        self.least = self.patch
        larger = self.any_size and patch is not None
        if self.any_size and patch is not None:
            self.least, self.patch = model.denoiser.network.divisor, patch
        if larger and self.patch % model.denoiser.network.divisor:
            raise InputError(f"patch is {patch}; wanted a multiple of {model.denoiser.network.divisor}")
        self.sides: int | tuple[int, ...] = self.patch
        self.sigma_data, self.normalisation = model.denoiser.sigma_data / model.denoiser.gain, model.normalisation
        self.reference: Reference | None = Reference.read(model.training.get("reference"))
        self.tiling = tiling or (OverlapTiling(FADED, blend=True, turned=True) if larger else RandomTiling())
        if self.tiling.turned and not isinstance(model.denoiser.positions, NoPositions):
            raise InputError("tiling.turned is true, and the prior knows the places of patches; wanted one without positions")
        self.chunk_size = chunk_size
        self._fitting: dict[torch.device, int] = {}  # patches that the memory of a device takes, where that was found out
        self.precision = None if precision == "float32" else getattr(torch, precision)
        if compile_network:
            self.denoiser.network.compile()
        if larger:
            self._fit(tuple(self.image_shape))
        else:
            self._lay_out()

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> PatchPrior:  # noqa: ANN401 - checked by the class
        """Return the prior of a file, of a folder that has one, or the bundled one of this name, with options of the class.

        >>> import padis_lightning as pl
        >>> pl.PatchPrior.from_pretrained("ct_phantoms").image_shape
        (1, 128, 128)
        """
        return cls(str(name), **options)

    def save_pretrained(self, path: str | Path) -> Path:
        """Write what was trained to ``path``, or as :data:`padis_lightning.diffusion.model.NAME` into this folder.

        :meth:`from_pretrained` reads it with the same bits; options are not written. Return the file.
        """
        file = Path(path) if Path(path).suffix == ".safetensors" else Path(path) / NAME
        file.parent.mkdir(parents=True, exist_ok=True)
        self.model.save(file)
        return file

    @property
    def condition_channels(self) -> int:
        """Return how many coordinates the network takes besides those of the place, such as the spacing of slices."""
        return max(self.denoiser.positions.axes - len(self.pad), 0)

    def _lay_out(self) -> None:
        places = coordinates(*self.canvas_shape[1:])
        if isinstance(self.denoiser.positions, NoPositions) and not self.condition_channels:
            places = places.new_empty(0, *places.shape[1:])  # of large pictures they would take as much memory as these
        condition = places.new_zeros(self.condition_channels, *places.shape[1:])  # of slices: that they are neighbours
        self.register_buffer("positions", torch.cat([places, condition])[None], persistent=False)

    def for_shape(self, image_shape: tuple[int, ...]) -> Self:
        """Return a prior of another size, with the least padding that tiles it at any offset: without positions and context."""
        if not self.any_size or (image_shape[0], len(image_shape)) != (self.image_shape[0], len(self.image_shape)):
            return super().for_shape(image_shape)
        if tuple(image_shape) == tuple(self.image_shape):
            return self
        twin = self._twin()
        twin._fit(tuple(image_shape))
        twin.reference = None  # it is of images of another size
        return twin

    def _fit(self, image_shape: tuple[int, ...]) -> None:
        """Choose the sides of patches, and the zeros around, for images of this shape."""
        divisor, size = self.denoiser.network.divisor, image_shape[1:]
        shortest = min(size[-2:])
        if shortest < self.least:
            raise InputError(f"the images are {size}; wanted sides of at least {self.least}")
        self.sides = min(self.patch, shortest // divisor * divisor)
        if self.tiling.reaches_out:
            self.sides = tuple(min(self.patch, -(-n // divisor) * divisor) for n in size)
        self.image_shape, self.pad = image_shape, self.tiling.padding(size, self.sides)
        self._lay_out()

    def forward(self, x: Tensor, sigma: float | Tensor, generator: Generators, condition: Tensor | None = None) -> Tensor:
        """Return the posterior mean of a canvas ``(B, C, H, W)``, its border zero.

        Args:
            x: the canvases.
            sigma: their noise, a number or ``(B,)``.
            generator: a stream an image.
            condition: ``(B,)``, the last of the coordinates where it is a number an image rather than a place.
        """
        tiles, parts = self._cut(x, sigma, generator, condition)
        device = device_of(self.denoiser) or x.device
        recompute = x.requires_grad and len(parts[0]) > self._chunk(parts[0], device, KEPT)
        chunk = min(self._chunk(parts[0], device, CHUNK) if recompute or not x.requires_grad else len(parts[0]), len(parts[0]))
        while True:
            try:
                return tiles.join(self._denoised(parts, chunk, device, recompute))
            except (RuntimeError, MemoryError) as error:
                if chunk == 1 or not is_out_of_memory(error):
                    raise
            chunk, recompute = chunk // 2, x.requires_grad
            self._fitting[device] = chunk
            if device.type == "cuda":
                torch.cuda.empty_cache()
            log.warning("padis_lightning: %d patches in one call do not fit the memory; going on with %d", 2 * chunk, chunk)

    def _chunk(self, patches: Tensor, device: torch.device, on_processor: int) -> int:
        """Return the most patches in one call: as given, or as many as fit."""
        smaller = max(1, on_processor * 48**2 // max(48**2, math.prod(patches.shape[-2:])))  # of larger ones, as many pixels
        most = self.chunk_size or (smaller if device.type == "cpu" else 2**31)
        return min(most, self._fitting.get(device, most))

    def _denoised(self, parts: Sequence[Tensor], chunk: int, device: torch.device, recompute: bool) -> Tensor:
        """Denoise patches, ``chunk`` of them in one call, on the network's device."""
        network = partial(recomputed, self.denoiser, use_reentrant=False) if recompute else self.denoiser
        denoise = on_device_of(self.denoiser, network)
        chunks = shown(zip(*(part.split(chunk) for part in parts), strict=True), -(-len(parts[0]) // chunk))
        with network_autocast(device, self.precision):
            return concatenated((denoise(*chunk) for chunk in chunks), len(parts[0]))

    def _cut(
        self, x: Tensor, sigma: float | Tensor, generator: Generators, condition: Tensor | None
    ) -> tuple[Tiles, list[Tensor]]:
        """Draw a partition; return it with its patches, their levels, positions and, where the network sees it, the context."""
        tiles = self.tiling.partition(self.image_shape[1:], self.pad, self.sides, generator)
        patches = tiles.split(x)
        if self.tiling.tiles and any(side % self.denoiser.network.divisor for side in patches.shape[-2:]):
            sides = "x".join(map(str, patches.shape[-2:]))
            raise InputError(
                f"the tiles have {sides} pixels; wanted multiples of {self.denoiser.network.divisor}, by other tiles"
            )
        places = self.positions.to(x.device).expand(len(x), *self.positions.shape[1:])
        if condition is not None:
            places = torch.cat([places[:, :-1], per_image(condition.to(places), places).expand_as(places[:, -1:])], 1)
        levels, count = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x)), len(patches) // len(x)
        parts = [patches, levels.repeat_interleave(count), tiles.split(places)]
        if self.denoiser.context:
            averaged = context_of(x[box(self.pad, self.image_shape[1:])], patches.shape[2:])
            parts.append(repeat(averaged, "b ... -> (b t) ...", t=count))
        return tiles, parts
