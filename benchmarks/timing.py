"""Time alternatives in turn, and compare them turn by turn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def turns(cases: dict[Any, Callable[[], object]], count: int, device: str, until: float = math.inf) -> dict[Any, list[float]]:
    """Return the seconds of every case in each turn, after one turn to warm up.

    Args:
        cases: what is timed, by name.
        count: most turns.
        device: where they compute.
        until: the time of ``time.perf_counter`` after which no turn begins but the first one that is timed.
    """
    seconds: dict[Any, list[float]] = {key: [] for key in cases}
    for turn in range(count + 1):
        if turn > 1 and time.perf_counter() >= until:
            break
        for key, run in cases.items():
            synchronise(device)
            start = time.perf_counter()
            run()
            synchronise(device)
            if turn:
                seconds[key].append(time.perf_counter() - start)
    return seconds


def ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Return median and range of a / b, turn by turn."""
    pairs = [x / y for x, y in zip(a, b, strict=True)]
    return {"median": median(pairs), "low": min(pairs), "high": max(pairs)}
