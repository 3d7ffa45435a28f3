"""Chest phantoms with a third axis: slices of one patient, whose anatomy changes slowly from one to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from padis_lightning.data.drawing import HU_RANGE, Array, Slice
from padis_lightning.data.phantoms import paint

STEP = 0.006  # of the level, from the lung apex (0) to the upper abdomen (1), from slice to slice
GRAIN = 6.0  # slices from knot to knot of what is drawn


class SmoothStream:
    """Random numbers at a height: arrays follow smooth random curves of it, single numbers and integers do not change.

    The methods are those of NumPy's generator that phantoms draw with.

    Args:
        key: of the patient.
        height: slices above the first.
    """

    def __init__(self, key: tuple[int, ...], height: float) -> None:
        knot, share = divmod(height / GRAIN, 1.0)
        spline = (1 - share) ** 3, 3 * share**3 - 6 * share**2 + 4, -3 * share**3 + 3 * share**2 + 3 * share + 1, share**3
        self.key, self.knot, self.drawn = key, int(knot), 0
        self.weights = np.array(spline) / np.linalg.norm(spline)  # of a curve of unit deviation through independent knots

    def begin(self, part: int) -> None:
        """Go to the numbers of a part of the anatomy, whatever was drawn before."""
        self.drawn = 1000 * (part + 1)

    def _generator(self, *knot: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((*self.key, self.drawn, *knot))))

    def _curves(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Standard normal numbers, each on a curve of its own."""
        self.drawn += 1
        knots = [self._generator(self.knot + k).standard_normal(shape) for k in range(len(self.weights))]
        return np.tensordot(self.weights, np.stack(knots), 1)

    def _single(self) -> np.random.Generator:
        self.drawn += 1
        return self._generator()

    def standard_normal(self, size: int | tuple[int, ...], dtype: type = np.float64) -> NDArray[Any]:
        """Normal numbers of mean 0 and deviation 1."""
        return self._curves(np.empty(size).shape).astype(dtype)

    def normal(self, loc: float | tuple[float, ...] = 0.0, scale: float = 1.0, size: int | tuple[int, ...] | None = None) -> Any:  # noqa: ANN401 - a number or an array
        """Normal numbers; one alone stays as it is."""
        shape = np.empty(size).shape if size is not None else np.shape(loc)
        return np.asarray(loc) + scale * self._curves(shape) if shape else self._single().normal(loc, scale)

    def uniform(self, low: Any, high: Any, size: int | tuple[int, ...] | None = None) -> Any:  # noqa: ANN401
        """Numbers between low and high; one alone stays as it is."""
        shape = np.empty(size).shape if size is not None else np.shape(low)
        return low + np.subtract(high, low) * ndtr(self._curves(shape)) if shape else self._single().uniform(low, high)

    def random(self, size: int | tuple[int, ...] | None = None) -> Any:  # noqa: ANN401
        """Numbers between 0 and 1; one alone stays as it is."""
        return self.uniform(0.0, 1.0, size)

    def integers(self, low: Any, high: Any) -> Any:  # noqa: ANN401
        """Whole numbers, which stay as they are."""
        return self._single().integers(low, high)

    def gamma(self, shape: float, scale: float) -> float:
        """A number of the gamma distribution, which stays as it is."""
        return self._single().gamma(shape, scale)


@dataclass(frozen=True)
class ChestVolumes:
    """``count`` different patients of one seed, each a stack of ``depth`` slices."""

    count: int
    depth: int
    seed: int = 0
    window: ClassVar[tuple[float, float]] = HU_RANGE

    def slice(self, index: int, k: int, size: int) -> Array:
        """Slice ``k`` of patient ``index`` in Hounsfield units, (size, size)."""
        if not (0 <= index < self.count and 0 <= k < self.depth):
            raise IndexError(f"slice {k} of {index} is outside the {self.depth} slices of {self.count} patients")
        step = min(STEP, 1 / self.depth)
        first = float(np.random.default_rng((self.seed, index)).random()) * (1 - step * self.depth)
        stream = SmoothStream((self.seed, index), float(k))
        return paint(Slice(size, stream, first + step * k), stream.begin)

    def volume(self, index: int, size: int) -> Array:
        """Patient ``index``, (depth, size, size)."""
        return np.stack([self.slice(index, k, size) for k in range(self.depth)])
