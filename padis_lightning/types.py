"""What travels between data, solvers and callbacks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

from torch import Tensor

from padis_lightning.errors import InputError


class Batch(NamedTuple):
    """Images or measurements of a data set.

    Attributes:
        index: ``(B,)``, positions in the data set: what random streams are keyed by.
        name: B names, used for files.
        group: B labels (the patient, where known): what intervals are clustered by.
        image: ``(B, C, H, W)``, of volumes ``(B, C, D, H, W)``, normalised to [0, 1], or None where only a measurement is given.
        measurement: ``(B, ...)`` as the operator yields it, or None where it is to be simulated.
    """

    index: Tensor
    name: list[str]
    group: list[str]
    image: Tensor | None = None
    measurement: Tensor | None = None


class Reconstruction(NamedTuple):
    """What a solver gives back for a batch.

    Attributes:
        estimate: of the shape of the images, normalised units: the mean of the samples where there are several.
        measurement: ``(B, ...)``, what was solved, or None where nothing was measured.
        residual: ``(B,)``, ``||y - A x|| / ||y||``, or None.
        seconds: wall-clock seconds an image.
        evaluations: network evaluations of the whole image, each image.
        samples: ``(B, K, ...)``, or None for one.
        failures: for each image why it is none, or None; whose estimates are not finite.
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
    """How stored values become network values: ``(value - lower) / (upper - lower)``.

    Args:
        lower: stored value that becomes 0.
        upper: stored value that becomes 1.
        window: the same two points in Hounsfield units, where they are known.
    """

    lower: float
    upper: float
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.upper > self.lower:
            raise InputError(f"data range is {self.lower:g} to {self.upper:g}; wanted the lower value first")

    def normalise(self, values: Tensor) -> Tensor:
        """Stored values to [0, 1]."""
        return (values - self.lower) / (self.upper - self.lower)

    def restore(self, values: Tensor) -> Tensor:
        """[0, 1] to stored values."""
        return values * (self.upper - self.lower) + self.lower

    @property
    def shown(self) -> Normalisation:
        """The same in the units that a reader sees: Hounsfield units where they are known, else those of the stored values."""
        return Normalisation(*self.window, self.window) if self.window else self

    def describe(self) -> dict[str, object]:
        """Plain values for a file's metadata."""
        return asdict(self)

    @classmethod
    def read(cls, described: dict) -> Normalisation:
        """The inverse of :meth:`describe`, through JSON."""
        window = described.get("window")
        return cls(described["lower"], described["upper"], tuple(window) if window else None)
