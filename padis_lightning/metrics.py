"""Scores, an image at a time, and their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure


def psnr(estimate: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, values clipped to [0, 1]: ``(B, C, H, W) -> (B,)``."""
    return peak_signal_noise_ratio(estimate, truth, data_range=(0.0, 1.0), reduction="none", dim=(1, 2, 3))


def ssim(estimate: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Gaussian window of 11, sigma 1.5) of each image, clipped to [0, 1]: ``-> (B,)``."""
    value = structural_similarity_index_measure(estimate, truth, data_range=(0.0, 1.0), reduction="none")
    return value.reshape(-1)


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
