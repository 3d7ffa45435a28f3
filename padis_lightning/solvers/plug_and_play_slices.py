"""Plug and play with total variation across slices: a prior of slices on volumes that hold together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.linalg import conjugate_gradient
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.priors.slice_variation import steps, steps_adjoint
from padis_lightning.random import Generators
from padis_lightning.solvers.plug_and_play import PlugAndPlay


class PnPSlices(PlugAndPlay):
    r"""``PnPADMM`` with a second splitting: the prior sees slices, total variation the differences between them.

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
        operator: A.
        weight: w.
        options: those of :class:`PlugAndPlay`.
    """

    arrays = 19.5
    products_in = "float64"

    def __init__(
        self,
        prior: Prior,
        operator: LinearOperator,
        weight: float = 2e-5,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, operator, **options)
        if not (weight > 0 and math.isfinite(weight)):
            raise InputError(f"weight is {weight:g}; wanted a value above 0")
        self.weight = weight

    @property
    def products(self) -> int:
        """Two an iteration and two at its start, of every step, and twice the start."""
        return 2 + 2 * self.evaluations * (self.iterations + 1)

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """``(B, ...) -> (B, C, D, H, W)``."""
        x, wide, square = self.operator.approximate_inverse(y).clamp(0, 1), y.double(), self.operator.norm_squared
        _, precision = self.noise.data_term(wide)

        def back(r: Tensor) -> Tensor:
            return self.operator.adjoint(r if precision is None else precision * r) / square

        def normal(x: Tensor) -> Tensor:
            return steps_adjoint(steps(x)).add_(x).mul_(self.penalty).add_(back(self.operator(x)))

        def target(v: Tensor, u: Tensor, d: Tensor, b: Tensor) -> Tensor:
            return (v - u).add_(steps_adjoint(d - b)).double().mul_(self.penalty).add_(data)

        data, d = back(wide), steps(x)
        state = {"x": x, "v": x, "u": torch.zeros_like(x), "d": d, "b": torch.zeros_like(d)}
        for sigma in self.progress(self.sigmas, state, generator):
            x, v, u, d, b = (state[key] for key in "xvudb")
            x = conjugate_gradient(normal, target(v, u, d, b), x.double(), self.iterations).to(v.dtype)
            moved = steps(x).add_(b)
            d = moved.sign() * (moved.abs() - self.weight / (2 * self.penalty)).clamp_min(0)
            v = self.denoise(x + u, sigma, generator)
            state.update(x=x, v=v, u=(u + x).sub_(v), d=d, b=moved.sub_(d))
            self.require_finite(v, sigma)
        return state["x"]
