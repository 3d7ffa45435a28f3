"""Plug and play: the prior as a denoiser inside classical splittings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from padis_lightning.diffusion import geometric_sigmas
from padis_lightning.errors import InputError, require_above, require_at_least, require_between
from padis_lightning.linalg import per_image
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.whitening import Whitening
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.base import Solver

LEAST_HIGH, HIGHEST = 0.08, 1.0  # of first levels that are not named
RISE, TURNED = 13.0, 4  # a first level over the square of the error, at most; the power of what turning brings
FALL, LOWEST = 0.05, 0.005  # of last levels; FALL over the error
MOST_LEFT = 9.0  # times the estimated noise that what is left over counts as noise


def turned(x: Tensor, turns: int) -> Tensor:
    """Turn the largest square in the middle of images ``(B, C, ..., H, W)`` by 90 degrees so often; there are zeros around it."""
    side = min(x.shape[-2:])
    top, left = ((n - side) // 2 for n in x.shape[-2:])
    out = torch.zeros_like(x)
    box = ..., slice(top, top + side), slice(left, left + side)
    out[box] = x[box].rot90(turns, (-2, -1))
    return out


class PlugAndPlay(Solver):
    r"""Share what plug-and-play solvers have in common: the reconstruction to start from, and the proximal step of the data.

    The weight of the splitting follows from the noise :math:`s^2` of the measurement and the level of the denoiser, where noise
    asks for more than the least:

    .. math:: \rho_k = \max\left(\rho, \; \lambda \frac{s^2}{\sigma_k^2 \|A\|^2}\right)

    Levels that are not named follow from what a second reconstruction, of the first one turned by 90 degrees, gets wrong. That is
    one to three times what the first one got wrong; turned, since what a limited arc does not see is missing in the first one.
    Where turning brings nothing the first level is that error, of limited arcs it is higher:

    .. math:: e^2 = \mathrm{mean} \, (A^+ A R x_0 - R x_0)^2, \quad e_0^2 = \mathrm{mean} \, (A^+ A x_0 - x_0)^2, \quad
        x_0 = A^+ y

    .. math:: \sigma_1 = \max\left(0.08, \; e, \; e \min\left(\frac{e^4}{e_0^4}, \; 13 e\right)\right), \quad
        \sigma_K = \max(0.005, e / 20)

    with the largest square in the middle of the image for :math:`x_0` in :math:`e_0`. The mean squared error of a denoiser of CT
    slices grows as its level does, and at a level of :math:`13 e^2` it is a ninth of :math:`e^2`.

    Where the noise of a measurement was estimated, :math:`s^2` is at least the mean square that the denoised image leaves over,
    up to nine times the estimate: a scan departs from its model by more than its noise. Where a measurement is noisy, what the
    operator and the denoiser get wrong counts as noise, too: :math:`s^2` becomes :math:`s^2 + m^2 \, \mathrm{mean} \, y^2`.
    That of a scan which was not simulated here counts without noise as well, since an object has more detail than pixels. What
    they cannot show is an error of the image, which more views do not make smaller: of such a scan the second term is at least
    :math:`m^2 \|A\|^2 \, \mathrm{mean} \, v^2`, with v the denoised image.

    Source: Zhang et al., Plug-and-play image restoration with deep denoiser prior, IEEE TPAMI 2022, equation 7.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        steps: of the splitting; each takes one evaluation.
        sigma_max: first level of the denoiser (None: :math:`\sigma_1`).
        sigma_min: its last level, reached geometrically (None: :math:`\sigma_K`).
        penalty: :math:`\rho`, least weight of the splitting, for an operator of norm 1.
        noise_weight: :math:`\lambda`; 0 leaves the weight at its least, whatever the noise.
        model_error: m, share of the measurement that operator and denoiser get wrong.
        iterations: conjugate-gradient steps of each proximal step, where there is no closed form.
        options: those of :class:`Solver`.
    """

    prior: Prior

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        steps: int = 50,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
        penalty: float = 0.001,
        noise_weight: float = 0.25,
        model_error: float = 0.0,
        iterations: int = 20,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(problem, **options)
        require_above(0, penalty=penalty)
        require_at_least(0, noise_weight=noise_weight)
        require_between(0, 1, model_error=model_error)
        require_at_least(1, iterations=iterations)
        self.prior = prior
        self.lay_out()
        self.penalty, self.noise_weight, self.model_error, self.iterations = penalty, noise_weight, model_error, iterations
        high = HIGHEST if sigma_max is None else sigma_max
        geometric_sigmas(high, min(LOWEST, high) if sigma_min is None else sigma_min, steps)  # refuses what cannot be
        self.sigma_max, self.sigma_min, self.steps = sigma_max, sigma_min, steps

    @property
    def evaluations(self) -> int:
        """Return one evaluation a step."""
        return self.steps

    def levels(self, x: Tensor, noisy: float | Tensor = 0.0) -> list[float] | list[Tensor]:
        """Return the level of every step, each a number, or of each image ``(B,)`` where they follow from x, the first one.

        A last level that follows is higher by the share ``noisy`` of itself, the least one by twice that.
        """
        if self.sigma_max is not None and self.sigma_min is not None:
            return geometric_sigmas(self.sigma_max, self.sigma_min, self.steps).tolist()
        error = self._inversion_error(turned(x, 1))
        if self.sigma_max is None:
            gain = (error / self._inversion_error(turned(x, 0))).nan_to_num(1) ** TURNED
            high = error * gain.minimum(RISE * error).clamp_min(1)
            high = high.clamp_min(LEAST_HIGH).clamp_max(min(HIGHEST, self.prior.highest))
        else:
            high = torch.full_like(error, self.sigma_max)
        if self.sigma_min is None:
            low = ((1 + noisy) * FALL * error).clamp_min((1 + 2 * noisy) * LOWEST)
        else:
            low = torch.full_like(error, self.sigma_min)
        shares = torch.linspace(0, 1, self.steps, dtype=error.dtype, device=error.device)
        return list(high * (low.minimum(high) / high) ** shares[:, None])

    def _inversion_error(self, x: Tensor) -> Tensor:
        """Return the root mean square of what a reconstruction of each image gets wrong, ``(B, ...) -> (B,)``, in float64."""
        error = self.operator.clip(self.operator.approximate_inverse(self.operator(x))) - x
        return error.flatten(1).double().square().mean(1).sqrt()

    def denoise(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        """Apply the prior to images ``(B, C, H, W)``."""
        return self.prior.on_images(x, sigma, generator)

    def noise(self, y: Tensor, v: Tensor | None = None) -> Tensor:
        r"""Return :math:`s^2` of each measurement ``(B, ...)``, ``(B, 1, 1, 1)`` in float64; v is the denoised image."""
        y = y.double()
        noise, precision = self.problem.data_term(y)
        if v is not None and self.problem.noise_is_estimated:
            left = (self.operator(v) - y).double().square()
            left = left if precision is None else precision * left / per_image(precision.flatten(1).mean(1), precision)
            left = per_image(left.flatten(1).mean(1), noise)
            noise = torch.maximum(noise, torch.minimum(left, MOST_LEFT * noise))
        noise = self._for_images(noise)
        return noise + self.model_variance(y, v).where((noise > 0) | self.is_scan, 0)

    @property
    def is_scan(self) -> bool:
        """Tell whether the measurement is a scan that was not simulated here."""
        return self.problem.is_measured and self.operator.geometry is not None

    def model_variance(self, y: Tensor, v: Tensor | None = None) -> Tensor:
        r"""Return what operator and denoiser get wrong of each measurement, ``(B, 1, 1, 1)``; v is an image of a scan."""
        parts = [y.double()]
        if v is not None and self.is_scan:
            parts.append(v.double() * math.sqrt(self.operator.norm_squared))
        largest = torch.stack([part.square().flatten(1).mean(1) for part in parts]).amax(0)
        return self.model_error**2 * self._for_images(largest)

    def _for_images(self, values: Tensor) -> Tensor:
        """Return a number a measurement with the axes of images, ``(B, 1, 1, 1)``."""
        return values.reshape(-1, *[1] * len(self.operator.image_shape))

    def penalty_at(self, sigma: float | Tensor, noise: Tensor) -> Tensor:
        r"""Return :math:`\rho_k`, ``(B, 1, 1, 1)``, at a level, a number or ``(B,)``, and a noise."""
        sigma = per_image(sigma, noise) if isinstance(sigma, Tensor) else sigma
        return (self.noise_weight / (sigma**2 * self.operator.norm_squared) * noise).clamp_min(self.penalty)

    def model_share(self, y: Tensor, noise: Tensor, v: Tensor | None = None) -> Tensor:
        r"""Return how much of :math:`s^2` operator and denoiser get wrong, from 0 to 1, ``(B, 1, 1, 1)``; of zeros all."""
        return (self.model_variance(y, v) / noise).nan_to_num(1).clamp_max(1)

    def data_step(self, v: Tensor, y: Tensor, penalty: Tensor, share: Tensor | None = None) -> Tensor:
        r"""Return :math:`\arg\min_u \|A u - y\|_P^2 / \|A\|^2 + \rho_k \|u - v\|^2`.

        With a share of the model in what is wrong, P whitens that in a scan which was not simulated here.
        """
        weight = penalty * self.operator.norm_squared
        return self.problem.proximal_step(v, y, weight, self.iterations, share if self.is_scan else None)


class PnPADMM(PlugAndPlay):
    r"""Run the alternating direction method of multipliers with the denoiser as a proximal step.

    .. math:: x \leftarrow \alpha \, \mathrm{prox}_A(v - u) + (1 - \alpha) \, v, \quad v \leftarrow D(x + u; \sigma), \quad
        u \leftarrow u + x - v

    with :math:`\sigma` falling from step to step, or the same throughout; u is scaled by :math:`\rho_{k-1} / \rho_k` first. An
    estimate: nothing in it is drawn but partitions.

    Of a scan that was not simulated here the weight is at least that of its model alone at a level of :math:`e_0`, and P is that
    of :class:`~padis_lightning.operators.whitening.Whitening`: what pixels cannot show is wrong at high frequencies most. The
    last level of scans that follows is up to twice as high where more of what they get wrong is noise, and the least one up to
    three times:

    .. math:: \sigma_K = \max\left(0.005 \, (1 + 2 q), \; (1 + q) \frac{e}{20}\right), \quad
        q = \frac{s}{\sqrt{s^2 + m^2 \, \mathrm{mean} \, y^2}}

    Source: Venkatakrishnan, Bouman and Wohlberg, Plug-and-play priors for model based reconstruction, GlobalSIP 2013; Zhang et
    al., Plug-and-play image restoration with deep denoiser prior, IEEE TPAMI 2022, section 4.2, for the falling level; Boyd,
    Parikh, Chu, Peleato and Eckstein, Foundations and Trends in Machine Learning 2011, section 3.4.3, for over-relaxation.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        relaxation: :math:`\alpha`, above 0 and below 2; above 1 the data step goes further than its solution.
        noise_weight: :math:`\lambda`, larger than that of splittings which are not relaxed.
        model_error: m, above 0 since pixels cannot explain all of an object with more detail.
        options: those of :class:`PlugAndPlay`.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        relaxation: float = 1.8,
        noise_weight: float = 0.5,
        model_error: float = 0.005,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, noise_weight=noise_weight, model_error=model_error, **options)
        require_above(0, relaxation=relaxation)
        if not relaxation < 2:
            raise InputError(f"relaxation is {relaxation}; wanted a value below 2")
        self.relaxation = relaxation

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Iterate from the approximate inverse, ``(B, ...) -> (B, C, H, W)``."""
        v = self.operator.clip(self.operator.approximate_inverse(y))
        noise = self.noise(y)
        share = self.model_share(y, noise)
        state = {
            "v": v,
            "u": torch.zeros_like(v),
            "noise": noise,
            "share": share,
            "weight": torch.ones_like(noise),
            "least": self.least_penalty(y, v, share),
            **self.first_state(v),
        }
        for sigma in self.loop(self.levels(v, self.noise_share(share)), state, generator):
            weight = torch.maximum(self.penalty_at(sigma, state["noise"]), state["least"])
            v, u = state["v"], state["u"] * (state["weight"] / weight).to(state["u"])
            x = torch.lerp(v, self.explained(v - u, y, sigma, weight, state).to(v), self.relaxation)
            v = self.denoise(x + u, sigma, generator)
            noise = self.noise(y, v)
            state.update(v=v, u=(u + x).sub_(v), noise=noise, share=self.model_share(y, noise, v), weight=weight)
        return state["v"]

    def first_state(self, v: Tensor) -> dict[str, Tensor]:
        """Return what a subclass adds to the state; v is the first reconstruction."""
        return {}

    def explained(self, v: Tensor, y: Tensor, sigma: float | Tensor, penalty: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Take the data step; a subclass may leave something in the state for the next one."""
        return self.data_step(v, y, penalty, state["share"])

    def noise_share(self, share: Tensor) -> Tensor:
        """Return how much of what a scan gets wrong is noise, 0 to 1, ``(B,)``, given its model's share of s^2; elsewhere 0."""
        if self.operator.geometry is None:
            return torch.zeros_like(share).flatten()
        return (1 - share).sqrt().flatten()

    def least_penalty(self, y: Tensor, v: Tensor, share: Tensor) -> Tensor:
        r"""Return :math:`\rho_k` of the model alone at a level of :math:`e_0`, of a scan with v as its first reconstruction.

        That is small where there are many views: what they agree on is wrong by what pixels cannot show. It is never below
        :math:`\rho` for the norm of the whitened operator. Elsewhere it is 0.
        """
        if not self.is_scan:
            return torch.zeros_like(self.model_variance(y))
        model = self.penalty_at(self._inversion_error(turned(v, 0)).clamp_min(LOWEST), self.model_variance(y, v))
        return torch.maximum(self.penalty * Whitening.gain(share), model)


class RED(PlugAndPlay):
    r"""Run the fixed-point iteration of regularisation by denoising.

    .. math:: \min_x \frac{\|A x - y\|_P^2}{\|A\|^2} + \rho \, x^T (x - D(x; \sigma)), \quad
        x \leftarrow \mathrm{prox}_A(D(x; \sigma))

    An estimate: nothing in it is drawn but partitions.

    Source: Romano, Elad and Milanfar, The little engine that could, SIAM Journal on Imaging Sciences 2017, section 4.2.
    """

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Iterate from the approximate inverse, ``(B, ...) -> (B, C, H, W)``."""
        state = {"x": self.operator.clip(self.operator.approximate_inverse(y))}
        for sigma in self.loop(self.levels(state["x"]), state, generator):
            v = self.denoise(state["x"], sigma, generator)
            state["x"] = self.data_step(v, y, self.penalty_at(sigma, self.noise(y, v)))
        return state["x"]
