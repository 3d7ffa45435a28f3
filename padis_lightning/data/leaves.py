"""Seeded colour dead-leaves images: the statistics of photographs without a photograph.

Opaque shapes of all sizes fall onto each other; what is seen from above has edges, occlusion, flat and textured regions at
every scale, as photographs do. Sizes follow the law under which an image looks the same at any magnification.

Source: Lee, Mumford and Huang, Occlusion models for natural images, IJCV 2001; Gousseau and Roueff, Modeling occlusion and
scaling in natural images, 2007.
"""

from __future__ import annotations

import numpy as np

from padis_lightning.data.drawing import Array, generator, texture

FINE = 2  # samples a pixel along an axis, for soft edges
SMALLEST, LARGEST = (1.5, 24.0), 0.7  # radii: the smallest of an image in pixels, the largest as a share of the side
COVER = 3.0  # leaves fall until their areas sum to so many images
HAZE = 1  # purpose of the stream that haze is drawn from


def _radii(rng: np.random.Generator, size: int) -> Array:
    """Draw radii with density r**-3 between the bounds, as many as cover the image, (n,) in pixels."""
    low = float(np.exp(rng.uniform(*np.log(SMALLEST))))
    high = max(LARGEST * size, 2 * low)
    mean_area = 2 * np.pi * np.log(high / low) / (low**-2 - high**-2)
    count = max(1, int(COVER * size**2 / mean_area))
    return ((low**-2 - rng.random(count) * (low**-2 - high**-2)) ** -0.5).astype(np.float32)


def _palette(rng: np.random.Generator, count: int) -> Array:
    """Draw colours around a few hues of one illuminant: brightness varies widely, chroma little, (count, 3)."""
    anchors = int(rng.integers(3, 8))
    bright = rng.beta(1.1, 1.3, anchors)[:, None]
    chroma = rng.normal(0, 1, (anchors, 2)) * rng.gamma(1.5, 0.08, (anchors, 1)) * np.array([1.0, 0.5])
    pick = rng.integers(anchors, size=count)
    light = np.abs(bright[pick] + rng.normal(0, 0.1, (count, 1)))
    light = 1 - np.abs(1 - light)
    shade = chroma[pick] * rng.uniform(0.5, 1.3, (count, 1)) + rng.normal(0, 0.015, (count, 2))
    warm, green = shade[:, :1], shade[:, 1:]
    colour = light + np.concatenate([warm - green / 2, green, -warm - green / 2], 1) * (0.3 + light)
    return (colour * rng.normal(1, 0.04, 3)).astype(np.float32)


def _shape(rng: np.random.Generator, radius: float, x: Array, y: Array) -> Array:
    """Return whether a point is inside a disk, an ellipse, a rectangle, a stripe or a wavy blob of that size."""
    turn = rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    kind, long = rng.random(), rng.uniform(0.35, 1.0)
    if kind < 0.3:
        return u**2 + (v / long) ** 2 < radius**2
    if kind < 0.55:
        return np.maximum(np.abs(u), np.abs(v) / long) < 0.85 * radius
    if kind < 0.65:
        return (np.abs(v) < 0.12 * radius) & (np.abs(u) < 1.4 * radius)
    angle, order = np.arctan2(v, u), rng.integers(2, 6, 2)
    waves = (0.3 / order * np.cos(order * angle[..., None] + rng.uniform(0, 6.28, 2))).sum(-1)
    return np.hypot(u, v) < radius * (0.8 + waves)


def dead_leaves(size: int, seed: int, index: int) -> Array:
    """Generate one colour image with values in [0, 1], (size, size, 3)."""
    rng = generator(seed, index)
    radii = _radii(rng, size)
    colours = _palette(rng, len(radii) + 1)
    side = FINE * size
    image = np.empty((side, side, 3), np.float32)
    image[:] = colours[-1]
    grain = texture(rng, side, max(4, side // 3)) + texture(rng, side, max(4, side // 8)) + texture(rng, side, max(4, side // 24))
    rough = rng.random() < 0.85
    for radius, colour in zip(FINE * radii, colours, strict=False):
        row, column = rng.uniform(-radius, side + radius, 2)
        reach = 1.4 * radius
        top, bottom = max(0, int(row - reach)), min(side, int(row + reach) + 1)
        left, right = max(0, int(column - reach)), min(side, int(column + reach) + 1)
        if top >= bottom or left >= right:
            continue
        y, x = np.arange(top, bottom, dtype=np.float32)[:, None] - row, np.arange(left, right, dtype=np.float32) - column
        inside = _shape(rng, radius, x, y)
        fill = np.broadcast_to(colour, (*inside.shape, 3))
        if radius > 3 * FINE:
            slope = rng.normal(0, 0.15 / radius, (2, 1)) * (1 + rng.normal(0, 0.1, (1, 3)))
            strength = rng.gamma(1.0, 0.03) if rough else 0.0
            shade = y[..., None] * slope[0] + x[..., None] * slope[1] + strength * grain[top:bottom, left:right, None]
            fill = fill + shade.astype(np.float32)
        image[top:bottom, left:right][inside] = fill[inside]
    image = image.reshape(size, FINE, size, FINE, 3).mean((1, 3))
    return np.clip(_defocus(rng, image), 0, 1)


def _defocus(rng: np.random.Generator, image: Array) -> Array:
    """Let a smooth region of about half of the images go out of focus, by repeated means of neighbours."""
    if rng.random() < 0.5:
        return image
    blurred = image
    for _ in range(int(rng.integers(1, 8))):
        for axis in (0, 1):
            blurred = (np.roll(blurred, 1, axis) + 2 * blurred + np.roll(blurred, -1, axis)) / 4
    share = np.clip(0.5 + texture(rng, len(image), 3), 0, 1)[..., None]
    return share * image + (1 - share) * blurred


def haze(image: Array, seed: int, index: int) -> Array:
    """Return half of the images ``(size, size, 3)`` as they are, and half faint, some gone, in smooth light of any colour.

    Photographs have skies, walls and what is out of focus: regions that are almost flat, of any brightness and colour.
    """
    rng = generator(seed, index, HAZE)
    if rng.random() < 0.5:
        return image
    size = len(image)
    grey, colour = texture(rng, size, int(rng.integers(1, 4))), [texture(rng, size, int(rng.integers(1, 4))) for _ in range(3)]
    light = rng.gamma(1.0, 0.08) * grey[..., None] + rng.gamma(1.0, 0.04) * np.stack(colour, -1)
    light = light - light.mean((0, 1)) + np.clip(rng.uniform() + rng.normal(0, 0.15, 3), 0, 1)
    contrast = max(0.0, rng.uniform(-0.3, 0.8))
    return np.clip(light + contrast * (image - image.mean((0, 1))), 0, 1).astype(np.float32)
