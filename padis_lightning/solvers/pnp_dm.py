"""PnP-DM: Gibbs sampling between the measurement and the prior, ever more tightly coupled."""

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


class PnPDM(DiffusionSolver):
    r"""Draw an image that explains y near x, then one of the prior near that; the levels are the distance.

    .. math::
        z &\sim p(z \mid x, y) \propto N(y; A z, s^2 P^{-1}) \, N(z; x, \sigma^2 I) \\
        x &\sim p(x \mid z) \propto p(x) \, N(z; x, \sigma^2 I)

    The first is an exact draw, the second the diffusion model from level :math:`\sigma` down. As :math:`\sigma \to 0`, x follows
    the posterior.

    Source: Wu et al., Principled probabilistic imaging using diffusion models as plug-and-play priors, NeurIPS 2024,
    algorithm 1.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        prior_steps: network evaluations of the second draw; evaluations are ``steps * prior_steps``.
        iterations: conjugate-gradient steps of the first, where there is no closed form.
        options: those of :class:`DiffusionSolver`.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        prior_steps: int = 4,
        iterations: int = 20,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, **options)
        require_at_least(1, prior_steps=prior_steps, iterations=iterations)
        self.prior_steps, self.iterations = prior_steps, iterations

    @property
    def evaluations(self) -> int:
        """Return ``prior_steps`` a level."""
        return self.prior_steps * super().evaluations

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """Take one step by ``prior_steps`` evaluations; the first level starts from noise alone, which is as good as any x."""
        z = self.canvas.posterior_sample(x, y, sigma**2, self.iterations, generator)
        levels = geometric_sigmas(sigma, sigma / 10, self.prior_steps).tolist() if self.prior_steps > 1 else [sigma]
        for level, after in pairwise([*levels, 0.0]):
            z = self.ancestral(z, self.prior(z, level, generator), level, after, generator)
        return z
