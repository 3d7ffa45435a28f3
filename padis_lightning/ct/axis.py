"""The axis of rotation is found from the data: centres of mass, opposite rays, or what a coarse reconstruction leaves over."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
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
COARSE = 128  # bins at first, where rays are compared with the opposite ones
MOST_ROWS = 90  # views that are compared
LEAST_SHARED = 0.1  # of the bins, whose rays are measured from the other end as well
SMOOTH = 1.5, 0.01  # least deviation, bins, and share of all; interpolation between bins shall not decide
CLEARLY = 1.5  # times more is left over about other axes
GAP, LONGEST = 3.0, 0.3  # between neighbouring views: usual steps, and radians
NOTHING = 1e-4  # of the variance, that is in bins which see nothing of the object
ALONG = 2.5  # times less than all that is left over is what looks as a shift does
OTHER_WAY = 0.4  # of what is left over, that is left over with all angles negated where the object turns the other way
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
    ways = [by_moments] if whole and not geometry.fan else []
    ways += [by_residual] if whole else [by_opposite_rays]
    found: list[Axis] = []
    for way in ways:
        found.append(way(seen, geometry))
        if found[-1].sure:
            break
    return min(found, key=lambda axis: axis.deviation)


def other_way(y: NDArray[Any], geometry: Geometry) -> float:
    """Return what a coarse reconstruction of fans ``(n, views, bins)`` leaves over with all angles negated: a share of the other.

    It is far below 1 where the object turned the other way than the angles say. Parallel rays do not tell: it is 1 for them.
    """
    if not geometry.fan:
        return 1.0
    views, bins, _ = LEVELS[-1]
    few, scan = _coarser(np.asarray(y, np.float64).mean(0), geometry, views, bins)
    offset = float(np.mean(scan.bin_offset) + np.mean(geometry.bin_offset))
    scan, back = replace(scan, bin_offset=offset), tuple(-np.asarray(scan.angles))
    others = (replace(scan, angles=back, bin_offset=k * offset) for k in (1, -1))
    return min(_residual(few, other) for other in others) / max(_residual(few, scan), np.finfo(float).tiny)


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


def by_opposite_rays(y: Array, geometry: Geometry) -> Axis:
    r"""Find the axis, ``(views, bins)``, about which rays agree best with the opposite ones, from coarse to fine.

    .. math:: y(\theta, s) = y(\theta + \pi, -s)

    The object may be wider than the detector, which may reach over the axis on one side only.
    """
    centre, deviation = 0.0, math.inf
    span = (1 - LEAST_SHARED) / 2 * geometry.bins * geometry.bin_spacing
    for bins in (COARSE, geometry.bins):
        few, scan = _coarser(y, geometry, len(y), bins)
        few, angles = _beyond_ends(gaussian_filter1d(few, max(SMOOTH[0], SMOOTH[1] * scan.bins), axis=1), np.asarray(scan.angles))
        start, step = float(np.mean(scan.bin_offset)), scan.bin_spacing / 2
        tried = np.arange(centre - span, centre + span, step)
        left = np.array([_disagreement(few, angles, replace(scan, bin_offset=start + offset)) for offset in tried])
        best = int(left.argmin())
        before, least, after = left[[best - 1, best, (best + 1) % len(left)]]
        others = left[np.abs(tried - tried[best]) > 8 * step]
        inside = 0 < best < len(left) - 1 and before + after > 2 * least
        if not inside or (len(others) and others.min() < CLEARLY * least):
            return Axis(0.0, math.inf, "opposite rays")
        bend = before - 2 * least + after
        centre = float(tried[best] + np.clip((before - after) / (2 * bend), -1, 1) * step)
        deviation = step * math.sqrt(2 * least / bend) / ALONG / geometry.bin_spacing
        span = 3 * step
    return Axis(centre, deviation, "opposite rays")


def _beyond_ends(y: Array, angles: Array) -> tuple[Array, Array]:
    """Return views in the order of their angles in a turn, with one more at either end of a gap, on the line through two."""
    order = np.argsort(angles % (2 * math.pi), kind="stable")
    y, angles = y[order], angles[order] % (2 * math.pi)
    gaps = (np.roll(angles, -1) - angles) % (2 * math.pi)
    step = float(np.median(gaps))
    ends = np.flatnonzero(gaps > min(GAP * step, LONGEST))
    starts = (ends + 1) % len(y)
    y = np.concatenate([y, 2 * y[ends] - y[ends - 1], 2 * y[starts] - y[(starts + 1) % len(y)]])
    angles = np.concatenate([angles, angles[ends] + step, angles[starts] - step]) % (2 * math.pi)
    order = np.argsort(angles, kind="stable")
    return y[order], angles[order]


def _disagreement(y: Array, angles: Array, geometry: Geometry) -> float:
    """Return the mean square of how rays differ from the opposite ones, between neighbouring views, as a share of the variance.

    It is 1 where nothing is seen from both ends, or all is the same.
    """
    opposite = 2 * float(geometry.axis_bin) - np.arange(geometry.bins)
    seen = (opposite >= 0) & (opposite <= geometry.bins - 1)
    low = np.minimum(opposite[seen].astype(int), geometry.bins - 2)
    part, gamma = opposite[seen] - low, geometry.gamma[seen]

    def between(rows: NDArray[np.intp], gamma: Array) -> tuple[NDArray[np.intp], Array, NDArray[np.bool_]]:
        turned = (angles[rows, None] + math.pi - 2 * gamma) % (2 * math.pi)
        after = np.searchsorted(angles, turned) % len(angles)
        gap = (angles[after] - angles[after - 1]) % (2 * math.pi)
        return after, (turned - angles[after - 1]) % (2 * math.pi) / np.maximum(gap, np.finfo(float).tiny), gap <= LONGEST

    rows = np.flatnonzero(between(np.arange(len(y)), gamma[[0, len(gamma) // 2, -1]])[2].any(1))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, MOST_ROWS).round().astype(int))] if len(rows) > MOST_ROWS else rows
    after, share, both = between(rows, gamma)
    earlier, later = (y[k, low] * (1 - part) + y[k, low + 1] * part for k in (after - 1, after))
    here = y[rows][:, seen]
    differ = (here - (1 - share) * earlier - share * later)[both]
    if not both.any() or here[both].var() <= NOTHING * y.var():
        return 1.0
    return float((differ**2).mean() / here[both].var())


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
    return Axis(float(centre), float(deviation / geometry.bin_spacing), "the residual")


def _coarser(y: Array, geometry: Geometry, views: int, bins: int) -> tuple[Array, Geometry]:
    """Return the means of neighbouring bins of some of the views, and their scan, on an image that leaves data to spare."""
    kept = np.unique(np.linspace(0, len(y) - 1, views).round().astype(int))
    factor = max(1, geometry.bins // bins)
    count = geometry.bins // factor
    few = y[kept, : count * factor].reshape(len(kept), count, factor).mean(2)
    width = geometry.bin_spacing * factor
    seen = geometry.bins * geometry.bin_spacing / geometry.magnification
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
