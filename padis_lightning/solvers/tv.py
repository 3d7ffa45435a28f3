"""Total variation, the classical prior to beat."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import require_above
from padis_lightning.linalg import conjugate_gradient, norm
from padis_lightning.operators import LinearOperator
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.base import Solver

SETTLED = 1e-3  # of its norm: what an iteration may change of an image that has converged

log = logging.getLogger(__name__)


def penalty(weight: float) -> float:
    """Return the penalty of the splitting for an operator of norm 1; it serves CT with few views and denoising alike."""
    return min(50 * weight, 0.2)


def gradient(x: Tensor) -> Tensor:
    """Return forward differences, zero at the far border: ``(B, C, H, W) -> (B, 2, C, H, W)``; of volumes along three axes."""
    axes = x.ndim - 2
    out = x.new_zeros(len(x), axes, *x.shape[1:])
    for k in range(axes):
        out[:, k].narrow(2 + k, 0, x.shape[2 + k] - 1).copy_(x.diff(dim=2 + k))
    return out


def gradient_adjoint(p: Tensor) -> Tensor:
    """Apply the transpose of :func:`gradient` (minus the divergence): ``(B, axes, C, H, W) -> (B, C, H, W)``."""
    out = torch.zeros_like(p[:, 0])
    for k in range(p.shape[1]):
        axis, length = 2 + k, p.shape[3 + k]
        steps = p[:, k].narrow(axis, 0, length - 1)
        out.narrow(axis, 1, length - 1).add_(steps)
        out.narrow(axis, 0, length - 1).sub_(steps)
    return out


def shrink(p: Tensor, weight: float, rho: float) -> Tensor:
    """Shorten gradients ``(B, axes, C, H, W)`` by ``weight / rho``; those that are not as long become zero."""
    length = p.square().sum((1, 2), keepdim=True).sqrt().clamp_min(weight / rho)
    return p * (1 - weight / (rho * length))


class TotalVariation(Solver):
    r"""Minimise isotropic total variation with values kept in the range of images; of volumes along all three axes.

    .. math:: \min_{0 \le x \le 1} \tfrac{1}{2 \|A\|^2} \|A x - y\|_P^2 + w \sum_i \|(\nabla x)_i\|_2

    by the alternating direction method of multipliers with over-relaxation; its linear systems are solved by conjugate
    gradients from the last iterate. P are the weights of the noise model. A gradient's length takes the channels together:
    colours share their edges. Dividing by the norm of A makes one weight serve many operators. For CT with few views a
    hundred iterations get further than four thousand of a primal-dual method. A line says where the image still changes by
    more than :data:`SETTLED` in the last iteration.

    Source: Rudin, Osher and Fatemi, Physica D, 1992; Bresson and Chan, Fast dual minimization of the vectorial total
    variation norm, 2008, for colours; Boyd et al., Distributed optimization and statistical learning via the
    alternating direction method of multipliers, 2011, sections 3.4.3 and 6.4.1.

    Args:
        problem: what was measured, or its operator A.
        weight: w.
        iterations: outer iterations.
        inner: conjugate-gradient steps in each.
        seconds: no iteration begins later than that after the first one of a batch; what is found depends on the machine then.
        options: those of :class:`Solver`.
    """

    def __init__(
        self,
        problem: Problem | LinearOperator,
        weight: float = 1e-5,
        iterations: int = 100,
        inner: int = 10,
        seconds: float | None = None,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(problem, **options)
        require_above(0, weight=weight, seconds=1 if seconds is None else seconds)
        self.weight, self.iterations, self.inner, self.seconds = weight, iterations, inner, seconds
        self._said = False

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Minimise, ``(B, ...) -> (B, C, H, W)``; nothing is random."""
        rho, relax = penalty(self.weight), 1.6
        x = self.operator.clip(self.operator.approximate_inverse(y))
        normal, data = self.problem.normal_equations(y)

        def system(u: Tensor) -> Tensor:
            return gradient_adjoint(gradient(u)).add_(u).mul_(rho).add_(normal(u))

        slope = gradient(x)  # with box the copies of x that the penalties act on, each with its scaled multiplier
        state = {"box": x, "box_dual": torch.zeros_like(x), "slope": slope, "slope_dual": torch.zeros_like(slope), "x": x}
        began, last = time.monotonic(), self.iterations - 1
        for k in self.loop(range(self.iterations), state, generator):
            box, box_dual, slope, slope_dual = (state.pop(key) for key in ("box", "box_dual", "slope", "slope_dual"))
            target = gradient_adjoint(slope - slope_dual).add_(box).sub_(box_dual).mul_(rho).add_(data)
            x = conjugate_gradient(system, target, state.pop("x"), self.inner)
            slope_dual = slope.mul_(1 - relax).add_(gradient(x).mul_(relax)).add_(slope_dual)
            slope = shrink(slope_dual, self.weight, rho)
            slope_dual.sub_(slope)
            box_dual.add_(box, alpha=1 - relax).add_(x, alpha=relax)
            before, box = box, self.operator.clip(box_dual)
            box_dual.sub_(box)
            late = self.seconds is not None and self.loop.seconds + time.monotonic() - began > self.seconds
            if late or k == last:
                self._say_unsettled(k + 1, before, box)
            del before
            state.update(box=box, box_dual=box_dual, slope=slope, slope_dual=slope_dual, x=x)
            if late:
                break
        return state["box"]

    def _say_unsettled(self, count: int, before: Tensor, after: Tensor) -> None:
        """Say once that some image still changes."""
        change = float((norm(after - before) / norm(after).clamp_min(torch.finfo(after.dtype).tiny)).max())
        if change > SETTLED and not self._said:
            self._said = True
            said = f"has not converged after {count} iterations: the last one changed an image by {change:.2g} of its norm"
            log.warning("padis_lightning: TotalVariation %s; wanted at most %g, or more iterations", said, SETTLED)
