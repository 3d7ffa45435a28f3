"""What a real detector adds to a scan: bins that count nothing or too much, beams that drift, stripes.

Everything works on one sinogram ``(views, bins)`` of line integrals or counts, and says what it did in ``notes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

Array = NDArray[np.floating]

ONE_COUNT = 50.0  # flats above this, and whole numbers, are taken as counts of photons, of which the least is one
LEAST = 1e-4  # least transmission where counts are not those of photons
OUTLIER = 10.0  # robust deviations from its neighbours at which a bin is bad
FEWEST_VIEWS, DOUBTFUL_VIEWS = 8, 4  # from which on bad bins can be told from what the object does, and are worth a line
GROSS = 0.05  # ... and share of a large line integral
AIR = 0.02  # share of the bins at either end that see air where the whole object is seen
FRINGE = 0.5  # of which phase contrast may make a line integral too small
FEW_HITS = 0.01  # share of the bins, up to which they can be hits
FAINT = 0.03  # share of the largest line integral below which a bin sees air


class LineIntegrals(NamedTuple):
    """Holds line integrals, how far each of them counts (relative to the mean; 0 for not at all), and what was done to them."""

    y: Array
    weights: Array
    notes: Sequence[str] = ()


def from_counts(counts: NDArray[np.number], flat: NDArray[np.number], dark: NDArray[np.number]) -> LineIntegrals:
    r"""Take the logarithm of counts ``(n, views, bins)``.

    .. math:: y = -\ln \frac{c - d}{f - d}, \quad \mathrm{var}(y) \propto \frac{1}{c - d}

    Counts that are not above the dark field become the least count; bins without a beam or with a saturated count do not count.

    Source: Sauer and Bouman, A local update strategy for iterative reconstruction from projections, IEEE TSP 1993, for the
    weights.
    """
    notes = []
    through, sent = counts - dark, np.broadcast_to(flat - dark, counts.shape)
    unlit = sent <= 0
    photons = float(np.median(sent)) > ONE_COUNT or not (counts % 1).any()
    least = np.where(unlit, 1.0, 1.0 if photons else LEAST * sent)
    low = (through < least) & ~unlit
    if low.any():
        worth = "1 count" if photons else f"{LEAST:g} of the flat"
        notes.append(f"{int(low.sum())} of {low.size} bins have no count above the dark field and are taken as {worth}")
    full = np.zeros(counts.shape, bool)
    if counts.dtype.kind == "u":
        full = np.asarray(counts == np.iinfo(counts.dtype.name).max)
    for which, why in ((unlit, "see no beam"), (full, "are saturated")):
        if which.any():
            notes.append(f"{int(which.sum())} of {which.size} bins {why} and do not count")
    lit = np.where(unlit, 1.0, sent)
    y = -np.log(np.where(unlit, 1.0, np.maximum(through, least)) / lit)
    weights = np.where(unlit | full, 0.0, np.maximum(through, least))
    return LineIntegrals(y, weights / max(float(weights.mean()), np.finfo(float).tiny), notes)


def bad_bins(y: Array) -> NDArray[np.bool_]:
    """Find bins of ``(views, bins)`` that are dead or hot: ``(bins,)``.

    A bin is bad that departs from its neighbours to one side in most views, by far more than other bins do, or that is the same
    in all views while both neighbours are not. Of fewer than :data:`FEWEST_VIEWS` views the object may do so, too, of fewer than
    :data:`DOUBTFUL_VIEWS` nothing can be told.
    """
    if len(y) < DOUBTFUL_VIEWS:
        return np.zeros(y.shape[1], bool)
    departure = y - median_filter(y, (1, 5), mode="nearest")
    away = np.median(departure, 0)
    usual = 1.4826 * float(np.median(np.abs(away)))
    large = float(np.quantile(np.abs(y), 0.95))
    limit = max(OUTLIER * usual, GROSS * large)
    gross = (np.abs(away) > limit) & (np.quantile(np.sign(away) * departure, 0.25, axis=0) > limit / 2)
    moves = y.std(0) > 1e-6 * max(large, np.finfo(float).tiny)
    beside = np.pad(moves, 1)
    return gross | (~moves & beside[:-2] & beside[2:])


def fill(y: Array, valid: NDArray[np.bool_]) -> Array:
    """Put the line between the nearest valid bins of its view in place of each bin of ``(views, bins)`` that is not valid."""
    filled, places = y.copy(), np.arange(y.shape[1])
    for view in np.flatnonzero(~valid.all(1) & valid.any(1)):
        good = valid[view]
        filled[view, ~good] = np.interp(places[~good], places[good], y[view, good])
    return filled


def sees_air(y: Array) -> tuple[bool, bool]:
    """Tell whether the bins at the left and at the right end of ``(views, bins)`` see nothing but air."""
    limit = FAINT * float(np.quantile(y, 0.999))
    left, right = (abs(float(np.median(part))) < limit for part in _ends(y))
    return left, right


def _ends(y: Array) -> Array:
    """Return the bins at the left and at the right end of ``(views, bins)``: ``(2, views, count)``."""
    count = max(2, round(AIR * y.shape[1]))
    return np.stack([y[:, :count], y[:, -count:]])


def drift(y: Array) -> Array:
    """Return what the beam drifted by in each view, ``(views, 1)``: what both ends of the detector have in common.

    It is 0 where they do not agree, or no more than their noise is seen.
    """
    ends = _ends(y)
    left, right = levels = np.median(ends, 2)
    noise = 1.25 * 1.4826 * np.median(np.abs(ends - levels[..., None])) / np.sqrt(ends.shape[2])
    common = np.where(left * right > 0, np.sign(left) * np.minimum(np.abs(left), np.abs(right)), 0.0)
    return np.where(np.abs(common).max() > 5 * noise, common, 0.0)[:, None]


def is_drift(y: Array, level: Array) -> bool:
    """Tell whether ``level`` ``(views, 1)``, what both ends of the detector have in common, is the beam's and not an object's.

    It is where it is faint or bright, or where the mass of the views is more alike without it. An object that reaches over both
    ends in some views makes it less alike.

    Source: Helgason, The Radon transform, 1999, section I.2, for the mass.
    """
    rest = y - level
    if not level.any() or not all(sees_air(rest)):
        return False
    limit = FAINT * float(np.quantile(rest, 0.999))
    before, after = (float(part.mean(1).std()) for part in (y, rest))
    small = np.median(level) < limit and after <= before + limit / 3
    return bool(small or (after < before / 2 and np.quantile(level, 0.05) < limit))


def about_ends(y: Array, level: Array) -> str:
    """Return words about ends of the detector that see no air, nothing where both do; ``level`` is what they have in common."""
    low, high = np.quantile(y, (0.01, 0.99))
    if high - low > abs(high) / 4 and min(np.median(part) for part in _ends(y)) > high - (high - low) / 3:
        wanted = "of light that passes, its negative logarithm is wanted, or counts"
        return f"values are highest at the ends of the detector; {wanted}"
    air = sees_air(y)
    if all(air) and not level.any():
        return ""
    if not all(air) and any(air):
        end, right = "right" if air[0] else "left", "which is right for a shifted detector whose views go all round"
        return f"the object seems to be wider than the detector at its {end} end, {right}"
    when = " in some views" if all(air) else ""
    return f"the object seems to be wider than the detector{when}; values near its border cannot be trusted"


def too_bright(y: Array) -> NDArray[np.bool_]:
    """Find single bins of ``(views, bins)`` that have far more light than the beam, by hits of the detector; few, or none."""
    departure = y - median_filter(y, (1, 5), mode="nearest")
    usual = 1.4826 * float(np.median(np.abs(departure)))
    limit = max(OUTLIER * usual, GROSS * float(np.quantile(np.abs(y), 0.95)), FRINGE)
    hit = (y < -limit) & (departure < -limit)
    return hit & (hit.mean() < FEW_HITS)


def without_stripes(y: Array, width: int | None = None) -> Array:
    """Remove what makes rings: bins of ``(views, bins)`` whose gain is wrong in all views.

    The values of each bin are sorted, a median over neighbouring bins replaces them, and they are put back in their order.

    Source: Vo, Atwood and Drakopoulos, Superior techniques for eliminating ring artifacts in X-ray micro-tomography, Optics
    Express 2018, algorithm 3.

    Args:
        y: ``(views, bins)``.
        width: bins of the median (default: a hundredth of all, at least 5).
    """
    width = max(5, y.shape[1] // 100 | 1) if width is None else width
    order = np.argsort(y, 0, kind="stable")
    ordered = median_filter(np.take_along_axis(y, order, 0), (1, width), mode="nearest")
    out = np.empty_like(y)
    np.put_along_axis(out, order, ordered, 0)
    return out


def corrected(integrals: LineIntegrals, stripes: bool = False) -> LineIntegrals:
    """Correct one sinogram ``(views, bins)``: leave bad bins out, take drift off, and stripes where ``stripes`` is true."""
    y, weights, notes = integrals.y, integrals.weights.copy(), [*integrals.notes]
    valid = weights > 0
    y = fill(y, valid)
    bad = bad_bins(y) & valid.any(0)
    places = np.flatnonzero(bad)
    if bad.any() and len(y) < FEWEST_VIEWS:
        doubt = f"bins look dead or hot and count, as {len(y)} views do not tell (from {FEWEST_VIEWS} on they do)"
        notes.append(f"{len(places)} of {y.shape[1]} {doubt}: {_few(places)}")
    elif bad.any():
        notes.append(f"{len(places)} of {y.shape[1]} bins are dead or hot and do not count: {_few(places)}")
        weights[:, bad] = 0
        y = fill(y, weights > 0)
    level = drift(y)
    if is_drift(y, level):
        y = y - level
        words = f"the beam drifts from its flat field by up to {float(np.abs(level).max()):.3g}, seen at the ends of the detector"
        notes.append(f"{words}; taken off")
    elif words := about_ends(y, level):
        notes.append(words)
    hit = too_bright(y)
    if hit.any():
        notes.append(f"{int(hit.sum())} of {y.size} bins have far more light than the beam and do not count")
        weights[hit] = 0
        y = fill(y, weights > 0)
    if stripes:
        y = without_stripes(y)
    return LineIntegrals(y, weights, notes)


def _few(places: NDArray[np.integer], most: int = 5) -> str:
    return ", ".join(map(str, places[:most])) + (" ..." if len(places) > most else "")
