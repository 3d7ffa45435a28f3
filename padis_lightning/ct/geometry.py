"""A CT scan is described in physical units, whatever computes it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from padis_lightning.ct.serialisable import Serialisable
from padis_lightning.errors import InputError, require_above, require_between

Array = NDArray[np.float64]
Offset = float | tuple[float, ...]
Centre = Literal["middle", "pixel"] | tuple[float, float]
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

    if TYPE_CHECKING:  # fields of the subclasses
        size: tuple[int, ...]
        angles: tuple[float, ...]
        bins: int
        bin_spacing: float
        source_distance: Any  # None for parallel rays
        detector_distance: Any
    bin_offset: Offset = 0.0

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Return the numbers of views and of bins; of a cone beam with those of rows between."""

    @property
    @abstractmethod
    def gamma(self) -> Array:
        """Return the angle of each bin's ray to the central one, of the shape of :attr:`detector`."""

    @property
    def reach(self) -> float:
        """Return the distance from the source to the detector, of rays that start from a point."""
        return self.source_distance + self.detector_distance

    @property
    def magnification(self) -> float:
        """Return how many times larger the shadow on the detector is than what casts it at the axis."""
        return self.reach / self.source_distance if self.source_distance else 1.0

    @property
    def detector(self) -> Array:
        """Return the places u of the bins of a row, ``(bins,)``, or ``(views, bins)`` where each view has an offset."""
        return (np.arange(self.bins) - (self.bins - 1) / 2) * self.bin_spacing + np.asarray(self.bin_offset)[..., None]

    @property
    def edges(self) -> tuple[float, float]:
        """Return between which places u on the detector every view measures."""
        half = self.bins * self.bin_spacing / 2
        return np.max(self.bin_offset) - half, np.min(self.bin_offset) + half

    @property
    def axis_bin(self) -> Array:
        """Return the bin that the axis is seen at, counted from 0, of all views or of each."""
        return (self.bins - 1) / 2 - np.asarray(self.bin_offset) / self.bin_spacing

    def with_axis_at(self, place: float) -> Self:
        """Return the same scan with the axis seen at bin ``place``, counted from 0, of all views."""
        return replace(self, bin_offset=((self.bins - 1) / 2 - place) * self.bin_spacing)

    def rays(self) -> tuple[Array, Array]:
        """Return angle and offset of the rays to every bin of a row, seen along the axis, as parallel ones: ``(views, bins)``."""
        offsets = self.detector if self.source_distance is None else self.source_distance * np.sin(self.gamma)
        theta, s = np.broadcast_arrays(np.asarray(self.angles)[:, None] - self.gamma, offsets)
        return theta, s

    def views(self, kept: Sequence[int]) -> Self:
        """Return the scan of the views ``kept`` alone."""
        along = (field.name for field in fields(self) if field.name in ("angles", "heights", "bin_offset"))
        values = {name: getattr(self, name) for name in along}
        return replace(self, **{name: tuple(v[k] for k in kept) for name, v in values.items() if isinstance(v, tuple)})

    def finer(self, factor: int) -> Self:
        """Return the same scan with ``factor`` times as many pixels and bins along every axis."""
        names = {field.name for field in fields(self)}
        counts = {name: factor * getattr(self, name) for name in names & {"rows", "bins"}}
        spacings = {name: getattr(self, name) / factor for name in names if name.endswith("_spacing")}
        return replace(self, size=tuple(factor * n for n in self.size), **counts, **spacings)


G = TypeVar("G", bound=ScanGeometry)  #: of slices or of volumes


