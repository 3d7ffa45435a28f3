"""A histogram as inline SVG, a row for each method."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np

STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
MOST, LABELS = 24, 8  # bars in a row, numbers at the axis
WIDTH, ROW, BARS, LEFT, RIGHT, AXIS = 300, 46, 22, 8, 14, 38


def histogram(series: dict[str, Sequence[float]], unit: str) -> str:
    """The values of each method over one axis, with their mean; the last method is blue, the others orange and grey.

    Args:
        series: values by method; those that are not finite are left out.
        unit: what the axis counts.

    Returns:
        An ``<svg>`` element, or nothing where there are no finite values.
    """
    finite = {name: [v for v in values if math.isfinite(v)] for name, values in series.items()}
    finite = {name: values for name, values in finite.items() if values}
    if not finite:
        return ""
    edges = _edges([v for values in finite.values() for v in values])
    counts = {name: np.histogram(values, edges)[0] for name, values in finite.items()}
    highest = max(int(c.max()) for c in counts.values())
    rows = [
        _row(k, name, len(finite) - 1 - k, values, counts[name], edges, highest, unit)
        for k, (name, values) in enumerate(finite.items())
    ]
    means = ", ".join(f"{name} {np.mean(values):.2f}" for name, values in finite.items())
    label = html.escape(f"Histogram of {unit}, means: {means}")
    height = ROW * len(finite) + AXIS
    axis = _axis(edges, ROW * len(finite), unit)
    return f'<svg class="histogram" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(rows)}{axis}</svg>'


def _step(low: float, high: float, most: int) -> float:
    """The smallest of the usual steps that takes at most ``most`` of them from one value to the other."""
    return next((s for s in STEPS if (high - low) / s <= most), (high - low) / most)


def _edges(values: Sequence[float]) -> np.ndarray:
    step = _step(min(values), max(values), MOST)
    return step * np.arange(math.floor(min(values) / step), math.floor(max(values) / step) + 2)


def _place(value: float, edges: np.ndarray) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - edges[0]) / (edges[-1] - edges[0])


def _row(
    k: int, name: str, rank: int, values: Sequence[float], counts: np.ndarray, edges: np.ndarray, highest: int, unit: str
) -> str:
    base, mean = ROW * (k + 1), float(np.mean(values))
    bars = []
    for count, start, end in zip(counts, edges, edges[1:], strict=False):
        if count:
            x, height = _place(start, edges), BARS * count / highest
            said = f"{name}: {count} {'image' if count == 1 else 'images'} from {start:.4g} to {end:.4g} {unit}"
            bars.append(
                f'<rect x="{x + 0.5:.1f}" y="{base - height:.1f}" width="{_place(end, edges) - x - 1:.1f}" height="{height:.1f}">'
                f"<title>{html.escape(said)}</title></rect>"
            )
    at = _place(mean, edges)
    return (
        f'<g class="method rank{min(rank, 2)}"><text x="{LEFT}" y="{base - BARS - 7}">{html.escape(name)}'
        f'<tspan class="mean" dx="6">mean {mean:.2f}</tspan></text>{"".join(bars)}'
        f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>'
        f'<path class="at" d="M{at:.1f} {base}l-4 6h8z"/></g>'
    )


def _axis(edges: np.ndarray, top: int, unit: str) -> str:
    step = _step(edges[0], edges[-1], LABELS)
    marks = step * np.arange(math.ceil(edges[0] / step - 1e-9), math.floor(edges[-1] / step + 1e-9) + 1)
    ticks = "".join(f'<text x="{_place(x, edges):.1f}" y="{top + 20}" text-anchor="middle">{x:.4g}</text>' for x in marks)
    return f'<g class="axis">{ticks}<text x="{WIDTH - RIGHT}" y="{top + 34}" text-anchor="end">{html.escape(unit)}</text></g>'
