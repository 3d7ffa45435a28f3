"""Decoupled annealing posterior sampling: levels are tied together by their estimates alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor

from padis_lightning.diffusion import geometric_sigmas
from padis_lightning.errors import require_at_least
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.diffusion import DiffusionSolver


class DAPS(DiffusionSolver):
    r"""Follow the probability flow from x to its end, draw an image around that given the measurement, and add fresh noise.

    .. math::
        \hat x_0 &= \mathrm{ODE}(x; \sigma \to 0) \\
        x_0 &\sim p(x_0 \mid y) \propto N(x_0; \hat x_0, r^2) \, N(y; A x_0, s^2 P^{-1}), \quad
            r^2 = \frac{\sigma^2 \sigma_{data}^2}{\sigma^2 + \sigma_{data}^2} \\
        x &\leftarrow x_0 + \sigma' z

    The operators being linear, the draw is exact where the source walks by Langevin dynamics. The flow's end stands in for
    the posterior mean, so draws of a Gaussian prior spread too much; one flow step (``ode_steps: 1``) is Tweedie's estimate and
    the draw then right.

    Source: Zhang et al., Improving diffusion inverse problem solving with decoupled noise annealing, CVPR 2025, algorithm 1.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        ode_steps: Euler steps of the flow; evaluations are ``steps * ode_steps``.
        iterations: conjugate-gradient steps of the draw, where there is no closed form.
        options: those of :class:`DiffusionSolver`.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        ode_steps: int = 2,
        iterations: int = 20,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, **options)
        require_at_least(1, ode_steps=ode_steps, iterations=iterations)
        self.ode_steps, self.iterations = ode_steps, iterations

    @property
    def evaluations(self) -> int:
        """Return ``ode_steps`` a level."""
        return self.ode_steps * super().evaluations

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """Take one step by ``ode_steps`` evaluations."""
        levels = geometric_sigmas(sigma, sigma / 10, self.ode_steps).tolist() if self.ode_steps > 1 else [sigma]
        for level, after in pairwise([*levels, 0.0]):
            denoised = self.prior(x, level, generator)
            x = denoised + after / level * (x - denoised)
        variance = self.variance(sigma)
        if sigma_next == 0:
            return self.canvas.posterior_mean(x, y, variance, self.iterations)
        return self.canvas.posterior_sample(x, y, variance, self.iterations, generator) + sigma_next * generator.normal(x)
