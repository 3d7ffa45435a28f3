"""Rows of a measurement: some of its views, or whatever its last axis but one counts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from padis_lightning.operators.base import LinearOperator


class Rows(LinearOperator):
    """Rows are taken out of a measurement, ``(B, ..., rows, bins) -> (B, ..., kept, bins)``; its adjoint has zeros for others.

    Args:
        shape: of the measurement without the batch.
        kept: numbers of the rows.
    """

    orthonormal = True

    def __init__(self, shape: Sequence[int], kept: Sequence[int]) -> None:
        super().__init__()
        self.kept, self.image_shape = list(kept), tuple(shape)
        self.measurement_shape = (*self.image_shape[:-2], len(self.kept), self.image_shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Take the rows."""
        return x[..., self.kept, :]

    def adjoint(self, y: Tensor) -> Tensor:
        """Put them back among zeros."""
        self.check(y, self.measurement_shape, "measurement")
        x = y.new_zeros(len(y), *self.image_shape)
        x[..., self.kept, :] = y
        return x
