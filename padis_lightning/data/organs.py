"""The organs of a chest phantom: lungs with their vessels, the upper abdomen, and what lies between the lungs."""

from __future__ import annotations

import numpy as np

from padis_lightning.data.drawing import AIR, FAT, MUSCLE, Array, Point, Slice, bump, harmonics


def _vessel_tree(s: Slice, root: Point, side: int) -> list[Array]:
    """Draw branching vessels from a hilum outwards, (n, 3) rows of x, y and radius for each generation."""
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


def _lung_details(s: Slice) -> tuple[Array, Array]:
    """Return coverage by vessels, nodules and bronchial walls, and by the air in bronchi, each (size, size)."""
    solid, holes = [], []
    for side in (-1, 1):
        root = s.place(side * s.rng.uniform(0.2, 0.3), s.rng.uniform(0.0, 0.2))
        count, tubes = s.rng.integers((50, 3), (110, 8))
        far, turn = np.sort(np.sqrt(s.rng.random(count))), s.rng.uniform(-2.1, 2.1, count)
        x = root[0] + side * 0.75 * s.cage[0] * far * np.cos(turn)
        y = root[1] + 0.95 * s.cage[1] * far * np.sin(turn)
        size = (0.016 - 0.009 * far) * s.rng.uniform(0.6, 1.25, count)
        dots = np.stack([x, y, size], -1).astype(np.float32)
        bronchi = dots[2 : 2 + tubes] * np.array([1, 1, 0], np.float32) + np.array([side * 0.03, 0, 0], np.float32)
        wide = s.rng.uniform(0.010, 0.018, (tubes, 1)).astype(np.float32) * np.array([0, 0, 1], np.float32)
        solid += [*_vessel_tree(s, root, side), dots, bronchi + 1.6 * wide]
        holes.append(bronchi + wide)
        if s.rng.random() < 0.2:
            p, q, radius = s.rng.uniform((0.4, -0.6, 0.018), (0.8, 0.6, 0.05))
            solid.append(np.array([(*s.place(side * p, q), radius)], np.float32))
    return s.splat(np.concatenate(solid)), s.splat(np.concatenate(holes))


def paint_lungs(s: Slice) -> None:
    """Paint both lungs, growing from the apex down until they fill the rib cage."""
    vessels, tubes = _lung_details(s)
    vessels *= np.clip(-s.bound / 0.09, 0.0, 1.0) ** 0.5
    depth = (s.y - np.float32(s.centre[1])) / np.float32(s.cage[1])
    base, gradient, dependent, blood = s.rng.uniform((-870, 15, 0, 0), (-810, 60, 120, 60)).astype(np.float32)
    hu = base + gradient * depth + dependent * np.clip(depth - 0.55, 0, 1)
    hu = hu + 30 * s.coarse + 30 * s.grain + 25 * np.clip(s.streak - 0.8, 0, 2)
    high, slant = s.rng.uniform((-0.1, 0.2), (0.3, 0.9)).astype(np.float32)
    hu += 80 * bump(depth - high - slant * (np.abs(s.x - np.float32(s.centre[0])) - np.float32(0.3)), 0.025)
    hu += vessels * (blood - hu)
    hu += tubes * (AIR - hu)
    grow = 0.55 + 1.25 * s.rise(0.0, 0.3)
    for side in (-1, 1):
        axes = (0.42 * grow * s.cage[0], 0.55 * grow * s.cage[1])
        window, lobe = s.ellipse(s.place(side * 0.5, 0.05), axes, 0.0, harmonics(s.rng, 0.02))
        s.paint((window, lobe), hu[window], 0.0)


def paint_abdomen(s: Slice) -> None:
    """Paint diaphragm domes with liver, spleen, stomach, kidneys and bowel, clipped to the rib cage."""
    right, left, phase, bound = s.rise(0.52, 0.84), s.rise(0.58, 0.88), 0.35 * s.contrast, s.bound
    j = s.rng.normal(0, 0.04, 6)
    for side, share, hu in ((1, left, FAT), (-1, right, 55 + phase)):
        if share > 0:
            # The recess of lung around a dome closes as the dome widens.
            s.bound = bound + np.float32(0.02 * (1 - share) - 0.015)
            s.organ(side * 0.46 + j[0], -0.1 + j[1], share, 1.35 * share, hu)
    if s.level > 0.82:
        s.organ(0.22, 0.2, 0.62, 0.8, FAT)
        s.organ(0.0, -0.5 + j[2], 0.55, 0.36, 56 + phase, 0.2)
    if left > 0.35:
        s.organ(0.68 + j[3], 0.38 + j[4], 0.17 + 0.16 * left, 0.45 * left, 52 + 1.2 * phase, -0.4)
        _paint_stomach(s, left)
    if s.level > 0.86:
        for side in (-1, 1):
            s.organ(side * 0.2, 0.6, 0.13, 0.2, MUSCLE)
            for grow, inner, hu in ((0.04, 0, FAT), (0, 0, 38 + 0.7 * s.contrast), (-0.1, 0.06, -40.0)):
                s.organ(side * (0.47 - inner) + j[5], 0.42, 0.16 + grow, 0.23 + grow, hu, side * 0.4)
        for _ in range(int(s.rng.integers(4, 9))):
            p, q, tilt, gas = s.rng.uniform((-0.2, -0.6, 0, 0), (0.75, 0.3, 3, 1))
            s.organ(p, q, 0.13, 0.14, 35.0, tilt)
            s.organ(p, q - 0.02, 0.09, 0.09, -900.0 if gas < 0.3 and q < 0 else 45 + phase)
    s.bound = bound


