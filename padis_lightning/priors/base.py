"""What a solver sees of a diffusion model."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from padis_lightning.canvas import axis_names, box, zero_pad
from padis_lightning.errors import InputError
from padis_lightning.linalg import per_image
from padis_lightning.random import Generators
from padis_lightning.types import Normalisation

T = TypeVar("T")

_PRECISION: ContextVar[torch.dtype | None] = ContextVar("network precision", default=None)


@contextmanager
def network_precision(kind: torch.dtype | None) -> Iterator[None]:
    """Let the networks of priors compute in ``kind`` within the block; None leaves each its own precision."""
    token = _PRECISION.set(kind)
    try:
        yield
    finally:
        _PRECISION.reset(token)


def network_autocast(device: torch.device, own: torch.dtype | None = None) -> AbstractContextManager:
    """Return what a network computes in: the precision of the block around, or else its own.

    Weights are cast anew in each call: within another autocast a cache would keep them as they were before they were refined.
    """
    precision = _PRECISION.get() or own
    return torch.autocast(device.type, precision, cache_enabled=False) if precision else nullcontext()


_VISIBLE: ContextVar[bool] = ContextVar("progress within an evaluation", default=False)
PATIENCE = 2.0  # seconds that an evaluation takes without a word


@contextmanager
def evaluations_shown(visible: bool) -> Iterator[None]:
    """Let evaluations that take seconds show how far they are within the block, and how long the rest takes."""
    token = _VISIBLE.set(visible)
    try:
        yield
    finally:
        _VISIBLE.reset(token)


def shown(parts: Iterable[T], total: int) -> Iterator[T]:
    """Yield the parts of an evaluation, under a bar of its own where it is to be seen."""
    yield from tqdm(parts, "evaluation", total, leave=False, position=2, delay=PATIENCE, disable=not _VISIBLE.get() or total < 2)


class Prior(nn.Module, ABC):
    """Denoises whole images on a zero-padded canvas. A prior is a value: using it does not change it.

    Attributes:
        image_shape: channels, height and width of an image; channels, slices, height and width of a volume.
        pad: zeros on every side of it, an entry an axis; the canvas of an image is ``H + 2 pad[0]`` by ``W + 2 pad[1]``.
        sigma_data: root mean square of clean images.
        normalisation: the stored values that its 0 and 1 stand for, or None where it does not matter.
        highest: level of noise that it knows at most.
    """

    image_shape: tuple[int, ...]
    pad: tuple[int, ...]
    sigma_data: float
    normalisation: Normalisation | None = None
    highest: float = math.inf

    @property
    def volumetric(self) -> bool:
        """Whether it denoises volumes ``(B, C, D, H, W)`` rather than images."""
        return len(self.image_shape) == 4

    @property
    def canvas_shape(self) -> tuple[int, ...]:
        """Return channels, height and width of the canvas; of a volume's with slices."""
        channels, *size = self.image_shape
        return channels, *(n + 2 * m for n, m in zip(size, self.pad, strict=True))

    def for_shape(self, image_shape: tuple[int, ...]) -> Self:
        """Return a prior that serves images of this shape: this one where it does, else one with the same weights.

        Raises:
            InputError: it was trained on another shape and cannot serve this one.
        """
        if tuple(image_shape) != tuple(self.image_shape):
            sides = (image_shape[0], len(image_shape)) == (self.image_shape[0], len(self.image_shape))
            raise InputError(
                f"the prior was trained on images of {tuple(self.image_shape)} ({axis_names(self.image_shape)}); "
                f"wanted {tuple(image_shape)}, what the operator takes"
                f"{', or a prior of any size, such as those of scan.yaml and denoise.yaml' if sides else ''}"
            )
        return self

    def _twin(self) -> Self:
        """Return a copy with the same weights, whose own attributes can be changed."""
        twin = copy.copy(self)
        twin._modules, twin._buffers = self._modules.copy(), self._buffers.copy()
        return twin

    @abstractmethod
    def forward(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        r"""Return :math:`E[x_0 \mid x_0 + \sigma z = x]` for a canvas ``(B, C, H, W)`` and sigma a number or ``(B,)``."""

    def on_images(self, x: Tensor, sigma: float | Tensor, generator: Generators, *condition: Tensor) -> Tensor:
        """Denoise images ``(B, C, H, W)``, without the canvas around them."""
        canvas = self(zero_pad(x, self.pad), sigma, generator, *condition)
        return canvas[box(self.pad, x.shape[2:])].contiguous()

    def score(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        r"""Return Tweedie's :math:`\nabla \ln p_\sigma(x) = (D(x; \sigma) - x) / \sigma^2`, of the shape of ``x``."""
        level = per_image(sigma, x) if isinstance(sigma, Tensor) else sigma
        return (self(x, sigma, generator) - x) / level**2
