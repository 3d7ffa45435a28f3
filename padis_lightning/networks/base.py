"""Define what a patch network has to be."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from padis_lightning.errors import require_between
from padis_lightning.registry import Configured

MOST_BLOCKS, MOST_LEVELS = 64, 16


def require_levels(multipliers: Sequence[int], blocks: int) -> None:
    """Refuse networks of more blocks a level, or of more levels, than anybody trains: each takes its time to build."""
    require_between(1, MOST_LEVELS, levels=len(multipliers))
    require_between(0, MOST_BLOCKS, blocks=blocks)


class PatchNetwork(Configured, ABC):
    """A network that makes a clean patch of a noisy one with position channels.

    Attributes:
        channels: image channels.
        positions: channels that follow the image's in the input: those of positions, then those of a context.
        axes: axes of a patch: 2, or 3 for volumes.
        scaled_noise: it is given the standard deviation of its input's noise, not ln(sigma) / 4, and scales with it.
        level: it is given ln(sigma) / 4 all the same, with an input whose noise has the deviation 1.
        recompute: activation checkpointing: blocks called by :meth:`run` are computed again in the backward pass.
    """

    channels: int
    positions: int = 2
    axes: int = 2
    scaled_noise: bool = False
    level: tuple[float, float] | None = None
    recompute: bool = False

    @abstractmethod
    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Map ``(B, channels + positions, P, P)`` and the noise label ``(B,)`` to ``(B, channels, P, P)``; cubes have three P."""

    @property
    @abstractmethod
    def divisor(self) -> int:
        """Return the number that a patch's side has to be a multiple of."""

    def operations(self, *sides: int) -> int:
        """Count the floating-point operations of a forward pass of one patch, mainly of convolutions and products of matrices.

        Args:
            sides: of the patch, one for all axes or one each.
        """
        twin = copy.deepcopy(self).to("meta", torch.float32)
        x = torch.empty(1, self.channels + self.positions, *(sides if len(sides) > 1 else sides * self.axes), device="meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            twin(x, torch.empty(1, device="meta"))
        return counter.get_total_flops()

    def run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        """Call a block; keep only its inputs for the backward pass where activations are recomputed."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)
