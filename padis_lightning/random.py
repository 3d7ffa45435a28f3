"""Random numbers that belong to an image, not to a batch.

Every image has streams of its own, keyed by ``(seed, index in the data set, purpose)``. A result then does not depend on
the batch size, on the number of devices or on the order. Streams live on the CPU, so that a GPU draws the same numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


def _hash(key: Sequence[int]) -> int:
    return int(np.random.SeedSequence([int(part) for part in key]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seeded(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator whose state is a hash of ``key``; nearby keys give independent streams."""
    return torch.Generator(device=device).manual_seed(_hash(key))


def seed_dropout(*key: int) -> None:
    """Key the framework's own generator, from which dropout draws: it takes no other."""
    torch.manual_seed(_hash(key))


class Generators:
    """One random stream for each image of a batch.

    Args:
        generators: one CPU generator an image.

    Attributes:
        slice_correlation: r of the normal numbers of volumes, see :meth:`correlated`.
    """

    slice_correlation = 0.0

    def __init__(self, generators: Iterable[torch.Generator]) -> None:
        self.generators = list(generators)

    @classmethod
    def keyed(cls, seed: int, indices: Sequence[int], purpose: int = 0) -> Generators:
        """Streams for the images ``indices`` of a data set; ``purpose`` keeps measurement and solver apart."""
        return cls(seeded(seed, index, purpose) for index in indices)

    def __len__(self) -> int:
        return len(self.generators)

    def split(self, count: int) -> Generators:
        """``count`` new streams for each image, that are drawn from its own: those of one image together."""
        keys = (torch.randint(2**62, (count,), generator=g).tolist() for g in self.generators)
        return Generators(torch.Generator().manual_seed(key) for row in keys for key in row)

    def __getitem__(self, part: slice) -> Generators:
        return Generators(self.generators[part])

    def correlated(self, slice_correlation: float) -> Generators:
        r"""Return the same streams, whose normal numbers of volumes are an autoregressive process from slice to slice.

        .. math:: z_1 = n_1, \quad z_k = r z_{k - 1} + \sqrt{1 - r^2} \, n_k, \quad \mathrm{corr}(z_j, z_k) = r^{|j - k|}

        Those of one slice stay independent standard normal; 0 leaves the bits of n, and with 1 all slices have the same.

        Source: Du et al., Improving 2D diffusion models for 3D medical imaging with inter-slice consistent stochasticity, ICLR
        2026, for noise that slices share; they interpolate on the sphere.
        """
        twin = copy.copy(self)
        twin.slice_correlation = slice_correlation
        return twin

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape, dtype and device of ``like`` ``(B, ...)``, image by image."""
        if len(like) != len(self):
            raise ValueError(f"{len(self)} random streams for a batch of {len(like)}; wanted one an image")
        rows = [torch.randn(like.shape[1:], generator=g, dtype=like.dtype) for g in self.generators]
        drawn = torch.stack(rows)
        if self.slice_correlation and drawn.ndim == 5:
            fresh = math.sqrt(1 - self.slice_correlation**2)
            for before, here in pairwise(drawn.unbind(2)):
                here.mul_(fresh).add_(before, alpha=self.slice_correlation)
        return drawn.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else drawn.to(like.device)

    def poisson(self, rate: Tensor) -> Tensor:
        """Poisson counts of mean ``rate`` ``(B, ...)``, image by image."""
        rows = [torch.poisson(one.cpu(), generator=g) for one, g in zip(rate, self.generators, strict=True)]
        return torch.stack(rows).to(rate.device)

    def integers(self, high: int) -> list[int]:
        """One integer of ``0 .. high - 1`` for each image."""
        return [int(torch.randint(high, (), generator=g)) for g in self.generators]
