"""What solvers share that walk down noise levels with a diffusion prior."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor

from padis_lightning.diffusion import geometric_sigmas, karras_sigmas, require_falling
from padis_lightning.errors import InputError, require_between
from padis_lightning.operators import Composition, LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.base import Solver


class DiffusionSolver(Solver):
    r"""Walk down noise levels with a prior on the padded canvas.

    It starts from :math:`x \sim N(x_s, \sigma_{max}^2 I)`; a subclass writes :meth:`step`. ``self.canvas`` is the problem for
    canvases, its operator :math:`A` after the crop, so equations read as in their paper.

    Args:
        prior: denoiser of whole images.
        problem: what was measured, or its operator A.
        steps: noise levels.
        sigma_max: first level.
        sigma_min: last level before 0.
        schedule: spacing of the levels.
        sigmas: the levels themselves, without the 0 at their end, in place of these four; for comparison with other programs.
        start: :math:`x_s`, 0 (``noise``) or the operator's approximate inverse (``direct``), from which fewer levels suffice.
        slice_correlation: r of the noise that is drawn for volumes: that of slices j and k has the correlation
            :math:`r^{|j - k|}`. For priors of slices; others were trained on noise that is independent from slice to slice.
        options: those of :class:`Solver`.
    """

    prior: Prior

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        steps: int = 100,
        sigma_max: float = 1.0,
        sigma_min: float = 0.002,
        schedule: Literal["geometric", "karras"] = "geometric",
        sigmas: Sequence[float] | None = None,
        start: Literal["noise", "direct"] = "noise",
        slice_correlation: float = 0.0,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(problem, **options)
        require_between(0, 1, slice_correlation=slice_correlation)
        if slice_correlation > 0 and not self.operator.volumetric:
            shape = tuple(self.operator.image_shape)
            raise InputError(f"slice_correlation is {slice_correlation:g} and images are {shape}; wanted volumes, or 0")
        self.slice_correlation = slice_correlation
        self.prior = prior
        self.lay_out()
        if sigmas is None:
            sigmas = {"geometric": geometric_sigmas, "karras": karras_sigmas}[schedule](sigma_max, sigma_min, steps).tolist()
        self.sigmas, self.start = (*require_falling(sigmas), 0.0), start

    def lay_out(self) -> None:
        """Set what follows from the problem: the prior of its images' shape, and the problem of their canvases."""
        super().lay_out()
        self.canvas = self.problem.on_canvas(self.prior.pad)

    @property
    def evaluations(self) -> int:
        """Return one evaluation a level."""
        return len(self.sigmas) - 1

    def variance(self, sigma: float) -> float:
        r"""Return the variance :math:`\sigma^2 \sigma_{data}^2 / (\sigma^2 + \sigma_{data}^2)` of a Gaussian image given x."""
        return 1 / (1 / sigma**2 + 1 / self.prior.sigma_data**2)

    @staticmethod
    def ancestral(x: Tensor, x_0: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        r"""Go from ``x`` at ``sigma`` and its estimate to ``sigma_next``, part of the noise drawn afresh; the estimate at 0.

        .. math:: x_0 + \kappa (x - x_0) + \sigma' \sqrt{1 - \kappa} \, z, \quad \kappa = \sigma'^2 / \sigma^2
        """
        if sigma_next == 0:
            return x_0
        kept = (sigma_next / sigma) ** 2
        return x_0 + kept * (x - x_0) + sigma_next * math.sqrt(1 - kept) * generator.normal(x)

    @abstractmethod
    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """Take a canvas ``(B, C, H, W)`` at noise level ``sigma`` to one at ``sigma_next``, which is 0 at last."""

    @property
    def _margin(self) -> LinearOperator:
        """Return the crop, which the operator of canvases begins with."""
        assert isinstance(self.canvas.operator, Composition)
        return self.canvas.operator.right

    def crop(self, x: Tensor) -> Tensor:
        """Cut the images out of canvases."""
        return self._margin(x)

    def zero_pad(self, x: Tensor) -> Tensor:
        """Put zeros around images."""
        return self._margin.adjoint(x)

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Walk from ``sigma_max`` to 0 and crop."""
        generator = generator.correlated(self.slice_correlation)
        x = self.sigmas[0] * generator.normal(y.new_empty(len(y), *self.prior.canvas_shape))
        if self.start == "direct":
            x = x + self.zero_pad(self.operator.clip(self.operator.approximate_inverse(y)))
        state = {"x": x}
        for sigma, sigma_next in self.loop(pairwise(self.sigmas), state, generator, self.crop):
            state["x"] = self.step(state["x"], y, sigma, sigma_next, generator)
        return self.crop(state["x"])
