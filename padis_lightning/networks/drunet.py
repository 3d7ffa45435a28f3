"""Define DRUNet, the bias-free residual U-Net of plug-and-play restoration, with its published parameter names."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from padis_lightning.errors import InputError, require_at_least
from padis_lightning.networks.base import PatchNetwork, require_levels

QUIET = 0.1  # initial gain of layers that should begin near zero


def _conv(inputs: int, outputs: int, gain: float = 1.0) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    layer.weight.data.mul_(gain)
    return layer


class BiasFreeBlock(nn.Module):
    """A residual block of two convolutions without norms and biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.res = nn.Sequential(_conv(channels, channels), nn.ReLU(), _conv(channels, channels, QUIET))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res(x)


class DRUNet(PatchNetwork):
    r"""A residual U-Net without biases and norms, which sees the level of the noise as a further channel.

    .. math:: F(a x, a s) = a F(x, s), \quad a > 0

    Scaled input with scaled noise is denoised alike, so what is learnt at one level serves at others. But a flat region of value
    0 at a low level then looks like any image at a high one; with ``level`` the network is told which it is, and scales no more.
    The defaults are the published network of 32.6 million parameters, whose weights fit; ``fold`` makes it fit for processors.

    Source: Zhang et al., Plug-and-play image restoration with deep denoiser prior, IEEE TPAMI 2022, section 3.1; Mohan et
    al., Robust and interpretable blind image denoising via bias-free convolutional neural networks, ICLR 2020.

    Args:
        channels: image channels.
        widths: channels of each level, each at half the resolution of the one before.
        blocks: residual blocks a level, down and up.
        fold: side of the square of pixels that becomes one place (1: none).
        positions: position channels, which follow the image's.
        level: see ln(sigma) / 4 as one more channel, between these levels of training; beyond them it is that of the nearer one.
    """

    scaled_noise = True

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: int = 4,
        fold: int = 1,
        positions: int = 0,
        level: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        require_levels(widths, blocks)
        require_at_least(1, fold=fold)
        if level and not 0 < level[0] < level[1]:
            raise InputError(f"level is {list(level)}; wanted the lowest and the highest level of training")
        self.channels, self.positions, self.fold, self.levels = channels, positions, fold, len(widths)
        self.level = level
        self.m_head = _conv((channels + positions + 1 + bool(level)) * fold**2, widths[0])
        for k, (fine, coarse) in enumerate(zip(widths, widths[1:], strict=False), 1):
            down = [*self._blocks(fine, blocks), nn.Conv2d(fine, coarse, 2, 2, bias=False)]
            up = [nn.ConvTranspose2d(coarse, fine, 2, 2, bias=False), *self._blocks(fine, blocks)]
            self.add_module(f"m_down{k}", nn.Sequential(*down))
            self.add_module(f"m_up{k}", nn.Sequential(*up))
        self.m_body = nn.Sequential(*self._blocks(widths[-1], blocks))
        self.m_tail = _conv(widths[0], channels * fold**2, QUIET)

    @staticmethod
    def _blocks(channels: int, count: int) -> list[nn.Module]:
        return [BiasFreeBlock(channels) for _ in range(count)]

    @property
    def divisor(self) -> int:
        """Return the divisor of a patch's side: the fold, doubled at each level below the first."""
        return self.fold * 2 ** (self.levels - 1)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Map ``(B, channels + positions, P, P)`` with noise of the standard deviations ``(B,)`` to ``(B, channels, P, P)``.

        With ``level`` the deviation of the noise is 1, and ``noise`` is ln(sigma) / 4.
        """
        constants = [noise]
        if self.level:
            low, high = (math.log(sigma) / 4 for sigma in self.level)
            constants = [torch.ones_like(noise), noise.clamp(low, high)]
        planes = torch.stack(constants, 1).to(x.dtype)[..., None, None].expand(-1, -1, *x.shape[2:])
        h = functional.pixel_unshuffle(torch.cat([x, planes], 1), self.fold)
        skips = [self.m_head(h.contiguous(memory_format=torch.channels_last))]
        for level in range(1, self.levels):
            skips.append(self._through(f"m_down{level}", skips[-1]))
        h = self._through("m_body", skips[-1])
        for level in reversed(range(1, self.levels)):
            h = self._through(f"m_up{level}", h + skips.pop())
        return functional.pixel_shuffle(self.m_tail(h + skips.pop()), self.fold)

    def _through(self, name: str, h: Tensor) -> Tensor:
        for block in getattr(self, name):
            h = self.run(block, h)
        return h
