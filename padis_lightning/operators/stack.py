"""A stack holds several measurements of one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from padis_lightning.errors import InputError
from padis_lightning.operators.base import LinearOperator


class Stack(LinearOperator):
    """A stack measures one image several times; the measurements are flattened and concatenated, ``(B, n)``.

    Args:
        operators: what is measured, of images of one shape.

    Raises:
        InputError: there are none, or they take different images.
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        super().__init__()
        shapes = {tuple(operator.image_shape) for operator in operators}
        if len(shapes) != 1:
            seen = ", ".join(map(str, sorted(shapes))) or "none"
            raise InputError(f"the stacked operators take images of the shapes {seen}; wanted one shape")
        self.operators = nn.ModuleList(operators)
        self.image_shape = shapes.pop()
        self.lengths = [math.prod(operator.measurement_shape) for operator in operators]
        self.measurement_shape = (sum(self.lengths),)
        self.exact_adjoint = all(operator.exact_adjoint for operator in operators)
        self.signed = any(operator.signed for operator in operators)

    def forward(self, x: Tensor) -> Tensor:
        """Measure by each operator, ``(B, C, H, W) -> (B, n)``."""
        with torch.autocast(x.device.type, enabled=False):  # data terms keep their precision
            return torch.cat([operator(x).flatten(1) for operator in self.operators], 1)

    def split(self, y: Tensor) -> list[Tensor]:
        """Split ``(B, n)`` into each operator's own measurement."""
        parts = y.split(self.lengths, 1)
        return [part.unflatten(1, o.measurement_shape) for part, o in zip(parts, self._each(), strict=True)]

    def _each(self) -> list[LinearOperator]:
        return [operator for operator in self.operators if isinstance(operator, LinearOperator)]

    def adjoint(self, y: Tensor) -> Tensor:
        """Sum the adjoints, ``(B, n) -> (B, C, H, W)``."""
        self.check(y, self.measurement_shape, "measurement")
        return reduce(torch.add, (o.adjoint(part) for o, part in zip(self._each(), self.split(y), strict=True)))

    def zero_unmeasured(self, y: Tensor) -> Tensor:
        """Set to 0 what no operator measures."""
        return torch.cat([o.zero_unmeasured(part).flatten(1) for o, part in zip(self._each(), self.split(y), strict=True)], 1)
