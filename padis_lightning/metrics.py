"""Scores, an image at a time, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

MOST_PIXELS = 2**21  #: of an image whose structural similarity is computed at once, in about a gigabyte


def psnr(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of each image or volume, clipped to [0, 1]: ``(B, C, ..., H, W) -> (B,)``."""
    axes = tuple(range(1, truth.ndim))
    return peak_signal_noise_ratio(estimate, truth, data_range=(0.0, 1.0), reduction="none", dim=axes)


def ssim(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return the structural similarity of each image, clipped to [0, 1]: ``(B, C, H, W) -> (B,)``.

    The Gaussian window (sigma 1.5) is 11 pixels wide; images are mirrored at their borders by 5, so that those with a side below
    6 have none: NaN.
    """
    if min(truth.shape[2:]) < 6:
        return torch.full((len(truth),), math.nan, device=truth.device)
    height, width = truth.shape[2:]
    rows = max(6, MOST_PIXELS // width)
    total = torch.zeros(len(truth), dtype=torch.float64, device=truth.device)
    for first in range(0, height, rows):  # a band at a time, with the five rows on either side that its windows reach
        stop = min(first + rows, height)
        top, end = max(0, min(first - 5, height - 6)), min(stop + 5, height)
        parts = estimate[:, :, top:end], truth[:, :, top:end]
        _, full = structural_similarity_index_measure(*parts, data_range=(0.0, 1.0), reduction="none", return_full_image=True)
        total += full[:, :, first - top : stop - top].double().mean((1, 3)).sum(1)
    return (total / height).to(truth.dtype)


def ms_ssim(estimate: Tensor, truth: Tensor) -> Tensor | None:
    """Return the structural similarity of each image over five scales, clipped to [0, 1]: ``(B, C, H, W) -> (B,)``.

    The window of :func:`ssim` must fit into the coarsest scale, an image of a sixteenth of the sides: None with a side below 176.
    It is None, too, with more than :data:`MOST_PIXELS`, of which it would take gigabytes.

    Source: Wang, Simoncelli and Bovik, Multi-scale structural similarity for image quality assessment, 2003.
    """
    if min(truth.shape[2:]) < 176 or math.prod(truth.shape[2:]) > MOST_PIXELS:
        return None
    value = multiscale_structural_similarity_index_measure(estimate, truth, data_range=(0.0, 1.0), reduction="none")
    return value.reshape(-1)


PLANES = {"axial": 2, "coronal": 3, "sagittal": 4}  #: of volumes, and the axis that each lies across


def plane_ssim(estimate: Tensor, truth: Tensor, plane: str) -> Tensor:
    """Return the mean :func:`ssim` of all planes of one kind, ``(B, C, D, H, W) -> (B,)``; NaN for planes narrower than 12."""
    shape = [n for axis, n in enumerate(truth.shape) if axis not in (0, 1, PLANES[plane])]
    if min(shape) < 12:
        return torch.full((len(truth),), math.nan, device=truth.device)
    pairs = zip(*(volume.unbind(PLANES[plane]) for volume in (estimate, truth)), strict=True)
    return torch.stack([ssim(one, other) for one, other in pairs]).mean(0)


def consistency(estimate: Tensor, truth: Tensor) -> Tensor:
    r"""Compare how much neighbouring slices differ with how much they do in truth: 1 is right, more is flicker, less is blur.

    .. math:: \sum |\hat x_{z + 1} - \hat x_z| \, / \, \sum |x_{z + 1} - x_z|

    ``(B, C, D, H, W) -> (B,)``; NaN for a single slice.
    """
    found, wanted = (volume.diff(dim=2).abs().flatten(1).sum(1) for volume in (estimate, truth))
    return found / wanted


def coverage(samples: Tensor, truth: Tensor, level: float = 0.9) -> Tensor:
    r"""Return the share of the pixels of each image whose true value is inside the interval that the samples predict.

    .. math:: \bar x \pm t_{K - 1} \, s \sqrt{1 + 1 / K}

    with Student's t for K samples of mean :math:`\bar x` and deviation s: right for Gaussian samples of any number. Samples
    ``(B, K, C, ..., H, W)`` of the posterior give the level itself, ``(B,)``.
    """
    count = samples.shape[1]
    reach = student.ppf((1 + level) / 2, count - 1) * math.sqrt(1 + 1 / count) * samples.std(1)
    return ((truth - samples.mean(1)).abs() <= reach).float().flatten(1).mean(1)


def interval(values: Sequence[float], groups: Sequence[str], draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean; whole groups (patients) are drawn, since their images are alike."""
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    table = np.array([(sum(v), len(v)) for v in members.values()], dtype=np.float64)
    generator, block = np.random.default_rng(0), max(1, 500_000 // len(table))  # a block of draws takes some megabytes
    sizes = [min(block, draws - first) for first in range(0, draws, block)]
    totals = np.concatenate([table[generator.integers(len(table), size=(size, len(table)))].sum(1) for size in sizes])
    low, high = np.percentile(totals[:, 0] / totals[:, 1], (2.5, 97.5))
    return float(low), float(high)
