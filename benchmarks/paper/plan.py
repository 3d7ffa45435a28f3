"""Estimate how long the rows of a scale take."""

from __future__ import annotations

from benchmarks.paper.scales import COSTS
from padis_lightning.commands.sweep import Row

GRADIENT = 2.2  # an evaluation with its derivative over one without
AVERAGED = 1.8  # an evaluation of overlapping tiles over one of a partition
SHIPPED = 50  # evaluations of the configs that are run as they are


def seconds(row: Row, scale: str, values: dict[str, str]) -> float:
    """Estimate the seconds of one row on a quiet machine of the scale's kind."""
    start, step, evaluation = COSTS[scale]
    if row.command == "fit":
        steps = float(row.settings["trainer.max_steps"])
        relative = (float(row.settings["data.size"]) / float(values["SIZE"])) if "large" in row.name else 1.0
        return start + relative * step * steps
    model = row.settings.get("model")
    if model in ("TotalVariation", "PseudoInverse"):
        return 1.2 * start
    evaluations = float(row.settings.get("model.steps", SHIPPED)) * float(row.settings.get("model.inner", 1))
    evaluations *= GRADIENT if model == "DPS" else 2.0 if model == "PredictorCorrector" else 1.0
    evaluations *= AVERAGED if row.settings.get("prior.tiling") == "OverlapTiling" else 1.0
    pixels = (float(row.settings["data.size"]) / float(values["SIZE"])) ** 2
    return start + float(row.settings["data.count"]) * pixels * evaluations * evaluation
