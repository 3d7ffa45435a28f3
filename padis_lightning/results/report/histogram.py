"""A histogram as inline SVG, a row for each method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from padis_lightning.results.report.template import render

STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
MOST, LABELS = 24, 8  # bars in a row, numbers at the axis
WIDTH, ROW, BARS, LEFT, RIGHT, AXIS = 300, 46, 22, 8, 14, 38  # the template knows them by these names


def histogram(series: dict[str, Sequence[float]], unit: str) -> Markup:
    """Draw the values of each method over one axis, with their mean; the last method is blue, the others orange and grey.

    Args:
        series: values by method; those that are not finite are left out.
        unit: what the axis counts.

    Returns:
        An ``<svg>`` element, or nothing where there are no finite values.
    """
    finite = {name: [v for v in values if math.isfinite(v)] for name, values in series.items()}
    finite = {name: values for name, values in finite.items() if values}
    if not finite:
        return Markup()
    every = [v for values in finite.values() for v in values]
    step = _step(min(every), max(every), MOST)
    edges = step * np.arange(math.floor(min(every) / step), math.floor(max(every) / step) + 2)
    counts = {name: np.histogram(values, edges)[0] for name, values in finite.items()}
    highest = max(int(c.max()) for c in counts.values())

    def place(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - edges[0]) / (edges[-1] - edges[0])

    rows = [
        {
            "name": name,
            "rank": min(len(finite) - 1 - k, 2),
            "base": ROW * (k + 1),
            "mean": float(np.mean(values)),
            "bars": _bars(counts[name], edges, highest, place),
        }
        for k, (name, values) in enumerate(finite.items())
    ]
    step = _step(edges[0], edges[-1], LABELS)
    ticks = step * np.arange(math.ceil(edges[0] / step - 1e-9), math.floor(edges[-1] / step + 1e-9) + 1)
    sizes = {"WIDTH": WIDTH, "LEFT": LEFT, "RIGHT": RIGHT, "BARS": BARS, "top": ROW * len(rows), "height": ROW * len(rows) + AXIS}
    return render("histogram.svg", rows=rows, ticks=ticks.tolist(), place=place, unit=unit, **sizes)


def _step(low: float, high: float, most: int) -> float:
    """Return the smallest of the usual steps that takes at most ``most`` of them from one value to the other."""
    return next((s for s in STEPS if (high - low) / s <= most), (high - low) / most)


def _bars(counts: np.ndarray, edges: np.ndarray, highest: int, place: Callable[[float], float]) -> list[dict[str, Any]]:
    bars = zip(counts.tolist(), edges.tolist(), edges[1:].tolist(), strict=False)
    return [
        {
            "count": count,
            "from": start,
            "to": end,
            "x": place(start),
            "width": place(end) - place(start),
            "height": BARS * count / highest,
        }
        for count, start, end in bars
        if count
    ]
