"""Points of a sweep: a product of values, independent draws, or a scrambled Sobol sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from torch.quasirandom import SobolEngine

Point = dict[str, Any]  # values by dotted key
DIGITS = 6  # of drawn values, so that names stay short and words give the number back


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; evenly spread in themselves or in their logarithms."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def at(self, share: float) -> float | int:
        """The value below which ``share`` (at least 0, below 1) of the range lies."""
        low, high = self.low, self.high + self.integer
        value = low * (high / low) ** share if self.log else low + share * (high - low)
        if self.integer:
            return int(min(max(math.floor(value), self.low), self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Choice:
    """One of several values, each as likely."""

    values: tuple[Any, ...]

    def at(self, share: float) -> Any:  # noqa: ANN401 - whatever YAML holds
        """The value at ``share`` (at least 0, below 1) of the list."""
        return self.values[int(share * len(self.values))]


@dataclass(frozen=True)
class Draws:
    """So many points of the ranges and choices, decided by a seed; the first of more points are those of fewer."""

    samples: int
    seed: int
    values: dict[str, Range | Choice]


def drawn_points(kind: Literal["random", "sobol"], draws: Draws) -> list[Point]:
    """Independent points, or a scrambled Sobol sequence that covers the ranges evenly; one that came before is left out."""
    count, width = draws.samples, len(draws.values)
    if kind == "random":
        shares = np.random.default_rng(draws.seed).random((count, width))
    else:
        shares = SobolEngine(width, scramble=True, seed=draws.seed).draw(count).double().numpy()
    points: list[Point] = []
    for line in shares.clip(0, 1 - 1e-9).tolist():
        point = {key: values.at(share) for (key, values), share in zip(draws.values.items(), line, strict=True)}
        if point not in points:
            points.append(point)
    return points


def grid_points(values: dict[str, list[Any]]) -> list[Point]:
    """All combinations, the last key fastest."""
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
