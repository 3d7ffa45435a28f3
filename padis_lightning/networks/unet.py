"""Define a small U-Net for training on a processor; it works on folded pixels, where convolutions are efficient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from padis_lightning.errors import InputError
from padis_lightning.networks.base import PatchNetwork, require_levels


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels)


CONVOLUTIONS = {2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}  # and their transposes, by axes
CUBES = "b c (d i) (h j) (w k)", "b (c i j k) d h w"


def _fold(x: Tensor, side: int) -> Tensor:
    if x.ndim == 4:
        return functional.pixel_unshuffle(x, side)
    folded = rearrange(x, f"{CUBES[0]} -> {CUBES[1]}", i=side, j=side, k=side)
    return folded.contiguous(memory_format=torch.channels_last_3d)


def _unfold(x: Tensor, side: int) -> Tensor:
    if x.ndim == 4:
        return functional.pixel_shuffle(x, side)
    return rearrange(x, f"{CUBES[1]} -> {CUBES[0]}", i=side, j=side, k=side)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class NoiseEmbedding(nn.Module):
    """An embedding of the noise label and its sines and cosines at octaves by a small network, ``(B,) -> (B, width)``."""

    frequencies: Tensor

    def __init__(self, width: int, octaves: int = 4) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(octaves), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * octaves + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, noise: Tensor) -> Tensor:
        angles = noise[:, None] * self.frequencies.to(noise)
        return self.layers(torch.cat([noise[:, None], angles.sin(), angles.cos()], 1))


class ModulatedBlock(nn.Module):
    """A residual block of two convolutions; the noise level scales and shifts its middle."""

    def __init__(self, channels: int, embedding: int, axes: int) -> None:
        super().__init__()
        conv, _ = CONVOLUTIONS[axes]
        self.norm_in = _norm(channels)
        self.conv_in = conv(channels, channels, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * channels)
        self.norm_out = _norm(channels)
        self.conv_out = conv(channels, channels, 3, padding=1)
        _zero(self.conv_out)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(functional.silu(self.norm_in(x)))
        scale, shift = self.modulate(embedding).reshape(len(h), -1, *[1] * (h.ndim - 2)).chunk(2, 1)
        h = torch.addcmul(shift, self.norm_out(h), scale + 1)
        return x + self.conv_out(functional.silu(h))


class UNet(PatchNetwork):
    r"""A residual U-Net on folded pixels.

    Pixels are folded by ``fold`` into channels, go through levels of ``base * multiplier`` channels with ``blocks``
    residual blocks each way, and are unfolded again. Its cost is mainly 3x3 convolutions at a quarter of the pixels.

    Args:
        channels: image channels.
        base: channels of the first level.
        multipliers: one a level, each level at half the resolution of the one before.
        blocks: residual blocks a level, down and up.
        fold: side of the square of pixels that becomes one place (1: none); of volumes a cube.
        positions: position channels, which follow the image's; with a context as many more as the image has.
        axes: axes of a patch: 2, or 3 for volumes.
    """

    def __init__(
        self,
        channels: int = 1,
        base: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        fold: int = 2,
        positions: int = 2,
        axes: int = 2,
    ) -> None:
        super().__init__()
        require_levels(multipliers, blocks)
        if axes not in CONVOLUTIONS:
            raise InputError(f"axes is {axes}; wanted 2, or 3 for volumes")
        conv, transposed = CONVOLUTIONS[axes]
        self.channels, self.positions, self.axes = channels, positions, axes
        self.fold, self.levels = fold, len(multipliers)
        widths = [base * m for m in multipliers]
        self.embed = NoiseEmbedding(base)
        self.head = conv((channels + positions) * fold**axes, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList(ModulatedBlock(width, base, axes) for _ in range(blocks)))
            if level + 1 < self.levels:
                self.shrink.append(conv(width, widths[level + 1], 2, stride=2))
                self.grow.append(transposed(widths[level + 1], width, 2, stride=2))
                self.up.append(nn.ModuleList(ModulatedBlock(width, base, axes) for _ in range(blocks)))
        self.tail = nn.Sequential(_norm(widths[0]), nn.SiLU(), conv(widths[0], channels * fold**axes, 3, padding=1))
        _zero(self.tail[-1])

    @property
    def divisor(self) -> int:
        """Return the divisor of a patch's side: the fold, doubled at each level below the first."""
        return self.fold * 2 ** (self.levels - 1)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Map ``(B, channels + positions, P, P), (B,) -> (B, channels, P, P)``; patches of volumes have three P."""
        embedding = self.embed(noise)
        h = self.head(_fold(x, self.fold))
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks.children():
                h = self.run(block, h, embedding)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(len(self.grow))):
            h = skips.pop() + self.grow[level](h)
            for block in self.up[level].children():
                h = self.run(block, h, embedding)
        return _unfold(self.tail(h), self.fold)
