"""Decomposed diffusion sampling: denoise, fit the data by conjugate gradients, add fresh noise."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from padis_lightning.errors import require_at_least, require_between
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.diffusion import DiffusionSolver


class DDS(DiffusionSolver):
    r"""Take Tweedie's estimate, a few conjugate-gradient steps from it on the data term, and add fresh noise.

    .. math::
        \hat x &= D(x; \sigma) \\
        x_0 &= \arg\min_u \frac{\|A u - y\|_P^2}{s^2} + \frac{\|u - \hat x\|^2}{r^2},
            \quad r^2 = \frac{\sigma^2 \sigma_{data}^2}{\sigma^2 + \sigma_{data}^2} \\
        x &\leftarrow x_0 + \eta \, \sigma' z

    This :math:`x_0` is the mean of :math:`p(x_0 \mid x, y)` for a prior of which :math:`r^2` is the variance given x; with
    ``sample`` it is a draw from it instead: :math:`y` and :math:`\hat x` are perturbed by noise of their variances before
    the fit. Draws then follow the posterior, estimates lie nearer to its mean and score higher.

    P are the weights of the noise model, 1 for Gaussian noise. The proximal step is in closed form where the operator has one
    (blur, pooling, masks), else by conjugate gradients from :math:`\hat x`. Without noise (s = 0) the second term vanishes:
    the closed form then is the projection on the solutions of :math:`A u = y`, and the few steps of the other keep near
    :math:`\hat x`. The noise is all fresh: predicted noise would carry the seams of one partition into the next. With
    :math:`\eta < 1` there is less of it than the level says, which favours the mean over a draw: better where much is missing.

    Source: Chung, Lee and Ye, Decomposed diffusion sampler, ICLR 2024, algorithm 1, with eta = 1; Song et al.,
    DiffusionBlend, NeurIPS 2024, for CT.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        iterations: conjugate-gradient steps a level, where there is no closed form.
        eta: share of the next level's noise that is put back.
        clip: keep the corrected estimate in the range of images.
        sample: draw from the posterior rather than estimate.
        options: those of :class:`DiffusionSolver`; ``steps`` is the number of network evaluations.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        iterations: int = 8,
        eta: float = 1.0,
        clip: bool = True,
        sample: bool = False,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, **options)
        require_at_least(1, iterations=iterations)
        require_between(0, 1, eta=eta)
        self.iterations, self.eta, self.clip, self.sample = iterations, eta, clip, sample

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """Take one step by one network evaluation and ``iterations`` of the operator with its adjoint."""
        denoised = self.prior(x, sigma, generator)
        variance = self.variance(sigma)
        if self.sample:
            x_0 = self.canvas.posterior_sample(denoised, y, variance, self.iterations, generator)
        else:
            x_0 = self.canvas.posterior_mean(denoised, y, variance, self.iterations)
        if self.clip:
            x_0 = self.operator.clip(x_0)
        return x_0 + self.eta * sigma_next * generator.normal(x_0) if sigma_next > 0 else x_0
