"""The plain baseline: no prior."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from padis_lightning.operators import LinearOperator
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.base import Solver


class PseudoInverse(Solver):
    """Apply filtered back-projection for CT; elsewhere and on request the least-squares solution of minimum norm.

    Args:
        problem: what was measured, or its operator A.
        exact: take the Moore-Penrose pseudo-inverse, by conjugate gradients, even where the operator has its own.
        options: those of :class:`Solver`.
    """

    def __init__(
        self,
        problem: Problem | LinearOperator,
        exact: bool = False,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(problem, **options)
        self.exact = exact

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Invert, ``(B, ...) -> (B, C, H, W)``; nothing is random."""
        return self.operator.pinv(y) if self.exact else self.operator.approximate_inverse(y)
