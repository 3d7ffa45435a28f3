"""Predictor-corrector sampling with measurements that are noised along."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from padis_lightning.errors import require_above, require_at_least
from padis_lightning.linalg import norm
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.diffusion import DiffusionSolver


class PredictorCorrector(DiffusionSolver):
    r"""Take a step of the reverse diffusion, a step to the noised measurement, and Langevin steps at the new level.

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
        problem: what was measured, or its operator A.
        ratio: r, signal-to-noise ratio of a correction.
        corrections: at every level but the last, 0.
        iterations: conjugate-gradient steps, where there is no closed form.
        options: those of :class:`DiffusionSolver`.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        ratio: float = 0.16,
        corrections: int = 1,
        iterations: int = 8,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, **options)
        require_above(0, ratio=ratio)
        require_at_least(0, corrections=corrections)
        require_at_least(1, iterations=iterations)
        self.ratio, self.corrections, self.iterations = ratio, corrections, iterations

    @property
    def evaluations(self) -> int:
        """Return one prediction a level and the corrections of all but the last."""
        levels = super().evaluations
        return levels + self.corrections * (levels - 1)

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """Predict, take the data into account, correct."""
        denoised = self.prior(x, sigma, generator)
        if sigma_next == 0:
            return self.canvas.posterior_mean(denoised, y, sigma**2, self.iterations)
        x = self.ancestral(x, denoised, sigma, sigma_next, generator)
        noised = y + sigma_next * self.canvas.operator(generator.normal(x))
        x = self.canvas.posterior_mean(x, noised, sigma_next**2, self.iterations)
        for _ in range(self.corrections):
            score = (self.prior(x, sigma_next, generator) - x) / sigma_next**2
            noise = generator.normal(x)
            length = 2 * (self.ratio * norm(noise) / norm(score).clamp_min(1e-30)).square()
            x = x + length * score + (2 * length).sqrt() * noise
        return x
