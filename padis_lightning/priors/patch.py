"""The score of a whole image from a denoiser of patches."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from einops import repeat
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from padis_lightning.canvas import box, patch_shape
from padis_lightning.diffusion import PatchModel, context_of, coordinates, padding
from padis_lightning.diffusion.positions import NoPositions
from padis_lightning.errors import InputError
from padis_lightning.linalg import concatenated, per_image
from padis_lightning.memory import bytes_held, bytes_written, device_of, free_memory, is_out_of_memory, on_device_of
from padis_lightning.priors.base import Prior
from padis_lightning.priors.tiling import RandomTiling, Tiles, Tiling
from padis_lightning.random import Generators

log = logging.getLogger(__name__)

CHUNK = 64  #: patches in one call on a processor, which more do not make faster


class PatchPrior(Prior):
    r"""Denoise the patches of a partition and put them together.

    .. math:: D(x; \sigma) = \mathrm{join}(D_\theta(\mathrm{split}(x); \sigma, \mathrm{split}(\text{coordinates})))

    A model of whole images is the case of one patch without padding. A model without positions serves images of any size.
    A model of volumes has patches along all three axes. One with ``context`` sees the whole image, too, averaged down to the
    sides of a patch. Patches are denoised where the network is, and come back to where the canvas is.

    Source: Hu et al., PaDIS, NeurIPS 2024, sections 3.1 to 3.3.

    Args:
        checkpoint: ``prior.safetensors``, a checkpoint of ``fit``, a bundled prior's name, or a model in memory.
        tiling: how the canvas is partitioned (default: at a random offset in every call).
        chunk_size: most patches in one call of the network (default: what the memory takes, on a processor at most
            :data:`CHUNK`); it bounds memory and changes no result. Where a gradient is wanted and the patches do not fit
            together, or this was given, each chunk is computed again in the backward pass. A call that does not fit is
            halved and tried once more.
        precision: in which the network computes; bfloat16 is faster where the device has it. Data terms are not touched.
        compile_network: compile the network in place (needs a C++ compiler; minutes at first).
    """

    def __init__(
        self,
        checkpoint: str | PatchModel = "ct_phantoms",
        tiling: Tiling | None = None,
        chunk_size: int | None = None,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
        compile_network: bool = False,
    ) -> None:
        super().__init__()
        if chunk_size is not None and chunk_size < 1:
            raise InputError(f"chunk_size is {chunk_size}; wanted at least 1")
        model = PatchModel.load(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
        self.denoiser = model.denoiser.eval().requires_grad_(False)
        self.image_shape, self.pad = model.image_shape, model.pad
        self.patch = max(model.patch_sizes)
        self.sigma_data, self.normalisation = model.denoiser.sigma_data / model.denoiser.gain, model.normalisation
        self.tiling = tiling or RandomTiling()
        self.chunk_size, self._fitting = chunk_size, {}
        self.precision = None if precision == "float32" else getattr(torch, precision)
        self.pixel_bytes = bytes_written(self.denoiser, *self._one()) / self._pixels
        if compile_network:
            self.denoiser.network.compile()
        self._place()

    def _one(self) -> tuple[Tensor, ...]:
        """What the network is called with for one patch, without its values."""
        like, shape = next(self.denoiser.parameters(), torch.empty(0)), patch_shape(self.image_shape[1:], self.patch)
        axes = max(self._told(), len(shape))
        patch, positions = (like.new_empty(1, channels, *shape) for channels in (self.image_shape[0], axes))
        return patch, like.new_ones(1), positions, *([patch] if self.context else [])

    @property
    def context(self) -> bool:
        """Whether the network sees the whole image with each patch."""
        return getattr(self.denoiser, "context", False)

    @property
    def _pixels(self) -> int:
        """Of a patch."""
        return math.prod(patch_shape(self.image_shape[1:], self.patch))

    def _told(self) -> int:
        """Coordinates that the network is told."""
        return getattr(getattr(self.denoiser, "positions", None), "axes", len(self.pad))

    def _place(self) -> None:
        places = coordinates(*self.canvas_shape[1:])
        told = places.new_zeros(max(self._told() - len(places), 0), *places.shape[1:])  # of groups: that slices are neighbours
        self.register_buffer("positions", torch.cat([places, told])[None], persistent=False)

    def resize(self, image_shape: tuple[int, ...]) -> None:
        """Serve images of another size, with the least padding that tiles them at any offset: without positions and context."""
        stationary = isinstance(self.denoiser.positions, NoPositions) and not self.context and max(self.pad) > 0
        if not stationary or (image_shape[0], len(image_shape)) != (self.image_shape[0], len(self.image_shape)):
            super().resize(image_shape)
            return
        if min(image_shape[-2:]) < self.patch:
            raise InputError(f"the images are {tuple(image_shape[1:])}; wanted sides of at least the patch size {self.patch}")
        if tuple(image_shape) != tuple(self.image_shape):
            self.image_shape = tuple(image_shape)
            self.pad = padding(image_shape[1:], self.patch)
            self._place()

    def forward(self, x: Tensor, sigma: float | Tensor, generator: Generators, told: Tensor | None = None) -> Tensor:
        """The posterior mean of a canvas ``(B, C, H, W)``, its border zero.

        Args:
            x: the canvases.
            sigma: their noise, a number or ``(B,)``.
            generator: a stream an image.
            told: ``(B,)``, the last of the coordinates where it is a number an image rather than a place.
        """
        tiles, parts = self._cut(x, sigma, generator, told)
        size, device = parts[0][0, 0].numel() * self.pixel_bytes, device_of(self.denoiser) or x.device
        recompute = x.requires_grad and self.crowded(len(parts[0]), size, device)
        try:
            return tiles.join(self._denoised(parts, self.chunk(size, device), device, recompute))
        except (RuntimeError, MemoryError) as error:
            chunk = min(self.chunk(size, device), len(parts[0]))
            if chunk == 1 or not is_out_of_memory(error):
                raise
        self._halve(chunk, size, device)
        return tiles.join(self._denoised(parts, chunk // 2, device, recompute))

    def _denoised(self, parts: Sequence[Tensor], chunk: int, device: torch.device, recompute: bool = False) -> Tensor:
        """Patches of their parts, so many in one call on the network's device."""
        denoise = on_device_of(
            self.denoiser, partial(recomputed, self.denoiser, use_reentrant=False) if recompute else self.denoiser
        )
        chunks = zip(*(part.split(chunk) for part in parts), strict=True)
        with torch.autocast(device.type, self.precision) if self.precision else nullcontext():
            return concatenated((denoise(*chunk) for chunk in chunks), len(parts[0]))

    def _cut(
        self, x: Tensor, sigma: float | Tensor, generator: Generators, told: Tensor | None = None
    ) -> tuple[Tiles, list[Tensor]]:
        """A partition, and its patches with their levels, positions and, where the network sees it, the context."""
        tiles = self.tiling.draw(self.image_shape[1:], self.pad, self.patch, generator)
        patches = tiles.split(x)
        places = self.positions.to(x.device).expand(len(x), *self.positions.shape[1:])
        if told is not None:
            places = torch.cat([places[:, :-1], per_image(told.to(places), places).expand_as(places[:, -1:])], 1)
        levels, count = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x)), len(patches) // len(x)
        parts = [patches, levels.repeat_interleave(count), tiles.split(places)]
        if self.context:
            seen = context_of(x[box(self.pad, self.image_shape[1:])], patches.shape[2:])
            parts.append(repeat(seen, "b ... -> (b t) ...", t=count))
        return tiles, parts

    @property
    def arrays(self) -> float:
        """Patches and their positions, in two orders, and what has become of them."""
        return 3 + 2 * self.positions.shape[1] / self.image_shape[0]

    def some(self, x: Tensor) -> tuple[Callable[[], Tensor], float]:
        """What denoises as many patches of a canvas as one call takes, for a clock, and how many times that is all of them."""
        _, parts = self._cut(x, 1.0, Generators.keyed(0, range(len(x))))
        total, device = len(parts[0]), device_of(self.denoiser) or x.device
        chunk = min(self.chunk(self._pixels * self.pixel_bytes, device), total)
        parts = [part[:chunk].clone() for part in parts]
        return lambda: self._denoised(parts, chunk, device), total / chunk

    def call_bytes(self, images: int, device: torch.device, gradient: bool = False) -> int:
        """Memory that the network works in for so many canvases, as far as one call takes them; with gradients all it keeps."""
        tiles = self.tiling.draw(self.image_shape[1:], self.pad, self.patch, Generators.keyed(0, [0]))
        patches = images * len(tiles.split(torch.empty(1, *self.canvas_shape, device="meta")))
        size = self._pixels * self.pixel_bytes
        if gradient and not self.crowded(patches, size, device):
            return round(patches * size)
        held = size if gradient else bytes_held(self.denoiser, *self._one())
        return round(min(self.chunk(size, device), patches) * held)

    def forget(self) -> None:
        """Find out anew at the next call how many patches the memory takes."""
        self._fitting.clear()

    def _halve(self, chunk: int, size: float, device: torch.device) -> None:
        """From now on half as many patches in a call."""
        self._fitting[size, device] = chunk // 2
        if self.chunk_size is not None:
            self.chunk_size = chunk // 2
        if device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("padis_lightning: %d patches in one call do not fit the memory; going on with %d", chunk, chunk // 2)

    def chunk(self, size: float, device: torch.device) -> int:
        """Most patches of ``size`` bytes in one call: as given, or a power of two that takes half of what was free at first."""
        if self.chunk_size is not None:
            return self.chunk_size
        if (size, device) not in self._fitting:
            fits = max(1, int(free_memory(device) / (2 * size)))
            self._fitting[size, device] = 2 ** (min(fits, CHUNK if device.type == "cpu" else fits).bit_length() - 1)
        return self._fitting[size, device]

    def crowded(self, patches: int, size: float, device: torch.device) -> bool:
        """Whether what a gradient needs of so many patches is more than there is room for."""
        if self.chunk_size is not None:
            return patches > self.chunk_size
        return patches * size > free_memory(device) / 2
