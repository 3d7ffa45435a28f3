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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from padis_lightning.data.drawing import FAT, HU_RANGE, MUSCLE, WHOLE, Array, Slice, bump, generator, harmonics
from padis_lightning.data.organs import paint_abdomen, paint_lungs, paint_mediastinum

STEP = 0.006  # of the level, from the lung apex (0) to the upper abdomen (1), from slice to slice
Size = int | tuple[int, ...] | None
GRAIN = 6.0  # slices from knot to knot of what is drawn


def _paint_table(s: Slice) -> None:
    """Paint a thin curved couch under the patient in about half of the slices."""
    gap, bend, thick, hu = s.rng.uniform((0.03, 0.08, 0.08, -250.0), (0.09, 0.3, 0.2, 150.0)).astype(np.float32)
    if s.rng.random() < 0.5:
        top = np.float32(s.at[1] + s.b) + gap - bend * s.x**2
        bottom = top + thick * np.clip(1.2 - s.x**2, 0.2, 1.0)
        s.paint((WHOLE, np.maximum(top - s.y, s.y - bottom)), -960.0, 6.0)
        for line in (top, bottom):
            s.paint((WHOLE, np.abs(s.y - line) - np.float32(0.008)), hu)


def _body(s: Slice) -> Array:
    """Return signed distance to the skin, breasts included in some of the middle slices, (size, size)."""
    shape = harmonics(s.rng, 0.01, square=float(s.rng.uniform(0.015, 0.04)))
    body = s.on_grid(s.ellipse(s.at, (s.a, s.b), 0.0, shape))
    if s.rng.random() < 0.45 and 0.2 < s.level < 0.7:
        high = s.b * s.rng.uniform(0.26, 0.42)
        for side in (-1, 1):
            at = (s.at[0] + side * s.a * 0.45, s.at[1] - s.b * 0.68)
            breast = s.ellipse(at, (s.a * 0.4, high), side * 0.3, harmonics(s.rng, 0.02))
            body = np.minimum(body, s.on_grid(breast))
    return body


def _paint_wall(s: Slice, body: Array, cage: Array) -> None:
    """Paint skin, subcutaneous fat with septa, and muscle with fat planes between its layers."""
    s.paint((WHOLE, body), 10.0)
    s.paint((WHOLE, body + np.float32(0.014)), FAT + 8 * s.bias + 30 * np.clip(s.streak - 1.4, 0, 2))
    depth = 0.07 + 0.26 * (1 - s.rise(0.0, 0.5)) + 0.02 * s.coarse
    planes = bump(s.coarse + 0.4 * s.streak, 0.22) * np.clip(cage / 0.06 - 0.3, 0, 1)
    planes = np.maximum(planes, bump(cage - 0.085 - 0.015 * s.coarse, 0.012))
    muscle = np.maximum(body + np.float32(0.012 + s.fat), cage - depth)
    s.paint((WHOLE, muscle), MUSCLE - 125 * planes, 14.0, 0.02)


def _paint_spine(s: Slice) -> None:
    """Paint paraspinal muscle and one vertebra: body, pedicles, canal, transverse and spinous processes."""
    x, y = s.place(0.0, 0.72)
    size, spread, drop = s.rng.uniform((0.92, 0.1, 0.17), (1.12, 0.2, 0.23))
    cortex, marrow = s.rng.uniform((400, 140), (650, 280))
    s.paint(s.ellipse((x, y + 0.02), (0.15 * size, 0.13 * size), 0.0, harmonics(s.rng, 0.04)), 30.0)
    for side in (-1, 1):
        shape = harmonics(s.rng, 0.05)
        for share, hu in ((1.15, FAT), (1.0, MUSCLE)):
            axes = (0.1 * share, 0.062 * share)
            s.paint(s.ellipse((x + side * 0.125, y + 0.19 * size), axes, -0.25 * side, shape), hu, 16.0, 0.02)
    for side in (-1, 1):
        s.bone((x + side * spread * 0.7, y + 0.12 * size), (0.08, 0.022), side * 0.35, cortex, marrow)
    s.bone((x, y + drop), (0.017, 0.075), 0.0, cortex, marrow)
    s.bone((x, y + 0.11 * size), (0.072 * size, 0.064 * size), 0.0, cortex, marrow)
    s.paint(s.ellipse((x, y + 0.112 * size), (0.046 * size, 0.04 * size)), 25.0)
    s.bone((x, y), (0.1 * size, 0.08 * size), 0.0, cortex, marrow)


def _paint_ribs(s: Slice) -> None:
    """Paint ribs along the chest wall, scapulae outside it at the upper levels, and the sternum."""
    for side in (-1, 1):
        for turn in np.arange(s.rng.uniform(0.85, 1.1), -1.1, -s.rng.uniform(0.36, 0.6)):
            skew, cut, long, thin, cortex, marrow = s.rng.uniform(
                (-0.08, -0.2, 0.035, 0.016, 350, 80), (0.08, 0.2, 0.1, 0.022, 650, 220)
            )
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


