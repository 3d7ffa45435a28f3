"""Plug and play with total variation across slices: a prior of slices on volumes that hold together."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import require_above
from padis_lightning.linalg import conjugate_gradient
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.priors.slice_variation import differences, differences_adjoint
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.plug_and_play import PlugAndPlay


class PnPSlices(PlugAndPlay):
    r"""Run ``PnPADMM`` with a second splitting: the prior sees slices, total variation the differences between them.

    .. math:: \min_x \frac{\|A x - y\|_P^2}{\|A\|^2} + w \, \|\nabla_z x\|_1 + R(x)

    .. math::
        x &\leftarrow \arg\min_x \frac{\|A x - y\|_P^2}{\|A\|^2} + \rho \|x - v + u\|^2 + \rho \|\nabla_z x - d + b\|^2 \\
        v &\leftarrow D(x + u; \sigma), \quad u \leftarrow u + x - v \\
        d &\leftarrow \mathrm{shrink}(\nabla_z x + b, \tfrac{w}{2 \rho}), \quad b \leftarrow b + \nabla_z x - d

    R being what D is the proximal step of. The first line takes ``iterations`` of conjugate gradients over the whole volume from
    the x before, in float64. An estimate: nothing in it is drawn but partitions. Of images the slices are the rows.

    Source: Chung, Ryu, McCann, Klasky and Ye, Solving 3D inverse problems using pre-trained 2D diffusion models
    (DiffusionMBIR), CVPR 2023, equation 13, for the regularisation across slices; see :class:`PnPADMM` for the rest.

    Args:
        prior: denoiser, such as one of slices.
        problem: what was measured, or its operator A.
        weight: w.
        options: those of :class:`PlugAndPlay`.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        weight: float = 2e-5,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, **options)
        require_above(0, weight=weight)
        self.weight = weight

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Iterate from the approximate inverse, ``(B, ...) -> (B, C, D, H, W)``."""
        x = self.operator.clip(self.operator.approximate_inverse(y))
        normal, data = self.problem.normal_equations(y.double())

        def system(x: Tensor, weight: Tensor) -> Tensor:
            return differences_adjoint(differences(x)).add_(x).mul_(weight).add_(normal(x))

        def target(v: Tensor, u: Tensor, d: Tensor, b: Tensor, weight: Tensor) -> Tensor:
            return (v - u).add_(differences_adjoint(d - b)).double().mul_(weight).add_(data)

        d = differences(x)
        state = {"v": x, "x": x, "u": torch.zeros_like(x), "d": d, "b": torch.zeros_like(d)}
        noise = self.noise(y)
        state |= {"noise": noise, "weight": torch.ones_like(noise)}
        for sigma in self.loop(self.levels(x), state, generator):
            weight = self.penalty_at(sigma, state["noise"])
            x, v, u, d, b = (state[key] for key in "xvudb")
            u, b = (dual * (state["weight"] / weight).to(v) for dual in (u, b))
            x = conjugate_gradient(partial(system, weight=weight), target(v, u, d, b, weight), x.double(), self.iterations)
            x = x.to(v.dtype)
            moved = differences(x).add_(b)
            d = moved.sign() * (moved.abs() - (self.weight / (2 * weight)).to(v)).clamp_min(0)
            v = self.denoise(x + u, sigma, generator)
            state.update(v=v, x=x, u=(u + x).sub_(v), d=d, b=moved.sub_(d), noise=self.noise(y, v), weight=weight)
        return state["x"]
