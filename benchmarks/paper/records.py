"""Read the scores of finished rows back from their folders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from padis_lightning.metrics import interval
from padis_lightning.results.report.runs import read_run


@dataclass(frozen=True)
class Scores:
    """Scores say what one method reached, image by image; NaN where that is unknown or not finite, as of an exact image.

    Attributes:
        psnr: dB, by image.
        ssim: by image.
        groups: the patient of each image.
        evaluations: of the network, an image.
        seconds: an image.
    """

    psnr: dict[str, float]
    ssim: dict[str, float]
    groups: dict[str, str]
    evaluations: float
    seconds: float


def read_scores(folder: Path) -> dict[str, Scores]:
    """Return the scores of a row under ``estimate`` and of its baselines under their names; empty if it is not finished."""
    if not (folder / "done.json").is_file():
        return {}
    rows = read_run(folder).rows
    found = {"estimate": {row["name"]: row for row in rows}}
    found |= {name: {row["name"]: row["baselines"][name] for row in rows} for name in rows[0]["baselines"]}
    groups = {row["name"]: row["group"] for row in rows}
    return {name: _scores(images, groups) for name, images in found.items()}


def _scores(images: dict[str, dict[str, float]], groups: dict[str, str]) -> Scores:
    known = {name: {key: math.nan if value is None else value for key, value in image.items()} for name, image in images.items()}
    psnr, ssim = ({name: image[key] for name, image in known.items()} for key in ("psnr", "ssim"))
    evaluations, seconds = (float(np.mean([image[key] for image in images.values()])) for key in ("evaluations", "seconds"))
    return Scores(psnr, ssim, groups, evaluations, seconds)


def mean(values: dict[str, float], groups: dict[str, str]) -> tuple[float, float, float]:
    """Return the mean with its 95 % interval over groups."""
    low, high = interval(list(values.values()), [groups[name] for name in values])
    return float(np.mean(list(values.values()))), low, high


def difference(one: Scores, other: Scores) -> tuple[float, float, float]:
    """Return how much higher the PSNR of ``one`` is on the same images, dB, with its 95 % interval over groups."""
    return mean({name: value - other.psnr[name] for name, value in one.psnr.items()}, one.groups)


def spelled(value: Sequence[float], digits: int = 2, sign: str = "") -> str:
    """Write a mean with its interval as text; a dash where it is unknown."""
    if math.isnan(value[0]):
        return "–"
    middle, low, high = (f"{number:{sign}.{digits}f}" for number in value)
    return f"{middle} [{low}, {high}]"
