"""Sparse wavelets, the compressed sensing of MRI."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from padis_lightning.errors import InputError, require_above, require_at_least
from padis_lightning.linalg import conjugate_gradient
from padis_lightning.operators import LinearOperator
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.registry import needed
from padis_lightning.solvers.base import Solver
from padis_lightning.solvers.tv import penalty

AXES = (-2, -1)
STEP = np.array([0.7548776662, 0.5698402910])  # of shifts that cover a square evenly: powers of the inverse plastic number


class WaveletL1(Solver):
    r"""Minimise the sum of the moduli of wavelet coefficients.

    .. math:: \min_x \tfrac{1}{2 \|A\|^2} \|A x - y\|_P^2 + w \sum_i |(W x)_i|

    by the alternating direction method of multipliers with over-relaxation. W is orthonormal, and its coarsest coefficients are
    left out of the sum; zeros around the image let its sides divide by two at every level. Channels share one modulus: real and
    imaginary part, or colours. With ``shifts`` the image is shifted otherwise in every iteration, so that no grid of blocks is
    preferred. W is computed by PyWavelets, on the processor.

    Source: Lustig, Donoho and Pauly, Sparse MRI, MRM 2007; Boyd et al., Distributed optimization and statistical learning via the
    alternating direction method of multipliers, 2011, section 6.4; Coifman and Donoho, Translation-invariant de-noising, 1995,
    for the shifts.

    Args:
        problem: what was measured, or its operator A.
        weight: w.
        iterations: outer iterations.
        inner: conjugate-gradient steps in each.
        wavelet: its name in PyWavelets, an orthogonal one.
        levels: of W.
        shifts: whether to shift the image.
        options: those of :class:`Solver`.
    """

    def __init__(
        self,
        problem: Problem | LinearOperator,
        weight: float = 1e-3,
        iterations: int = 100,
        inner: int = 10,
        wavelet: str = "db4",
        levels: int = 4,
        shifts: bool = True,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(problem, **options)
        require_above(0, weight=weight)
        require_at_least(1, iterations=iterations, inner=inner, levels=levels)
        self._library = needed("pywt", "WaveletL1 needs PyWavelets", "mri")
        known = [name for name in self._library.wavelist(kind="discrete") if self._library.Wavelet(name).orthogonal]
        if wavelet not in known:
            raise InputError(f"wavelet is {wavelet!r}; wanted an orthogonal one of PyWavelets, such as db4 or haar")
        self.weight, self.iterations, self.inner = weight, iterations, inner
        self.wavelet, self.levels, self.shifts = wavelet, levels, shifts

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Minimise, ``(B, ...) -> (B, C, H, W)``; nothing is random."""
        height, width = self.operator.image_shape[-2:]
        side, rho, relax = 2**self.levels, penalty(self.weight), 1.6
        around = (0, -width % side, 0, -height % side)
        normal, data = self.problem.normal_equations(y)
        x = self.operator.clip(self.operator.approximate_inverse(y))
        sparse = pad(x, around)  # the copy of x whose coefficients are shrunk, with its scaled multiplier
        state = {"x": x, "sparse": sparse, "dual": torch.zeros_like(sparse)}
        for k in self.loop(range(self.iterations), state, generator):
            sparse, dual = state["sparse"], state["dual"]
            target = data + rho * (sparse - dual)[..., :height, :width]
            x = conjugate_gradient(lambda u: normal(u).add_(u, alpha=rho), target, state["x"], self.inner)
            dual = dual + relax * pad(x, around) + (1 - relax) * sparse
            shift = tuple((k * STEP % 1 * side).astype(int).tolist()) if self.shifts else (0, 0)
            sparse = self._shrunk(dual.roll(shift, AXES), self.weight / rho).roll([-n for n in shift], AXES)
            state.update(x=x, sparse=sparse, dual=dual - sparse)
        return self.operator.clip(state["sparse"][..., :height, :width])

    def _shrunk(self, x: Tensor, length: float) -> Tensor:
        """Shorten the wavelet coefficients of images whose sides divide by two at every level, the channels together."""
        options = {"wavelet": self.wavelet, "mode": "periodization", "axes": AXES}
        coarse, *fine = self._library.wavedecn(x.cpu().numpy(), level=self.levels, **options)
        for level in fine:
            for values in level.values():
                values *= np.maximum(
                    0, 1 - length / np.linalg.norm(values, axis=1, keepdims=True).clip(np.finfo(values.dtype).tiny)
                )
        return torch.from_numpy(self._library.waverecn([coarse, *fine], **options)).to(x)
