"""A prior of groups of three slices as one of volumes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import InputError
from padis_lightning.priors.patch import PatchPrior
from padis_lightning.priors.slices import SlicePrior
from padis_lightning.random import Generators

GROUP = 3  #: slices of a group, the channels of its network


def spacing_channel(spacing: float) -> float:
    """Return the condition of slices that lie ``spacing`` apart: 0 for neighbours, 1 for every second slice."""
    return math.log2(spacing)


def partition(depth: int, spacing: int, offset: int) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Return groups of slices ``spacing`` apart, and for each slice its group and its place in it.

    Every ``spacing``-th slice makes a chain, which is cut into threes from ``offset`` on. Where that leaves one or two at an
    end, their group is filled up with the neighbours inside, which it only looks at.

    Args:
        depth: slices, at least three a chain.
        spacing: from a slice to the next of its group.
        offset: 0, 1 or 2.
    """
    groups, places = list[list[int]](), [(0, 0)] * depth
    for chain in (range(first, depth, spacing) for first in range(spacing)):
        for start in range(offset - GROUP, len(chain), GROUP):
            inside = range(max(start, 0), min(start + GROUP, len(chain)))
            first = min(inside.start, len(chain) - GROUP)
            for k in inside:
                places[chain[k]] = len(groups), k - first
            groups += [list(chain[first : first + GROUP])] if inside else []
    return groups, places


class GroupPrior(SlicePrior):
    r"""Denoise three slices at a time, in every call other groups: neighbours come to agree, and no border between groups stays.

    .. math:: D(x; \sigma)_z = D_\theta(x_{g(z)}; \sigma, \text{positions}, \log_2 s)_z

    where g is a random partition of the slices into groups of three that are s apart, s drawn from ``spacings``, at a random
    offset. Each slice is denoised exactly once in a call.

    Source: Song, Hu, Luo, Fessler and Shen, DiffusionBlend, NeurIPS 2024, section 3 (DiffusionBlend++).

    Args:
        checkpoint: denoiser of three slices as the channels of an image, as ``GroupPatchDiffusion`` trains it.
        spacings: from a slice of a group to the next; each volume draws one in every call.
        depth: slices of a volume; a solver takes that of its operator.
        slice_tv: as in :class:`SlicePrior`.
        options: the other arguments of :class:`PatchPrior`.
    """

    def __init__(
        self,
        checkpoint: str | PatchModel | PatchPrior = "ct_phantoms",
        spacings: Sequence[int] = (1, 2),
        depth: int = 32,
        slice_tv: float = 0.0,
        **options: Any,  # noqa: ANN401 - checked and named by PatchPrior
    ) -> None:
        if not spacings or min(spacings) < 1:
            raise InputError(f"spacings is {list(spacings)}; wanted some of at least 1")
        self._least = GROUP * max(spacings)
        super().__init__(checkpoint, depth, slice_tv, **options)
        if self.prior.image_shape[0] != GROUP:
            raise InputError(f"the prior has {self.prior.image_shape[0]} channels; wanted {GROUP}, the slices of a group")
        self.spacings = tuple(spacings)

    def _lay_out(self, depth: int) -> None:
        if depth < self._least:
            raise InputError(
                f"the volumes have {depth} slices; wanted at least {self._least} for groups {self._least // GROUP} apart"
            )
        super()._lay_out(depth)
        self.image_shape = (1, *self.image_shape[1:])

    def _slices_prior(self, channels: int, size: tuple[int, ...]) -> PatchPrior:
        if channels != 1:
            raise InputError(f"the operator takes volumes of {channels} channels; wanted 1, grouped slices are grey")
        return self.prior.for_shape((GROUP, *size))

    def denoise(self, compute: Callable[..., Tensor], x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        """Apply ``compute`` to groups of the slices of volumes."""
        count, depth = len(x), x.shape[2]
        drawn = zip(generator.integers(len(self.spacings)), generator.integers(GROUP), strict=True)
        streams, every = generator.split(depth), torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(count)
        groups, places, volume, used, spacing = list[list[int]](), [], [], [], []
        for b, (choice, offset) in enumerate(drawn):
            own, where = partition(depth, self.spacings[choice], offset)
            places += [GROUP * (len(groups) + g) + k for g, k in where]
            groups += [[b * depth + z for z in group] for group in own]
            volume += [b] * len(own)
            used += streams[b * depth : b * depth + len(own)].generators
            spacing += [spacing_channel(self.spacings[choice])] * len(own)
        images = x.flatten(0, 2)[torch.tensor(groups, device=x.device)]
        condition = (x.new_tensor(spacing),) if self.prior.condition_channels else ()
        levels = every[torch.tensor(volume, device=x.device)]
        denoised = self.in_turn(compute, images, levels, Generators(used), *condition)
        return denoised.flatten(0, 1)[torch.tensor(places, device=x.device)].unflatten(0, (count, 1, depth))
