"""What a prepared file is asked to be, and the part that each patient is in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from padis_lightning.data.readers.prepared import PARTS
from padis_lightning.errors import InputError
from padis_lightning.random import seeded

LEVELS = {"uint16": 65535, "uint8": 255, "float32": None}  # steps over the range
SPLIT = 7  # purpose of the stream that patients are shuffled by


@dataclass(frozen=True)
class Settings:
    """What decides the bits of a prepared file besides its sources; see ``prepare --help``."""

    size: int | None = None
    spacing: float | None = None
    range: tuple[float, float] | None = None
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    dtype: str = "uint16"
    every: int = 1
    seed: int = 0
    licence: str = ""

    def __post_init__(self) -> None:
        for name, low in {"size": 1, "every": 1, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise InputError(f"{name} is {value}; wanted at least {low}")
        if self.spacing is not None and not 0 < self.spacing < math.inf:
            raise InputError(f"spacing is {self.spacing:g}; wanted millimetres above 0")
        if self.range is not None and not -math.inf < self.range[0] < self.range[1] < math.inf:
            raise InputError(f"range is {self.range[0]:g} {self.range[1]:g}; wanted two values, the lower first")
        if not (min(self.split) >= 0 and abs(sum(self.split) - 1) < 1e-6):
            raise InputError(f"split is {' '.join(f'{share:g}' for share in self.split)}; wanted three shares that add up to 1")


def split(groups: Sequence[str], shares: Sequence[float], seed: int) -> dict[str, str]:
    """The part of each group, by chance; every share is met within one group.

    Args:
        groups: labels, each as often as it comes.
        shares: of the groups, one for each of :data:`PARTS`.
        seed: key of the shuffle.

    Raises:
        InputError: there are too few groups for one in every part that has a share.
    """
    names = sorted(set(groups))
    wanted = [share * len(names) for share in shares]
    counts = [max(1, math.floor(n)) if n > 0 else 0 for n in wanted]
    while sum(counts) < len(names):
        counts[max(range(len(counts)), key=lambda i: wanted[i] - counts[i])] += 1
    while sum(counts) > len(names) and max(counts) > 1:
        counts[max((i for i, n in enumerate(counts) if n > 1), key=lambda i: counts[i] - wanted[i])] -= 1
    if sum(counts) > len(names) or any(abs(n - count) > 1 + 1e-6 for n, count in zip(wanted, counts, strict=True)):
        asked = " ".join(f"{share:g}" for share in shares)
        raise InputError(
            f"the sources have {len(names)} group{'s' * (len(names) > 1)}; wanted enough for --split {asked} to leave one in "
            "each part, or other shares such as 1 0 0"
        )
    order = torch.randperm(len(names), generator=seeded(seed, 0, SPLIT)).tolist()
    parts = [part for part, count in zip(PARTS, counts, strict=True) for _ in range(count)]
    return {names[i]: part for i, part in zip(order, parts, strict=True)}