def _paint_stomach(s: Slice, rise: float) -> None:
    """Paint the stomach, with a level of fluid under a bubble of air at times."""
    p, q, content, tilt = s.rng.uniform((0.34, -0.34, 0, -0.5), (0.5, -0.1, 60, 0.5))
    fill, air = s.rng.uniform((-0.9, 0), (0.4, 1))
    at, axes = s.place(p, q), (0.36 * rise * s.cage[0], 0.42 * rise * s.cage[1])
    window, outer = s.ellipse(at, axes, tilt, harmonics(s.rng, 0.05))
    s.paint((window, outer), 45.0)
    s.paint((window, outer + np.float32(0.03)), content, 22.0)
    if air < 0.7:
        gas = np.maximum(outer + np.float32(0.025), s.y[window[0]] - np.float32(at[1] + axes[1] * fill))
        s.paint((window, gas), AIR, 8.0)


def paint_mediastinum(s: Slice) -> None:
    """Paint fat and soft tissue between the lungs, then the heart, great vessels, airways and oesophagus."""
    mix = -70 + 110 * np.clip(s.coarse + 0.5 * s.streak, -0.5, 1.2)
    shift, front = s.rng.normal(0, 0.025, 2)
    columns = ((0.0, 0.18, 0.75, 0.8), (-0.8, 0.17 + front, 0.4, 0.7), (0.6, 0.25, 0.4, 0.85))
    for q, wide, high, last in columns:
        if s.level < last:
            axes = (wide * s.cage[0], high * s.cage[1])
            window, column = s.ellipse(s.place(shift, q), axes, 0.0, harmonics(s.rng, 0.06))
            s.paint((window, column), mix[window], 14.0)
    if 0.4 < s.level < 0.82:
        _paint_heart(s)
    for p, q, radius, hu, stretch, tilt, first, last in _tubes(s):
        at, scale = s.place(*s.rng.normal((p, q), 0.025)), s.rng.normal(1, 0.06)
        wobble = harmonics(s.rng, 0.02)
        if first <= s.level < last:
            if hu == AIR:
                s.paint(s.ellipse(at, (radius * stretch + 0.014, radius + 0.014), tilt, wobble), 40.0)
            s.paint(s.ellipse(at, (radius * stretch * scale, radius * scale), tilt, wobble), hu, 9.0)


def _tubes(s: Slice) -> list[tuple[float, ...]]:
    """Return great vessels and airways: cage coordinates, radius, HU, stretch, tilt, first and last level."""
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
        (-0.01, 0.17, 0.048, AIR, 0.9, 0, 0.0, 0.31),  # trachea
        (-apart, 0.17, 0.034, AIR, 1.4, -0.5, 0.31, 0.42),  # main bronchi
        (apart, 0.17, 0.032, AIR, 1.5, 0.5, 0.31, 0.42),
    ]


def _paint_heart(s: Slice) -> None:
    """Paint pericardial fat, myocardium and four chambers, on the patient's left and largest half way down."""
    p, q, tilt, size = s.rng.uniform((0.08, -0.3, 0.2, 0.9), (0.18, -0.16, 0.7, 1.1))
    size *= 0.75 + 0.25 * s.rise(0.4, 0.52) - 0.35 * s.rise(0.68, 0.82)
    at, shape = s.place(p, q), harmonics(s.rng, 0.04)
    for share, hu in ((1.08, -90.0), (1.0, 48 + 0.3 * s.contrast)):
        axes = (0.42 * size * share * s.cage[0], 0.5 * size * share * s.cage[1])
        s.paint(s.ellipse(at, axes, tilt, shape), hu, 12.0, 0.02)
    for dp, dq, wide, high in (
        (0.16, 0.04, 0.16, 0.2),
        (-0.07, -0.2, 0.2, 0.14),
        (-0.22, 0.06, 0.13, 0.19),
        (-0.02, 0.31, 0.19, 0.12),
    ):
        hu = 55 + s.rng.uniform(0.7, 1.05) * s.contrast
        s.organ(p + dp * size, q + dq * size, wide * size, high * size, hu, tilt)
