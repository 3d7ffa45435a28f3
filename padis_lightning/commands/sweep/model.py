"""What a sweep is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from padis_lightning.commands.sweep.points import Draws


def word(value: Any) -> str:  # noqa: ANN401 - whatever YAML holds
    """A setting's value as a word of the command line: text as it is, anything else as JSON, which is YAML."""
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Row:
    """One run of a sweep.

    Args:
        name: of its folder; no two rows share it.
        command: ``fit`` or ``predict``.
        configs: what stands after ``--config``, in this order.
        settings: values by dotted key, over those of the configs.
    """

    name: str
    command: str
    configs: list[str]
    settings: dict[str, Any]

    def arguments(self, output: Path | None = None) -> list[str]:
        """Words after ``python -m padis_lightning``; ``model`` stands before ``model.steps``, which it would clear."""
        configs = [text for config in self.configs for text in ("--config", config)]
        keys = sorted(self.settings, key=lambda key: key.count("."))
        where = [] if output is None else ["--output", str(output)]
        return [self.command, *configs, *(f"--{key}={word(self.settings[key])}" for key in keys), *where]


@dataclass(frozen=True)
class Metric:
    """What rows are sorted by."""

    name: str
    goal: Literal["maximize", "minimize"]

    def rank(self, values: dict[str, Any]) -> float:
        """A number that is lower for better values; infinite where there is none."""
        value = values.get(self.name)
        if not isinstance(value, (int, float)) or value != value:
            return float("inf")
        return -value if self.goal == "maximize" else value


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in a few settings.

    Args:
        name: the file's, without its ending.
        command: ``fit`` or ``predict``.
        configs: those of rows that name none.
        settings: the same in all rows.
        rows: all of them, in order.
        varying: keys in which rows may differ.
        metric: what the table is sorted by.
        grid: values of each key.
        random: keys drawn by chance.
        sobol: keys drawn evenly.
        written: whether rows were written out.
        variables: names that were replaced.
    """

    name: str
    command: str
    configs: list[str]
    settings: dict[str, Any]
    rows: list[Row]
    varying: list[str]
    metric: Metric
    grid: dict[str, list[Any]] = field(default_factory=dict)
    random: Draws | None = None
    sobol: Draws | None = None
    written: bool = False
    variables: frozenset[str] = frozenset()
