"""Result folders as they are read back, one alone or several against each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from padis_lightning.errors import InputError, one_line
from padis_lightning.files import lies_in
from padis_lightning.results.json_files import DISPLAY, NUMBER, SCORES, read_json, write_json
from padis_lightning.results.report.panels import Panel, read_panels
from padis_lightning.results.scores import mean_gain

KEPT = "report.json"
FOLDERS = ("output", "trainer.default_root_dir")  # settings that only say where results go
MEANS = {**SCORES, "intervals": {str: [NUMBER | None]}}
GAIN = {"psnr": NUMBER | None, "interval": [NUMBER | None]}
SUMMARY = {**MEANS, "solver": str, "baselines": {str: MEANS}, "gain": {str: GAIN}, "n": int, "groups": int}
ROW = {"index": int, "name": str, "group": str, **SCORES, "baselines": {str: {"psnr": NUMBER | None}}}
REPORT = {"images": [ROW], "shown": DISPLAY, "pictures": [str]}


@dataclass(frozen=True)
class Run:
    """What ``predict`` left in a folder.

    Attributes:
        name: what it is called beside others.
        folder: where it is.
        summary: means, intervals and provenance.
        rows: the scores of every image, with its group and those of the baselines.
        shown: how pixels are shown: ``units``, ``lower`` and ``upper`` (the ends of the data), ``window``, ``error_scale``.
        pictures: names of the images that have panels.
        config: the text of ``config.yaml``, empty where there is none.
    """

    name: str
    folder: Path
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    shown: dict[str, Any]
    pictures: list[str]
    config: str

    @cached_property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Return the rows by the names of their images."""
        return {row["name"]: row for row in self.rows}

    def truth(self, name: str) -> np.ndarray | None:
        """Return the true values of one of the ``pictures``, where they are known."""
        return next((panel.values for panel in self.panels(name) if panel.kind == "truth"), None)

    def panels(self, name: str) -> list[Panel]:
        """Return the panels of one of the ``pictures``."""
        path = self.folder / "panels" / f"{name}.npz"
        if not lies_in(path, self.folder):
            raise InputError(f"{path} is outside of {self.folder}; wanted the panels that predict writes")
        return read_panels(path)


def write_report_data(folder: Path, rows: list[dict[str, Any]], shown: dict[str, Any], pictures: list[str]) -> None:
    """Write what :func:`read_run` needs besides ``summary.json`` and the panels."""
    write_json(folder / KEPT, {"shown": shown, "pictures": pictures, "images": rows})


def read_run(folder: Path, name: str = "") -> Run:
    """Read a result folder.

    Raises:
        InputError: it is not one, or lacks a file.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {str(folder)!r}; wanted one that predict wrote")
    for file in ("summary.json", KEPT):
        if not (folder / file).is_file():
            raise InputError(f"{folder} has no {file}; wanted a folder that predict wrote")
    summary, kept = read_json(folder / "summary.json", SUMMARY), read_json(folder / KEPT, REPORT)
    rows, pictures = kept["images"], kept["pictures"]
    same = all(row["baselines"].keys() == summary["baselines"].keys() for row in rows)
    if not rows or not same or not set(pictures) <= {row["name"] for row in rows}:
        path = folder / KEPT
        raise InputError(f"{path} is not as predict writes it: wanted images, their pictures and the summary's baselines")
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    return Run(name or folder.resolve().name, folder, summary, rows, kept["shown"], pictures, text)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read folders that hold the same images; each is called by its name, or by its path where names are alike.

    Raises:
        InputError: one is not a result folder, or holds other images than the first.
    """
    places = [folder.resolve() for folder in folders]
    twice = [folder for k, folder in enumerate(folders) if places[k] in places[:k]]
    if twice:
        raise InputError(f"{twice[0]} is named twice; wanted different folders")
    alike = len({place.name for place in places}) < len(places)
    first, *others = runs = [read_run(folder, str(folder) if alike else "") for folder in folders]
    for run in others:
        _require_alike(run, first)
    for name in shared_pictures(runs) if others else ():
        wanted = first.truth(name)
        for run in others:
            truth = run.truth(name)
            if truth is not None and wanted is not None and not np.array_equal(truth, wanted):
                raise InputError(f"{run.folder} has another truth of image {name}; wanted that of {first.folder}")
    return runs


def _require_alike(run: Run, first: Run) -> None:
    seen, wanted = ({(row["name"], row["group"]) for row in r.rows} for r in (run, first))
    if seen != wanted:
        name, group = min(seen ^ wanted)
        raise InputError(
            f"{run.folder} has {len(seen)} images, and {name!r} of {group!r} is in one folder only; "
            f"wanted the {len(wanted)} images of {first.folder}"
        )
    ends, others = ([r.shown[key] for key in ("lower", "upper", "units")] for r in (run, first))
    if ends != others:
        raise InputError(f"{run.folder} has data {_range(ends)}; wanted {_range(others)}, that of {first.folder}")


def _range(ends: list[Any]) -> str:
    return f"from {ends[0]:g} to {ends[1]:g} {ends[2]}".rstrip()


def shared_pictures(runs: Sequence[Run]) -> list[str]:
    """Return the names of the images that all runs have panels of, in the order of the first."""
    return [name for name in runs[0].pictures if all(name in run.pictures for run in runs)]


def paired_differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return, for every two runs with truths, the mean paired difference of PSNR with its interval over groups."""
    out = []
    for a, b in combinations(runs, 2):
        rows = [(row["psnr"], a.scores[row["name"]]["psnr"], row["group"]) for row in b.rows]
        gain = mean_gain(*zip(*rows, strict=True))
        if gain is not None:
            out.append({"of": b.name, "over": a.name, **gain})
    return out


def dotted(settings: Any, prefix: str = "") -> dict[str, str]:  # noqa: ANN401 - whatever YAML and JSON hold
    """Return nested settings as dotted keys with values in words."""
    if not isinstance(settings, dict) or not settings:
        return {prefix: settings if isinstance(settings, str) else json.dumps(settings, default=str)}
    return {k: v for key, value in settings.items() for k, v in dotted(value, f"{prefix}.{key}" if prefix else str(key)).items()}


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """Return settings that are not the same in all runs, each with its values; None where a run has none.

    Raises:
        InputError: a ``config.yaml`` is damaged.
    """
    settings = []
    for run in runs:
        try:
            settings.append(dotted(yaml.safe_load(run.config) or {}))
        except (yaml.YAMLError, RecursionError) as error:
            path = run.folder / "config.yaml"
            raise InputError(f"{path} cannot be read ({one_line(error)}); wanted what predict writes") from error
    keys = dict.fromkeys(key for one in settings for key in one)
    values = {key: [one.get(key) for one in settings] for key in keys if key and key not in FOLDERS}
    return {key: row for key, row in values.items() if len(set(row)) > 1}
