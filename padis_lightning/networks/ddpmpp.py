"""Define the paper's network, DDPM++ as EDM has it, with its published parameter names; and NCSN++, which has filters besides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from padis_lightning.networks.base import PatchNetwork, require_levels

HALF = math.sqrt(0.5)  # keeps the variance of a sum of two
QUIET = 1e-5  # initial gain of layers that should begin near zero
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def _initialise(layer: Layer, gain: float = 1.0) -> Layer:
    nn.init.xavier_uniform_(layer.weight)
    layer.weight.data.mul_(gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _conv(inputs: int, outputs: int, side: int, gain: float = 1.0) -> nn.Conv2d:
    return _initialise(nn.Conv2d(inputs, outputs, side, padding=side // 2), gain)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


def _kernel(x: Tensor) -> Tensor:
    """Return the filter [1, 3, 3, 1] of sum 1 along both axes, one for each channel."""
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return taps.outer(taps).expand(x.shape[1], 1, 4, 4)


def halve(x: Tensor) -> Tensor:
    """Filter by [1, 3, 3, 1] along both axes, with zeros around, and keep every second place."""
    return functional.conv2d(x, _kernel(x), stride=2, padding=1, groups=x.shape[1])


def double(x: Tensor) -> Tensor:
    """Put zeros between places and filter by [1, 3, 3, 1] of sum 2 along both axes: the transpose of :func:`halve`, times 4."""
    return functional.conv_transpose2d(x, 4 * _kernel(x), stride=2, padding=1, groups=x.shape[1])


class FilteredConv(nn.Conv2d):
    """A convolution to half the resolution, after the filter [1, 3, 3, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        filtered = functional.conv2d(x, _kernel(x), padding=2, groups=x.shape[1])
        return functional.conv2d(filtered, self.weight, self.bias, stride=2)


class ResidualBlock(nn.Module):
    """A residual block of two convolutions with the noise level added between them, and resampling and self-attention on demand.

    Args:
        inputs: channels in.
        outputs: channels out.
        embedding: width of the noise embedding.
        dropout: share of the second convolution's inputs that training sets to zero.
        resample: "down" halves the resolution, "up" doubles it, "" keeps it.
        attention: whether one head of self-attention over pixels follows.
        filtered: whether resampling is by the filter [1, 3, 3, 1], rather than by means and repetition.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        resample: str = "",
        attention: bool = False,
        filtered: bool = False,
    ) -> None:
        super().__init__()
        self.resample, self.dropout, self.attention, self.filtered = resample, dropout, attention, filtered
        self.norm0 = _norm(inputs)
        self.conv0 = _conv(inputs, outputs, 3)
        self.affine = _initialise(nn.Linear(embedding, outputs))
        self.norm1 = _norm(outputs)
        self.conv1 = _conv(outputs, outputs, 3, QUIET)
        self.skip = _conv(inputs, outputs, 1) if inputs != outputs or resample else nn.Identity()
        if attention:
            self.norm2 = _norm(outputs)
            self.qkv = _conv(outputs, 3 * outputs, 1, math.sqrt(0.2))
            self.proj = _conv(outputs, outputs, 1, QUIET)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample and self.filtered:
            return halve(x) if self.resample == "down" else double(x)
        if self.resample == "down":
            return functional.avg_pool2d(x, 2)
        return functional.interpolate(x, scale_factor=2.0, mode="nearest") if self.resample == "up" else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(self._resampled(functional.silu(self.norm0(x))))
        h = functional.silu(self.norm1(h + self.affine(embedding)[:, :, None, None]))
        h = self.conv1(functional.dropout(h, self.dropout, self.training))
        x = (h + self.skip(self._resampled(x))) * HALF
        return (x + self._attend(x)) * HALF if self.attention else x

    def _attend(self, x: Tensor) -> Tensor:
        triples = self.qkv(self.norm2(x)).flatten(2).unflatten(1, (-1, 3))  # (B, C, 3, pixels): q, k, v alternate
        q, k, v = triples.permute(2, 0, 3, 1)[:, :, None]  # (B, 1 head, pixels, C) each
        mixed = functional.scaled_dot_product_attention(q, k, v)[:, 0]
        return self.proj(mixed.transpose(1, 2).unflatten(2, x.shape[-2:]))


class DDPMpp(PatchNetwork):
    r"""DDPM++, the U-Net of Song et al. in the version of EDM, the network of PaDIS.

    Its parameters have the published names (``enc.64x64_block0.conv0.weight`` ...), so that published weights fit.

    Source: Song et al., Score-based generative modeling, ICLR 2021, appendix H; Karras et al., EDM, NeurIPS 2022,
    appendix F and table 7; Hu et al., PaDIS, NeurIPS 2024, section 4 (60.48 million parameters); of NCSN++ also Zhang, Making
    convolutional networks shift-invariant again, ICML 2019, and Tancik et al., Fourier features, NeurIPS 2020.

    Args:
        channels: image channels.
        positions: position channels, which follow the image's; with a context as many more as the image has.
        base: channels of the first level.
        multipliers: one a level, each level at half the resolution of the one before.
        blocks: residual blocks a level on the way down; one more on the way up.
        resolution: side that the levels are named after; patches may have any side that halves often enough.
        attention_resolutions: named sides at which blocks have self-attention; the bottleneck has it always.
        dropout: share of activations that training sets to zero in each block.
        ncsnpp: NCSN++, which resamples by the filter [1, 3, 3, 1], adds the smaller image to each level on the way down, and sees
            the noise label u by random frequencies W as the sines and cosines of :math:`2 \pi W u`.
    """

    frequencies: Tensor

    def __init__(
        self,
        channels: int = 1,
        positions: int = 2,
        base: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 4,
        resolution: int = 304,
        attention_resolutions: Sequence[int] = (16,),
        dropout: float = 0.05,
        ncsnpp: bool = False,
    ) -> None:
        super().__init__()
        require_levels(multipliers, blocks)
        self.channels, self.positions, self.levels = channels, positions, len(multipliers)
        width, widths = 4 * base, [base * m for m in multipliers]
        half = base // 2
        frequencies = nn.init.normal_(torch.empty(base), std=16.0) if ncsnpp else 1e-4 ** (torch.arange(half) / max(half - 1, 1))
        self.register_buffer("frequencies", frequencies, persistent=ncsnpp)
        self.turn = 2 * math.pi if ncsnpp else 1.0
        self.map_layer0 = _initialise(nn.Linear(2 * len(frequencies), width))
        self.map_layer1 = _initialise(nn.Linear(width, width))

        def name(level: int, part: str) -> str:
            return f"{resolution >> level}x{resolution >> level}_{part}"

        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[name(0, "conv")] = _conv(channels + positions, base, 3)
        now, kept, smaller = base, [base], channels + positions
        for level, outputs in enumerate(widths):
            attends = resolution >> level in attention_resolutions
            if level:
                self.enc[name(level, "down")] = ResidualBlock(now, now, width, dropout, "down", filtered=ncsnpp)
                kept.append(now)
                if ncsnpp:
                    self.enc[name(level, "aux_residual")] = _initialise(FilteredConv(smaller, now, 3))
                    smaller = now
            for k in range(blocks):
                self.enc[name(level, f"block{k}")] = ResidualBlock(now, outputs, width, dropout, attention=attends)
                now = outputs
                kept.append(now)
        for level, outputs in reversed(list(enumerate(widths))):
            attends = resolution >> level in attention_resolutions
            if level == self.levels - 1:
                self.dec[name(level, "in0")] = ResidualBlock(now, now, width, dropout, attention=True)
                self.dec[name(level, "in1")] = ResidualBlock(now, now, width, dropout)
            else:
                self.dec[name(level, "up")] = ResidualBlock(now, now, width, dropout, "up", filtered=ncsnpp)
            for k in range(blocks + 1):
                last = attends and k == blocks
                self.dec[name(level, f"block{k}")] = ResidualBlock(now + kept.pop(), outputs, width, dropout, attention=last)
                now = outputs
        self.dec[name(0, "aux_norm")] = _norm(now)
        self.dec[name(0, "aux_conv")] = _conv(now, channels, 3, QUIET)

    @property
    def divisor(self) -> int:
        """Return the divisor of a patch's side, which is halved once a level below the first."""
        return 2 ** (self.levels - 1)

    def _embed(self, noise: Tensor) -> Tensor:
        angles = noise[:, None] * self.frequencies.to(noise) * self.turn
        embedding = torch.cat([angles.sin(), angles.cos()], 1)
        return functional.silu(self.map_layer1(functional.silu(self.map_layer0(embedding))))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Map ``(B, channels + positions, P, P), (B,) -> (B, channels, P, P)``."""
        embedding = self._embed(noise)
        first, *encoder = self.enc.values()
        *decoder, norm, last = self.dec.values()
        kept, smaller = [first(x)], x
        for block in encoder:
            if isinstance(block, FilteredConv):
                smaller = kept[-1] = (block(smaller) + kept[-1]) * HALF
            else:
                kept.append(self.run(block, kept[-1], embedding))
        h = kept[-1]
        for block in decoder:
            if isinstance(block, ResidualBlock) and block.norm0.num_channels != h.shape[1]:
                h = torch.cat([h, kept.pop()], 1)
            h = self.run(block, h, embedding)
        return last(functional.silu(norm(h)))
