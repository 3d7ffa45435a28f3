"""A small U-Net for training on a processor: it works on folded pixels, where convolutions are efficient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from padis_lightning.networks.base import PatchNetwork


def _groups(channels: int) -> int:
    return math.gcd(8, channels)


class NoiseEmbedding(nn.Module):
    """The noise label and its sines and cosines at octaves, through a small network: ``(B,) -> (B, width)``."""

    def __init__(self, width: int, octaves: int = 4) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(octaves), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * octaves + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, noise: Tensor) -> Tensor:
        angles = noise[:, None] * self.frequencies.to(noise)
        return self.layers(torch.cat([noise[:, None], angles.sin(), angles.cos()], 1))


class Block(nn.Module):
    """Residual block of two convolutions; the noise level scales and shifts its middle."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(_groups(inputs), inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * outputs)
        self.norm_out = nn.GroupNorm(_groups(outputs), outputs)
        self.conv_out = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(functional.silu(self.norm_in(x)))
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, 1)
        h = torch.addcmul(shift, self.norm_out(h), scale + 1)
        return self.skip(x) + self.conv_out(functional.silu(h))


class UNet(PatchNetwork):
    r"""Residual U-Net on folded pixels.

    Pixels are folded by ``fold`` into channels, go through levels of ``base * multiplier`` channels with ``blocks``
    residual blocks each way, and are unfolded again. Its cost is mainly 3x3 convolutions at a quarter of the pixels.

    Args:
        channels: image channels.
        base: channels of the first level.
        multipliers: one a level, each level at half the resolution of the one before.
        blocks: residual blocks a level, down and up.
        fold: side of the square of pixels that becomes one place (1: none).
        positions: position channels, which follow the image's.
    """

    def __init__(
        self,
        channels: int = 1,
        base: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        fold: int = 2,
        positions: int = 2,
    ) -> None:
        super().__init__()
        self.channels, self.positions = channels, positions
        self.fold, self.levels = fold, len(multipliers)
        embedding, widths = base, [base * m for m in multipliers]
        self.embed = NoiseEmbedding(embedding)
        self.head = nn.Conv2d((channels + positions) * fold**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList(Block(width, width, embedding) for _ in range(blocks)))
            if level + 1 < self.levels:
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 2, stride=2))
                self.grow.append(nn.ConvTranspose2d(widths[level + 1], width, 2, stride=2))
                self.up.append(nn.ModuleList(Block(width, width, embedding) for _ in range(blocks)))
        self.tail = nn.Sequential(
            nn.GroupNorm(_groups(widths[0]), widths[0]),
            nn.SiLU(),
            nn.Conv2d(widths[0], channels * fold**2, 3, padding=1),
        )
        nn.init.zeros_(self.tail[-1].weight)
        nn.init.zeros_(self.tail[-1].bias)

    @property
    def divisor(self) -> int:
        """The fold, doubled at each level below the first."""
        return self.fold * 2 ** (self.levels - 1)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """``(B, channels + positions, P, P), (B,) -> (B, channels, P, P)``."""
        embedding = self.embed(noise)
        h = self.head(functional.pixel_unshuffle(x, self.fold))
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                h = self.run(block, h, embedding)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(len(self.grow))):
            h = skips.pop() + self.grow[level](h)
            for block in self.up[level]:
                h = self.run(block, h, embedding)
        return functional.pixel_shuffle(self.tail(h), self.fold)
