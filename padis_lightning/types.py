"""The types that travel between data, solvers and callbacks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from padis_lightning.errors import InputError, require_between

MOST = 1e15  # size of a stored value
LEAST, FINEST = 1e-15, 1e-6  # width of a range: in stored units, and as a part of its larger end, which float32 can resolve


def pair_of(values: Iterable[float]) -> tuple[float, float]:
    """Return two numbers, such as the ends of a range, as what they are."""
    first, second = map(float, values)
    return first, second


class Batch(NamedTuple):
    """Holds images or measurements of a data set.

    Attributes:
        index: ``(B,)``, positions in the data set; random streams are keyed by them.
        name: B names, used for files.
        group: B labels (the patient, where known): what intervals are clustered by.
        image: ``(B, C, H, W)``, of volumes ``(B, C, D, H, W)``, normalised to [0, 1], or None where only a measurement is given.
        measurement: ``(B, ...)`` as the operator yields it, or None where it is to be simulated.
        weights: how far each entry of a real measurement counts, relative and 0 for not at all; broadcasts with it. None where
            it was simulated.
    """

    index: Tensor  # type: ignore[assignment]  # hides a method of tuples that nobody needs here
    name: list[str]
    group: list[str]
    image: Tensor | None = None
    measurement: Tensor | None = None
    weights: Tensor | None = None


class Reconstruction(NamedTuple):
    """Holds what a solver gives back for a batch.

    Attributes:
        estimate: of the shape of the images, normalised units: the mean of the samples where there are several.
        measurement: ``(B, ...)``, what was solved, or None where nothing was measured.
        residual: ``(B,)``, ``||y - A x|| / ||y||``, or None.
        seconds: wall-clock seconds for each image.
        evaluations: network evaluations of the whole image, for each image.
        samples: ``(B, K, ...)``, or None where there is one.
        failures: why the estimate of an image is not finite, or None for each that is.
    """

    estimate: Tensor
    measurement: Tensor | None
    residual: Tensor | None
    seconds: float
    evaluations: int
    samples: Tensor | None = None
    failures: list[str | None] | None = None


@dataclass(frozen=True)
class Normalisation:
    """Maps stored values to network values: ``(value - lower) / (upper - lower)``.

    Args:
        lower: stored value that becomes 0.
        upper: stored value that becomes 1.
        window: the same two points in Hounsfield units, where they are known.
        clip: values beyond them become 0 and 1.
    """

    lower: float
    upper: float
    window: tuple[float, float] | None = None
    clip: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        require_between(-MOST, MOST, lower=self.lower, upper=self.upper)
        if not self.upper > self.lower:
            raise InputError(f"data range is {self.lower:g} to {self.upper:g}; wanted the lower value first")
        least = max(LEAST, FINEST * max(abs(self.lower), abs(self.upper)))
        if self.upper - self.lower < least:
            raise InputError(f"data range is {self.lower:g} to {self.upper:g}; wanted ends that are at least {least:g} apart")

    def normalise(self, values: Tensor) -> Tensor:
        """Map stored values to [0, 1]; those beyond are clipped where :attr:`clip` says so."""
        values = (values - self.lower) / (self.upper - self.lower)
        return values.clamp(0, 1) if self.clip else values

    def restore(self, values: Tensor) -> Tensor:
        """Map [0, 1] to stored values."""
        return values * (self.upper - self.lower) + self.lower

    @property
    def shown(self) -> Normalisation:
        """Return the same in the units that a reader sees: Hounsfield units where known, else stored values."""
        return Normalisation(*self.window, self.window) if self.window else self

    def describe(self) -> dict[str, object]:
        """Return plain values for a file's metadata."""
        return {"lower": self.lower, "upper": self.upper, "window": self.window}

    @classmethod
    def read(cls, described: dict) -> Normalisation:
        """Build what :meth:`describe` described, through JSON."""
        window = described.get("window")
        return cls(described["lower"], described["upper"], pair_of(window) if window else None)
