"""Drawing a slice of anatomy: regions as signed distances, soft edges, band-limited textures and contours.

Everything is in units of the plane [-1, 1]^2, so that a drawing does not depend on the number of pixels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Harmonics = NDArray[np.complex64]
Point = tuple[float, float]
Region = tuple[tuple[slice, slice], Array]  # a window and the signed distance in it, negative inside

HU_RANGE = (-1000.0, 1000.0)
AIR, FAT, MUSCLE = -980.0, -100.0, 50.0
WHOLE = (slice(None), slice(None))


def generator(*key: int) -> np.random.Generator:
    """Return the private random stream of a key: seed and index of a phantom, and what of it is drawn."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


@lru_cache(maxsize=64)
def spline_weights(size: int, cells: int) -> Array:
    """Return cubic B-spline weights of a lattice of `cells` cells at the pixel centres, (size, cells + 3)."""
    centres = (np.arange(size) + 0.5) * cells / size
    away = np.abs(centres[:, None] - np.arange(-1, cells + 2))
    weights = np.where(away < 1, 2 / 3 - away**2 * (1 - away / 2), np.clip(2 - away, 0, None) ** 3 / 6)
    return weights.astype(np.float32)


def texture(rng: np.random.Generator, size: int | tuple[int, int], cells: int) -> Array:
    """Return a smooth random field of unit deviation whose grain is one lattice cell, (size, size) or of that shape."""
    rows, columns = (size, size) if isinstance(size, int) else size
    nodes = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    # A cubic B-spline keeps 151/315 of the deviation of white coefficients over its two axes.
    return (spline_weights(rows, cells) @ nodes @ spline_weights(columns, cells).T) * np.float32(315 / 151)


def smooth_phase(rng: np.random.Generator, across: Array, down: Array) -> Array:
    """Draw a phase in radians that rises, bends and is anything in the middle, over coordinates in [-1, 1], (H, W) each."""
    rows, columns = across.shape
    phase = rng.uniform(-np.pi, np.pi) + rng.uniform(0, 1.2) * texture(rng, (rows, columns), 3)
    return phase + rng.normal(0, 0.8) * across + rng.normal(0, 0.8) * down


def harmonics(rng: np.random.Generator, amplitude: float, square: float = 0.0) -> Harmonics:
    """Draw radius harmonics 1 to 6 of a contour, falling with order; `square` fills out the diagonals, (6,)."""
    value = amplitude * (rng.standard_normal(6) + 1j * rng.standard_normal(6)) / np.arange(1.5, 7)
    value[3] -= square
    return value.astype(np.complex64)


def contour(direction: NDArray[np.complexfloating], shape: Harmonics) -> Array:
    """Return the radius of a contour in the given unit directions, by Horner's rule, shaped like `direction`."""
    total = direction * shape[-1]
    for value in shape[-2::-1]:
        total = (total + value) * direction
    return 1.0 + total.real


def bump(distance: Array, width: float) -> Array:
    """Return a bell of height one over a line at distance zero."""
    return np.exp(-((distance / np.float32(width)) ** 2))


