"""Seeded procedural chest-like axial CT slices: training images that need no download and no patient.

A phantom is one slice at a random level, from the lung apex (0) to the upper abdomen (1), painted in this
order: table, skin, fat, breasts, muscle; lungs with vessels, bronchi, fissures and nodules; below the
diaphragm liver, spleen, stomach, kidneys and bowel; mediastinum with heart, great vessels and airways;
vertebra, ribs, scapulae and sternum; last a smooth bias and weak band-limited noise.

The plane is [-1, 1]^2, x to the image's right (the patient's left) and y towards the back; anterior is up.
Random numbers are drawn in these units, textures are cubic splines over fixed lattices and edges are ramps
one pixel wide, so that the anatomy does not depend on the size of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Harmonics = NDArray[np.complex64]
Point = tuple[float, float]
Region = tuple[tuple[slice, slice], Array]  # a window and the signed distance in it, negative inside

_HU_RANGE = (-1000.0, 1000.0)
_AIR, _FAT, _MUSCLE = -980.0, -100.0, 50.0
_WHOLE = (slice(None), slice(None))


def _generator(seed: int, index: int) -> np.random.Generator:
    """The private random stream of one phantom."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index))))


def slice_level(seed: int, index: int) -> float:
    """Where phantom (seed, index) is cut, from 0 at the lung apex to 1 in the upper abdomen."""
    return float(_generator(seed, index).random())


@lru_cache(maxsize=64)
def _spline_weights(size: int, cells: int) -> Array:
    """Cubic B-spline weights of a lattice of `cells` cells at the pixel centres, (size, cells + 3)."""
    centres = (np.arange(size) + 0.5) * cells / size
    away = np.abs(centres[:, None] - np.arange(-1, cells + 2))
    weights = np.where(away < 1, 2 / 3 - away**2 * (1 - away / 2), np.clip(2 - away, 0, None) ** 3 / 6)
    return weights.astype(np.float32)


def _texture(rng: np.random.Generator, size: int, cells: int) -> Array:
    """A smooth random field of unit deviation whose grain is one lattice cell, (size, size)."""
    weights = _spline_weights(size, cells)
    nodes = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    # A cubic B-spline keeps 151/315 of the deviation of white coefficients over its two axes.
    return (weights @ nodes @ weights.T) * np.float32(315 / 151)


def _harmonics(rng: np.random.Generator, amplitude: float, square: float = 0.0) -> Harmonics:
    """Radius harmonics 1 to 6 of a contour, falling with order; `square` fills out the diagonals, (6,)."""
    value = amplitude * (rng.standard_normal(6) + 1j * rng.standard_normal(6)) / np.arange(1.5, 7)
    value[3] -= square
    return value.astype(np.complex64)


def _contour(direction: NDArray[np.complexfloating], shape: Harmonics) -> Array:
    """The radius of a contour in the given unit directions, by Horner's rule, shaped like `direction`."""
    total = direction * shape[-1]
    for value in shape[-2::-1]:
        total = (total + value) * direction
    return 1.0 + total.real


def _bump(distance: Array, width: float) -> Array:
    """A bell of height one over a line at distance zero."""
    return np.exp(-((distance / np.float32(width)) ** 2))


