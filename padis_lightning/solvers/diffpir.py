"""DiffPIR: half-quadratic splitting along the noise levels."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from padis_lightning.errors import require_above, require_at_least, require_between
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.diffusion import DiffusionSolver


class DiffPIR(DiffusionSolver):
    r"""Take Tweedie's estimate, a proximal step of the data, and add noise that is partly predicted and partly fresh.

    .. math::
        x_0 &= \arg\min_u \|A u - y\|_P^2 + \lambda \frac{s^2}{\sigma^2} \|u - D(x; \sigma)\|^2, \quad
            \hat\epsilon = (x - x_0) / \sigma \\
        x &\leftarrow x_0 + \sigma' \big(\sqrt{1 - \zeta} \, \hat\epsilon + \sqrt{\zeta} \, z\big)

    An estimate rather than a draw: :math:`x_0` has no spread of its own.

    Source: Zhu et al., Denoising diffusion models for plug-and-play image restoration, CVPR Workshops 2023, algorithm 1.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        confidence: :math:`\lambda`.
        zeta: share of fresh noise in the variance (published: 0.3; with tilings predicted noise carries seams).
        iterations: conjugate-gradient steps, where there is no closed form.
        clip: keep the corrected estimate in the range of images.
        options: those of :class:`DiffusionSolver`.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        confidence: float = 1.0,
        zeta: float = 0.8,
        iterations: int = 8,
        clip: bool = True,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, **options)
        require_above(0, confidence=confidence)
        require_between(0, 1, zeta=zeta)
        require_at_least(1, iterations=iterations)
        self.confidence, self.zeta, self.iterations, self.clip = confidence, zeta, iterations, clip

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """Take one step by one evaluation."""
        x_0 = self.canvas.posterior_mean(self.prior(x, sigma, generator), y, sigma**2 / self.confidence, self.iterations)
        if self.clip:
            x_0 = self.operator.clip(x_0)
        if sigma_next == 0:
            return x_0
        predicted = math.sqrt(1 - self.zeta) / sigma * (x - x_0)
        return x_0 + sigma_next * (predicted + math.sqrt(self.zeta) * generator.normal(x))
