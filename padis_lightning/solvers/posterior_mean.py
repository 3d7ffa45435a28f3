"""The posterior mean of noisy images: one evaluation of the prior."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from padis_lightning.errors import InputError, require_at_least
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.denoising import DenoisingSolver

LEAST = 1e-4  # noise below it is none to a network


class PosteriorMean(DenoisingSolver):
    r"""Denoise images: the prior at the level of their noise is their posterior mean, the estimate of least squared error.

    .. math:: E[x \mid y] = D(y; s), \quad y = x + n, \quad n \sim N(0, s^2 I)

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator, the identity.
        partitions: evaluations, of which the mean is taken; of a prior that draws its partition, another one each.
        options: those of :class:`DenoisingSolver`.

    Raises:
        InputError: noise differs from pixel to pixel.
    """

    prior: Prior

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        partitions: int = 1,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(problem, **options)
        require_at_least(1, partitions=partitions)
        self.prior, self.partitions = prior, partitions
        self.lay_out()

    @property
    def evaluations(self) -> int:
        """Return one evaluation a partition."""
        return self.partitions

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Denoise ``(B, C, H, W)``."""
        if self.problem.data_term(y)[1] is not None:
            raise InputError("the noise differs from pixel to pixel; wanted one deviation, or a solver such as RED")
        sigma = self.deviations(y).clamp_min(LEAST)
        state = {"total": y.new_zeros(y.shape)}
        for _ in self.loop(range(self.partitions), state, generator):
            state["total"] += self.prior.on_images(y, sigma, generator) / self.partitions
        return state["total"]
