"""RED-diff: the mean of a variational posterior, by stochastic optimisation along the noise levels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import require_above
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.diffusion import DiffusionSolver


class REDDiff(DiffusionSolver):
    r"""Minimise by Adam the data term and the difference of the image to its denoised noisy self.

    .. math:: g = \frac{A^T P (A \mu - y)}{\|A\|^2} + \lambda \, (\mu - D(\mu + \sigma z; \sigma)), \quad
        \mu \leftarrow \mathrm{Adam}(\mu, g)

    A mode of the posterior rather than a draw. The weight of the second part is the source's for :math:`\lambda_t` in
    proportion to :math:`\sigma`, by which its :math:`\hat\epsilon - \epsilon` becomes a difference of images.

    Source: Mardani et al., A variational perspective on solving inverse problems with diffusion models, ICLR 2024,
    algorithm 1.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        weight: :math:`\lambda`.
        lr: Adam's step length.
        options: those of :class:`DiffusionSolver`.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        weight: float = 0.05,
        lr: float = 0.02,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, **options)
        require_above(0, weight=weight, lr=lr)
        self.weight, self.lr = weight, lr

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Make one update a level, from the approximate inverse."""
        generator = generator.correlated(self.slice_correlation)
        mean = self.zero_pad(self.operator.clip(self.operator.approximate_inverse(y)))
        state = {"mean": mean, "first": torch.zeros_like(mean), "second": torch.zeros_like(mean)}
        steps = [(sigma, count) for count, sigma in enumerate(self.sigmas[:-1], 1)]
        for sigma, count in self.loop(steps, state, generator, self.crop):
            gradient = self.step(state["mean"], y, sigma, 0.0, generator)
            first = 0.9 * state["first"] + 0.1 * gradient
            second = 0.99 * state["second"] + 0.01 * gradient.square()
            change = first / (1 - 0.9**count) / ((second / (1 - 0.99**count)).sqrt() + 1e-8)
            state.update(mean=state["mean"] - self.lr * change, first=first, second=second)
        return self.crop(state["mean"])

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """Return the gradient at ``x``, by one evaluation."""
        normal, data = self.canvas.normal_equations(y)
        denoised = self.prior(x + sigma * generator.normal(x), sigma, generator)
        return normal(x) - data + self.weight * (x - denoised)
