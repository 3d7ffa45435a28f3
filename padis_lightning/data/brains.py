"""Seeded complex slices of heads as magnetic resonance imaging has them.

Scalp, skull, fluid and a folded cortex lie around white matter, ventricles and deep nuclei, all as distances to ellipses that
textures bend. Contrast, bias field and smooth phase are drawn anew for each slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from padis_lightning.data.drawing import Array, bump, contour, generator, harmonics, smooth_phase, texture

# Intensities of scalp, skull, fluid, grey and white matter, weighted by T1, T2 and with the fluid's signal inverted.
CONTRASTS = np.array([[0.9, 0.08, 0.15, 0.5, 0.75], [0.65, 0.06, 1.0, 0.6, 0.42], [0.6, 0.06, 0.1, 0.75, 0.55]])


def brain(size: int, seed: int, index: int) -> NDArray[np.complex64]:
    """Generate one slice with magnitudes up to 1 and air 0, (size, size)."""
    rng = generator(seed, index, 2)
    head = _Head(size, rng)
    scalp, skull, fluid, grey, white = rng.dirichlet([1, 0.6, 0.4]) @ CONTRASTS * rng.uniform(0.85, 1.15, 5)
    thick = rng.uniform(0.03, 0.07)
    head.paint(head.outline, scalp)
    head.paint(head.outline + thick, skull)
    inner = head.outline + thick + rng.uniform(0.03, 0.06)
    head.paint(inner, fluid)
    folds, cortex = texture(rng, size, 22), inner + rng.uniform(0.02, 0.05)
    sulci = bump(folds, 0.25) * np.exp(-np.abs(cortex) / 0.15) * rng.uniform(0.1, 0.25)
    middle = 0.03 - np.abs(head.u) - 0.02 * (np.abs(head.v) < 0.35)  # between the halves, but for what joins them
    tissue = np.maximum(cortex + sulci, middle)
    head.paint(tissue, grey)
    head.paint(tissue + rng.uniform(0.03, 0.06) + 0.02 * folds, white)
    for side in (-1, 1):
        for _ in range(int(rng.integers(1, 4))):  # deep nuclei
            at = side * rng.uniform(0.12, 0.24), rng.uniform(-0.15, 0.2)
            head.paint(head.ellipse(at, rng.uniform([0.04, 0.08], [0.09, 0.16]), side * rng.uniform(0, 0.6)), grey)
        wide, high = rng.uniform([0.03, 0.12], [0.09, 0.3])
        head.paint(head.ellipse((side * rng.uniform(0.05, 0.12), rng.uniform(-0.15, 0.1)), (wide, high), side * -0.3), fluid)
    for _ in range(int(rng.choice([0, 0, 0, 1, 3]))):  # lesions
        radius = rng.uniform(0.02, 0.12)
        head.paint(head.ellipse(rng.uniform(-0.4, 0.4, 2), radius * rng.uniform(0.6, 1.4, 2), 0.0), rng.uniform(0.1, 1.1))
    for _ in range(int(rng.integers(4, 14))):  # vessels
        head.paint(head.ellipse(rng.uniform(-0.7, 0.7, 2), rng.uniform(0.006, 0.016, 2), 0.0), rng.choice([0.05, 1.1]))
    return head.finished()


class _Head:
    """Holds one head in the making: its frame, its outline as a distance, negative inside, and the image so far."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng, self.image = size, rng, np.zeros((size, size), np.float32)
        axis = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
        (across, down), turn = rng.normal(0, 0.03, 2), rng.normal(0, 0.12)
        x, y = axis[None] - np.float32(across), axis[:, None] - np.float32(down)
        self.u, self.v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        self.detail: Array = 0.5 * texture(rng, size, 90) + 0.6 * texture(rng, size, 40) + 0.6 * texture(rng, size, 14)
        shape = harmonics(rng, 0.012)
        axes = rng.uniform([0.6, 0.76], [0.76, 0.92])
        angle = (self.u / axes[0] + 1j * self.v / axes[1]).astype(np.complex64)
        radius = np.abs(angle) + np.float32(1e-6)
        self.outline: Array = (radius / contour(angle / radius, shape) - 1) * np.float32(axes.mean())

    def ellipse(self, at: Sequence[float] | Array, axes: Sequence[float] | Array, tilt: float) -> Array:
        """Return the distance to a tilted ellipse, to first order."""
        du, dv = self.u - at[0], self.v - at[1]
        p, q = (du * np.cos(tilt) + dv * np.sin(tilt)) / axes[0], (dv * np.cos(tilt) - du * np.sin(tilt)) / axes[1]
        radius = np.hypot(p, q) + 1e-6
        return radius * (radius - 1) / (np.hypot(p / axes[0], q / axes[1]) + 1e-6)

    def paint(self, distance: Array, value: float) -> None:
        """Lay tissue where a distance is negative; edges are one pixel wide."""
        cover = np.clip(0.5 - np.maximum(distance, self.outline) * self.size / 2, 0, 1)
        self.image += cover * (value * (1 + 0.03 * self.detail) - self.image)

    def finished(self) -> NDArray[np.complex64]:
        """Return the image under a bias field and with a phase that rises, bends and is anything in the middle."""
        rng, size = self.rng, self.size
        shading = np.exp(rng.uniform(0, 0.3) * texture(rng, size, 2))
        phase = smooth_phase(rng, self.u, self.v)
        image = self.image.clip(0) * shading
        return (image / max(image.max(), 1e-6) * np.exp(1j * phase)).astype(np.complex64)
