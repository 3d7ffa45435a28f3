"""Plug and play: the prior as a denoiser inside classical splittings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from padis_lightning.diffusion import geometric_sigmas
from padis_lightning.errors import InputError
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.random import Generators
from padis_lightning.solvers.base import Solver


class PlugAndPlay(Solver):
    """What its two variants share: the plain reconstruction to start from, and the proximal step of the data.

    Args:
        prior: denoiser of whole images.
        operator: A.
        steps: of the splitting; each takes one evaluation.
        sigma_max: first level of the denoiser.
        sigma_min: its last level, reached geometrically.
        penalty: weight of the splitting, for an operator of norm 1.
        iterations: conjugate-gradient steps of each proximal step, where there is no closed form.
        options: those of :class:`Solver`.
    """

    products_in = "proximal steps"

    def __init__(
        self,
        prior: Prior,
        operator: LinearOperator,
        steps: int = 50,
        sigma_max: float = 0.08,
        sigma_min: float = 0.015,
        penalty: float = 0.003,
        iterations: int = 10,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(operator, **options)
        if not (penalty > 0 and math.isfinite(penalty)):
            raise InputError(f"penalty is {penalty:g}; wanted a value above 0")
        if iterations < 1:
            raise InputError(f"iterations is {iterations}; wanted at least 1")
        prior.resize(operator.image_shape)
        self.prior, self.penalty, self.iterations = prior, penalty, iterations
        self.sigmas = tuple(geometric_sigmas(sigma_max, sigma_min, steps).tolist())

    @property
    def evaluations(self) -> int:
        """One a step."""
        return len(self.sigmas)

    def denoise(self, x: Tensor, sigma: float, generator: Generators) -> Tensor:
        """The prior on images ``(B, C, H, W)``."""
        return self.prior.inside(x, sigma, generator)

    @property
    def products(self) -> int:
        """A proximal step a step, and the start."""
        return 1 + self.evaluations * self.proximal(self.iterations)

    def fit(self, v: Tensor, y: Tensor) -> Tensor:
        r""":math:`\arg\min_u \|A u - y\|_P^2 / \|A\|^2 + \rho \|u - v\|^2`, in float64."""
        _, precision = self.noise.data_term(y.double())
        weight = self.penalty * self.operator.norm_squared
        return self.operator.double_prox(v, y, weight, precision, self.iterations)


class PnPADMM(PlugAndPlay):
    r"""The alternating direction method of multipliers with the denoiser as a proximal step.

    .. math:: x \leftarrow \mathrm{prox}_A(v - u), \quad v \leftarrow D(x + u; \sigma), \quad u \leftarrow u + x - v

    with :math:`\sigma` falling from step to step, or the same throughout. An estimate: nothing in it is drawn but partitions.

    Source: Venkatakrishnan, Bouman and Wohlberg, Plug-and-play priors for model based reconstruction, GlobalSIP 2013; Zhang et
    al., Plug-and-play image restoration with deep denoiser prior, IEEE TPAMI 2022, section 4.2, for the falling level.
    """

    arrays = 6.0

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """``(B, ...) -> (B, C, H, W)``."""
        v = self.operator.approximate_inverse(y).clamp(0, 1)
        state = {"x": v, "v": v, "u": torch.zeros_like(v)}
        for sigma in self.progress(self.sigmas, state, generator):
            v, u = state["v"], state["u"]
            x = self.fit(v - u, y)
            v = self.denoise(x + u, sigma, generator)
            state.update(x=x, v=v, u=(u + x).sub_(v))
            self.require_finite(v, sigma)
        return state["x"]


class RED(PlugAndPlay):
    r"""Regularisation by denoising, its fixed-point iteration.

    .. math:: \min_x \frac{\|A x - y\|_P^2}{\|A\|^2} + \rho \, x^T (x - D(x; \sigma)), \quad
        x \leftarrow \mathrm{prox}_A(D(x; \sigma))

    An estimate: nothing in it is drawn but partitions.

    Source: Romano, Elad and Milanfar, The little engine that could, SIAM Journal on Imaging Sciences 2017, section 4.2.
    """

    arrays = 5.0

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """``(B, ...) -> (B, C, H, W)``."""
        state = {"x": self.operator.approximate_inverse(y).clamp(0, 1)}
        for sigma in self.progress(self.sigmas, state, generator):
            state["x"] = self.fit(self.denoise(state["x"], sigma, generator), y)
            self.require_finite(state["x"], sigma)
        return state["x"]
