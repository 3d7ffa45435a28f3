"""Annealed Langevin dynamics with the likelihood of the noisy image."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from padis_lightning.errors import InputError, require_at_least
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.diffusion import DiffusionSolver


class Langevin(DiffusionSolver):
    r"""Take, at every level ``inner`` times, a step along the scores of prior and data, and add noise.

    .. math::
        g &= \frac{D(x; \sigma) - x}{\sigma^2} + \zeta A^T \frac{y - A x}{s^2 + \sigma^2 \|A\|^2} \\
        x &\leftarrow x + \tfrac12 \epsilon \sigma^2 g + \sqrt{\epsilon (1 - \epsilon / 4)} \; \sigma z

    The data's part takes the measurement of a noisy image for one with noise of variance :math:`s^2 + \sigma^2 \|A\|^2`, a
    bound: draws are too wide where A is weak, and right as :math:`\sigma \to 0`. Nothing is differentiated.

    Source: Jalal et al., Robust compressed sensing MRI with deep generative priors, NeurIPS 2021, equation 6; Hu et al.,
    PaDIS, NeurIPS 2024, section 4.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        inner: repetitions at every level; evaluations are ``steps * inner``.
        epsilon: length of a step, below 2.
        zeta: length of the data's part.
        options: those of :class:`DiffusionSolver`.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        inner: int = 10,
        epsilon: float = 0.5,
        zeta: float = 1.0,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, **options)
        require_at_least(1, inner=inner)
        if not 0 < epsilon < 2:
            raise InputError(f"epsilon is {epsilon:g}; wanted a value between 0 and 2")
        self.inner, self.epsilon, self.zeta = inner, epsilon, zeta

    @property
    def evaluations(self) -> int:
        """Return ``inner`` a level."""
        return self.inner * super().evaluations

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """Make ``inner`` updates at ``sigma``; the last level ends with its estimate."""
        spread = math.sqrt(self.epsilon * (1 - self.epsilon / 4)) * sigma
        trust = sigma**2 / (self.problem.noise.variance(y) + sigma**2 * self.canvas.operator.norm_squared)
        for _ in range(self.inner):
            denoised = self.prior(x, sigma, generator)
            pull = self.zeta * self.canvas.operator.adjoint(trust * (y - self.canvas.operator(x)))
            x = x + self.epsilon / 2 * (denoised - x + pull) + spread * generator.normal(x)
        return denoised if sigma_next == 0 else x
