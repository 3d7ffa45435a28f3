"""A CT scan is described in physical units, whatever computes it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from padis_lightning.ct.serialisable import Serialisable
from padis_lightning.errors import InputError, require_above, require_between

Array = NDArray[np.float64]
LENGTHS = 1e-15, 1e15  # of which squares are no less than float32 holds, in whatever unit


def require_lengths(**lengths: float) -> None:
    """Refuse lengths, given by their names, that are not positive or beyond any unit.

    Raises:
        InputError: with the name and the value.
    """
    require_above(0, **lengths)
    require_between(*LENGTHS, **lengths)


class ScanGeometry(Serialisable):
    """Scans of slices and of volumes share their detector's columns, how rays are seen along the axis, and finer grids."""

    bin_offset: float = 0.0

    @property
    def reach(self) -> float:
        """Return the distance from the source to the detector, of rays that start from a point."""
        return self.source_distance + self.detector_distance

    @property
    def detector(self) -> Array:
        """Return the places u of the bins of a row, ``(bins,)``."""
        return (np.arange(self.bins) - (self.bins - 1) / 2) * self.bin_spacing + self.bin_offset

    def rays(self) -> tuple[Array, Array]:
        """Return angle and offset of the rays to every bin of a row, seen along the axis, as parallel ones: ``(views, bins)``."""
        offsets = self.source_distance * np.sin(self.gamma) if self.fan else self.detector
        return np.broadcast_arrays(np.asarray(self.angles)[:, None] - self.gamma, offsets[None])

    def finer(self, factor: int) -> Self:
        """Return the same scan with ``factor`` times as many pixels and bins along every axis."""
        names = {field.name for field in fields(self)}
        counts = {name: factor * getattr(self, name) for name in names & {"rows", "bins"}}
        spacings = {name: getattr(self, name) / factor for name in names if name.endswith("_spacing")}
        return replace(self, size=tuple(factor * n for n in self.size), **counts, **spacings)


@dataclass(frozen=True)
class Geometry(ScanGeometry):
    r"""A scan of one slice has image and detector centred on the axis of rotation; lengths share one unit.

    The image lies in the plane with row 0 at the top and y pointing up. At angle :math:`\theta` the detector's axis is
    :math:`e = (\cos\theta, \sin\theta)` and the central ray runs along :math:`d = (-\sin\theta, \cos\theta)`. A parallel ray is
    :math:`x \cdot e = s`. In a fan the source is at :math:`-D_s d` and the detector's centre at :math:`D_d d`; a flat bin at u
    is seen under :math:`\gamma = \arctan(u / (D_s + D_d))`, one of a detector that is curved around the source under
    :math:`\gamma = u / (D_s + D_d)`. That is the parallel ray of angle :math:`\theta - \gamma` and offset
    :math:`s = D_s \sin\gamma`.

    Source: Kak and Slaney, Principles of computerized tomographic imaging, 1988, sections 3.1 and 3.4.

    Args:
        size: height and width of the image in pixels.
        angles: of the views, radians.
        bins: detector bins.
        pixel_spacing: side of a pixel.
        bin_spacing: width of a bin on the detector (of a curved one, along its arc).
        source_distance: :math:`D_s`, from the source to the axis; None for parallel rays.
        detector_distance: :math:`D_d`, from the axis to the detector; None for parallel rays.
        curved: the detector is an arc around the source.

    Raises:
        InputError: a length is not positive, there are no views, or the source is inside the image.
    """

    FORMAT: ClassVar[str] = "padis_lightning geometry 1"

    size: tuple[int, int]
    angles: tuple[float, ...]
    bins: int
    pixel_spacing: float
    bin_spacing: float
    source_distance: float | None = None
    detector_distance: float | None = None
    curved: bool = False

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise InputError(f"size is {list(self.size)}; wanted at least 1")
        require_above(0, bins=self.bins)
        require_lengths(pixel_spacing=self.pixel_spacing, bin_spacing=self.bin_spacing)
        if not self.angles:
            raise InputError("the scan has 0 angles; wanted at least 1")
        if not np.isfinite(self.angles).all():
            raise InputError("the scan has angles that are not finite; wanted radians")
        if (self.source_distance is None) != (self.detector_distance is None):
            raise InputError(
                f"source_distance is {self.source_distance} and detector_distance {self.detector_distance}; "
                "wanted both for a fan, neither for parallel rays"
            )
        if self.fan and not self.source_distance > self.radius:
            raise InputError(
                f"source_distance is {self.source_distance:g}; wanted above {self.radius:g}, half the image's diagonal"
            )
        if self.fan:
            require_lengths(source_distance=self.source_distance)
            require_between(0, LENGTHS[1], detector_distance=self.detector_distance)
        if self.curved and not self.fan:
            raise InputError("curved is true for parallel rays; wanted source_distance and detector_distance with it")
        if self.curved and not self.fan_angle < math.pi / 2:
            raise InputError(f"the curved detector spans {2 * self.fan_angle:.3g} radians; wanted below pi")

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of views and of bins."""
        return len(self.angles), self.bins

    @property
    def fan(self) -> bool:
        """Tell whether rays start from a point."""
        return self.source_distance is not None

    @property
    def radius(self) -> float:
        """Return half of the image's diagonal."""
        return math.hypot(*self.size) * self.pixel_spacing / 2

    def _seen(self, u: Array) -> Array:
        """Return the angle to the central ray under which places on the detector are seen; 0 for parallel rays."""
        if not self.fan:
            return np.zeros_like(u)
        return u / self.reach if self.curved else np.arctan(u / self.reach)

    @property
    def gamma(self) -> Array:
        """Return the angle of each bin's ray to the central one, ``(bins,)``."""
        return self._seen(self.detector)

    @property
    def fan_angle(self) -> float:
        """Return half the opening of the fan, to the outer edge of the last bin."""
        return float(self._seen(np.float64(self.bins * self.bin_spacing / 2)))
