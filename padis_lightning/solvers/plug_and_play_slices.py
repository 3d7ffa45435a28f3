"""Plug and play with total variation across slices: a prior of slices on volumes that hold together."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from padis_lightning.errors import require_above, require_at_least
from padis_lightning.linalg import conjugate_gradient, per_image
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.priors.slice_variation import differences, differences_adjoint
from padis_lightning.problem import Problem
from padis_lightning.solvers.plug_and_play import PnPADMM


class PnPSlices(PnPADMM):
    r"""Run ``PnPADMM`` with a second splitting: the prior sees slices, total variation the differences between them.

    .. math:: \min_x \frac{\|A x - y\|_P^2}{\|A\|^2} + w \, \|\nabla_z x\|_1 + R(x)

    .. math::
        x &\leftarrow \arg\min_x \frac{\|A x - y\|_P^2}{\|A\|^2} + \rho \|x - v + u\|^2 + \rho \|\nabla_z x - d + b\|^2 \\
        h &\leftarrow \alpha x + (1 - \alpha) v, \quad v \leftarrow D(h + u; \sigma), \quad u \leftarrow u + h - v \\
        g &\leftarrow \alpha \nabla_z x + (1 - \alpha) d, \quad d \leftarrow \mathrm{shrink}(g + b, \tfrac{w_k}{2 \rho}), \quad
        b \leftarrow b + g - d

    R being what D is the proximal step of. As the weight of R does, that of total variation rises with noise:

    .. math:: w_k = \max(w, 2 \rho_k \, \tau \sigma_k)

    The first line takes ``iterations`` of conjugate gradients over the whole volume from v - u, in float64. An estimate: nothing
    in it is drawn but partitions. Of images the slices are the rows.

    Source: Chung, Ryu, McCann, Klasky and Ye, Solving 3D inverse problems using pre-trained 2D diffusion models
    (DiffusionMBIR), CVPR 2023, equation 13, for the regularisation across slices; see :class:`PnPADMM` for the rest.

    Args:
        prior: denoiser, such as one of slices.
        problem: what was measured, or its operator A.
        weight: w, the least.
        slice_tv: :math:`\tau`, what differences are shrunk by, over the level of the denoiser; 0 leaves the weight at its least.
        iterations: of conjugate gradients; few of them keep streaks out.
        options: those of :class:`PnPADMM`.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Problem | LinearOperator,
        weight: float = 2e-5,
        slice_tv: float = 0.2,
        iterations: int = 10,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(prior, problem, iterations=iterations, **options)
        require_above(0, weight=weight)
        require_at_least(0, slice_tv=slice_tv)
        self.weight, self.slice_tv = weight, slice_tv

    def first_state(self, v: Tensor) -> dict[str, Tensor]:
        """Return differences across slices and their dual, before the first step."""
        d = differences(v)
        return {"d": d, "b": d.new_zeros(d.shape)}

    def explained(self, v: Tensor, y: Tensor, sigma: float | Tensor, penalty: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Take the data step with total variation across slices, ``(B, C, D, H, W) -> (B, C, D, H, W)``."""
        normal, data = self.problem.normal_equations(y.double(), state["share"] if self.is_scan else None)
        d, b = state["d"], state["b"] * (state["weight"] / penalty).to(v)

        def system(x: Tensor) -> Tensor:
            return differences_adjoint(differences(x)).add_(x).mul_(penalty).add_(normal(x))

        target = differences_adjoint(d - b).add_(v).double().mul_(penalty).add_(data)
        x = conjugate_gradient(system, target, v.double(), self.iterations).to(v)
        moved = d.lerp(differences(x), self.relaxation).add_(b)
        level = per_image(sigma, moved) if isinstance(sigma, Tensor) else sigma
        shrunk = (self.weight / (2 * penalty)).clamp_min(self.slice_tv * level)
        d = moved.sign() * (moved.abs() - shrunk.to(v)).clamp_min(0)
        state.update(d=d, b=moved.sub_(d))
        return x
