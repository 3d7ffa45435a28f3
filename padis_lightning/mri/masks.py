"""Sampling masks of Cartesian MRI: which points of k-space are measured. All have a fully sampled centre and a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from padis_lightning.errors import InputError, require_at_least, require_between

Mask = np.ndarray

CENTRE = 0.32  # over the acceleration: the share of columns that is fully sampled, as fastMRI has it at 4 and 8
ELLIPSE = 0.4  # over the root of the acceleration: the share of each side in a Poisson disc
CLOSE = 0.01  # relative difference from the acceleration at which radii of Poisson discs are right
HALVINGS = 24


def middle(length: int, count: int) -> slice:
    """Return the ``count`` places around the middle of a side, ``length // 2``."""
    return slice(length // 2 - count // 2, length // 2 - count // 2 + count)


def _centre(length: int, acceleration: float, centre: float | None) -> int:
    """Return how many places of a side belong to the centre."""
    share = CENTRE / acceleration if centre is None else centre
    require_at_least(1, acceleration=acceleration)
    require_between(0, 1, centre=share)
    return round(share * length)


def _columns(shape: Sequence[int], acceleration: float, centre: float | None, seed: int, *, even: bool) -> Mask:
    height, width = shape
    inner, rng = _centre(width, acceleration, centre), np.random.default_rng(seed)
    outer = round(width / acceleration) - inner
    if outer < 0:
        raise InputError(f"the centre has {inner} of {width} columns; wanted at most {width / acceleration:.4g}, those sampled")
    columns = np.zeros(width, bool)
    columns[middle(width, inner)] = True
    free = np.flatnonzero(~columns)
    if even:
        columns[free[((np.arange(outer) + rng.random()) * len(free) / max(outer, 1)).astype(int)]] = True
    else:
        columns[rng.choice(free, outer, replace=False)] = True
    return np.repeat(columns[None], height, 0)


def equispaced(shape: Sequence[int], acceleration: float = 4.0, centre: float | None = None, seed: int = 0) -> Mask:
    """Return a mask ``(H, W)`` of columns: the central ones, and of the others some at even steps from a random first one.

    Source: Zbontar et al., fastMRI: an open dataset and benchmarks for accelerated MRI, 2018, section 5.

    Args:
        shape: height and width.
        acceleration: columns in all for one that is sampled; the central ones count.
        centre: share of the columns that are central (default: 0.32 over the acceleration).
        seed: masks of different seeds are different.
    """
    return _columns(shape, acceleration, centre, seed, even=True)


def random_columns(shape: Sequence[int], acceleration: float = 4.0, centre: float | None = None, seed: int = 0) -> Mask:
    """Return a mask ``(H, W)`` of columns: the central ones, and of the others some at random; see :func:`equispaced`."""
    return _columns(shape, acceleration, centre, seed, even=False)


def poisson_disc(shape: Sequence[int], acceleration: float = 4.0, centre: float | None = None, seed: int = 0) -> Mask:
    """Return a mask ``(H, W)`` of points whose distances grow with that from the centre, by :func:`throw`.

    The distance that points keep is at least 1 and rises evenly from the middle; how steeply is found by bisection. The
    fully sampled centre is an ellipse with ``centre`` of each side.

    Source: Lustig, Alley, Vasanawala, Donoho and Pauly, L1 SPIR-iT: autocalibrating parallel imaging compressed sensing, ISMRM
    2009, for such masks.

    Args:
        shape: height and width.
        acceleration: points in all for one that is sampled; the central ones count.
        centre: share of each side that is central (default: 0.4 over the root of the acceleration).
        seed: masks of different seeds are different.
    """
    height, width = shape
    require_at_least(1, acceleration=acceleration)
    share = ELLIPSE / np.sqrt(acceleration) if centre is None else centre
    require_between(0, 1, centre=share)
    y, x = ((np.arange(n) - n // 2) / (n / 2) for n in shape)
    away = np.hypot(y[:, None], x)
    inner, wanted = away <= share, height * width / acceleration
    if inner.sum() > wanted:
        raise InputError(f"the centre has {inner.sum()} of {height * width} points; wanted at most {wanted:.4g}, those sampled")
    low, high, best = 0.0, float(np.hypot(height, width)), np.ones(tuple(shape), bool)
    for _ in range(HALVINGS):
        slope = (low + high) / 2
        mask = throw(np.maximum(slope * away, 1.0), np.random.default_rng(seed)) | inner
        best = min(best, mask, key=lambda one: abs(one.sum() / wanted - 1))
        if abs(best.sum() / wanted - 1) < CLOSE:
            break
        low, high = (slope, high) if mask.sum() > wanted else (low, slope)
    return best


def throw(radius: np.ndarray, rng: np.random.Generator) -> Mask:
    """Return points of a grid, at random, as many as fit: none lies closer to one before it than the ``radius`` ``(H, W)`` there.

    Source: Cook, Stochastic sampling in computer graphics, ACM Transactions on Graphics 1986: darts that are thrown.
    """
    free, taken = np.ones(radius.shape, bool), np.zeros(radius.shape, bool)
    flat, width = free.ravel(), radius.shape[1]
    for place in rng.permutation(radius.size).tolist():
        if not flat[place]:
            continue
        row, column = divmod(place, width)
        reach = float(radius[row, column])
        top, left, far = max(0, row - int(reach)), max(0, column - int(reach)), int(reach) + 1
        rows, columns = (np.arange(a, min(n, b + far)) for a, n, b in zip((top, left), radius.shape, (row, column), strict=True))
        near = (rows[:, None] - row) ** 2 + (columns - column) ** 2 < reach**2
        free[top : row + far, left : column + far] &= ~near
        taken[row, column] = True
    return taken