class _Slice:
    """One slice in the making: the patient's frame, the pixel grid, shared textures and the image so far."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.level, self.rng, self.size, self.px = float(rng.random()), rng, size, 2.0 / size
        self.contrast = float(rng.uniform(0, 25) if rng.random() < 0.45 else rng.uniform(40, 200))
        self.fat = min(float(rng.gamma(3.0, 0.016)) + 0.018, 0.15)
        low = self.rise(0.0, 0.4)
        self.a = float(rng.uniform(0.79, 0.88)) + 0.05 * (1 - low)
        self.b = self.a * float(rng.uniform(0.67, 0.83)) * (0.8 + 0.2 * low)
        self.at = (float(rng.normal(0, 0.025)), float(rng.normal(0.04, 0.03)))
        self.centre = (self.at[0], self.at[1] - 0.055)
        wide = 0.56 + 0.32 * self.rise(0.0, 0.4) + float(rng.normal(0, 0.012))
        self.cage = (self.a * wide - 0.9 * self.fat, self.b * 0.81 - 0.7 * self.fat)
        self.cage_shape = _harmonics(rng, 0.012, square=0.015)
        axis = ((np.arange(size) + 0.5) * self.px - 1.0).astype(np.float32)
        self.x, self.y = axis[None, :], axis[:, None]
        fields = [_texture(rng, size, cells) for cells in (84, 40, 26, 14, 4)]
        self.fine, middle, self.streak, self.coarse, self.bias = fields
        self.soft: Array = 0.45 * self.fine + 0.7 * middle + 0.55 * self.coarse
        self.grain: Array = 0.7 * self.fine + 0.7 * middle
        self.image: Array = np.full((size, size), -1000.0, np.float32)
        self.bound: Array = np.full((size, size), -9.0, np.float32)  # distance that no paint may cross

    def rise(self, start: float, end: float) -> float:
        """How far the level has gone from start to end, within [0, 1]."""
        return min(max((self.level - start) / (end - start), 0.0), 1.0)

    def place(self, p: float, q: float) -> Point:
        """The point at cage coordinates (p, q), each in [-1, 1] within the rib cage."""
        return float(self.centre[0] + p * self.cage[0]), float(self.centre[1] + q * self.cage[1])

    def ellipse(self, at: Point, axes: Point, tilt: float = 0.0, shape: Harmonics | None = None,
                reach: float = 1.3) -> Region:
        """A tilted ellipse, its radius modulated by harmonics, in a window `reach` times as wide."""
        reach = max(axes) * reach + 2 * self.px
        lo, hi = ([max(0, int((v + 1 + r) / self.px) + 1) for v in at] for r in (-reach - 2 * self.px, reach))
        window = (slice(lo[1], hi[1]), slice(lo[0], hi[0]))
        dx, dy = self.x[:, window[1]] - np.float32(at[0]), self.y[window[0]] - np.float32(at[1])
        (cos, sin), (wide, high) = np.float32([np.cos(tilt), np.sin(tilt)]), np.float32(axes)
        u, v = (cos * dx + sin * dy) / wide, (cos * dy - sin * dx) / high
        radius = np.sqrt(u * u + v * v) + np.float32(1e-6)
        # Distance to first order: the level function over the length of its gradient.
        slope = np.sqrt((u / wide) ** 2 + (v / high) ** 2) + np.float32(1e-6)
        edge = np.float32(1.0) if shape is None else _contour((u + 1j * v) / radius, shape)
        return window, radius * (radius - edge) / slope

    def spread(self, region: Region) -> Array:
        """The signed distance of a region over the whole grid, large where it has none, (size, size)."""
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
        self.paint(self.ellipse(self.place(p, q), axes, tilt, _harmonics(self.rng, 0.05)), hu, 12.0, 0.02)

    def bone(self, at: Point, axes: Point, tilt: float, cortex: float, marrow: float) -> None:
        """Lay bone, a thin bright shell around textured marrow."""
        window, distance = self.ellipse(at, axes, tilt, _harmonics(self.rng, 0.03))
        inside = np.clip(-distance / np.float32(0.013) - 0.4, 0.0, 1.0)
        self.paint((window, distance), cortex + (marrow - cortex) * inside + 60 * self.grain[window], 0.0)

    def on_wall(self, angle: float, outward: float) -> tuple[Point, float]:
        """The point `outward` of the cage's contour at an angle, and the tilt of the contour there."""
        turn = angle + np.array([-0.02, 0.0, 0.02])
        radius = _contour(np.exp(1j * turn), self.cage_shape)
        x = self.centre[0] + (self.cage[0] * radius + outward) * np.cos(turn)
        y = self.centre[1] + (self.cage[1] * radius + outward) * np.sin(turn)
        return (float(x[1]), float(y[1])), float(np.arctan2(y[2] - y[0], x[2] - x[0]))

    def splat(self, points: Array) -> Array:
        """Coverage by the union of small discs, (n, 3) rows of x, y and radius, on the whole grid."""
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


