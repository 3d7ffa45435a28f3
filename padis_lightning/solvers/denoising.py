"""What solvers that only take noise off images have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.identity import Identity
from padis_lightning.problem import Problem
from padis_lightning.solvers.base import Solver


class DenoisingSolver(Solver):
    r"""Take white noise off images: :math:`y = x + n, \; n \sim N(0, s^2 I)`.

    Args:
        problem: what was measured, or its operator, the identity.
        options: those of :class:`Solver`.

    Raises:
        InputError: the operator is another.
    """

    def __init__(
        self,
        problem: Problem | LinearOperator,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(problem, **options)
        if not isinstance(self.operator, Identity):
            seen = f"{type(self).__name__} was given {type(self.operator).__name__}"
            raise InputError(f"{seen}; wanted Identity, or a solver such as RED")

    def deviations(self, y: Tensor) -> Tensor:
        """Return s of each image ``(B, C, H, W)``, ``(B,)``, at its mean where it differs from pixel to pixel."""
        variance, _ = self.problem.data_term(y)
        return variance.expand(len(y), *variance.shape[1:]).flatten().sqrt()
