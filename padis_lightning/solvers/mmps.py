"""Moment matching posterior sampling: the spread of images given x, from the denoiser's derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import require_at_least
from padis_lightning.linalg import conjugate_gradient
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.diffusion import DiffusionSolver


class MMPS(DiffusionSolver):
    r"""Find the mean of images given x and y from their covariance given x, and take a step of the diffusion towards it.

    .. math::
        \hat x &= D(x; \sigma), \quad V = \sigma^2 J^T \\
        x_0 &= \hat x + V A^T (s^2 P^{-1} + A V A^T)^{-1} (y - A \hat x) \\
        x &\leftarrow x_0 + \kappa (x - x_0) + \sigma' \sqrt{1 - \kappa} \, z, \quad \kappa = \sigma'^2 / \sigma^2

    with J the derivative of D at x. The system is solved by a few conjugate-gradient steps, each a product with :math:`J^T`,
    which costs about twice an evaluation. For a Gaussian prior draws follow the posterior.

    Source: Rozet et al., Learning diffusion priors from observations by expectation maximization, NeurIPS 2024, section 4.2
    and algorithm 3.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        iterations: conjugate-gradient steps a level.
        clip: keep the corrected estimate in the range of images.
        options: those of :class:`DiffusionSolver`.
    """

    needs_gradients = True

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        iterations: int = 3,
        clip: bool = False,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, **options)
        require_at_least(1, iterations=iterations)
        self.iterations, self.clip = iterations, clip

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """Take one step by one evaluation and ``iterations + 1`` derivatives."""
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            denoised = self.prior(point, sigma, generator)

        def spread(image: Tensor) -> Tensor:
            return sigma**2 * torch.autograd.grad(denoised, point, image, retain_graph=True)[0]

        noise = self.problem.noise.variance(y)

        def system(v: Tensor) -> Tensor:
            return noise * v + self.canvas.operator(spread(self.canvas.operator.adjoint(v)))

        residual = y - self.canvas.operator(denoised.detach())
        solved = conjugate_gradient(system, residual, torch.zeros_like(residual), self.iterations)
        x_0 = denoised.detach() + spread(self.canvas.operator.adjoint(solved))
        if self.clip:
            x_0 = self.operator.clip(x_0)
        return self.ancestral(x, x_0, sigma, sigma_next, generator)