def _paint_table(s: _Slice) -> None:
    """A thin curved couch under the patient in about half of the slices."""
    gap, bend, thick, hu = np.float32(s.rng.uniform((0.03, 0.08, 0.08, -250.0), (0.09, 0.3, 0.2, 150.0)))
    if s.rng.random() < 0.5:
        top = np.float32(s.at[1] + s.b) + gap - bend * s.x**2
        bottom = top + thick * np.clip(1.2 - s.x**2, 0.2, 1.0)
        s.paint((_WHOLE, np.maximum(top - s.y, s.y - bottom)), -960.0, 6.0)
        for line in (top, bottom):
            s.paint((_WHOLE, np.abs(s.y - line) - np.float32(0.008)), hu)


def _body(s: _Slice) -> Array:
    """Signed distance to the skin, breasts included in some of the middle slices, (size, size)."""
    shape = _harmonics(s.rng, 0.01, square=float(s.rng.uniform(0.015, 0.04)))
    body = s.spread(s.ellipse(s.at, (s.a, s.b), 0.0, shape))
    if s.rng.random() < 0.45 and 0.2 < s.level < 0.7:
        high = s.b * s.rng.uniform(0.26, 0.42)
        for side in (-1, 1):
            at = (s.at[0] + side * s.a * 0.45, s.at[1] - s.b * 0.68)
            breast = s.ellipse(at, (s.a * 0.4, high), side * 0.3, _harmonics(s.rng, 0.02))
            body = np.minimum(body, s.spread(breast))
    return body


def _paint_wall(s: _Slice, body: Array, cage: Array) -> None:
    """Skin, subcutaneous fat with septa, and muscle with fat planes between its layers."""
    s.paint((_WHOLE, body), 10.0)
    s.paint((_WHOLE, body + np.float32(0.014)), _FAT + 8 * s.bias + 30 * np.clip(s.streak - 1.4, 0, 2))
    depth = 0.07 + 0.26 * (1 - s.rise(0.0, 0.5)) + 0.02 * s.coarse
    planes = _bump(s.coarse + 0.4 * s.streak, 0.22) * np.clip(cage / 0.06 - 0.3, 0, 1)
    planes = np.maximum(planes, _bump(cage - 0.085 - 0.015 * s.coarse, 0.012))
    muscle = np.maximum(body + np.float32(0.012 + s.fat), cage - depth)
    s.paint((_WHOLE, muscle), _MUSCLE - 125 * planes, 14.0, 0.02)


def _vessel_tree(s: _Slice, root: Point, side: int) -> list[Array]:
    """Branching vessels from a hilum outwards, (n, 3) rows of x, y and radius for each generation."""
    rng, count = s.rng, int(s.rng.integers(6, 10))
    angle = np.linspace(-1.9, 1.9, count) + rng.normal(0, 0.2, count)
    length, radius = rng.uniform(0.16, 0.3, count), rng.uniform(0.009, 0.021, count)
    start, along, parts = np.zeros((count, 2)), np.linspace(0, 1, 14), []
    scale = np.array([side * 1.15 * s.cage[0], 1.2 * s.cage[1]])
    for generation in range(5):
        heading = angle[:, None] + rng.normal(0, 0.5, (len(angle), 1)) * along
        step = np.stack([np.cos(heading), np.sin(heading)], -1) * length[:, None, None]
        path = start[:, None] + step * along[:, None]
        taper = (radius[:, None] * (1 - 0.25 * along))[..., None]
        # Vessels leave the slice: the farther out, the fewer of their pieces are seen.
        seen = rng.random((len(angle), 2)).repeat(7, 1) < 0.75 - 0.09 * generation
        parts.append(np.concatenate([np.array(root) + scale * path, taper], -1)[seen].astype(np.float32))
        start, angle = np.repeat(path[:, -1], 2, 0), np.repeat(heading[:, -1], 2)
        angle += np.tile([-1, 1], len(length)) * rng.uniform(0.2, 0.75, len(angle))
        length, radius = (np.repeat(v, 2) * rng.uniform(0.55, 0.85, len(angle)) for v in (length, radius))
    return parts


