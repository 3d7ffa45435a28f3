"""The plain baseline: no prior."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from padis_lightning.errors import require_at_least
from padis_lightning.operators import LinearOperator
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.base import Solver


class PseudoInverse(Solver):
    """Apply filtered back-projection for CT; elsewhere and on request the least-squares solution of minimum norm.

    Args:
        problem: what was measured, or its operator A.
        exact: take the Moore-Penrose pseudo-inverse, by conjugate gradients, even where the operator has its own.
        iterations: most of them; few leave out what noise would swamp, as CG-SENSE does.
        options: those of :class:`Solver`.
    """

    def __init__(
        self,
        problem: Problem | LinearOperator,
        exact: bool = False,
        iterations: int = 100,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(problem, **options)
        require_at_least(1, iterations=iterations)
        self.exact, self.iterations = exact, iterations

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Invert, ``(B, ...) -> (B, C, H, W)``; nothing is random."""
        return self.operator.pinv(y, self.iterations) if self.exact else self.operator.approximate_inverse(y)
