"""The plain baseline: no prior."""

from __future__ import annotations

from torch import Tensor

from padis_lightning.operators import LinearOperator
from padis_lightning.random import Generators
from padis_lightning.solvers.base import Solver


class PseudoInverse(Solver):
    """Filtered back-projection for CT; the least-squares solution of minimum norm on request and elsewhere.

    Args:
        operator: A.
        noise_std: standard deviation of the measurement noise.
        seed: key of the random streams.
        exact: take the Moore-Penrose pseudo-inverse, by conjugate gradients, even where the operator has its own.
    """

    def __init__(self, operator: LinearOperator, noise_std: float = 0.0, seed: int = 0, exact: bool = False) -> None:
        super().__init__(operator, noise_std, seed)
        self.exact = exact

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """``(B, ...) -> (B, C, H, W)``; nothing random."""
        return self.operator.pinv(y) if self.exact else self.operator.direct(y)
