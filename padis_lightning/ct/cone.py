"""A cone-beam scan of a volume is described in physical units, whatever computes it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from padis_lightning.ct.geometry import Array, Geometry, Offset, ScanGeometry, require_lengths
from padis_lightning.errors import InputError, require_above


@dataclass(frozen=True)
class ConeGeometry(ScanGeometry):
    r"""A cone of rays scans a volume on a flat detector, along a circle or a helix; lengths share one unit.

    Slice k of the volume lies at :math:`z = (k - (D - 1) / 2) h_z`, as :class:`Geometry` has it: row 0 at the top, y pointing
    up, the axis of rotation through its middle. At angle :math:`\theta` and height :math:`z_0` the source is at
    :math:`-D_s d + z_0 e_z`, and the bin in row v and column u of the detector at :math:`D_d d + u e + (z_0 + v) e_z`, with
    :math:`e = (\cos\theta, \sin\theta, 0)` and :math:`d = (-\sin\theta, \cos\theta, 0)`. Rows are counted upwards.

    Source: Feldkamp, Davis and Kress, Practical cone-beam algorithm, JOSA A 1984; Kak and Slaney, 1988, section 3.6.

    Args:
        size: depth, height and width of the volume in voxels.
        angles: of the views, radians.
        heights: of the source over the middle of the volume, one a view; all zero for a circle.
        rows: of the detector, along the axis.
        bins: in a row of the detector.
        pixel_spacing: side of a voxel in its slice.
        slice_spacing: between slices.
        row_spacing: height of a bin.
        bin_spacing: width of a bin.
        source_distance: :math:`D_s`, from the source to the axis.
        detector_distance: :math:`D_d`, from the axis to the detector.
        row_offset: by which the detector is shifted along the axis.
        bin_offset: by which the detector is shifted along e; one number, or one a view.

    Raises:
        InputError: a length is not positive, there are no views or not as many heights, the source is inside the volume, or
            rays cross more than a slice from one pixel to the next.
    """

    FORMAT: ClassVar[str] = "padis_lightning cone geometry 1"

    size: tuple[int, int, int]
    angles: tuple[float, ...]
    heights: tuple[float, ...]
    rows: int
    bins: int
    pixel_spacing: float
    slice_spacing: float
    row_spacing: float
    bin_spacing: float
    source_distance: float
    detector_distance: float
    row_offset: float = 0.0
    bin_offset: Offset = 0.0

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise InputError(f"size is {list(self.size)}; wanted at least 1")
        fan = self.fan  # which refuses what it cannot be
        require_above(0, rows=self.rows)
        require_lengths(slice_spacing=self.slice_spacing, row_spacing=self.row_spacing)
        for name in ("source_distance", "row_offset"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"{name} is {getattr(self, name)}; wanted a finite length")
        if len(self.heights) != len(fan.angles):
            raise InputError(f"the scan has {len(self.heights)} heights; wanted {len(fan.angles)}, one for each of its angles")
        if not np.isfinite(self.heights).all():
            raise InputError("the scan has heights that are not finite; wanted lengths")
        steepest = np.abs(self.detector_rows).max() / self.reach * math.sqrt(2) * self.pixel_spacing / self.slice_spacing
        if steepest > 1:
            raise InputError(f"the outermost rays cross {steepest:.3g} slices from pixel to pixel; wanted at most 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the numbers of views, rows and bins."""
        return len(self.angles), self.rows, self.bins

    @property
    def fan(self) -> Geometry:
        """Return the fan-beam scan of the slice that the source is in, as if one row of the detector lay there."""
        shared = {field.name: getattr(self, field.name) for field in fields(Geometry) if hasattr(self, field.name)}
        return Geometry(**shared | {"size": self.size[1:]})

    @property
    def circular(self) -> bool:
        """Tell whether the source stays in one plane, that of the volume's middle."""
        return not any(self.heights)

    @property
    def detector_rows(self) -> Array:
        """Return the places v of the rows, ``(rows,)``."""
        return (np.arange(self.rows, dtype=float) - (self.rows - 1) / 2) * self.row_spacing + self.row_offset

    @property
    def gamma(self) -> Array:
        """Return the angle in the plane of each column's rays to the central ones, ``(bins,)`` or ``(views, bins)``."""
        return np.arctan(self.detector / self.reach)
