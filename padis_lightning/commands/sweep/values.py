"""Scores of a finished row, by name."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from padis_lightning.commands.sweep.model import Row

SCORES = ("psnr", "ssim", "residual", "deviation", "coverage", "seconds_per_image", "evaluations", "n")


def read_values(row: Row, folder: Path) -> dict[str, float]:
    """What ``predict`` summed up or ``fit`` logged last; empty where it left neither.

    Ends of intervals are ``psnr_low`` and ``psnr_high``, gains over a baseline ``gain_tv``.
    """
    return dict(_predicted(folder) if row.command == "predict" else _fitted(folder))


def _predicted(folder: Path) -> Iterator[tuple[str, float]]:
    path = folder / "summary.json"
    if not path.is_file():
        return
    summary = json.loads(path.read_text(encoding="utf-8"))
    intervals = summary.get("intervals", {})
    for key in SCORES:
        if summary.get(key) is not None:
            yield from _with_interval(key, summary[key], intervals.get(key))
    for name, gain in summary.get("gain", {}).items():
        yield from _with_interval(f"gain_{name}", gain["psnr"], gain.get("interval"))


def _with_interval(key: str, value: float, interval: list[float] | None) -> Iterator[tuple[str, float]]:
    yield key, value
    yield from zip((f"{key}_low", f"{key}_high"), interval or (), strict=False)


def _fitted(folder: Path) -> Iterator[tuple[str, float]]:
    """The last of each validation score, and the steps that were logged; a run that went on has several logs."""
    last: dict[str, Any] = {}
    logs = sorted(folder.glob("log/version_*/metrics.csv"), key=lambda path: int(path.parent.name.removeprefix("version_")))
    for path in logs:
        with path.open(newline="", encoding="utf-8") as handle:
            for line in csv.DictReader(handle):
                last |= {key: value for key, value in line.items() if value and (key == "step" or key.startswith("val/"))}
    for key, value in last.items():
        yield ("steps", int(value) + 1) if key == "step" else (key, float(value))