def paint(s: Slice, begin: Callable[[int], None] = lambda part: None) -> Array:
    """Paint the whole slice in Hounsfield units within [-1000, 1000], (size, size); ``begin`` is called with each part."""
    begin(0)
    body = _body(s)
    cage = s.on_grid(s.ellipse(s.centre, s.cage, 0.0, s.cage_shape, reach=9.0))
    begin(1)
    _paint_table(s)
    _paint_wall(s, body, cage)
    s.bound = cage
    for part, painter in enumerate((paint_lungs, paint_abdomen, paint_mediastinum), 2):
        begin(part)
        painter(s)
    s.bound = body + np.float32(0.03)
    for part, painter in enumerate((_paint_spine, _paint_ribs), 5):
        begin(part)
        painter(s)
    return np.clip(s.image + 5 * s.bias + 5 * s.fine, *HU_RANGE)


def chest_phantom(size: int, seed: int, index: int) -> Array:
    """Generate one chest-like axial slice in Hounsfield units within [-1000, 1000], (size, size)."""
    return paint(Slice(size, generator(seed, index)))


@dataclass(frozen=True)
class ChestPhantoms:
    """Generates `count` different phantoms of one seed."""

    count: int
    seed: int = 0

    def image(self, index: int, size: int) -> Array:
        """Return phantom `index` in Hounsfield units, (size, size)."""
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} is outside the {self.count} phantoms")
        return chest_phantom(size, self.seed, index)


class SmoothStream:
    """Draws random numbers at a height: arrays follow smooth random curves of it, single numbers and integers do not change.

    The methods are those of NumPy's generator that phantoms draw with.

    Args:
        key: of the patient.
        height: slices above the first.
    """

    def __init__(self, key: tuple[int, ...], height: float) -> None:
        knot, share = divmod(height / GRAIN, 1.0)
        spline = (1 - share) ** 3, 3 * share**3 - 6 * share**2 + 4, -3 * share**3 + 3 * share**2 + 3 * share + 1, share**3
        self.key, self.knot, self.drawn = key, int(knot), 0
        self.weights = np.array(spline) / np.linalg.norm(spline)  # of a curve of unit deviation through independent knots

    def begin(self, part: int) -> None:
        """Go to the numbers of a part of the anatomy, whatever was drawn before."""
        self.drawn = 1000 * (part + 1)

    def _single(self) -> np.random.Generator:
        self.drawn += 1
        return generator(*self.key, self.drawn)

    def _curves(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Draw standard normal numbers, each on a curve of its own."""
        self.drawn += 1
        knots = [generator(*self.key, self.drawn, self.knot + k).standard_normal(shape) for k in range(len(self.weights))]
        return np.tensordot(self.weights, np.stack(knots), 1)

    def standard_normal(self, size: Size, dtype: type = np.float64) -> NDArray[Any]:
        """Return normal numbers of mean 0 and deviation 1."""
        return self._curves(np.empty(() if size is None else size).shape).astype(dtype)

    def normal(self, loc: Any = 0.0, scale: float = 1.0, size: Size = None) -> Any:  # noqa: ANN401 - a number or an array
        """Return normal numbers; one alone stays as it is."""
        shape = np.shape(loc) if size is None else np.empty(size).shape
        return np.asarray(loc) + scale * self._curves(shape) if shape else self._single().normal(loc, scale)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Size = None) -> Any:  # noqa: ANN401
        """Return numbers between low and high; one alone stays as it is."""
        shape = np.shape(low) if size is None else np.empty(size).shape
        return low + np.subtract(high, low) * ndtr(self._curves(shape)) if shape else self._single().uniform(low, high)

    def random(self, size: Size = None) -> Any:  # noqa: ANN401
        """Return numbers between 0 and 1; one alone stays as it is."""
        return self.uniform(size=size)

    def integers(self, low: Any, high: Any) -> Any:  # noqa: ANN401
        """Return whole numbers, which stay as they are."""
        return self._single().integers(low, high)

    def gamma(self, shape: float, scale: float) -> float:
        """Return a number of the gamma distribution, which stays as it is."""
        return self._single().gamma(shape, scale)


def chest_volume(size: int, depth: int, seed: int, index: int) -> Array:
    """Generate one patient, a stack of slices whose anatomy changes slowly, in Hounsfield units, (depth, size, size)."""
    step = min(STEP, 1 / depth)
    first = float(np.random.default_rng((seed, index)).random()) * (1 - step * depth)
    streams = [SmoothStream((seed, index), float(k)) for k in range(depth)]
    return np.stack(
        [paint(Slice(size, cast(np.random.Generator, one), first + step * k), one.begin) for k, one in enumerate(streams)]
    )