class Slice:
    """Holds one slice in the making: the patient's frame, the pixel grid, shared textures and the image so far."""

    def __init__(self, size: int, rng: np.random.Generator, level: float | None = None) -> None:
        self.level = float(rng.random()) if level is None else level
        self.rng, self.size, self.px = rng, size, 2.0 / size
        self.contrast = float(rng.uniform(0, 25) if rng.random() < 0.45 else rng.uniform(40, 200))
        self.fat = min(float(rng.gamma(3.0, 0.016)) + 0.018, 0.15)
        low = self.rise(0.0, 0.4)
        self.a = float(rng.uniform(0.79, 0.88)) + 0.05 * (1 - low)
        self.b = self.a * float(rng.uniform(0.67, 0.83)) * (0.8 + 0.2 * low)
        self.at = (float(rng.normal(0, 0.025)), float(rng.normal(0.04, 0.03)))
        self.centre = (self.at[0], self.at[1] - 0.055)
        wide = 0.56 + 0.32 * self.rise(0.0, 0.4) + float(rng.normal(0, 0.012))
        self.cage = (self.a * wide - 0.9 * self.fat, self.b * 0.81 - 0.7 * self.fat)
        self.cage_shape = harmonics(rng, 0.012, square=0.015)
        axis = ((np.arange(size) + 0.5) * self.px - 1.0).astype(np.float32)
        self.x, self.y = axis[None, :], axis[:, None]
        fields = [texture(rng, size, cells) for cells in (84, 40, 26, 14, 4)]
        self.fine, middle, self.streak, self.coarse, self.bias = fields
        self.soft: Array = 0.45 * self.fine + 0.7 * middle + 0.55 * self.coarse
        self.grain: Array = 0.7 * self.fine + 0.7 * middle
        self.image: Array = np.full((size, size), -1000.0, np.float32)
        self.bound: Array = np.full((size, size), -9.0, np.float32)  # distance that no paint may cross

    def rise(self, start: float, end: float) -> float:
        """Return how far the level has gone from start to end, within [0, 1]."""
        return min(max((self.level - start) / (end - start), 0.0), 1.0)

    def place(self, p: float, q: float) -> Point:
        """Return the point at cage coordinates (p, q), each in [-1, 1] within the rib cage."""
        return float(self.centre[0] + p * self.cage[0]), float(self.centre[1] + q * self.cage[1])

    def ellipse(self, at: Point, axes: Point, tilt: float = 0.0, shape: Harmonics | None = None, reach: float = 1.3) -> Region:
        """Return a tilted ellipse, its radius modulated by harmonics, in a window `reach` times as wide."""
        reach = max(axes) * reach + 2 * self.px
        lo, hi = ([max(0, int((v + 1 + r) / self.px) + 1) for v in at] for r in (-reach - 2 * self.px, reach))
        window = (slice(lo[1], hi[1]), slice(lo[0], hi[0]))
        dx, dy = self.x[:, window[1]] - np.float32(at[0]), self.y[window[0]] - np.float32(at[1])
        (cos, sin), (wide, high) = np.array([np.cos(tilt), np.sin(tilt)], np.float32), np.array(axes, np.float32)
        u, v = (cos * dx + sin * dy) / wide, (cos * dy - sin * dx) / high
        radius = np.sqrt(u * u + v * v) + np.float32(1e-6)
        # Distance to first order: the level function over the length of its gradient.
        slope = np.sqrt((u / wide) ** 2 + (v / high) ** 2) + np.float32(1e-6)
        edge = np.float32(1.0) if shape is None else contour((u + 1j * v) / radius, shape)
        return window, radius * (radius - edge) / slope

    def on_grid(self, region: Region) -> Array:
        """Return the signed distance of a region over the whole grid, large where it has none, (size, size)."""
        distance = np.full((self.size, self.size), 9.0, np.float32)
        distance[region[0]] = region[1]
        return distance

    def paint(self, region: Region, hu: float | Array, sd: float = 12.0, width: float = 0.0) -> None:
        """Lay tissue of mean `hu` and texture deviation `sd`, in HU; edges are one pixel wide or `width`."""
        window, distance = region
        cover = 0.5 - np.maximum(distance, self.bound[window]) / np.float32(max(self.px, width))
        part = self.image[window]
        part += np.clip(cover, 0.0, 1.0) * (hu + np.float32(sd) * self.soft[window] - part)

    def organ(self, p: float, q: float, wide: float, high: float, hu: float, tilt: float = 0.0) -> None:
        """Lay a soft-edged organ, its place and axes given in shares of the rib cage."""
        axes = (wide * self.cage[0], high * self.cage[1])
        self.paint(self.ellipse(self.place(p, q), axes, tilt, harmonics(self.rng, 0.05)), hu, 12.0, 0.02)

    def bone(self, at: Point, axes: Point, tilt: float, cortex: float, marrow: float) -> None:
        """Lay bone, a thin bright shell around textured marrow."""
        window, distance = self.ellipse(at, axes, tilt, harmonics(self.rng, 0.03))
        inside = np.clip(-distance / np.float32(0.013) - 0.4, 0.0, 1.0)
        self.paint((window, distance), cortex + (marrow - cortex) * inside + 60 * self.grain[window], 0.0)

    def on_wall(self, angle: float, outward: float) -> tuple[Point, float]:
        """Return the point `outward` of the cage's contour at an angle, and the tilt of the contour there."""
        turn = angle + np.array([-0.02, 0.0, 0.02])
        radius = contour(np.exp(1j * turn), self.cage_shape)
        x = self.centre[0] + (self.cage[0] * radius + outward) * np.cos(turn)
        y = self.centre[1] + (self.cage[1] * radius + outward) * np.sin(turn)
        return (float(x[1]), float(y[1])), float(np.arctan2(y[2] - y[0], x[2] - x[0]))

    def splat(self, points: Array) -> Array:
        """Return coverage by the union of small discs, (n, 3) rows of x, y and radius, on the whole grid."""
        flat, half = np.zeros(self.size**2, np.float32), np.float32(self.px / 2)
        thick = points[:, 2] > 0.014
        for group in (points[thick], points[~thick]):  # apart, so that thin discs need only small stamps
            reach = int(np.ceil(float(group[:, 2].max(initial=0.0)) / self.px + 0.5))
            nodes = np.floor((group[:, :2, None] + 1) / self.px).astype(np.intp)
            nodes = np.clip(nodes + np.arange(-reach, reach + 1), 0, self.size - 1)
            square = ((2 * nodes + 1).astype(np.float32) * half - 1 - group[:, :2, None]) ** 2
            away = np.sqrt(square[:, 0, None, :] + square[:, 1, :, None])
            radius = group[:, 2, None, None]
            # Overlap of a pixel with a strip as wide as the disc: right for lines thinner than a pixel too.
            share = (np.minimum(away + half, radius) - np.maximum(away - half, -radius)) / (2 * half)
            cells = nodes[:, 1, :, None] * self.size + nodes[:, 0, None, :]
            np.maximum.at(flat, cells.ravel(), np.clip(share, 0, 1).ravel())
        return flat.reshape(self.size, self.size)
