"""PaDIS as published: diffusion posterior sampling with Langevin steps."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from padis_lightning.errors import InputError, require_at_least
from padis_lightning.linalg import dot, norm, per_image
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.diffusion import DiffusionSolver


class DPS(DiffusionSolver):
    r"""Take, at every level ``inner`` times, a gradient step on the data through the denoiser and a Langevin step.

    .. math::
        \hat x &= D(x; \sigma), \quad r = y - A \hat x \\
        x &\leftarrow x + \frac{\zeta}{\|A\|^2} \, J^T A^T r
            + \frac{\epsilon}{2} (\hat x - x) + \sqrt{\epsilon (1 - \epsilon / 4)} \; \sigma z

    with J the derivative of D at x. The step is in units of :math:`1 / \|A\|^2`, so it serves any number of views. With
    ``guidance="norm"`` the second term is :math:`\zeta J^T A^T r / (\|A\| \|r\|)`, the paper's: of constant length, which
    can't settle below a residual of about :math:`\zeta \|A\|`. The factor :math:`1 - \epsilon / 4` is ours: without it
    the noise that Langevin steps keep up is too large by :math:`(1 - \epsilon / 4)^{-1/2}`.

    With ``paper`` the update is the published one, whose step depends on the scale of A:

    .. math:: x \leftarrow x - \frac{\zeta}{\|r\|} \nabla_x \|y - A \hat x\|^2 + \frac{\epsilon}{2} (\hat x - x)
        + \sqrt{\epsilon} \, \sigma z

    and the last x, not its estimate, is the result. Published with zeta 0.3, epsilon 1, 100 geometric levels from 10.

    With ``inner`` 0 there are no Langevin steps, but one step of ancestral sampling from each level to the next:

    .. math::
        x \leftarrow \hat x + \frac{\sigma'^2}{\sigma^2} (x - \hat x)
            + \frac{\zeta}{\|A\|^2} \frac{\sigma^2 - \sigma'^2}{s^2 + \sigma^2} \, J^T A^T r
            + \sigma' \sqrt{1 - \sigma'^2 / \sigma^2} \; z

    which is deepinv's DPS with ``guidance="annealed"`` and the weight :math:`\zeta / \|A\|^2`. With ``guidance="norm"`` the data
    step is as above, which is the algorithm of Chung et al.

    Source: Chung et al., DPS, ICLR 2023, algorithm 1; Hu et al., PaDIS, NeurIPS 2024, algorithm 1.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        inner: repetitions at every level; evaluations are ``steps * inner``. With 0 ancestral sampling, an evaluation a level.
        zeta: length of the data step, stable below 2.
        epsilon: length of the Langevin step, below 4.
        guidance: gradient of half the squared residual, or of the residual's norm.
        paper: the published update.
        options: those of :class:`DiffusionSolver`.
    """

    needs_gradients = True

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        inner: int = 10,
        zeta: float = 1.0,
        epsilon: float = 0.5,
        guidance: Literal["squared", "norm"] = "squared",
        paper: bool = False,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, **options)
        require_at_least(0, inner=inner)
        if not 0 < epsilon < 4:
            raise InputError(f"epsilon is {epsilon:g}; wanted a value between 0 and 4")
        self.inner, self.zeta, self.epsilon = inner, zeta, epsilon
        self.guidance, self.paper = "norm" if paper else guidance, paper

    @property
    def evaluations(self) -> int:
        """Return ``inner`` a level, or one."""
        return max(self.inner, 1) * super().evaluations

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """Make ``inner`` updates at ``sigma``, or one to ``sigma_next``."""
        if not self.inner:
            denoised, ascent = self.guide(x, y, sigma, generator, sigma**2 - sigma_next**2)
            return self.ancestral(x, denoised, sigma, sigma_next, generator) + ascent
        spread = math.sqrt(self.epsilon * (1 if self.paper else 1 - self.epsilon / 4)) * sigma
        for _ in range(self.inner):
            denoised, ascent = self.guide(x, y, sigma, generator)
            x = x + ascent + self.epsilon / 2 * (denoised - x) + spread * generator.normal(x)
        return denoised if sigma_next == 0 and not self.paper else x

    def guide(self, x: Tensor, y: Tensor, sigma: float, generator: Generators, fall: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the denoised canvas and the data step, both detached; norms are per image.

        Residuals count by the noise model's weights, the largest of which is taken as 1. ``fall`` is that of the variance.
        """
        noise, precision = self.problem.data_term(y)
        largest = torch.ones_like(noise) if precision is None else per_image(precision.flatten(1).amax(1), precision)
        trust = 1.0 if precision is None else (precision / largest).sqrt()
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised = self.prior(x, sigma, generator)
            residual = trust * (y - self.canvas.operator(denoised))
            (gradient,) = torch.autograd.grad(dot(residual, residual).sum() / 2, x)
        square = self.canvas.operator.norm_squared
        if self.guidance == "norm":
            length = per_image(norm(residual.detach()), x).clamp_min(torch.finfo(x.dtype).tiny)
            unit = 2.0 if self.paper else 1 / math.sqrt(square)
            return denoised.detach(), -self.zeta * unit * gradient / length
        share = 1.0 if self.inner else fall / (per_image(noise / largest, x) + sigma**2)
        return denoised.detach(), -self.zeta / square * share * gradient
