"""Result folders made by hand, so that a page can be held against known arrays."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from padis_lightning import metrics
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.identity import Identity
from padis_lightning.random import seeded
from padis_lightning.results.json_files import finite, write_json
from padis_lightning.results.pictures import ImageResult
from padis_lightning.results.report.panels import image_panels, save_panels
from padis_lightning.results.report.runs import write_report_data
from padis_lightning.results.scores import summarise
from padis_lightning.types import Normalisation

HU = Normalisation(-1000.0, 1000.0, (-1000.0, 1000.0))


def data(page: str) -> dict[str, Any]:
    """What a page's script reads."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def pixels_of(panel: dict[str, Any]) -> np.ndarray:
    """The pixels of a panel's PNG."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(panel["png"].partition(",")[2])))).astype(float)


class Resources(HTMLParser):
    """Everything that a page could load or link to, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found, self.tags = [], []
        self.feed(page)
        self.found += sorted({"link", "iframe", "object", "embed", "base"} & {*self.tags})
        self.found += re.findall(r"https?:|url\(|@import|\beval\(|new Function|innerHTML|import\(", page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster", "xlink:href")]


def smooth(count: int, side: int = 24, channels: int = 1, seed: int = 0) -> Tensor:
    """Images ``(count, channels, side, side)`` in [0, 1] without symmetry."""
    coarse = torch.rand(count, channels, 5, 5, generator=seeded(seed))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def noisy(images: Tensor, std: float, seed: int) -> Tensor:
    """The images with normal noise."""
    return images + std * torch.randn(images.shape, generator=seeded(seed))


def write_run(
    folder: Path,
    truth: Tensor,
    estimate: Tensor,
    baselines: dict[str, Tensor],
    groups: list[str],
    deviation: Tensor | None = None,
    operator: LinearOperator | None = None,
    scale: Normalisation = HU,
    solver: str = "DDS",
    config: str = "seed_everything: 0\n",
    names: list[str] | None = None,
    pictured: int | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    rows: list[dict[str, Any]] | None = None,
) -> None:
    """What ``predict`` leaves for the page, of images ``(B, C, H, W)`` or volumes ``(B, C, D, H, W)`` in [0, 1]."""
    operator = Identity(truth.shape[1:]) if operator is None else operator
    measured, names = operator(truth), names or [f"{k:04d}" for k in range(len(truth))]

    def scores(images: Tensor) -> list[dict[str, Any]]:
        quality = metrics.psnr(images, truth).tolist()
        return [{"psnr": q, "ssim": 0.5, "residual": 1e-3, "seconds": 0.25, "evaluations": 7} for q in quality]

    theirs = {name: scores(images) for name, images in baselines.items()}
    rows = rows or finite(
        [
            {"index": k, "name": names[k], **row, "group": groups[k], "baselines": {b: s[k] for b, s in theirs.items()}}
            for k, row in enumerate(scores(estimate))
        ]
    )
    for k, name in enumerate(names[:pictured]):
        spread = None if deviation is None else deviation[k]
        one = ImageResult(estimate[k], truth[k], {b: images[k] for b, images in baselines.items()}, spread, measured[k])
        save_panels(folder / "panels" / f"{name}.npz", image_panels(one, solver, operator, scale.shown, spacing))
    folder.mkdir(parents=True, exist_ok=True)
    made = {"solver": solver, "operator": {"name": type(operator).__name__}, "versions": {"padis_lightning": "1.2.3"}}
    write_json(folder / "summary.json", {**summarise(rows), **made})
    (folder / "config.yaml").write_text(config)
    shown = {"units": "HU" if scale.window else "", "lower": scale.lower, "upper": scale.upper}
    window = [scale.lower, scale.upper]
    write_report_data(
        folder, rows, {**shown, "window": window, "error_scale": 0.1 * (scale.upper - scale.lower)}, names[:pictured]
    )
