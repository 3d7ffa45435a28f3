"""Seeded grey slices of objects as industrial, material and small-animal scanners see them.

A body of any outline lies in air. It is made of a few materials whose borders are smooth, or of dead leaves, and has shells,
pores and cracks, at any magnification: sometimes all of it is seen, sometimes a part that fills the image.

Source: dead leaves after Lee, Mumford and Huang, Occlusion models for natural images, IJCV 2001; the rest is ours.
"""

from __future__ import annotations

import numpy as np

from padis_lightning.data.drawing import Array, generator, texture
from padis_lightning.data.leaves import dead_leaves

WHOLE_FIELD = 0.15  # share of images without a body, leaves alone


def scanned_object(size: int, seed: int, index: int) -> Array:
    """Generate one slice with values in [0, 1], air 0, (size, size)."""
    rng = generator(seed, index, 1)
    leaves = dead_leaves(size, seed, index).mean(-1)
    if rng.random() < WHOLE_FIELD:
        return leaves
    depth = _depth(rng, size)
    level, contrast = rng.uniform(0.25, 0.95), rng.uniform(0.03, 1.0)
    inside = level + contrast * (leaves - leaves.mean())
    if rng.random() < 0.6:
        inside = _materials(rng, size, level) + rng.choice([0, 0.1]) * contrast * (leaves - leaves.mean())
    if rng.random() < 0.4:
        inside += rng.uniform(-0.4, 0.4) * _soft(rng.uniform(2, size / 6) - depth)
    if rng.random() < 0.4:
        inside *= 1 - _soft((texture(rng, size, int(rng.integers(6, 40))) - rng.uniform(1.2, 2.4)) * size / 60)
    for _ in range(int(rng.choice([0, 0, 1, 2, 3]))):
        inside *= 1 - rng.uniform(0.4, 1.0) * _crack(rng, size)
    return (np.clip(inside, 0, 1) * _soft(depth)).astype(np.float32)


def _soft(distance: Array) -> Array:
    """Return how much of a pixel lies inside an edge, from the distance in pixels, positive inside."""
    return np.clip(0.5 + distance, 0, 1)


def _depth(rng: np.random.Generator, size: int) -> Array:
    """Draw a body of rounded parts and return how deep in it a pixel lies, about in pixels, (size, size)."""
    axis = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    x, y, wavy = axis[None], axis[:, None], texture(rng, size, int(rng.integers(3, 9)))
    zoom = float(np.exp(rng.uniform(0, np.log(3.0))))
    depth = np.full((size, size), -np.inf, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        long = zoom * rng.uniform(0.25, 0.9)
        wide = long * rng.uniform(0.4, 1)
        turn, power = rng.uniform(0, np.pi), rng.choice([2, 2, 2, 4, 8])
        across, down = rng.uniform(-0.45, 0.45, 2) * abs(1.1 - long / zoom) + rng.uniform(-0.9, 0.9, 2) * (zoom - 1) / 2
        u = (x - across) * np.cos(turn) + (y - down) * np.sin(turn)
        v = (y - down) * np.cos(turn) - (x - across) * np.sin(turn)
        radius = (np.abs(u / long) ** power + np.abs(v / wide) ** power) ** (1 / power)
        depth = np.maximum(depth, (1 - radius) * wide + 0.05 * rng.random() * wavy)
    return depth * size / 2


def _materials(rng: np.random.Generator, size: int, level: float) -> Array:
    """Draw flat or faintly uneven materials parted along smooth borders, (size, size)."""
    image = np.full((size, size), level, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        field = texture(rng, size, int(rng.integers(2, 12)))
        steep = np.hypot(*np.gradient(field)) + 1e-3
        share = _soft((field - rng.normal(0, 0.7)) / steep / rng.choice([1, 1, 1, 3]))
        image += share * (rng.uniform(0.1, 1.0) - image)
    return image + rng.gamma(1.0, 0.01) * texture(rng, size, int(rng.integers(4, size // 2)))


def _crack(rng: np.random.Generator, size: int) -> Array:
    """Draw one thin line that ends somewhere, as how much of a pixel it takes, (size, size)."""
    field = texture(rng, size, int(rng.integers(2, 8)))
    away = np.abs(field - rng.normal(0, 0.5)) / (np.hypot(*np.gradient(field)) + 1e-3)
    ends = _soft(texture(rng, size, int(rng.integers(2, 6))) * 8)
    return _soft(rng.uniform(0.2, 1.5) - away - 0.5) * ends