def _lung_details(s: _Slice) -> tuple[Array, Array]:
    """Coverage by vessels, nodules and bronchial walls, and by the air in bronchi, each (size, size)."""
    solid, holes = [], []
    for side in (-1, 1):
        root = s.place(side * s.rng.uniform(0.2, 0.3), s.rng.uniform(0.0, 0.2))
        count, tubes = s.rng.integers((50, 3), (110, 8))
        far, turn = np.sort(np.sqrt(s.rng.random(count))), s.rng.uniform(-2.1, 2.1, count)
        x = root[0] + side * 0.75 * s.cage[0] * far * np.cos(turn)
        y = root[1] + 0.95 * s.cage[1] * far * np.sin(turn)
        size = (0.016 - 0.009 * far) * s.rng.uniform(0.6, 1.25, count)
        dots = np.stack([x, y, size], -1).astype(np.float32)
        bronchi = dots[2 : 2 + tubes] * np.float32([1, 1, 0]) + np.float32([side * 0.03, 0, 0])
        wide = s.rng.uniform(0.010, 0.018, (tubes, 1)).astype(np.float32) * np.float32([0, 0, 1])
        solid += [*_vessel_tree(s, root, side), dots, bronchi + 1.6 * wide]
        holes.append(bronchi + wide)
        if s.rng.random() < 0.2:
            p, q, radius = s.rng.uniform((0.4, -0.6, 0.018), (0.8, 0.6, 0.05))
            solid.append(np.array([(*s.place(side * p, q), radius)], np.float32))
    return s.splat(np.concatenate(solid)), s.splat(np.concatenate(holes))


def _paint_lungs(s: _Slice) -> None:
    """Both lungs, growing from the apex down until they fill the rib cage."""
    vessels, tubes = _lung_details(s)
    vessels *= np.clip(-s.bound / 0.09, 0.0, 1.0) ** 0.5
    depth = (s.y - np.float32(s.centre[1])) / np.float32(s.cage[1])
    base, gradient, dependent, blood = s.rng.uniform((-870, 15, 0, 0), (-810, 60, 120, 60)).astype(np.float32)
    hu = base + gradient * depth + dependent * np.clip(depth - 0.55, 0, 1)
    hu = hu + 30 * s.coarse + 30 * s.grain + 25 * np.clip(s.streak - 0.8, 0, 2)
    high, slant = s.rng.uniform((-0.1, 0.2), (0.3, 0.9)).astype(np.float32)
    hu += 80 * _bump(depth - high - slant * (np.abs(s.x - np.float32(s.centre[0])) - np.float32(0.3)), 0.025)
    hu += vessels * (blood - hu)
    hu += tubes * (_AIR - hu)
    grow = 0.55 + 1.25 * s.rise(0.0, 0.3)
    for side in (-1, 1):
        axes = (0.42 * grow * s.cage[0], 0.55 * grow * s.cage[1])
        window, lobe = s.ellipse(s.place(side * 0.5, 0.05), axes, 0.0, _harmonics(s.rng, 0.02))
        s.paint((window, lobe), hu[window], 0.0)