@dataclass(frozen=True)
class Geometry(ScanGeometry):
    r"""A scan of one slice turns about an axis, on which its image and its detector need not be centred; lengths share one unit.

    The image lies in the plane with row 0 at the top, y pointing up and the axis in the origin. At angle :math:`\theta` the
    detector's axis is :math:`e = (\cos\theta, \sin\theta)` and the central ray runs along :math:`d = (-\sin\theta, \cos\theta)`.
    A parallel ray is :math:`x \cdot e = u`. In a fan the source is at :math:`-D_s d` and the bin u at :math:`D_d d + u e`. On a
    flat detector it is seen under :math:`\gamma = \arctan(u / (D_s + D_d))`, on one that is curved around the source under
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
        bin_offset: place u of the detector's middle, by which it is shifted along e; one number, or one a view.
        centre: where the axis runs through the image: its ``middle``, the ``pixel`` in row H // 2 and column W // 2, as
            scikit-image has it, or any row and column, counted from 0 at the centres of pixels.

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
    bin_offset: Offset = 0.0
    centre: Centre = "middle"

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise InputError(f"size is {list(self.size)}; wanted at least 1")
        require_above(0, bins=self.bins)
        require_lengths(pixel_spacing=self.pixel_spacing, bin_spacing=self.bin_spacing)
        if not self.angles:
            raise InputError("the scan has 0 angles; wanted at least 1")
        if not np.isfinite(self.angles).all():
            raise InputError("the scan has angles that are not finite; wanted radians")
        if np.shape(self.bin_offset) not in ((), (len(self.angles),)):
            raise InputError(f"bin_offset has {np.size(self.bin_offset)} numbers; wanted one, or {len(self.angles)}, one a view")
        if not np.isfinite(self.bin_offset).all():
            raise InputError(f"bin_offset is {self.bin_offset!r:.40}; wanted a finite length")
        if isinstance(self.centre, str) and self.centre not in ("middle", "pixel"):
            raise InputError(f"centre is {self.centre!r}; wanted middle or pixel, or a row and a column")
        if (self.source_distance is None) != (self.detector_distance is None):
            raise InputError(
                f"source_distance is {self.source_distance} and detector_distance {self.detector_distance}; "
                "wanted both for a fan, neither for parallel rays"
            )
        if self.source_distance is not None and not self.source_distance > self.radius:
            what = "half the image's diagonal" if self.centre == "middle" else "from the axis to the image's farthest corner"
            raise InputError(f"source_distance is {self.source_distance:g}; wanted above {self.radius:g}, {what}")
        if self.source_distance is not None and self.detector_distance is not None:
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
    def axis_pixel(self) -> tuple[float, float]:
        """Return row and column of the axis in the image, counted from 0 at the centres of pixels."""
        height, width = self.size
        if isinstance(self.centre, str):
            return (height // 2, width // 2) if self.centre == "pixel" else ((height - 1) / 2, (width - 1) / 2)
        return self.centre

    @property
    def middle(self) -> tuple[float, float]:
        """Return x and y of the image's middle, from the axis."""
        (height, width), (row, column) = self.size, self.axis_pixel
        return ((width - 1) / 2 - column) * self.pixel_spacing, (row - (height - 1) / 2) * self.pixel_spacing

    def lines(self) -> tuple[Array, Array]:
        """Return :meth:`rays` with offsets from the image's middle in place of the axis."""
        (theta, s), (x, y) = self.rays(), self.middle
        return theta, s - x * np.cos(theta) - y * np.sin(theta)

    def finer(self, factor: int) -> Self:
        """Return the same scan with ``factor`` times as many pixels and bins along every axis."""
        finer = super().finer(factor)
        if self.centre == "middle":
            return finer
        row, column = (factor * (place + 0.5) - 0.5 for place in self.axis_pixel)
        return replace(finer, centre=(row, column))

    @property
    def radius(self) -> float:
        """Return the distance from the axis to the image's farthest corner; half of the diagonal where it is in the middle."""
        away = (abs(place) + n * self.pixel_spacing / 2 for place, n in zip(self.middle, self.size[::-1], strict=True))
        return math.hypot(*away)

    def _seen(self, u: Array) -> Array:
        """Return the angle to the central ray under which places on the detector are seen; 0 for parallel rays."""
        if not self.fan:
            return np.zeros_like(u)
        return u / self.reach if self.curved else np.arctan(u / self.reach)

    @property
    def gamma(self) -> Array:
        """Return the angle of each bin's ray to the central one, of the shape of :attr:`detector`."""
        return self._seen(self.detector)

    @property
    def fan_angle(self) -> float:
        """Return the largest angle of a ray to the central one, at the detector's outer edge."""
        return float(self._seen(self.bins * self.bin_spacing / 2 + np.abs(self.bin_offset).max()))
