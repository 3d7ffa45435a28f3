"""RED-diff: the mean of a variational posterior, by stochastic optimisation along the noise levels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.random import Generators
from padis_lightning.solvers.base import DiffusionSolver


class REDDiff(DiffusionSolver):
    r"""Adam on the data and on the difference of the image to its denoised noisy self.

    .. math:: g = \frac{A^T P (A \mu - y)}{\|A\|^2} + \lambda \, (\mu - D(\mu + \sigma z; \sigma)), \quad
        \mu \leftarrow \mathrm{Adam}(\mu, g)

    A mode of the posterior rather than a draw. The weight of the second part is the source's for :math:`\lambda_t` in
    proportion to :math:`\sigma`, by which its :math:`\hat\epsilon - \epsilon` becomes a difference of images.

    Source: Mardani et al., A variational perspective on solving inverse problems with diffusion models, ICLR 2024,
    algorithm 1.

    Args:
        prior: denoiser of whole images.
        operator: A.
        weight: :math:`\lambda`.
        lr: Adam's step length.
        options: those of :class:`DiffusionSolver`.
    """

    arrays = 11.0

    def __init__(
        self,
        prior: Prior,
        operator: LinearOperator,
        weight: float = 0.05,
        lr: float = 0.02,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, operator, **options)
        for name, value in {"weight": weight, "lr": lr}.items():
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value:g}; wanted a value above 0")
        self.weight, self.lr = weight, lr

    @property
    def products(self) -> int:
        """Two a level, and the start."""
        return 2 * self.evaluations + 1

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """From the plain reconstruction, one update a level."""
        mean = self.canvas_operator.right.adjoint(self.operator.approximate_inverse(y).clamp(0, 1))
        state = {"mean": mean, "first": torch.zeros_like(mean), "second": torch.zeros_like(mean)}
        for count, sigma in self.progress(list(enumerate(self.sigmas[:-1], 1)), state, generator):
            gradient = self.step(state["mean"], y, sigma, 0.0, generator)
            first = 0.9 * state["first"] + 0.1 * gradient
            second = 0.99 * state["second"] + 0.01 * gradient.square()
            change = first / (1 - 0.9**count) / ((second / (1 - 0.99**count)).sqrt() + 1e-8)
            state.update(mean=state["mean"] - self.lr * change, first=first, second=second)
            self.require_finite(state["mean"], sigma)
        return self.canvas_operator.right(state["mean"])

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """The gradient at ``x``: one evaluation."""
        _, precision = self.noise.data_term(y)
        residual = self.canvas_operator(x) - y
        data = self.canvas_operator.adjoint(residual if precision is None else precision * residual)
        denoised = self.prior(x + sigma * generator.normal(x), sigma, generator)
        return data / self.canvas_operator.norm_squared + self.weight * (x - denoised)
