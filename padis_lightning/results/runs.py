"""Result folders as they are read back, one alone or several against each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from padis_lightning import metrics
from padis_lightning.errors import InputError
from padis_lightning.files import write_text
from padis_lightning.results.panels import Panel, read_panels

KEPT = "report.json"
FOLDERS = ("output", "trainer.default_root_dir")  # settings that only say where results go


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

    def panels(self, name: str) -> list[Panel]:
        """Those of one of the ``pictures``."""
        return read_panels(self.folder / "panels" / f"{name}.npz")


def keep_run(folder: Path, rows: list[dict[str, Any]], shown: dict[str, Any], pictures: list[str]) -> None:
    """Write what :func:`read_run` needs besides ``summary.json`` and the panels."""
    write_text(folder / KEPT, json.dumps({"shown": shown, "pictures": pictures, "images": rows}, indent=1) + "\n")


def read_run(folder: Path, name: str = "") -> Run:
    """Read a result folder.

    Raises:
        InputError: it is not one, or lacks a file.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {str(folder)!r}; wanted one that predict wrote")
    summary, kept = (_json(folder / file) for file in ("summary.json", KEPT))
    config = folder / "config.yaml"
    try:
        rows, shown, pictures = kept["images"], kept["shown"], [str(p) for p in kept["pictures"]]
        missing = {"index", "name", "group", "psnr", "baselines"} - set.intersection(*map(set, rows))
        missing |= {"units", "lower", "upper", "window", "error_scale"} - set(shown)
        missing |= {"solver", "baselines", "gain", "intervals", "n", "groups"} - set(summary)
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / KEPT} is not as predict writes it; wanted images, shown and pictures") from error
    if missing:
        raise InputError(f"{folder} has results without {', '.join(sorted(missing))}; wanted what predict writes")
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    return Run(name or folder.resolve().name, folder, summary, rows, shown, pictures, text)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path.parent} has no {path.name}; wanted a folder that predict wrote")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} cannot be read ({error}); wanted what predict writes") from error


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read folders that hold the same images; each is called by its name, or by its path where names are alike.

    Raises:
        InputError: one is not a result folder, or holds other images than the first.
    """
    names = [folder.resolve().name for folder in folders]
    twice = [folder for k, folder in enumerate(folders) if folder.resolve() in [f.resolve() for f in folders[:k]]]
    if twice:
        raise InputError(f"{twice[0]} is named twice; wanted different folders")
    alike = len(set(names)) < len(names)
    runs = [read_run(folder, str(folder) if alike else "") for folder in folders]
    first = runs[0]
    for run in runs[1:]:
        _require_alike(run, first)
    for name in shared_pictures(runs):
        truths = [[p for p in run.panels(name) if p.kind == "truth"] for run in runs]
        for run, truth in zip(runs, truths, strict=True):
            if truth and truths[0] and not np.array_equal(truth[0].values, truths[0][0].values):
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
    """Names of the images that all runs have panels of, in the order of the first."""
    return [name for name in runs[0].pictures if all(name in run.pictures for run in runs)]


def differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For every two runs with truths: the mean of the paired differences of PSNR, with its interval over groups."""
    out = []
    for a, b in combinations(runs, 2):
        if a.rows[0]["psnr"] is None or b.rows[0]["psnr"] is None:
            continue
        theirs = {row["name"]: row["psnr"] for row in a.rows}
        gains = [row["psnr"] - theirs[row["name"]] for row in b.rows]
        interval = metrics.interval(gains, [row["group"] for row in b.rows])
        out.append({"of": b.name, "over": a.name, "psnr": float(np.mean(gains)), "interval": interval})
    return out


def flat(settings: Any, prefix: str = "") -> dict[str, str]:  # noqa: ANN401 - whatever YAML and JSON hold
    """Nested settings as dotted keys with values in words."""
    if not isinstance(settings, dict) or not settings:
        return {prefix: settings if isinstance(settings, str) else json.dumps(settings)}
    return {k: v for key, value in settings.items() for k, v in flat(value, f"{prefix}.{key}" if prefix else str(key)).items()}


def changed(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """Settings that are not the same in all runs, each with its values; None where a run has none."""
    settings = [flat(yaml.safe_load(run.config) or {}) for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    values = {key: [one.get(key) for one in settings] for key in keys if key and key not in FOLDERS}
    return {key: row for key, row in values.items() if len(set(row)) > 1}
