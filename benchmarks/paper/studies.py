"""Define which sweep files make which study, in which folder, with which priors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.paper.scales import task
from padis_lightning.commands.sweep import Row, Sweep, read_sweep

#: what tuning decides: the name in the files, the prefix of the rows that try it, the setting that they try
CHOICES = {
    "TV": ("tv-", "model.weight"),
    "ZETA": ("zeta-", "model.zeta"),
    "PNP_SIGMA": ("pnp-", "model.sigma_max"),
    "RED_SIGMA": ("red-", "model.sigma_max"),
}
MAIN = ("ct20", "ct8", "deblur", "sr4x")
MORE = ("ct60", "ct_fan", "deblur_heavy")
TUNED = {"main": MAIN, "more": MORE, "levels": ("ct20",)}
PRIORS = {
    "main": ("ct", "ct_whole", "faces", "faces_whole"),
    "more": ("ct", "faces", "ct_large", "middle-none"),
    "positions": tuple(f"{size}-{kind}" for size in ("small", "middle", "big") for kind in ("coordinates", "learned", "none")),
    "patients": ("middle-coordinates", "patches-some", "patches-few", "whole-all", "whole-some", "whole-few"),
    "levels": ("ct",),
    "partitions": ("ct",),
    "inpainting": ("faces",),
    "costs": (),
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A part is the rows of a sweep that run into one folder.

    Args:
        folder: below the folder of results; the first word names the study.
        file: the sweep's, in ``configs/sweep/paper``.
        task: what is measured.
        only: names of the rows to run (default: all).
    """

    folder: str
    file: str
    task: str = "ct20"
    only: tuple[str, ...] | None = None

    def sweep(self, values: Mapping[str, str], output: Path) -> Sweep:
        """Return the rows at the scale of ``values``, with what tuning in ``output`` has chosen or the first candidates."""
        values = {**values, **task(self.task, values)}
        if self.file != "tuning":
            values |= chosen(self.task, values, output)
        sweep = read_sweep(f"paper/{self.file}.yaml", values)
        rows = [replace(row, name=row.name.split(",")[0]) for row in sweep.rows]
        return replace(sweep, rows=[row for row in rows if self.only is None or row.name in self.only])


def parts(studies: tuple[str, ...]) -> list[Part]:
    """Return what studies run, each after the priors that it needs and what is tuned for it."""
    found: list[Part] = []
    trained: set[str] = set()
    for study in studies:
        needed = tuple(prior for prior in PRIORS[study] if prior not in trained)
        trained.update(needed)
        tuned = [Part(f"tuning/{name}", "tuning", name, tried(name)) for name in TUNED.get(study, ())]
        found += [Part("priors", "priors", only=needed)] if needed else []
        found += [part for part in tuned if part not in found] + _own(study)
    return found


def _own(study: str) -> list[Part]:
    """Return a study's own sweeps; two studies are none."""
    if study == "main":
        return [Part(f"main/{name}", "methods", name) for name in MAIN]
    if study == "more":
        tasks = [Part(f"more/{name}", "methods", name, ("default", "padis")) for name in MORE]
        return [*tasks, Part("more/large", "large", "large")]
    return [] if study in ("partitions", "costs") else [Part(study, study)]


def tried(task: str) -> tuple[str, ...] | None:
    """Return the rows of tuning that a task needs: those of its methods."""
    return None if task in MAIN else ("tv-1", "tv-2", "tv-3", "tv-4", "zeta-1", "zeta-2")


def chosen(name: str, values: Mapping[str, str], output: Path) -> dict[str, str]:
    """Return for each of :data:`CHOICES` the candidate of the highest PSNR on validation data; the first one where none was run.

    Args:
        name: of the task; the larger image takes what was chosen for 60 views.
        values: what stands for the names of the scale and the task.
        output: the folder of results.
    """
    name = "ct60" if name == "large" else name
    part = Part(f"tuning/{name}", "tuning", name)
    sweep = part.sweep(values, output)
    found = {}
    for key, (prefix, setting) in CHOICES.items():
        rows = [row for row in sweep.rows if row.name.startswith(prefix)]
        scores = [_score(output / part.folder / row.name) for row in rows]
        best: Row = rows[scores.index(max(scores))]
        found[key] = str(best.settings[setting])
    return found


def _score(folder: Path) -> float:
    """Return the PSNR of a finished row; one that is not finished is worse than any, and one with exact images better."""
    path = folder / "done.json"
    return psnr_of(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else -math.inf


def psnr_of(record: Mapping[str, Any]) -> float:
    """Return the PSNR that a finished row has written, infinite where an image is exact, which JSON has no number for."""
    found = record["values"]["psnr"]
    return math.inf if found is None else found
