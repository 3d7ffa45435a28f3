"""Predictor-corrector sampling with measurements that are noised along."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.linalg import norm
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.random import Generators
from padis_lightning.solvers.base import DiffusionSolver


class PredictorCorrector(DiffusionSolver):
    r"""A step of the reverse diffusion, a step to the noised measurement, and Langevin steps at the new level.

    .. math::
        x &\leftarrow \hat x + \kappa (x - \hat x) + \sigma' \sqrt{1 - \kappa} \, z, \quad
            \hat x = D(x; \sigma), \; \kappa = \sigma'^2 / \sigma^2 \\
        x &\leftarrow \arg\min_u \frac{\|A u - y'\|_P^2}{s^2} + \frac{\|u - x\|^2}{\sigma'^2}, \quad y' = y + \sigma' A z \\
        x &\leftarrow x + \alpha g + \sqrt{2 \alpha} \, z, \quad g = \frac{D(x; \sigma') - x}{\sigma'^2}, \;
            \alpha = 2 (r \|z\| / \|g\|)^2

    with norms of each image. Neither an exact sampler nor an estimator of the mean.

    Source: Song et al., Score-based generative modeling through stochastic differential equations, ICLR 2021, algorithms 2
    and 4; Song et al., Solving inverse problems in medical imaging with score-based generative models, ICLR 2022.

    Args:
        prior: denoiser of whole images.
        operator: A.
        ratio: r, signal-to-noise ratio of a correction.
        corrections: at every level but the last, 0.
        iterations: conjugate-gradient steps, where there is no closed form.
        options: those of :class:`DiffusionSolver`.
    """

    products_in = "proximal steps"

    def __init__(
        self,
        prior: Prior,
        operator: LinearOperator,
        ratio: float = 0.16,
        corrections: int = 1,
        iterations: int = 8,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, operator, **options)
        if not (ratio > 0 and math.isfinite(ratio)):
            raise InputError(f"ratio is {ratio:g}; wanted a value above 0")
        if corrections < 0 or iterations < 1:
            raise InputError(f"corrections is {corrections} and iterations {iterations}; wanted at least 0 and 1")
        self.ratio, self.corrections, self.iterations = ratio, corrections, iterations

    @property
    def evaluations(self) -> int:
        """One prediction a level and the corrections of all but the last."""
        levels = super().evaluations
        return levels + self.corrections * (levels - 1)

    @property
    def products(self) -> int:
        """A proximal step a level, and the noise of all but the last is measured."""
        return len(self.sigmas) - 2 + super().products

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """A prediction, the data, the corrections."""
        denoised = self.prior(x, sigma, generator)
        if sigma_next == 0:
            return self.fit(denoised, y, sigma**2, self.iterations)
        x = self.ancestral(x, denoised, sigma, sigma_next, generator)
        noised = y + sigma_next * self.canvas_operator(generator.normal(x))
        x = self.fit(x, noised, sigma_next**2, self.iterations)
        for _ in range(self.corrections):
            score = (self.prior(x, sigma_next, generator) - x) / sigma_next**2
            noise = generator.normal(x)
            length = 2 * (self.ratio * norm(noise) / norm(score).clamp_min(1e-30)).square()
            x = x + length * score + (2 * length).sqrt() * noise
        return x
