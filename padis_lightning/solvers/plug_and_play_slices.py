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
from padis_lightning.random import Generators
from padis_lightning.solvers.plug_and_play import PlugAndPlay


def steps(x: Tensor) -> Tensor:
    """Differences of neighbouring slices, ``(B, C, D, H, W) -> (B, C, D - 1, H, W)``."""
    return x.diff(dim=2)


def steps_adjoint(p: Tensor) -> Tensor:
    """The transpose of :func:`steps`."""
    zero = torch.zeros_like(p[:, :, :1])
    return torch.cat([zero, p], 2) - torch.cat([p, zero], 2)


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

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """``(B, ...) -> (B, C, D, H, W)``."""
        start, wide, square = self.operator.direct(y).clamp(0, 1), y.double(), self.operator.norm_squared
        _, precision = self.noise.data_term(wide)

        def back(r: Tensor) -> Tensor:
            return self.operator.adjoint(r if precision is None else precision * r) / square

        def normal(x: Tensor) -> Tensor:
            return back(self.operator(x)) + self.penalty * (x + steps_adjoint(steps(x)))

        data, slope = back(wide), steps(start)
        state = {"x": start, "v": start, "u": torch.zeros_like(start), "d": slope, "b": torch.zeros_like(slope)}
        for sigma in self.progress(self.sigmas, state, generator):
            x, v, u, d, b = (state[key] for key in "xvudb")
            target = data + self.penalty * (v - u + steps_adjoint(d - b)).double()
            x = conjugate_gradient(normal, target, x.double(), self.iterations).to(v.dtype)
            moved = steps(x) + b
            d = moved.sign() * (moved.abs() - self.weight / (2 * self.penalty)).clamp_min(0)
            v = self.denoise(x + u, sigma, generator)
            state.update(x=x, v=v, u=u + x - v, d=d, b=moved - d)
            self.require_finite(v, sigma)
        return state["x"]
