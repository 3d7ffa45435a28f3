"""How far an image lies from what a prior knows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.stats import f as fisher
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.priors.base import Prior
from padis_lightning.random import Generators

LEVELS = (0.7, 2.5, 8.0)  # of the noise, in units of the root mean square of clean images
TERMS, EARLIER = 4, 3  # numbers of an image, now and in priors of earlier versions


def denoising_errors(prior: Prior, x: Tensor, generator: Generators) -> Tensor:
    r"""Return four numbers that say how a prior denoises each image, ``(B, C, H, W) -> (B, 4)``, in float64.

    .. math:: \ln \|v_1 - x\|, \quad \frac{\mathrm{mean}(v_2 - x)}{\|v_2 - x\|}, \quad
        \ln \frac{\mathrm{var} \, v_1}{\mathrm{var} \, x}, \quad \ln \frac{\mathrm{var} \, v_3}{\mathrm{var} \, x}, \qquad
        v_k = D(x + \sigma_k z; \sigma_k)

    with the root mean square as norm. The first tells other structures, the second what is brighter, larger or smaller than the
    prior expects, the others how much contrast it expects. Levels are high, where the detail that an estimate lacks does not
    count.
    """
    least = torch.finfo(x.dtype).tiny
    levels = [k * prior.sigma_data for k in LEVELS]
    means = [prior.on_images(x + level * generator.normal(x), level, generator).double().flatten(1) for level in levels]
    truth = x.double().flatten(1)
    sizes = [(mean - truth).square().mean(1).sqrt().clamp_min(least) for mean in means]
    contrasts = [part.var(1, correction=0).clamp_min(least).log() for part in (truth, means[0], means[2])]
    bias = (means[1] - truth).mean(1) / sizes[1]
    return torch.stack([sizes[0].log(), bias, contrasts[1] - contrasts[0], contrasts[2] - contrasts[0]], 1)


@dataclass(frozen=True)
class Reference:
    r"""Holds the mean and covariance of the :func:`denoising_errors` f of images that a prior knows.

    .. math:: d = \sqrt{(f - m)^T C^{-1} (f - m)}

    is the Mahalanobis distance of another image, of which that of images like these has a law of its own (Hotelling's), however
    few they were.

    Source: Hotelling, The generalization of Student's ratio, 1931; Mahmood, Oliva and Styner, Multiscale score matching for
    out-of-distribution detection, ICLR 2021, for distances of errors at several levels.

    Args:
        mean: m, 4 numbers.
        covariance: C, 4 by 4 numbers.
        count: images, at least 6.

    Raises:
        InputError: the numbers are of other shapes, or not finite.
    """

    mean: list[float]
    covariance: list[list[float]]
    count: int

    def __post_init__(self) -> None:
        try:
            numbers = torch.tensor([self.mean, *self.covariance], dtype=torch.float64)
            fits = numbers.shape == (TERMS + 1, TERMS) and bool(torch.isfinite(numbers).all()) and self.count > TERMS + 1
        except (TypeError, ValueError, RuntimeError):
            fits = False
        if not fits:
            raise InputError(
                f"the prior's reference is {self.mean!r:.60}, {self.covariance!r:.60}, {self.count!r:.20}; "
                f"wanted {TERMS} numbers, {TERMS} by {TERMS}, and at least {TERMS + 2} images"
            )

    @classmethod
    def of(cls, errors: Tensor) -> Reference | None:
        """Return that of images with these :func:`denoising_errors`, ``(n, 4)``; None of fewer than 6."""
        return cls(errors.mean(0).tolist(), errors.T.cov().tolist(), len(errors)) if len(errors) > TERMS + 1 else None

    @classmethod
    def read(cls, described: Any) -> Reference | None:  # noqa: ANN401 - whatever a file holds
        """Build what :meth:`describe` described, through JSON; None where there is nothing, or what an earlier version knew."""
        if described is None:
            return None
        if not isinstance(described, dict) or described.keys() != {"mean", "covariance", "count"}:
            raise InputError(f"the prior's reference is {described!r:.80}; wanted mean, covariance and count")
        earlier = isinstance(described["mean"], list) and len(described["mean"]) == EARLIER
        return None if earlier else cls(**described)

    def describe(self) -> dict[str, Any]:
        """Return plain values for a file's metadata."""
        return asdict(self)

    def distance(self, errors: Tensor) -> Tensor:
        """Return the distance of each image, ``(B, 4) -> (B,)``."""
        mean, covariance = (torch.tensor(part, dtype=errors.dtype, device=errors.device) for part in (self.mean, self.covariance))
        away = errors - mean
        return ((away @ torch.linalg.pinv(covariance, hermitian=True)) * away).sum(1).clamp_min(0).sqrt()

    def limit(self, share: float) -> float:
        """Return the distance within which this share of images like those of the reference lies."""
        n, p = self.count, TERMS
        return math.sqrt(p * (n + 1) * (n - 1) / (n * (n - p)) * fisher.ppf(share, p, n - p))
