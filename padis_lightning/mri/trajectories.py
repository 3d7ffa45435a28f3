"""Trajectories of MRI: points of k-space in the order of their measurement, in cycles per pixel along height and width."""

from __future__ import annotations

import math

import numpy as np

from padis_lightning.errors import require_above, require_at_least

GOLDEN = math.pi * (math.sqrt(5) - 1) / 2  # 111.25 degrees


def radial(side: int, spokes: int, golden: bool = True, oversampling: float = 2.0) -> np.ndarray:
    """Return the points of spokes through the middle of k-space, ``(spokes * samples, 2)``.

    Source: Winkelmann, Schaeffter, Koehler, Eggers and Doessel, An optimal radial profile order based on the golden ratio for
    time-resolved MRI, IEEE TMI 2007, for the golden angle.

    Args:
        side: of the image, pixels; the largest where they differ.
        spokes: number of them.
        golden: each is 111.25 degrees on from the one before; otherwise they divide half a turn evenly.
        oversampling: samples of a spoke for one pixel of the side.
    """
    require_at_least(1, side=side, spokes=spokes, oversampling=oversampling)
    angles = np.arange(spokes) * (GOLDEN if golden else math.pi / spokes)
    count = round(oversampling * side)
    along = (np.arange(count) - count // 2) / count
    return np.stack([np.outer(np.sin(angles), along).ravel(), np.outer(np.cos(angles), along).ravel()], 1)


def spiral(side: int, interleaves: int, turns: float, oversampling: float = 2.0) -> np.ndarray:
    r"""Return the points of Archimedean spirals from the middle of k-space to 1/2, ``(interleaves * samples, 2)``.

    Interleaves are turned against each other evenly. They run at one speed: samples lie at even steps along them. In a direction
    the spirals meet k-space ``interleaves * turns`` times; half the side is enough for all of the image.

    Source: Ahn, Kim and Cho, High-speed spiral-scan echo planar NMR imaging, IEEE TMI 1986, for spirals.

    Args:
        side: of the image, pixels; the largest where they differ.
        interleaves: number of spirals.
        turns: of each of them.
        oversampling: samples along a spiral for one point of the grid.
    """
    require_at_least(1, side=side, interleaves=interleaves, oversampling=oversampling)
    require_above(0, turns=turns)
    angles = np.linspace(0, 2 * math.pi * turns, math.ceil(1000 * turns) + 1)
    lengths = (angles * np.sqrt(1 + angles**2) + np.arcsinh(angles)) / (8 * math.pi * turns)  # the radius is angle / (4 pi turns)
    count = math.ceil(oversampling * side * lengths[-1])
    found = np.interp(np.arange(count) / count * lengths[-1], lengths, angles)
    turned = found + 2 * math.pi / interleaves * np.arange(interleaves)[:, None]
    radius = np.broadcast_to(found / (4 * math.pi * turns), turned.shape)
    return np.stack([(radius * np.sin(turned)).ravel(), (radius * np.cos(turned)).ravel()], 1)
