"""DPIR's splitting for any prior, and published denoisers in it to compare with."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from padis_lightning.noise import GaussianNoise
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.identity import Identity
from padis_lightning.priors import DenoiserPrior, Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.plug_and_play import PlugAndPlay

NOISELESS = 0.01  #: last level where no deviation is named


class DPIR(PlugAndPlay):
    r"""Run half-quadratic splitting with the constants of DPIR: the data first, the denoiser last.

    .. math:: v \leftarrow D(\mathrm{prox}_A(v); \sigma)

    Levels fall from 49/255 to the noise of the measurement, and :math:`\lambda = 0.23`. An estimate: nothing in it is drawn but
    partitions.

    Source: Zhang et al., Plug-and-play image restoration with deep denoiser prior, IEEE TPAMI 2022, section 4.2.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        steps: of the splitting; each takes one evaluation.
        sigma_max: first level of the denoiser.
        sigma_min: its last level (default: the noise that is named, 0.01 where there is none).
        penalty: least weight of the splitting, for an operator of norm 1.
        noise_weight: :math:`\lambda`.
        options: those of :class:`PlugAndPlay`.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        steps: int = 24,
        sigma_max: float = 49 / 255,
        sigma_min: float | None = None,
        penalty: float = 1e-9,
        noise_weight: float = 0.23,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        noise = problem.noise if isinstance(problem, Problem) else GaussianNoise(options.get("noise_std") or 0)
        if sigma_min is None:
            named = noise.std if isinstance(noise, GaussianNoise) and not noise.relative else 0
            sigma_min = min(named, sigma_max) if named > 0 else NOISELESS
        super().__init__(prior, problem, steps, sigma_max, sigma_min, penalty, noise_weight, **options)

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Iterate from the approximate inverse, ``(B, ...) -> (B, C, H, W)``."""
        state = {"v": self.operator.clip(self.operator.approximate_inverse(y))}
        for sigma in self.loop(self.levels(state["v"]), state, generator):
            x = self.data_step(state["v"], y, self.penalty_at(sigma, self.noise(y, state["v"])))
            state["v"] = self.denoise(x, sigma, generator)
        return state["v"]


class PublishedDenoiser(DPIR):
    """Compare with a denoiser that others have published: applied once where the image itself is measured, elsewhere in DPIR.

    It takes its own prior, whatever the run's is. Where it denoises, noise that differs from pixel to pixel is taken at its mean.

    Args:
        problem: what was measured, or its operator A.
        checkpoint: published weights, as :class:`DenoiserPrior` takes them, or a prior.
        steps: of the splitting, as published.
        options: those of :class:`DPIR`.
    """

    def __init__(
        self,
        problem: Problem | LinearOperator,
        checkpoint: str | Prior = "ffdnet",
        steps: int = 8,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        prior = checkpoint if isinstance(checkpoint, Prior) else DenoiserPrior(checkpoint)
        super().__init__(prior, problem, steps=steps, **options)

    @property
    def evaluations(self) -> int:
        """Return one evaluation where the image is measured, else one a step."""
        return 1 if isinstance(self.operator, Identity) else super().evaluations

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Denoise or iterate, ``(B, ...) -> (B, C, H, W)``."""
        if isinstance(self.operator, Identity):
            return self.denoise(y, self.noise(y).flatten().sqrt().to(y), generator)
        return super().solve(y, generator)
