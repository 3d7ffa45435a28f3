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
    cone = isinstance(geometry, ConeGeometry)
    g, detector = geometry.fan if cone else geometry, geometry.detector
    widest = np.abs(detector).max()
    far = max(g.radius, widest if not g.fan else 0.0)
    if g.fan:
        far = max(g.source_distance, math.hypot(g.detector_distance, widest), far)
    scale = 0.46 * side / far
    picture = Image.new("RGB", (side, side + 40), "white")
    draw = ImageDraw.Draw(picture)

    def at(points: np.ndarray) -> list[tuple[float, float]]:
        return [(side / 2 + scale * x, side / 2 - scale * y) for x, y in points]

    height, width = (n * g.pixel_spacing / 2 for n in g.size)
    draw.polygon(
        at(np.array([(-width, -height), (width, -height), (width, height), (-width, height)])), outline=INK, fill="#eeeeee"
    )
    for view, angle in enumerate(g.angles):
        e, d = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
        colour = FIRST if view == 0 else LAST if view == len(g.angles) - 1 else PALE
        marked = colour != PALE
        source = -g.source_distance * d if g.fan else None
        bins = _bins(g, detector, e, d)
        if marked:
            draw.line(at(bins), fill=colour, width=3)
            starts = (source, source) if g.fan else tuple(b - 2 * g.radius * d for b in (bins[0], bins[-1]))
            for start, end in zip(starts, (bins[0], bins[-1]), strict=True):
                draw.line(at(np.stack([start, end])), fill=colour)
        place = source if g.fan else 0.97 * far * d
        (x, y), r = at(place[None])[0], 4 if marked else 2
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour if marked else "#888888")
    kind = ("fan, curved detector" if g.curved else "fan, flat detector") if g.fan else "parallel rays"
    if cone:
        low, high = min(geometry.heights), max(geometry.heights)
        kind = "cone, a circle" if geometry.circular else f"cone, a helix from {low:.4g} to {high:.4g}"
    turn = math.degrees(max(g.angles) - min(g.angles))
    draw.text((8, side + 4), f"{kind}: {len(g.angles)} views over {turn:.0f} degrees, first blue, last orange", fill=INK)
    sizes = f"{g.size[0]}x{g.size[1]} pixels of {g.pixel_spacing:.4g}, {g.bins} bins of {g.bin_spacing:.4g}"
    if cone:
        sizes = f"{geometry.size[0]}x{sizes}, {geometry.rows} rows of {geometry.row_spacing:.4g}"
    distances = f", source {g.source_distance:g} and detector {g.detector_distance:g} from the axis" if g.fan else ""
    draw.text((8, side + 20), sizes + distances, fill=INK)
    return picture


def _bins(g: Geometry, detector: Array, e: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Return the places of the bins of one view, ``(bins, 2)``; parallel ones behind the image."""
    if not g.fan:
        return g.radius * d + detector[:, None] * e
    if not g.curved:
        return g.detector_distance * d + detector[:, None] * e
    reach = g.source_distance + g.detector_distance
    return reach * (np.cos(g.gamma)[:, None] * d + np.sin(g.gamma)[:, None] * e) - g.source_distance * d
