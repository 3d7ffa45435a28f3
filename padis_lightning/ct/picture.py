"""A picture shows a scan: the image, the path of the source, the detector, the outer rays of two views."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from padis_lightning.ct.cone import ConeGeometry
from padis_lightning.ct.geometry import Array, Geometry

INK, PALE, FIRST, LAST = "#1a1a1a", "#c8c8c8", "#005ab5", "#dc5a00"


def draw_scan(geometry: Geometry | ConeGeometry, side: int = 640) -> Image.Image:
    """Draw the plane of the slice seen from the feet, y pointing up; the first view in blue, the last in orange."""
    g = geometry.fan if isinstance(geometry, ConeGeometry) else geometry
    widest = np.abs(g.detector).max()
    source, behind = g.source_distance or 0.0, g.detector_distance or 0.0
    far = max(g.radius, source, math.hypot(behind, widest))
    picture = Image.new("RGB", (side, side + 40), "white")
    draw = ImageDraw.Draw(picture)

    def at(*points: Array) -> list[tuple[float, float]]:
        return [(side / 2 + 0.46 * side / far * x, side / 2 - 0.46 * side / far * y) for x, y in points]

    corner, middle = np.array(g.size[::-1]) * g.pixel_spacing / 2, np.array(g.middle)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    draw.polygon(at(*(middle + corner * sign for sign in signs)), outline=INK, fill="#eeeeee")
    for arm in ((4, 0), (0, 4)):  # a cross on the axis
        draw.line([(side / 2 - arm[0], side / 2 - arm[1]), (side / 2 + arm[0], side / 2 + arm[1])], fill=INK)
    for view, angle in enumerate(g.angles):
        e, d = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
        colour = FIRST if view == 0 else LAST if view == len(g.angles) - 1 else PALE
        if colour != PALE:
            bins = _bins(g.views([view]), e, d)
            draw.line(at(*bins), fill=colour, width=3)
            for end in (bins[0], bins[-1]):
                draw.line(at(-source * d if g.fan else end - 2 * g.radius * d, end), fill=colour)
        (x, y), r = at(-source * d if g.fan else 0.97 * far * d)[0], 2 if colour == PALE else 4
        draw.ellipse((x - r, y - r, x + r, y + r), fill="#888888" if colour == PALE else colour)
    for row, line in enumerate(_captions(geometry, g)):
        draw.text((8, side + 4 + 16 * row), line, fill=INK)
    return picture


def _captions(geometry: Geometry | ConeGeometry, g: Geometry) -> tuple[str, str]:
    """Describe a scan, of which ``g`` is the plane of a slice, in two lines."""
    turn = math.degrees(max(g.angles) - min(g.angles))
    kind = ("fan, curved detector" if g.curved else "fan, flat detector") if g.fan else "parallel rays"
    sizes = f"{g.size[0]}x{g.size[1]} pixels of {g.pixel_spacing:.4g}, {g.bins} bins of {g.bin_spacing:.4g}"
    if isinstance(geometry, ConeGeometry):
        low, high = min(geometry.heights), max(geometry.heights)
        kind = "cone, a circle" if geometry.circular else f"cone, a helix from {low:.4g} to {high:.4g}"
        sizes = f"{geometry.size[0]}x{sizes}, {geometry.rows} rows of {geometry.row_spacing:.4g}"
    if g.fan:
        sizes += f", source {g.source_distance:g} and detector {g.detector_distance:g} from the axis"
    if np.any(g.bin_offset):
        sizes += f", axis at bin {np.mean(g.axis_bin):.4g}"
    return f"{kind}: {len(g.angles)} views over {turn:.0f} degrees, first blue, last orange", sizes


def _bins(g: Geometry, e: Array, d: Array) -> Array:
    """Return the places of the bins of the only view of a scan, ``(bins, 2)``; parallel ones behind the image."""
    if g.curved and g.source_distance:
        gamma = g.gamma.reshape(-1, 1)
        return g.reach * (np.cos(gamma) * d + np.sin(gamma) * e) - g.source_distance * d
    return (g.radius if g.detector_distance is None else g.detector_distance) * d + g.detector.reshape(-1, 1) * e
