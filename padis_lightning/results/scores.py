"""Scores of a run: an image at a time, their means with intervals, and as a table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from padis_lightning import metrics
from padis_lightning.mri import magnitude
from padis_lightning.results.json_files import finite
from padis_lightning.types import Normalisation, Reconstruction

COLUMNS = ["index", "name", "psnr", "ssim", "residual", "seconds", "evaluations"]
PERCEPTUAL = {"ms_ssim": "MS-SSIM", "lpips": "LPIPS"}  # columns of images that are large enough, and where it is asked for
SCANNED = {  # columns of slices that scanners measure
    "psnr_of_range": "PSNR of range (dB)",
    "ssim_of_range": "SSIM of range",
    "haarpsi": "HaarPSI",
    "error_hu": "error (HU)",
    "nmse": "NMSE",
}
SAMPLED = ["deviation", "coverage", "sample_psnr", "sample_lpips"]  # columns where there are several samples
CALIBRATED = "calibrated"  # column of the share of the truth inside calibrated intervals
DISTANCE = "distance"  # column of how far an estimate lies from what the prior knows
VOLUMES = ["ssim_coronal", "ssim_sagittal", "consistency"]  # columns of volumes, whose "ssim" is that of axial planes
MEANS = ["psnr", "ssim", "residual", "seconds", "evaluations"]
SENSIBLE = 1e3  # of the data's range; an estimate beyond it is none


def failure(estimate: Tensor) -> str | None:
    """Return why a normalised image or volume cannot be an estimate: values that are not finite, or absurd; None where it can."""
    largest = float(estimate.abs().max())  # NaN where there is one
    if largest <= SENSIBLE:
        return None
    return f"its largest value is {largest:.3g} times the range of the data; wanted at most {SENSIBLE:g}"


def score(
    reconstruction: Reconstruction,
    truth: Tensor | None,
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
    scanned: Normalisation | None = None,
) -> list[dict[str, float | None]]:
    """Return a row of numbers for each image or volume of a batch; None for what is unknown or not finite.

    Without the truth there is no PSNR and no SSIM, and with :func:`failure` there is no score of quality at all. Of samples the
    first is scored beside the estimate. Of complex images the magnitude is scored.

    Args:
        reconstruction: of a batch.
        truth: the batch itself.
        lpips: a perceptual distance of images ``(B, C, H, W)``, where it is asked for.
        scanned: what 0 and 1 stand for, of slices that a scanner measures, which have scores of their own.
    """
    complex_valued = reconstruction.estimate.shape[1] == 2
    estimate, samples = magnitude(reconstruction.estimate.float()), reconstruction.samples
    samples, truth = samples if samples is None else magnitude(samples, 2), truth if truth is None else magnitude(truth)
    quality: dict[str, Tensor | None] = {"psnr": None, "ssim": None, "residual": reconstruction.residual}
    if samples is not None:
        quality |= {"deviation": samples.std(1).flatten(1).mean(1), "coverage": None}
    if estimate.ndim == 5:
        quality |= dict.fromkeys(VOLUMES)
    if truth is not None:
        quality["psnr"] = metrics.psnr(estimate, truth)
        if samples is not None:
            quality["coverage"] = metrics.coverage(samples, truth)
            quality["sample_psnr"] = metrics.psnr(samples[:, 0].float(), truth)
        if estimate.ndim == 5:
            planes = {"ssim": "axial", "ssim_coronal": "coronal", "ssim_sagittal": "sagittal"}
            quality |= {key: metrics.plane_ssim(estimate, truth, plane) for key, plane in planes.items()}
            quality["consistency"] = metrics.consistency(estimate, truth)
        else:
            quality["ssim"] = metrics.ssim(estimate, truth)
            if (similar := metrics.ms_ssim(estimate, truth)) is not None:
                quality["ms_ssim"] = similar
            if complex_valued:
                quality |= {name: getattr(metrics, name)(estimate, truth) for name in ("psnr_of_range", "ssim_of_range", "nmse")}
            elif scanned is not None and truth.shape[1] == 1:
                quality |= _of_slices(estimate, truth, scanned)
            if lpips is not None:
                quality["lpips"] = lpips(estimate, truth)
                quality |= {} if samples is None else {"sample_lpips": lpips(samples[:, 0].float(), truth)}
    spent: dict[str, float | None] = {"seconds": reconstruction.seconds, "evaluations": reconstruction.evaluations}
    rows = []
    for k, image in enumerate(estimate):
        unknown = failure(image) is not None
        rows.append({key: None if values is None or unknown else float(values[k]) for key, values in quality.items()} | spent)
    return finite(rows)


def _of_slices(estimate: Tensor, truth: Tensor, scanned: Normalisation) -> dict[str, Tensor]:
    """Return the scores that clinics and competitions use; errors in HU where values are HU."""
    names = ("psnr_of_range", "ssim_of_range", "haarpsi")
    found = {name: getattr(metrics, name)(estimate, truth) for name in names}
    if scanned.window is None:
        return found
    return found | {"error_hu": metrics.body_error(*(scanned.shown.restore(image) for image in (estimate, truth)))}


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means with 95 % bootstrap intervals, for the solver and each baseline, and the gain over each in PSNR.

    A mean is None where one of its values is.
    """
    groups = [row["group"] for row in rows]
    summary = _means(rows, groups) | {"n": len(rows), "groups": len(set(groups)), "baselines": {}, "gain": {}}
    for name in rows[0]["baselines"]:
        theirs = [row["baselines"][name] for row in rows]
        summary["baselines"][name] = _means(theirs, groups)
        gain = mean_gain([row["psnr"] for row in rows], [other["psnr"] for other in theirs], groups)
        summary["gain"] |= {} if gain is None else {name: gain}
    return summary


