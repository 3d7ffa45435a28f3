"""Denoising diffusion null-space models: the measured part of the estimate is replaced by what was measured."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from padis_lightning.errors import require_at_least, require_between
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.diffusion import DiffusionSolver


class DDNM(DiffusionSolver):
    r"""Take Tweedie's estimate, replace its measured part, and add noise of the next level, predicted and fresh.

    .. math::
        \hat x &= D(x; \sigma), \quad x_0 = \hat x + A^+ (y - A \hat x) \\
        x &\leftarrow x_0 + \sigma' \big(\sqrt{1 - \eta^2} \, (x - \hat x) / \sigma + \eta z\big)

    With noise, the mean of :math:`N(\hat x, \sigma^2)` given y takes the place of the projection. ``paper`` is the variant of
    PaDIS, VE-DDNM: ``inner`` Langevin steps a level with the corrected estimate, at full length and with the noise that
    theory wants at small lengths,

    .. math:: x \leftarrow x + \tfrac12 (x_0 - x) + \sigma z

    A draw, not a sample of the posterior: the replaced part has no spread.

    Source: Wang, Yu and Zhang, DDNM, ICLR 2023, algorithm 1 and section 3.3; Hu et al., PaDIS, NeurIPS 2024, appendix.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        eta: share of fresh noise; predicted noise carries the seams of one partition into the next.
        iterations: conjugate-gradient steps of the pseudo-inverse, where there is no closed form.
        clip: keep the corrected estimate in the range of images.
        paper: as published with PaDIS.
        inner: Langevin steps a level of that.
        options: those of :class:`DiffusionSolver`.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        eta: float = 1.0,
        iterations: int = 30,
        clip: bool = True,
        paper: bool = False,
        inner: int = 10,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, **options)
        require_between(0, 1, eta=eta)
        require_at_least(1, iterations=iterations, inner=inner)
        self.eta, self.iterations, self.clip, self.paper, self.inner = eta, iterations, clip, paper, inner

    @property
    def evaluations(self) -> int:
        """Return one a level, ``inner`` as published."""
        return (self.inner if self.paper else 1) * super().evaluations

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """Take one step by one evaluation, or ``inner`` of them."""
        for _ in range(self.inner if self.paper else 1):
            denoised = self.prior(x, sigma, generator)
            x_0 = self.canvas.posterior_mean(denoised, y, sigma**2, self.iterations)
            if self.clip:
                x_0 = self.operator.clip(x_0)
            if self.paper:
                x = x + (x_0 - x) / 2 + sigma * generator.normal(x)
        if sigma_next == 0:
            return x_0
        if self.paper:
            return x
        predicted = math.sqrt(1 - self.eta**2) / sigma * (x - denoised)
        return x_0 + sigma_next * (predicted + self.eta * generator.normal(x))
