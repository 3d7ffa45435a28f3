"""Computed tomography measures a volume by cones of rays along a circle or a helix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from padis_lightning.ct import ConeGeometry
from padis_lightning.ct.fbp import Filter
from padis_lightning.operators.ct import SIDE, Pixels, Scan, sides_along, view_angles

Backend = Literal["auto", "joseph", "astra"]


class ConeScan(Scan):
    """A cone scan takes line integrals of a volume, ``(B, C, D, H, W)`` to ``(B, C, views, rows, bins)``.

    Its filtered back-projection is Feldkamp's, which circular scans have.

    Args:
        geometry: the scan.
        backend: what computes it; ``auto`` takes ASTRA for the largest scans, where it and an NVIDIA GPU are there.
        filter: window on the ramp of filtered back-projection.
        channels: volumes of several channels are scanned channel by channel.
        pixels: what those of a slice stand for, as in :class:`Scan`.
    """

    def __init__(
        self,
        geometry: ConeGeometry,
        backend: Backend = "auto",
        filter: Filter = "ram-lak",  # noqa: A002 - the word that users type
        channels: int = 1,
        pixels: Pixels | None = None,
    ) -> None:
        super().__init__(geometry, backend, filter, channels, pixels)  # type: ignore[arg-type]  # those of volumes


class ConeBeam(ConeScan):
    r"""A cone beam takes line integrals over rays from a point, volumes ``(B, C, D, H, W)`` to ``(B, C, views, rows, bins)``.

    By default a slice has a side of 40, source and detector are four and two sides from the axis as on a C-arm, a bin is the
    shadow of a voxel at the axis, and the detector is as large as the shadow of the volume. ``pitch`` makes the circle a helix
    whose middle is that of the volume.

    Source: Feldkamp, Davis and Kress, Practical cone-beam algorithm, JOSA A 1984.

    Args:
        size: voxels along a side of the volume, or depth, height and width.
        views: number of angles over ``arc``.
        angles: the angles themselves, radians, in place of ``views``.
        rows: of the detector, along the axis.
        bins: in a row of the detector.
        pixel_spacing: side of a voxel in its slice (default: 40 / larger side of a slice).
        slice_spacing: between slices (default: ``pixel_spacing``).
        row_spacing: height of a bin (default: the shadow of a slice at the axis).
        bin_spacing: width of a bin (default: the shadow of a pixel at the axis).
        source_distance: from the source to the axis (default: four times the larger side of a slice).
        detector_distance: from the axis to the detector (default: twice the larger side of a slice).
        row_offset: by which the detector is shifted along the axis.
        bin_offset: by which the detector is shifted across it.
        pitch: way of the source along the axis in a full turn.
        arc: what the views cover, radians; several turns for a helix.
        options: those of :class:`ConeScan` besides its geometry.
    """

    def __init__(
        self,
        size: int | tuple[int, int, int] = 64,
        views: int = 60,
        angles: Sequence[float] | None = None,
        rows: int | None = None,
        bins: int | None = None,
        pixel_spacing: float | None = None,
        slice_spacing: float | None = None,
        row_spacing: float | None = None,
        bin_spacing: float | None = None,
        source_distance: float | None = None,
        detector_distance: float | None = None,
        row_offset: float = 0.0,
        bin_offset: float = 0.0,
        pitch: float = 0.0,
        arc: float = 2 * math.pi,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        depth, *across = sides_along(size, ("a depth", "a height", "a width"))
        side = max(across)
        pixel = SIDE / side if pixel_spacing is None else pixel_spacing
        thick = pixel if slice_spacing is None else slice_spacing
        source = 4 * side * pixel if source_distance is None else source_distance
        behind = 2 * side * pixel if detector_distance is None else detector_distance
        larger = 1 + behind / source if source > 0 else 1
        height = larger * thick if row_spacing is None else row_spacing
        width = larger * pixel if bin_spacing is None else bin_spacing
        turns = np.asarray(view_angles(angles, views, arc))
        heights = pitch * (turns - (turns.min() + turns.max()) / 2) / (2 * math.pi)
        geometry = ConeGeometry(
            size=(depth, across[0], across[1]),
            angles=tuple(turns.tolist()),
            heights=tuple(heights.tolist()),
            rows=1 if rows is None else rows,
            bins=1 if bins is None else bins,
            pixel_spacing=pixel,
            slice_spacing=thick,
            row_spacing=height,
            bin_spacing=width,
            source_distance=source,
            detector_distance=behind,
            row_offset=row_offset,
            bin_offset=bin_offset,
        )
        radius, top = geometry.fan.radius, depth * thick / 2
        if rows is None:
            geometry = replace(geometry, rows=_shadow(top, source - radius, geometry.reach, height))
        if bins is None:
            geometry = replace(geometry, bins=_shadow(radius, math.sqrt(source**2 - radius**2), geometry.reach, width))
        super().__init__(geometry, **options)


def _shadow(half: float, distance: float, reach: float, spacing: float) -> int:
    """Count the bins in the shadow of what reaches ``half`` to either side, at that ``distance`` from the source."""
    return math.ceil(2 * half * reach / distance / spacing - 1e-9)
