r"""Compare one random partition with averages over several and over all: bias and variance of the whole-image score.

With a partition r drawn at random, :math:`D_r` is an estimate of the mean over all partitions :math:`\bar D`, and the score that
it gives is :math:`(D_r - x) / \sigma^2`. Against the truth

.. math:: E \|D_K - x_0\|^2 = \|\bar D - x_0\|^2 + \frac{1}{K} E \|D_r - \bar D\|^2

for the average :math:`D_K` of K draws: only the second part falls with K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from padis_lightning import metrics
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.sources.base import collate
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import FixedTiling, OverlapTiling, PatchPrior, RandomTiling
from padis_lightning.priors.base import Prior
from padis_lightning.priors.tiling import GridTiles, Tiling
from padis_lightning.random import Generators, seeded
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.plug_and_play import PnPADMM
from padis_lightning.types import Batch

SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
DRAWS = (1, 2, 4, 8, 16)
NOISE, PICKS = 20, 21  # purposes of the streams of this study


@dataclass(frozen=True)
class At(Tiling):
    """A tiling that is the grid at one offset, for every image."""

    offset: tuple[int, int]

    def partition(self, size: tuple[int, int], pad: tuple[int, int], patch: int, generator: Generators) -> GridTiles:
        """Return the grid; nothing is random."""
        return GridTiles(size, pad, (patch, patch), (self.offset,) * len(generator))


class Averaged(Prior):
    """A prior that is the mean of a patch prior over several partitions.

    Args:
        prior: whose network is used.
        count: partitions drawn at random in every call; None: all of them.
    """

    def __init__(self, prior: PatchPrior, count: int | None) -> None:
        super().__init__()
        self.prior, self.count = prior, count
        self.image_shape, self.pad, self.sigma_data = prior.image_shape, prior.pad, prior.sigma_data
        self.normalisation = prior.normalisation

    def forward(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        """Return the mean of the denoised canvases."""
        tilings = [RandomTiling()] * self.count if self.count else [At(offset) for offset in offsets(self.prior)]
        total = torch.zeros_like(x)
        for tiling in tilings:
            total += tiled(self.prior, tiling, x, sigma, generator)
        return total / len(tilings)


def offsets(prior: PatchPrior) -> list[tuple[int, int]]:
    """Return the corners of all partitions."""
    return list(product(range(prior.pad[0] + 1), range(prior.pad[1] + 1)))


def tiled(prior: PatchPrior, tiling: Tiling, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
    """Denoise by the prior with another tiling, ``(B, C, H, W)``."""
    before, prior.tiling = prior.tiling, tiling
    try:
        return prior(x, sigma, generator)
    finally:
        prior.tiling = before


def spread(estimates: Tensor, counts: Sequence[int], draws: int = 400) -> dict[int, float]:
    """Estimate the mean squared distance of averages of K draws (with replacement) from the mean of all, a pixel.

    Args:
        estimates: those of all partitions, ``(R, ...)``.
        counts: each K.
        draws: sets of K that are drawn.
    """
    centred = (estimates - estimates.mean(0)).flatten(1).double()
    gram = centred @ centred.T / centred.shape[1]
    found = {}
    for count in counts:
        picks = torch.randint(len(estimates), (draws, count), generator=seeded(0, count, PICKS))
        found[count] = float(gram[picks[:, :, None], picks[:, None, :]].mean())
    return found


def decompose(prior: PatchPrior, images: Tensor, sigma: float, overlap: int) -> dict[str, Any]:
    """Measure the errors of the ways to tile at one level, mean squares a pixel of the image.

    Args:
        prior: of patches.
        images: clean ones, ``(B, C, H, W)``.
        sigma: the level.
        overlap: of the tiling that averages overlapping patches.
    """
    generator = Generators.keyed(0, range(len(images)), NOISE)
    (top, left), (height, width) = prior.pad, images.shape[-2:]
    clean = torch.nn.functional.pad(images, (left, left, top, top))
    noisy = clean + sigma * generator.normal(clean)

    def denoised(tiling: Tiling) -> Tensor:
        return tiled(prior, tiling, noisy, sigma, generator)[..., top : top + height, left : left + width]

    every = torch.stack([denoised(At(offset)) for offset in offsets(prior)])
    mean = every.mean(0)
    others = {"fixed": denoised(FixedTiling()), "overlapping": denoised(OverlapTiling(overlap))}
    return {
        "sigma": sigma,
        "partitions": len(every),
        "variance": float((every - mean).square().mean()),
        "error of all": float((mean - images).square().mean()),
        "spread": {str(count): value for count, value in spread(every, DRAWS).items()},
        "others": {
            name: {"error": float((value - images).square().mean()), "from all": float((value - mean).square().mean())}
            for name, value in others.items()
        },
    }


def solve(prior: PatchPrior, batch: Batch, views: int, steps: int, more: int) -> list[dict[str, Any]]:
    """Measure the PSNR of two solvers with averages of several partitions, and with one in as many more steps.

    Args:
        prior: of patches.
        batch: clean images.
        views: of the scan.
        steps: evaluations of averages.
        more: times as many steps with one partition.
    """
    operator, rows = ParallelBeam(prior.image_shape[-1], views), []
    cases = [(1, steps), (1, more * steps), (more, steps), (None, steps)]
    for name, cls, levels in (
        ("PnP-ADMM", PnPADMM, {"sigma_max": 0.08, "sigma_min": 0.015, "penalty": 0.003, "relaxation": 1}),
        ("DDS", DDS, {"sigma_max": 1.0, "sigma_min": 0.002}),
    ):
        for count, used in cases:
            solver = cls(Averaged(prior, count), operator, steps=used, **levels).to(batch.image.device)
            found = solver.predict_step(batch)
            scores = metrics.psnr(found.estimate, batch.image).tolist()
            rows.append(
                {"solver": name, "partitions": count, "steps": used, "each": scores, "groups": batch.group}
                | {"seconds": found.seconds}
            )
    return rows


@torch.no_grad()
def study(prior: str, data: str | None, values: dict[str, str]) -> dict[str, Any]:
    """Run the whole study of 20-view CT.

    Args:
        prior: a file.
        data: the test images, or None for phantoms.
        values: what stands for the names of the scale.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    patches, count = PatchPrior(prior).to(device), min(6, int(values["COUNT"]))
    source = ImageData(data, size=int(values["SIZE"]), count=count)
    source.setup("predict")
    part = source.predict_dataloader().dataset.items
    batch = collate([part[k] for k in range(len(part))])
    batch = batch._replace(image=batch.image.to(device))
    levels = [decompose(patches, batch.image, sigma, int(values["OVERLAP"])) for sigma in SIGMAS]
    return {"patch": patches.patch, "levels": levels, "solved": solve(patches, batch, 20, int(values["SCORE_STEPS"]), 4)}
