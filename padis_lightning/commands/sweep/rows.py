"""Define the rows of a sweep: what each runs, how it is named, and what rows are sorted by."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# ruff: noqa: ANN401 - settings are whatever YAML holds
NAME_LENGTH = 96
UNSAFE = re.compile(r"[^A-Za-z0-9_.+]+")


def word(value: Any) -> str:
    """Return a setting's value as a word of the command line: text as it is, anything else as JSON, which is YAML."""
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Row:
    """A row is one run of ``fit`` or ``predict``: its configs in order, and settings by dotted key over them."""

    name: str
    command: str
    configs: list[str]
    settings: dict[str, Any]

    def arguments(self, output: Path | None = None) -> list[str]:
        """Return the words after ``python -m padis_lightning``; ``model`` comes before ``model.steps``, which it would clear."""
        configs = [text for config in self.configs for text in ("--config", config)]
        keys = sorted(self.settings, key=lambda key: key.count("."))
        where = [] if output is None else ["--output", str(output)]
        return [self.command, *configs, *(f"--{key}={word(self.settings[key])}" for key in keys), *where]


@dataclass(frozen=True)
class Sweep:
    """A sweep has rows, keys in which they differ, the grid's values by key, and name and goal of the score to sort by."""

    name: str
    rows: list[Row]
    varying: list[str]
    grid: dict[str, list[Any]]
    metric: dict[str, str]

    def rank(self, scores: Mapping[str, float]) -> float:
        """Return a number that is lower for better scores; infinite where the metric is missing or not a number."""
        score = scores.get(self.metric["name"], float("nan"))
        return float("inf") if score != score else -score if self.metric["goal"] == "maximize" else score


def row_name(name: str, point: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return the name of a row: its own name, then ``key=value`` of each setting in ``point``.

    A key is cut to its last parts, as many as tell it from the other ``keys`` that vary.
    """
    words = [_safe(name)] if name else []
    words += [f"{_short(key, keys)}={_safe(value)}" for key, value in point.items()]
    full = ",".join(words) or "row"
    return full if len(full) <= NAME_LENGTH else f"{full[: NAME_LENGTH - 9]}-{_digest([name, point])}"


def _short(key: str, keys: Sequence[str]) -> str:
    parts = key.split(".")
    ends = (".".join(parts[-count:]) for count in range(1, len(parts)))
    return next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1), key)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _safe(value: Any) -> str:
    """Return a value in letters that every file system takes; with a digest where that loses something."""
    text = word(value)
    kept = UNSAFE.sub("-", text).strip("-.")
    number = isinstance(value, (int, float))
    plain = isinstance(value, list) and all(isinstance(item, (int, float)) and item >= 0 for item in value)
    return text if number or kept == text else kept if plain else f"{kept[:24] or 'value'}-{_digest(value)}"
