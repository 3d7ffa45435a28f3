"""A histogram as inline SVG, a row for each method."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from padis_lightning.results.report.template import render

STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
MOST, LABELS = 24, 8  # bars in a row, numbers at the axis


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
    rows = [(name, float(np.mean(values)), np.histogram(values, edges)[0].tolist()) for name, values in finite.items()]
    apart = _step(edges[0], edges[-1], LABELS)
    ticks = apart * np.arange(math.ceil(edges[0] / apart - 1e-9), math.floor(edges[-1] / apart + 1e-9) + 1)
    return render("histogram.svg", rows=rows, edges=edges.tolist(), ticks=ticks.tolist(), unit=unit)


def _step(low: float, high: float, most: int) -> float:
    """Return the smallest of the usual steps that takes at most ``most`` of them from one value to the other."""
    return next((s for s in STEPS if (high - low) / s <= most), (high - low) / most)