def optional(rows: list[dict[str, Any]]) -> list[str]:
    """Return the scores that not all runs have and some of these images do."""
    return [key for key in (*PERCEPTUAL, *SAMPLED, *VOLUMES, *SCANNED, CALIBRATED, DISTANCE) if any(key in row for row in rows)]


def mean_gain(psnr: Sequence[float | None], other: Sequence[float | None], groups: Sequence[str]) -> dict[str, Any] | None:
    """Return the mean paired difference ``psnr - other`` with its interval over groups; None where a value is."""
    gains = [one - their for one, their in zip(psnr, other, strict=True) if one is not None and their is not None]
    if len(gains) < len(psnr):
        return None
    return {"psnr": float(np.mean(gains)), "interval": metrics.interval(gains, groups)}


def _means(rows: list[dict[str, Any]], groups: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {"intervals": {}}
    for key in [*MEANS, *optional(rows)]:
        values = [value for row in rows if (value := row.get(key)) is not None]
        known = len(values) == len(rows)
        out["seconds_per_image" if key == "seconds" else key] = float(np.mean(values)) if known else None
        if known and key in (*MEANS[:3], *PERCEPTUAL, *SCANNED, "sample_psnr", "coverage", CALIBRATED, "consistency"):
            out["intervals"][key] = metrics.interval(values, groups)
    return out


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Return the scores of the solver as a table, one line an image; empty where there is no truth, or no reconstruction.

    No name is a formula to a spreadsheet: one that begins like a formula gets an apostrophe.
    """
    text = io.StringIO()
    columns = COLUMNS + optional(rows)
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "name": re.sub("^(?=[=+@-])", "'", row["name"])})
    return text.getvalue()


def methods(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the names and means of the baselines and, last, of the solver."""
    return [*summary["baselines"].items(), (summary["solver"], summary)]


def with_interval(value: float | None, interval: Sequence[float | None] | None, digits: str) -> str:
    """Return a number, and its interval where there is one, as text; a dash for what is unknown."""
    said, *ends = ("–" if x is None else format(x, digits) for x in (value, *(interval or ())))
    return f"{said} [{', '.join(ends)}]" if ends and said != "–" else said


def held_sentence(summary: dict[str, Any], of: str) -> str:
    """Return how much of the truth the intervals of the samples and the calibrated ones hold; empty where there are none."""
    said = []
    for key, what in (("coverage", "90 % intervals of the samples"), (CALIBRATED, "calibrated 90 % intervals")):
        if summary.get(key) is not None:
            percent = [100 * value for value in (summary[key], *summary["intervals"][key])]
            said.append("{}{} hold {:.1f} % [{:.1f}, {:.1f}] of the truth".format(what, of, *percent))
    return ", ".join(said)


def sample_sentence(summary: dict[str, Any], of: str) -> str:
    """Return what the estimate and a sample are for, and the scores of both where there is a truth."""
    said = f"The estimate{of} has the least error; a sample shows how the image may look, and its detail is drawn, not known."
    for name, key, unit, digits in (("PSNR", "psnr", " dB", ".2f"), ("LPIPS", "lpips", "", ".3f")):
        both = summary.get(key), summary.get(f"sample_{key}")
        if None not in both:
            said += f" {name}: {both[0]:{digits}}{unit} and {both[1]:{digits}}{unit}."
    return said


def table(summary: dict[str, Any]) -> str:
    """Return the means of the baselines and the solver as text, one line each."""
    perceptual = [key for key in PERCEPTUAL if key in summary]
    lines = [f"{'method':<16}{'PSNR (dB)':>22}{'SSIM':>8}{'residual':>10}{'s/image':>9}{'evaluations':>13}"]
    lines[0] += "".join(f"{PERCEPTUAL[key]:>9}" for key in perceptual)
    for name, means in methods(summary):
        quality = with_interval(means["psnr"], means["intervals"].get("psnr"), ".2f")
        similar, residual = with_interval(means["ssim"], None, ".4f"), with_interval(means["residual"], None, ".1e")
        lines.append(
            f"{name:<16}{quality:>22}{similar:>8}{residual:>10}{means['seconds_per_image']:>9.2f}{means['evaluations']:>13.0f}"
        )
        lines[-1] += "".join(f"{with_interval(means.get(key), None, '.4f'):>9}" for key in perceptual)
    lines += [held] if (held := held_sentence(summary, "")) else []
    lines.append(f"means of {summary['n']} images of {summary['groups']} groups, 95 % bootstrap intervals over groups")
    return "\n".join(lines)
