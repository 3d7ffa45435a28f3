"""Scores, an image at a time, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import t as student
from torch import Tensor
from torch.nn import functional
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


def psnr_of_range(estimate: Tensor, truth: Tensor) -> Tensor:
    r"""Return the peak signal-to-noise ratio in dB by the convention of LoDoPaB-CT: ``(B, C, H, W) -> (B,)``.

    .. math:: 10 \log_{10} \frac{(\max x - \min x)^2}{\mathrm{mean} \, (\hat x - x)^2}

    The peak is the range of each truth, and nothing is clipped.

    Source: Leuschner et al., LoDoPaB-CT, a benchmark dataset for low-dose computed tomography reconstruction, Scientific Data
    2021.
    """
    return 10 * torch.log10(_range(truth).square() / (estimate - truth).double().square().flatten(1).mean(1))


def ssim_of_range(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return the structural similarity as scikit-image has it by default, ``(B, C, H, W) -> (B,)``: the convention of LoDoPaB-CT.

    Its window is uniform and 7 pixels wide, and its peak the range of each truth; NaN with a side below 7.
    """
    if min(truth.shape[2:]) < 7:
        return torch.full((len(truth),), math.nan, device=truth.device)
    mean = partial(functional.avg_pool2d, kernel_size=7, stride=1)
    x, y = estimate.double(), truth.double()
    first, second = ((k * _range(truth)).square()[:, None, None, None] for k in (0.01, 0.03))
    squares = mean(x).square() + mean(y).square()
    spread, shared = ((49 / 48) * (mean(a) - b) for a, b in ((x.square() + y.square(), squares), (x * y, mean(x) * mean(y))))
    similarity = (2 * mean(x) * mean(y) + first) * (2 * shared + second) / ((squares + first) * (spread + second))
    return similarity.flatten(1).mean(1)


def nmse(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return the squared error of each image over its squared truth, ``(B, C, H, W) -> (B,)``: fastMRI's NMSE of a slice."""
    return (estimate - truth).double().square().flatten(1).sum(1) / truth.double().square().flatten(1).sum(1)


def _range(truth: Tensor) -> Tensor:
    return truth.double().flatten(1).amax(1) - truth.double().flatten(1).amin(1)


def haarpsi(estimate: Tensor, truth: Tensor) -> Tensor:
    r"""Return the Haar wavelet-based perceptual similarity of grey images, clipped to [0, 1]: ``(B, 1, H, W) -> (B,)``.

    .. math::
        \left(l^{-1} \frac{\sum w \, l(s)}{\sum w}\right)^2, \quad l(s) = \frac{1}{1 + e^{-\alpha s}}, \quad
        s = \frac12 \sum_{j = 1, 2} \frac{2 |a_j b_j| + C}{a_j^2 + b_j^2 + C}, \quad w = \max(|a_3|, |b_3|)

    :math:`a_j, b_j` are the Haar coefficients of both images, halved, at scale j; sums are over pixels, across and down. With
    values to 255, C = 30 and :math:`\alpha = 4.2`, as published. NaN with a side below 16.

    Source: Reisenhofer, Bosse, Kutyniok and Wiegand, A Haar wavelet-based perceptual similarity index for image quality
    assessment, Signal Processing: Image Communication 2018.
    """
    if min(truth.shape[2:]) < 16:
        return torch.full((len(truth),), math.nan, device=truth.device)
    halves = [functional.avg_pool2d(255 * image.double().clamp(0, 1), 2) for image in (estimate, truth)]
    weighted = total = halves[0].new_zeros(())
    for across in (False, True):
        scales = [[_haar(half, 2**j, across) for half in halves] for j in (1, 2, 3)]
        first, second = ((2 * a * b + 30.0) / (a.square() + b.square() + 30.0) for a, b in scales[:2])
        weight = torch.maximum(*scales[2])
        weighted = weighted + (weight * torch.sigmoid(2.1 * (first + second))).flatten(1).sum(1)
        total = total + weight.flatten(1).sum(1)
    alike = torch.where(total > 0, weighted / total, torch.sigmoid(torch.full_like(total, 4.2)))  # flat images are alike
    return (torch.logit(alike) / 4.2).square()


def _haar(image: Tensor, side: int, across: bool) -> Tensor:
    """Return the sizes of Haar coefficients, ``(B, 1, H, W)``; zeros lie around the image."""
    kernel = torch.full((side, side), 1 / side, dtype=image.dtype, device=image.device)
    kernel[: side // 2] *= -1
    kernel = kernel.T if across else kernel
    before, after = side // 2 - 1, side // 2
    return functional.conv2d(functional.pad(image, (before, after, before, after)), kernel[None, None]).abs()


BODY = -300.0  #: HU above which lies soft tissue


def body(truth: Tensor) -> Tensor:
    """Return which pixels of slices in HU lie in the body, ``(B, 1, H, W)``: its largest part above -300 HU, holes filled."""
    found = torch.zeros_like(truth, dtype=torch.bool)
    for k, image in enumerate(truth):
        parts, count = ndimage.label(ndimage.binary_opening((image[0] > BODY).cpu().numpy()))
        if count:
            largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
            found[k, 0] = torch.from_numpy(ndimage.binary_fill_holes(largest))
    return found


def body_error(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return the mean absolute error of slices in HU inside the body of the truth, ``(B, 1, H, W) -> (B,)``; NaN without one."""
    inside = body(truth)
    return ((estimate - truth).abs() * inside).flatten(1).sum(1) / inside.flatten(1).sum(1)


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
    return ((truth - samples.mean(1)).abs() <= reach(samples, level)).float().flatten(1).mean(1)


def reach(samples: Tensor, level: float = 0.9) -> Tensor:
    """Return half of the interval that samples ``(B, K, C, ..., H, W)`` predict, as :func:`coverage` has it, without axis K."""
    count = samples.shape[1]
    return student.ppf((1 + level) / 2, count - 1) * math.sqrt(1 + 1 / count) * samples.std(1)


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
