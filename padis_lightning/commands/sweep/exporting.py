"""A sweep as W&B's agents take it; neither an account nor a network is needed to write it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from padis_lightning.commands.sweep.model import Row, Sweep, word
from padis_lightning.commands.sweep.points import Choice, Range
from padis_lightning.errors import InputError


def wandb_config(sweep: Sweep, output: str | Path) -> dict[str, Any]:
    """The sweep's configuration for ``wandb sweep``; every run lands in ``output/<id of the run>``.

    Raises:
        InputError: a part of the sweep has no counterpart there.
    """
    if sweep.sobol or sweep.written or bool(sweep.grid) == bool(sweep.random):
        parts = {"grid": sweep.grid, "random": sweep.random, "sobol": sweep.sobol, "rows": sweep.written}
        given = " and ".join(name for name, part in parts.items() if part) or "no varying key"
        raise InputError(f"the sweep has {given}; wanted grid or random alone, which W&B has, too")
    if sweep.random:
        space = {key: _distribution(values) for key, values in sweep.random.values.items()}
        method = {"method": "random", "run_cap": sweep.random.samples}
    else:
        space = {key: {"values": [_constant(value) for value in values]} for key, values in sweep.grid.items()}
        method = {"method": "grid"}
    shared = {"trainer.logger": "WandbLogger", **sweep.settings}
    fixed = Row(sweep.name, sweep.command, sweep.configs, shared).arguments()
    folder = f'exec "$@" --output {shlex.quote(str(output))}/"$WANDB_RUN_ID"'  # an agent knows the run only in its process
    return {
        "name": sweep.name,
        "program": "padis_lightning",
        "command": ["${env}", "sh", "-c", folder, "sh", "${interpreter}", "-m", "${program}", *fixed, "${args}"],
        **method,
        "metric": {"name": sweep.metric.name, "goal": sweep.metric.goal},
        "parameters": space,
    }


def _distribution(values: Range | Choice) -> dict[str, Any]:
    if isinstance(values, Choice):
        return {"values": [_constant(value) for value in values.values]}
    ends = {"min": values.low, "max": values.high}
    if values.integer:
        return {"distribution": "q_log_uniform_values", "q": 1, **ends} if values.log else {"distribution": "int_uniform", **ends}
    return {"distribution": "log_uniform_values" if values.log else "uniform", **ends}


def _constant(value: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
    """A value that W&B writes into a word as the command line reads it."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if number else word(value)