def _paint_abdomen(s: _Slice) -> None:
    """Diaphragm domes with liver, spleen, stomach, kidneys and bowel, clipped to the rib cage."""
    right, left, phase, bound = s.rise(0.52, 0.84), s.rise(0.58, 0.88), 0.35 * s.contrast, s.bound
    j = s.rng.normal(0, 0.04, 6)
    for side, share, hu in ((1, left, _FAT), (-1, right, 55 + phase)):
        if share > 0:
            # The recess of lung around a dome closes as the dome widens.
            s.bound = bound + np.float32(0.02 * (1 - share) - 0.015)
            s.organ(side * 0.46 + j[0], -0.1 + j[1], share, 1.35 * share, hu)
    if s.level > 0.82:
        s.organ(0.22, 0.2, 0.62, 0.8, _FAT)
        s.organ(0.0, -0.5 + j[2], 0.55, 0.36, 56 + phase, 0.2)
    if left > 0.35:
        s.organ(0.68 + j[3], 0.38 + j[4], 0.17 + 0.16 * left, 0.45 * left, 52 + 1.2 * phase, -0.4)
        _paint_stomach(s, left)
    if s.level > 0.86:
        for side in (-1, 1):
            s.organ(side * 0.2, 0.6, 0.13, 0.2, _MUSCLE)
            for grow, inner, hu in ((0.04, 0, _FAT), (0, 0, 38 + 0.7 * s.contrast), (-0.1, 0.06, -40.0)):
                s.organ(side * (0.47 - inner) + j[5], 0.42, 0.16 + grow, 0.23 + grow, hu, side * 0.4)
        for _ in range(int(s.rng.integers(4, 9))):
            p, q, tilt, gas = s.rng.uniform((-0.2, -0.6, 0, 0), (0.75, 0.3, 3, 1))
            s.organ(p, q, 0.13, 0.14, 35.0, tilt)
            s.organ(p, q - 0.02, 0.09, 0.09, -900.0 if gas < 0.3 and q < 0 else 45 + phase)
    s.bound = bound


def _paint_stomach(s: _Slice, rise: float) -> None:
    """The stomach, with a level of fluid under a bubble of air at times."""
    p, q, content, tilt = s.rng.uniform((0.34, -0.34, 0, -0.5), (0.5, -0.1, 60, 0.5))
    fill, air = s.rng.uniform((-0.9, 0), (0.4, 1))
    at, axes = s.place(p, q), (0.36 * rise * s.cage[0], 0.42 * rise * s.cage[1])
    window, outer = s.ellipse(at, axes, tilt, _harmonics(s.rng, 0.05))
    s.paint((window, outer), 45.0)
    s.paint((window, outer + np.float32(0.03)), content, 22.0)
    if air < 0.7:
        gas = np.maximum(outer + np.float32(0.025), s.y[window[0]] - np.float32(at[1] + axes[1] * fill))
        s.paint((window, gas), _AIR, 8.0)


def _paint_mediastinum(s: _Slice) -> None:
    """Fat and soft tissue between the lungs, then the heart, great vessels, airways and oesophagus."""
    mix = -70 + 110 * np.clip(s.coarse + 0.5 * s.streak, -0.5, 1.2)
    shift, front = s.rng.normal(0, 0.025, 2)
    columns = ((0.0, 0.18, 0.75, 0.8), (-0.8, 0.17 + front, 0.4, 0.7), (0.6, 0.25, 0.4, 0.85))
    for q, wide, high, last in columns:
        if s.level < last:
            axes = (wide * s.cage[0], high * s.cage[1])
            window, column = s.ellipse(s.place(shift, q), axes, 0.0, _harmonics(s.rng, 0.06))
            s.paint((window, column), mix[window], 14.0)
    if 0.4 < s.level < 0.82:
        _paint_heart(s)
    for p, q, radius, hu, stretch, tilt, first, last in _tubes(s):
        at, scale = s.place(*s.rng.normal((p, q), 0.025)), s.rng.normal(1, 0.06)
        wobble = _harmonics(s.rng, 0.02)
        if first <= s.level < last:
            if hu == _AIR:
                s.paint(s.ellipse(at, (radius * stretch + 0.014, radius + 0.014), tilt, wobble), 40.0)
            s.paint(s.ellipse(at, (radius * stretch * scale, radius * scale), tilt, wobble), hu, 9.0)


