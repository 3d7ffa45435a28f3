"""Plug and play: the prior as a denoiser at one level, inside classical splittings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.crop import Crop
from padis_lightning.priors import Prior
from padis_lightning.random import Generators
from padis_lightning.solvers.base import Solver


class PlugAndPlay(Solver):
    """What its two variants share: the plain reconstruction to start from, and the proximal step of the data.

    Args:
        prior: denoiser of whole images, used at one level.
        operator: A.
        sigma: that level.
        penalty: weight of the splitting, for an operator of norm 1.
        iterations: of the splitting; each takes one evaluation.
        inner: conjugate-gradient steps of each proximal step, where there is no closed form.
        options: those of :class:`Solver`.
    """

    def __init__(
        self,
        prior: Prior,
        operator: LinearOperator,
        sigma: float = 0.05,
        penalty: float = 0.05,
        iterations: int = 50,
        inner: int = 10,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(operator, **options)
        for name, value in {"sigma": sigma, "penalty": penalty}.items():
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value:g}; wanted a value above 0")
        if min(iterations, inner) < 1:
            raise InputError(f"iterations is {iterations} and inner {inner}; wanted at least 1")
        prior.resize(operator.image_shape)
        self.prior, self.sigma, self.penalty, self.iterations, self.inner = prior, sigma, penalty, iterations, inner
        self.crop = Crop(prior.image_shape, prior.pad)

    @property
    def evaluations(self) -> int:
        """One an iteration."""
        return self.iterations

    def denoise(self, x: Tensor, generator: Generators) -> Tensor:
        """The prior on images ``(B, C, H, W)``."""
        return self.crop(self.prior(self.crop.adjoint(x), self.sigma, generator))

    def fit(self, v: Tensor, y: Tensor) -> Tensor:
        r""":math:`\arg\min_u \|A u - y\|_P^2 / \|A\|^2 + \rho \|u - v\|^2`, in float64."""
        y = y.double()
        _, precision = self.noise.data_term(y)
        weight = self.penalty * self.operator.norm_squared
        return self.operator.prox(v.double(), y, weight, precision, self.inner).to(v.dtype)


class PnPADMM(PlugAndPlay):
    r"""The alternating direction method of multipliers with the denoiser as a proximal step.

    .. math:: x \leftarrow \mathrm{prox}_A(v - u), \quad v \leftarrow D(x + u; \sigma), \quad u \leftarrow u + x - v

    An estimate: nothing in it is drawn but partitions.

    Source: Venkatakrishnan, Bouman and Wohlberg, Plug-and-play priors for model based reconstruction, GlobalSIP 2013.
    """

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """``(B, ...) -> (B, C, H, W)``."""
        v = self.operator.direct(y).clamp(0, 1)
        u = torch.zeros_like(v)
        for _ in self.progress(range(self.iterations), self.iterations):
            x = self.fit(v - u, y)
            v = self.denoise(x + u, generator)
            u = u + x - v
            self.require_finite(u, self.sigma)
        return x


class RED(PlugAndPlay):
    r"""Regularisation by denoising, its fixed-point iteration.

    .. math:: \min_x \frac{\|A x - y\|_P^2}{\|A\|^2} + \rho \, x^T (x - D(x; \sigma)), \quad
        x \leftarrow \mathrm{prox}_A(D(x; \sigma))

    An estimate: nothing in it is drawn but partitions.

    Source: Romano, Elad and Milanfar, The little engine that could, SIAM Journal on Imaging Sciences 2017, section 4.2.
    """

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """``(B, ...) -> (B, C, H, W)``."""
        x = self.operator.direct(y).clamp(0, 1)
        for _ in self.progress(range(self.iterations), self.iterations):
            x = self.fit(self.denoise(x, generator), y)
            self.require_finite(x, self.sigma)
        return x
