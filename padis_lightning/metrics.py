"""Scores, an image at a time, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure


def psnr(estimate: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image or volume, values clipped to [0, 1]: ``(B, C, ..., H, W) -> (B,)``."""
    axes = tuple(range(1, truth.ndim))
    return peak_signal_noise_ratio(estimate, truth, data_range=(0.0, 1.0), reduction="none", dim=axes)


def ssim(estimate: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Gaussian window of 11, sigma 1.5) of each image, clipped to [0, 1]: ``-> (B,)``."""
    value = structural_similarity_index_measure(estimate, truth, data_range=(0.0, 1.0), reduction="none")
    return value.reshape(-1)


PLANES = {"axial": 2, "coronal": 3, "sagittal": 4}  #: of volumes, and the axis that each lies across


def plane_ssim(estimate: Tensor, truth: Tensor, plane: str) -> Tensor:
    """The mean structural similarity of all planes of one kind, ``(B, C, D, H, W) -> (B,)``; NaN of planes narrower than 12."""
    shape = [n for axis, n in enumerate(truth.shape) if axis not in (0, 1, PLANES[plane])]
    if min(shape) < 12:
        return torch.full((len(truth),), math.nan, device=truth.device)
    pairs = zip(*(volume.unbind(PLANES[plane]) for volume in (estimate, truth)), strict=True)
    return torch.stack([ssim(one, other) for one, other in pairs]).mean(0)


def consistency(estimate: Tensor, truth: Tensor) -> Tensor:
    r"""How much neighbouring slices differ, over how much they do in truth: 1 is right, more is flicker, less is blur.

    .. math:: \sum |\hat x_{z + 1} - \hat x_z| \, / \, \sum |x_{z + 1} - x_z|

    ``(B, C, D, H, W) -> (B,)``; NaN of a single slice.
    """
    found, wanted = (volume.diff(dim=2).abs().flatten(1).sum(1) for volume in (estimate, truth))
    return found / wanted


def seam(images: Tensor, borders: Sequence[tuple[Sequence[int], Sequence[int]]], reach: int = 6) -> float:
    """Mean gradient across tile borders over that inside tiles, up to ``reach`` pixels from a border; 1 without seams.

    Args:
        images: ``(B, C, H, W)``.
        borders: for each image, the rows and the columns at which a tile begins inside the image.
        reach: pixels on either side that are compared with.
    """
    across, inside = [], []
    for image, places in zip(images, borders, strict=True):
        for axis, firsts in zip((1, 2), places, strict=True):
            steps = image.diff(dim=axis).abs().mean(dim=(0, 3 - axis)).tolist()  # steps[k]: between k and k + 1
            for first in firsts:
                across.append(steps[first - 1])
                near = [first - 1 + k for k in range(-reach, reach + 1) if abs(k) > 1]
                inside += [steps[k] for k in near if 0 <= k < len(steps)]
    return float(np.mean(across) / np.mean(inside))


def coverage(samples: Tensor, truth: Tensor, level: float = 0.9) -> Tensor:
    r"""Share of the pixels of each image whose true value is inside the interval that the samples predict.

    .. math:: \bar x \pm t_{K - 1} \, s \sqrt{1 + 1 / K}

    with Student's t for K samples of mean :math:`\bar x` and deviation s: right for Gaussian samples of any number.

    Args:
        samples: ``(B, K, C, ..., H, W)``.
        truth: ``(B, C, ..., H, W)``.
        level: probability of the interval.

    Returns:
        ``(B,)``; the level itself where the samples follow the posterior.
    """
    count = samples.shape[1]
    reach = student.ppf((1 + level) / 2, count - 1) * math.sqrt(1 + 1 / count) * samples.std(1)
    return ((truth - samples.mean(1)).abs() <= reach).float().flatten(1).mean(1)


def interval(values: Sequence[float], groups: Sequence[str], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean; whole groups (patients) are drawn, since their images are alike."""
    sums: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        sums.setdefault(group, []).append(value)
    table = np.array([(sum(v), len(v)) for v in sums.values()], dtype=np.float64)
    picks = np.random.default_rng(0).integers(len(table), size=(draws, len(table)))
    totals = table[picks].sum(1)
    low, high = np.percentile(totals[:, 0] / totals[:, 1], (2.5, 97.5))
    return float(low), float(high)