def _tubes(s: _Slice) -> list[tuple[float, ...]]:
    """Great vessels and airways: cage coordinates, radius, HU, stretch, tilt, first and last level."""
    blood, apart = 42 + s.contrast, 0.09 + 0.5 * s.rise(0.31, 1.31)
    return [
        (-0.16, -0.20, 0.034, blood, 1, 0, 0.0, 0.18),  # branches of the arch
        (-0.03, -0.26, 0.034, blood, 1, 0, 0.0, 0.18),
        (0.14, -0.05, 0.034, blood, 1, 0, 0.0, 0.18),
        (0.02, 0.36, 0.030, 45.0, 1.2, 0, 0.0, 0.85),  # oesophagus
        (0.19, 0.45, 0.060, blood, 1, 0, 0.26, 1.1),  # descending aorta
        (0.07, 0.05, 0.070, blood, 2.2, 0.9, 0.18, 0.26),  # aortic arch
        (-0.08, -0.3, 0.075, blood, 1.05, 0, 0.26, 0.44),  # ascending aorta
        (0.13, -0.3, 0.062, 0.95 * blood, 1.1, 0.5, 0.28, 0.42),  # pulmonary trunk
        (-0.12, -0.02, 0.042, 0.95 * blood, 3.0, -0.1, 0.33, 0.42),  # right pulmonary artery
        (0.24, -0.02, 0.045, blood, 1.8, 0.3, 0.31, 0.42),  # left pulmonary artery
        (-0.21, -0.16, 0.040, 42 + 1.3 * s.contrast, 0.9, 0, 0.0, 0.44),  # superior vena cava
        (-0.17, 0.15, 0.055, 42 + 0.6 * s.contrast, 1.2, 0, 0.7, 1.1),  # inferior vena cava
        (-0.01, 0.17, 0.048, _AIR, 0.9, 0, 0.0, 0.31),  # trachea
        (-apart, 0.17, 0.034, _AIR, 1.4, -0.5, 0.31, 0.42),  # main bronchi
        (apart, 0.17, 0.032, _AIR, 1.5, 0.5, 0.31, 0.42),
    ]


def _paint_heart(s: _Slice) -> None:
    """Pericardial fat, myocardium and four chambers, on the patient's left and largest half way down."""
    p, q, tilt, size = s.rng.uniform((0.08, -0.3, 0.2, 0.9), (0.18, -0.16, 0.7, 1.1))
    size *= 0.75 + 0.25 * s.rise(0.4, 0.52) - 0.35 * s.rise(0.68, 0.82)
    at, shape = s.place(p, q), _harmonics(s.rng, 0.04)
    for share, hu in ((1.08, -90.0), (1.0, 48 + 0.3 * s.contrast)):
        axes = (0.42 * size * share * s.cage[0], 0.5 * size * share * s.cage[1])
        s.paint(s.ellipse(at, axes, tilt, shape), hu, 12.0, 0.02)
    for dp, dq, wide, high in ((0.16, 0.04, 0.16, 0.2), (-0.07, -0.2, 0.2, 0.14), (-0.22, 0.06, 0.13, 0.19),
                               (-0.02, 0.31, 0.19, 0.12)):
        hu = 55 + s.rng.uniform(0.7, 1.05) * s.contrast
        s.organ(p + dp * size, q + dq * size, wide * size, high * size, hu, tilt)


