"""Make the studies' tables in Markdown, from the folders of results alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.records import Scores, difference, mean, read_scores, spelled
from benchmarks.paper.studies import CHOICES, psnr_of, tried
from padis_lightning.metrics import interval

#: rows of a task's folder in the order of the paper, the name of each, and the baseline that it is, if it is one
METHODS = {
    "plain": "baseline: filtered back-projection, or the plain inverse",
    "tv": "total variation",
    "pnp_admm": "PnP-ADMM, one level",
    "pnp_red": "PnP-RED",
    "whole": "whole-image diffusion (DPS)",
    "langevin": "Langevin",
    "predictor_corrector": "predictor-corrector",
    "ve_ddnm": "VE-DDNM",
    "averaging": "patch averaging (DPS)",
    "stitching": "patch stitching (DPS)",
    "padis": "PaDIS (DPS)",
    "dpir": "half-quadratic splitting (DPIR)",
    "default": "**this library's default**",
    "without_positions": "default, a prior without positions of smaller images",
}
MISSING = "not finished"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def task_scores(folder: Path) -> dict[str, Scores]:
    """Return the finished methods of a task, with the two baselines that run beside the default."""
    found = read_scores(folder / "default")
    scores = {name: found[name] for name in ("plain", "tv") if name in found}
    for name in METHODS:
        row = read_scores(folder / name)
        scores |= {name: row["estimate"]} if row else {}
    return scores


def cells(scores: Scores | None, reference: Scores | None) -> list[str]:
    """Return PSNR, its gain over a reference, SSIM, evaluations and seconds of one method."""
    if scores is None:
        return [MISSING, "", "", "", ""]
    gain = "" if reference is None or reference is scores else spelled(difference(scores, reference), sign="+")
    psnr, ssim = (mean(values, scores.groups) for values in (scores.psnr, scores.ssim))
    return [spelled(psnr), gain, spelled(ssim, 3), f"{scores.evaluations:.0f}", f"{scores.seconds:.2g}"]


def task_table(folder: Path, only: Sequence[str] = tuple(METHODS)) -> str:
    """Compare the methods of a task."""
    scores = task_scores(folder)
    rows = [[METHODS[name], *cells(scores.get(name), scores.get("tv"))] for name in only]
    count = next((f"{len(s.psnr)} images, {len(set(s.groups.values()))} groups" for s in scores.values()), "no images yet")
    return markdown([f"method ({count})", "PSNR (dB)", "gain over TV (dB)", "SSIM", "evaluations", "s/image"], rows)


def tuning_table(folder: Path, tasks: Sequence[str]) -> str:
    """List PSNR on validation data of every candidate, the highest in bold."""
    rows = []
    for task in tasks:
        for key, (prefix, setting) in CHOICES.items():
            if not any(name.startswith(prefix) for name in tried(task) or (prefix,)):
                continue
            found = sorted(folder.glob(f"{task}/{prefix}*/done.json"))
            records = [json.loads(path.read_text(encoding="utf-8")) for path in found]
            best = max(map(psnr_of, records), default=None)
            pairs = ((r["settings"][setting], psnr_of(r)) for r in records)
            text = ", ".join(f"**{value}: {psnr:.2f}**" if psnr == best else f"{value}: {psnr:.2f}" for value, psnr in pairs)
            rows.append([task, f"`{key}` ({setting})", text or MISSING])
    return markdown(["task", "setting", "value: PSNR on validation data (dB)"], rows)


def positions_table(folder: Path, sizes: dict[str, str]) -> str:
    """Compare patch sizes down and encodings across; each with its difference from coordinates."""
    rows = []
    for size, label in sizes.items():
        found = {kind: read_scores(folder / f"{size}-{kind}").get("estimate") for kind in ("coordinates", "learned", "none")}
        row = [label]
        for kind, scores in found.items():
            text = spelled(mean(scores.psnr, scores.groups)) if scores else MISSING
            if scores and found["coordinates"] and kind != "coordinates":
                text += f" ({spelled(difference(scores, found['coordinates']), sign='+')})"
            row.append(text)
        rows.append(row)
    return markdown(["patch sizes", "coordinates", "learned map (less coordinates)", "none (less coordinates)"], rows)


def patients_table(folder: Path, counts: dict[str, str]) -> str:
    """Compare patches with whole images by the number of patients."""
    rows = []
    for share, label in counts.items():
        pair = [read_scores(folder / f"{kind}-{share}").get("estimate") for kind in ("patches", "whole")]
        texts = [spelled(mean(scores.psnr, scores.groups)) if scores else MISSING for scores in pair]
        rows.append([label, *texts, spelled(difference(*pair), sign="+") if all(pair) else ""])
    return markdown(["training patients", "patches (dB)", "whole images (dB)", "gain of patches (dB)"], rows)


def level_scores(folder: Path, solver: str) -> list[tuple[float, float, Scores]]:
    """Return first and last level and the scores of every finished row of a solver, in order."""
    found = []
    for path in folder.glob(f"{solver}-*"):
        scores = read_scores(path)
        if scores:
            settings = json.loads((path / "done.json").read_text(encoding="utf-8"))["settings"]
            found.append((float(settings["model.sigma_max"]), float(settings["model.sigma_min"]), scores["estimate"]))
    return sorted(found, key=lambda row: row[:2])


def levels_table(folder: Path, solvers: dict[str, str]) -> str:
    """List solvers by their first and last level."""
    rows = [
        [title, f"{first:g}", f"{last:g}", spelled(mean(scores.psnr, scores.groups))]
        for solver, title in solvers.items()
        for first, last, scores in level_scores(folder, solver)
    ]
    return markdown(["solver", "first sigma", "last sigma", "PSNR (dB)"], rows or [["", "", "", MISSING]])


def partitions_tables(figures: dict[str, Any]) -> tuple[str, str, float]:
    """Tabulate error and variance by level, PSNR by how many partitions are averaged, and how far the law of 1 / K is off."""
    rows, off = [], 0.0
    for level in figures["levels"]:
        error, variance = level["error of all"], level["variance"]
        off = max(off, *(abs(int(k) * value / variance - 1) for k, value in level["spread"].items()))
        ratios = [1 + variance / k / error for k in (1, 4, 16)] + [value["error"] / error for value in level["others"].values()]
        losses = [f"{10 * np.log10(ratio):+.2f}" for ratio in ratios]
        relative = np.sqrt(variance) / level["sigma"]
        rows.append([f"{level['sigma']:g}", f"{error:.2e}", f"{variance:.2e}", f"{relative:.3f}", *losses])
    head = ["sigma", "error of the mean of all", "variance of one", "its deviation / sigma", "one (dB)", "4 (dB)", "16 (dB)"]
    first = markdown([*head, "fixed (dB)", "overlapping (dB)"], rows)
    rows = []
    for solved in figures["solved"]:
        base = next(row for row in figures["solved"] if row["solver"] == solved["solver"])
        count = solved["partitions"] or "all"
        gain = [a - b for a, b in zip(solved["each"], base["each"], strict=True)]
        psnr, gains = ((float(np.mean(v)), *interval(v, solved["groups"])) for v in (solved["each"], gain))
        shown = "" if solved is base else spelled(gains, sign="+")
        rows.append([solved["solver"], str(count), str(solved["steps"]), spelled(psnr), shown, f"{solved['seconds']:.2g}"])
    second = markdown(["solver", "partitions", "steps", "PSNR (dB)", "gain over one (dB)", "s/image"], rows)
    return first, second, off


def costs_table(figures: Sequence[dict[str, Any]]) -> str:
    """List time and memory of an evaluation, every case."""
    rows = []
    for case in figures:
        whole = case["patch"] == case["size"]
        numbers = ["out of memory"] * 2
        if case["bytes"] is not None:
            numbers = [f"{case['bytes'] / 2**20:.0f}", f"{1e3 * case['seconds']:.1f}"]
        kind = "whole image" if whole else f"patches of {case['patch']}"
        chunk = "1" if whole else str(case["chunk"])
        rows.append([str(case["size"]), kind, chunk, str(case["batch"]), "yes" if case["gradient"] else "no", *numbers])
    return markdown(["image", "network sees", "most at once", "batch", "derivative", "peak memory (MiB)", "ms/image"], rows)
