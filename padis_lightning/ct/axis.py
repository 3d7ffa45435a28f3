"""The axis of rotation is found from the data: from centres of mass, else by what a coarse reconstruction leaves over."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d

from padis_lightning.ct.fbp import view_shares
from padis_lightning.ct.geometry import Array, Geometry
from padis_lightning.ct.sparse import joseph_matrix

SURE = 0.4  # bins of standard deviation up to which an axis counts as found
AIR = 0.05  # of the largest value, that the outermost bins may have where the object is seen whole
EDGE = 0.02  # of the bins on either side that see air
RANGE = 0.25  # of the detector, to either side; where most lines are seen once, any axis explains the data
LEVELS = ((30, 32, 17), (40, 64, 7), (60, 128, 7))  # views, bins and offsets that are tried, from coarse to fine
LEAST_ARC = 0.95 * math.pi  # of views; with less, another image about another axis explains the data as well
STEPS = 12  # of conjugate gradients, of each reconstruction


class Axis(NamedTuple):
    """An axis has been looked for.

    Attributes:
        offset: of the detector's middle from it, a length as ``bin_offset``.
        deviation: how far it may be off, bins; infinite where nothing says so.
        method: what found it.
    """

    offset: float
    deviation: float
    method: str

    @property
    def sure(self) -> bool:
        """Tell whether it can be relied on."""
        return self.deviation <= SURE


def find_axis(y: Array, geometry: Geometry) -> Axis:
    """Find the axis of measured scans, ``(n, views, bins)``, which share it; the geometry's own offset is not looked at.

    The sum of several scans is a scan of the sum of their images, so that one search serves all.
    """
    mean, edge = np.asarray(y, np.float64).mean(0), max(2, round(EDGE * geometry.bins))
    air = [float(np.median(mean[:, side].mean(1))) for side in (slice(edge), slice(-edge, None))]
    whole = np.abs(air).max() <= AIR * mean.max()
    seen = mean - np.mean(air) if whole else mean
    geometry = replace(geometry, bin_offset=0.0)
    found = by_moments(seen, geometry) if whole and not geometry.fan else None
    if found and found.sure:
        return found
    searched = by_residual(seen, geometry)
    return found if found and found.deviation < searched.deviation else searched


def by_moments(y: Array, geometry: Geometry) -> Axis:
    r"""Find the axis of parallel rays, ``(views, bins)``, from the centres of mass of the projections.

    .. math:: c(\theta) = a + x \cos\theta + y \sin\theta

    with (x, y) the object's centre of mass from the axis, which is seen at a. Views that do not fit, or in which more or less
    than the usual mass is seen, weigh less.

    Source: Helgason, The Radon transform, 1999, section I.2; Ludwig, 1966.
    """
    angles = np.asarray(geometry.angles)
    smooth = gaussian_filter1d(y, EDGE * geometry.bins, axis=1)
    inside = maximum_filter1d(smooth, round(4 * EDGE * geometry.bins) + 1, axis=1) > AIR * smooth.max()
    outside = (~inside).sum(1)
    air = np.where(inside, 0, y).sum(1) / np.maximum(outside, EDGE * geometry.bins)  # of each view, where enough of it is seen
    y = np.where(inside, y - air[:, None], 0)
    mass = y.sum(1)
    if len(angles) < 4 or np.median(mass) <= 0 or mass.min() <= 0:
        return Axis(0.0, math.inf, "centres of mass")
    centres = y @ np.arange(geometry.bins) / mass
    design = np.stack([np.ones_like(angles), np.cos(angles), np.sin(angles)], 1)
    weights = np.ones_like(angles)
    for _ in range(20):
        normal = design.T @ (weights[:, None] * design)
        fitted = np.linalg.lstsq(normal, design.T @ (weights * centres), rcond=None)[0]
        away = centres - design @ fitted
        spread = 1.4826 * np.median(np.abs(away)) + 1e-6
        weights = 1 / np.maximum(1, np.abs(away) / (2 * spread))
    variance = (weights * away**2).sum() / max(1, len(angles) - 3)
    deviation = math.sqrt(variance * np.linalg.pinv(normal)[0, 0])
    if np.linalg.cond(normal) > 1e6:
        deviation = math.inf
    offset = ((geometry.bins - 1) / 2 - fitted[0]) * geometry.bin_spacing
    return Axis(float(offset), float(deviation), "centres of mass")


def by_residual(y: Array, geometry: Geometry) -> Axis:
    """Find the axis, ``(views, bins)``, about which a coarse reconstruction leaves least over, from coarse to fine."""
    shares, _ = view_shares(np.asarray(geometry.angles), 2 * math.pi)
    if shares.sum() < LEAST_ARC:
        return Axis(0.0, math.inf, "the residual")
    span, centre, deviation = RANGE * geometry.bins * geometry.bin_spacing, 0.0, math.inf
    for views, bins, count in LEVELS:
        few, scan = _coarser(y, geometry, views, bins)
        tried = centre + np.linspace(-span, span, count)
        left = np.array([_residual(few, replace(scan, bin_offset=scan.bin_offset + offset)) for offset in tried])
        best, step = int(np.clip(left.argmin(), 1, count - 2)), tried[1] - tried[0]
        bend = left[best - 1] - 2 * left[best] + left[best + 1]
        inside = 0 < left.argmin() < count - 1 and bend > 0
        if not inside:
            return Axis(0.0, math.inf, "the residual")
        centre = tried[best] + float(np.clip((left[best - 1] - left[best + 1]) / (2 * bend), -1, 1)) * step
        deviation = step * math.sqrt(2 * left[best] / few.size / bend)
        span = 1.5 * step
    return Axis(centre, deviation / geometry.bin_spacing, "the residual")


def _coarser(y: Array, geometry: Geometry, views: int, bins: int) -> tuple[Array, Geometry]:
    """Return the means of neighbouring bins of some of the views, and their scan, on an image that leaves data to spare."""
    kept = np.unique(np.linspace(0, len(y) - 1, views).round().astype(int))
    factor = max(1, geometry.bins // bins)
    count = geometry.bins // factor
    few = y[kept, : count * factor].reshape(len(kept), count, factor).mean(2)
    width = geometry.bin_spacing * factor
    seen = geometry.bins * geometry.bin_spacing * (geometry.source_distance / geometry.reach if geometry.source_distance else 1)
    side = max(4, int(min(1.1 * count, math.sqrt(0.6 * few.size))))
    spacing = min(seen, 1.4 * geometry.source_distance if geometry.source_distance else seen) / side
    return few.astype(np.float32), replace(
        geometry.views(kept.tolist()),
        size=(side, side),
        centre="middle",
        pixel_spacing=spacing,
        bins=count,
        bin_spacing=width,
        bin_offset=(count * factor - geometry.bins) / 2 * geometry.bin_spacing,
    )


def _residual(y: Array, geometry: Geometry) -> float:
    """Return the sum of squares that some steps of conjugate gradients leave over, with an image that is 0 outside a disc."""
    matrix = joseph_matrix(geometry, np.float32)
    across = np.arange(geometry.size[0]) - (geometry.size[0] - 1) / 2
    disc = (np.hypot(across[:, None], across) < geometry.size[0] / 2).ravel()
    left = y.ravel()
    slope = (matrix.T @ left) * disc
    direction, norm = slope, slope @ slope
    for _ in range(STEPS):
        if not norm > 0:
            break
        change = matrix @ direction
        left = left - norm / (change @ change) * change
        slope = (matrix.T @ left) * disc
        direction, norm = slope + slope @ slope / norm * direction, slope @ slope
    return float(left @ left)