def _paint_spine(s: _Slice) -> None:
    """Paraspinal muscle and one vertebra: body, pedicles, canal, transverse and spinous processes."""
    x, y = s.place(0.0, 0.72)
    size, spread, drop = s.rng.uniform((0.92, 0.1, 0.17), (1.12, 0.2, 0.23))
    cortex, marrow = s.rng.uniform((400, 140), (650, 280))
    s.paint(s.ellipse((x, y + 0.02), (0.15 * size, 0.13 * size), 0.0, _harmonics(s.rng, 0.04)), 30.0)
    for side in (-1, 1):
        shape = _harmonics(s.rng, 0.05)
        for share, hu in ((1.15, _FAT), (1.0, _MUSCLE)):
            axes = (0.1 * share, 0.062 * share)
            s.paint(s.ellipse((x + side * 0.125, y + 0.19 * size), axes, -0.25 * side, shape), hu, 16.0, 0.02)
    for side in (-1, 1):
        s.bone((x + side * spread * 0.7, y + 0.12 * size), (0.08, 0.022), side * 0.35, cortex, marrow)
    s.bone((x, y + drop), (0.017, 0.075), 0.0, cortex, marrow)
    s.bone((x, y + 0.11 * size), (0.072 * size, 0.064 * size), 0.0, cortex, marrow)
    s.paint(s.ellipse((x, y + 0.112 * size), (0.046 * size, 0.04 * size)), 25.0)
    s.bone((x, y), (0.1 * size, 0.08 * size), 0.0, cortex, marrow)


def _paint_ribs(s: _Slice) -> None:
    """Ribs along the chest wall, scapulae outside it at the upper levels, and the sternum."""
    for side in (-1, 1):
        for turn in np.arange(s.rng.uniform(0.85, 1.1), -1.1, -s.rng.uniform(0.36, 0.6)):
            skew, cut, long, thin, cortex, marrow = s.rng.uniform((-0.08, -0.2, 0.035, 0.016, 350, 80),
                                                                  (0.08, 0.2, 0.1, 0.022, 650, 220))
            at, tilt = s.on_wall(turn + skew if side > 0 else np.pi - turn - skew, 0.03)
            s.bone(at, (long, thin), tilt + cut, cortex, marrow)
        if s.level < 0.42:
            at, tilt = s.on_wall(0.45 if side > 0 else np.pi - 0.45, 0.1 + 0.1 * (0.42 - s.level))
            for step, turn, long in ((0.0, -0.1, 0.16), (0.07, 0.35, 0.08)):
                end = (at[0] + side * step, at[1] - 0.2 * step)
                s.bone(end, (long, 0.016), tilt + side * turn, 480.0, 200.0)
    if s.level < 0.75:
        axes = (s.rng.uniform(0.06, 0.12), s.rng.uniform(0.02, 0.032))
        s.bone(s.on_wall(-np.pi / 2, 0.03)[0], axes, s.rng.normal(0, 0.05), 380.0, 130.0)


def chest_phantom(size: int, seed: int, index: int) -> Array:
    """One chest-like axial slice in Hounsfield units within [-1000, 1000], (size, size)."""
    s = _Slice(size, _generator(seed, index))
    body = _body(s)
    cage = s.spread(s.ellipse(s.centre, s.cage, 0.0, s.cage_shape, reach=9.0))
    _paint_table(s)
    _paint_wall(s, body, cage)
    s.bound = cage
    _paint_lungs(s)
    _paint_abdomen(s)
    _paint_mediastinum(s)
    s.bound = body + np.float32(0.03)
    _paint_spine(s)
    _paint_ribs(s)
    return np.clip(s.image + 5 * s.bias + 5 * s.fine, *_HU_RANGE)


@dataclass(frozen=True)
class ChestPhantoms:
    """`count` different phantoms of one seed."""

    count: int
    seed: int = 0
    window: ClassVar[tuple[float, float]] = _HU_RANGE

    def __len__(self) -> int:
        """The number of phantoms."""
        return self.count

    def image(self, index: int, size: int) -> Array:
        """Phantom `index` in Hounsfield units, (size, size)."""
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} is outside the {self.count} phantoms")
        return chest_phantom(size, self.seed, index)
