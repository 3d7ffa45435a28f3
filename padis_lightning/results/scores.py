"""Scores of a run: an image at a time, their means with intervals, and as a table."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
from torch import Tensor

from padis_lightning import metrics
from padis_lightning.types import Reconstruction

COLUMNS = ["index", "name", "psnr", "ssim", "residual", "seconds", "evaluations"]
SAMPLED = ["deviation", "coverage"]  # columns where there are several samples
VOLUMES = ["ssim_coronal", "ssim_sagittal", "consistency"]  # columns of volumes, whose "ssim" is that of axial planes
MEANS = ["psnr", "ssim", "residual", "seconds", "evaluations"]


def score(reconstruction: Reconstruction, truth: Tensor | None) -> list[dict[str, float | None]]:
    """A row of numbers for each image or volume of a batch; without the truth there is no PSNR and no SSIM."""
    estimate, count, known = reconstruction.estimate.float(), len(reconstruction.estimate), truth is not None
    residual = reconstruction.residual
    scores = {
        "psnr": metrics.psnr(estimate, truth).tolist() if known else [None] * count,
        "ssim": metrics.ssim(estimate, truth).tolist() if known and estimate.ndim == 4 else [None] * count,
        "residual": residual.tolist() if residual is not None else [None] * count,
        "seconds": [reconstruction.seconds] * count,
        "evaluations": [reconstruction.evaluations] * count,
    }
    if reconstruction.samples is not None:
        scores["deviation"] = reconstruction.samples.std(1).flatten(1).mean(1).tolist()
        scores["coverage"] = metrics.coverage(reconstruction.samples, truth).tolist() if known else [None] * count
    if estimate.ndim == 5:
        scores |= _volumes(estimate, truth) if known else {key: [None] * count for key in VOLUMES}
    return [dict(zip(scores, values, strict=True)) for values in zip(*scores.values(), strict=True)]


def _volumes(estimate: Tensor, truth: Tensor) -> dict[str, list[float | None]]:
    """What is scored of volumes besides; None of those that are too flat for it."""
    found = {"ssim": metrics.plane_ssim(estimate, truth, "axial"), "consistency": metrics.consistency(estimate, truth)}
    found |= {f"ssim_{plane}": metrics.plane_ssim(estimate, truth, plane) for plane in ("coronal", "sagittal")}
    return {key: [None if value.isnan() else float(value) for value in values] for key, values in found.items()}


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means with 95 % bootstrap intervals, for the solver and each baseline, and the gain over each in PSNR."""
    groups = [row["group"] for row in rows]
    summary = _means(rows, groups) | {"n": len(rows), "groups": len(set(groups)), "baselines": {}, "gain": {}}
    for name in rows[0]["baselines"]:
        theirs = [row["baselines"][name] for row in rows]
        summary["baselines"][name] = _means(theirs, groups)
        if rows[0]["psnr"] is not None:
            gains = [row["psnr"] - other["psnr"] for row, other in zip(rows, theirs, strict=True)]
            summary["gain"][name] = {"psnr": float(np.mean(gains)), "interval": metrics.interval(gains, groups)}
    return summary


def _means(rows: list[dict[str, Any]], groups: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {"intervals": {}}
    for key in [*MEANS, *(k for k in (*SAMPLED, *VOLUMES) if k in rows[0])]:
        values = [row[key] for row in rows]
        known = None not in values
        out["seconds_per_image" if key == "seconds" else key] = float(np.mean(values)) if known else None
        if known and key in ("psnr", "ssim", "residual", "coverage", "consistency"):
            out["intervals"][key] = metrics.interval(values, groups)
    return out


def to_csv(rows: list[dict[str, Any]]) -> str:
    """The scores of the solver, one line an image; empty where there is no ground truth, or no reconstruction."""
    text = io.StringIO()
    columns = COLUMNS + [key for key in (*SAMPLED, *VOLUMES) if any(key in row for row in rows)]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table(summary: dict[str, Any]) -> str:
    """The baselines and the solver, one line each."""
    lines = [f"{'method':<16}{'PSNR (dB)':>22}{'SSIM':>8}{'residual':>10}{'s/image':>9}{'evaluations':>13}"]
    for name, means in [*summary["baselines"].items(), (summary["solver"], summary)]:
        spread = means["intervals"].get("psnr")
        quality = "-" if spread is None else f"{means['psnr']:.2f} [{spread[0]:.2f}, {spread[1]:.2f}]"
        similar = "-" if means["ssim"] is None else f"{means['ssim']:.4f}"
        residual = "-" if means["residual"] is None else f"{means['residual']:.1e}"
        lines.append(
            f"{name:<16}{quality:>22}{similar:>8}{residual:>10}{means['seconds_per_image']:>9.2f}{means['evaluations']:>13.0f}"
        )
    if summary.get("coverage") is not None:
        low, high = (100 * end for end in summary["intervals"]["coverage"])
        lines.append(f"90 % intervals hold {100 * summary['coverage']:.1f} % [{low:.1f}, {high:.1f}] of the truth")
    lines.append(f"means of {summary['n']} images of {summary['groups']} groups, 95 % bootstrap intervals over groups")
    return "\n".join(lines)
