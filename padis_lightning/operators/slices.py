"""Measurements of volumes, slice by slice."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.linalg import concatenated, per_image
from padis_lightning.memory import on_device_of
from padis_lightning.operators.base import LinearOperator

TOGETHER = 32  #: slices that are computed at once, which bounds memory and changes no result


def slices(x: Tensor) -> Tensor:
    """Volumes ``(B, C, D, H, W)`` as images ``(B D, C, H, W)``, the slices of one volume together."""
    return x.transpose(1, 2).flatten(0, 1)


def volumes(x: Tensor, depth: int) -> Tensor:
    """The inverse of :func:`slices`."""
    return x.unflatten(0, (-1, depth)).transpose(1, 2)


def in_turn(compute: Callable[..., Tensor], *parts: Tensor) -> Tensor:
    """``compute`` of tensors of equal length, :data:`TOGETHER` entries at a time."""
    chunks = zip(*(part.split(TOGETHER) for part in parts), strict=True)
    return concatenated((compute(*chunk) for chunk in chunks), len(parts[0]))


class Slices(LinearOperator):
    """An operator on each slice of volumes, ``(B, C, D, H, W)`` to ``(B, D, ...)``.

    Slices are a batch of the operator's: its own adjoint, pseudo-inverse and proximal step serve, and where it has none of
    its own conjugate gradients run slice by slice. They are computed where the operator is, and come back to where the volume
    is: a volume on the host needs no more of a GPU's memory than so many slices.

    Args:
        operator: on images ``(B, C, H, W)``.
        depth: slices of a volume.
    """

    def __init__(self, operator: LinearOperator, depth: int = 32) -> None:
        super().__init__()
        if depth < 1:
            raise InputError(f"depth is {depth}; wanted at least 1")
        if len(operator.image_shape) != 3:
            raise InputError(f"the operator takes {tuple(operator.image_shape)}; wanted channels, height, width of slices")
        self.operator, self.depth = operator, depth
        channels, *size = operator.image_shape
        self.image_shape, self.measurement_shape = (channels, depth, *size), (depth, *operator.measurement_shape)
        self.exact_adjoint, self.closed_form = operator.exact_adjoint, operator.closed_form
        self.orthonormal = operator.orthonormal

    @property
    def geometry(self) -> Any:  # noqa: ANN401 - that of a scan, which the base class does not know
        """That of the scan of a slice, or None."""
        return getattr(self.operator, "geometry", None)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W) -> (B, D, ...)``."""
        self.check(x, self.image_shape, "volume")
        return in_turn(on_device_of(self.operator, self.operator), slices(x)).unflatten(0, (-1, self.depth))

    def _back(self, compute: Callable[..., Tensor], y: Tensor) -> Tensor:
        self.check(y, self.measurement_shape, "measurement")
        return volumes(in_turn(on_device_of(self.operator, compute), y.flatten(0, 1)), self.depth)

    def adjoint(self, y: Tensor) -> Tensor:
        """``(B, D, ...) -> (B, C, D, H, W)``."""
        return self._back(self.operator.adjoint, y)

    def pinv(self, y: Tensor, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
        """That of each slice."""
        return self._back(lambda part: self.operator.pinv(part, iterations, tolerance), y)

    def prox(
        self,
        v: Tensor,
        y: Tensor,
        weight: float | Tensor = 0.0,
        precision: Tensor | None = None,
        iterations: int = 100,
        tolerance: float = 0.0,
    ) -> Tensor:
        """That of each slice, with the weight of its volume."""
        return self._near(self.operator.prox, v, y, weight, precision, v.dtype, iterations, tolerance)

    def double_prox(
        self, v: Tensor, y: Tensor, weight: float | Tensor, precision: Tensor | None = None, iterations: int = 100
    ) -> Tensor:
        """That of each slice: so many at a time are in float64."""
        return self._near(self.operator.double_prox, v, y, weight, precision, torch.float64, iterations)

    def _near(
        self,
        prox: Callable[..., Tensor],
        v: Tensor,
        y: Tensor,
        weight: float | Tensor,
        precision: Tensor | None,
        kind: torch.dtype,
        *limits: float,
    ) -> Tensor:
        images, measurements = slices(v), y.flatten(0, 1)
        weights = torch.as_tensor(weight, dtype=kind, device=v.device).flatten().expand(len(v))
        parts = [images, measurements, per_image(weights.repeat_interleave(self.depth), images)]
        parts += [] if precision is None else [precision.flatten(0, 1)]

        def near(v: Tensor, y: Tensor, weight: Tensor, precision: Tensor | None = None) -> Tensor:
            return prox(v, y, weight, precision, *limits)

        return volumes(in_turn(on_device_of(self.operator, near), *parts), self.depth)

    def approximate_inverse(self, y: Tensor) -> Tensor:
        """That of each slice, such as filtered back-projection."""
        return self._back(self.operator.approximate_inverse, y)

    def zero_unmeasured(self, y: Tensor) -> Tensor:
        """What is measured of each slice."""
        return self.operator.zero_unmeasured(y.flatten(0, 1)).unflatten(0, (-1, self.depth))

    def finer(self, factor: int) -> LinearOperator:
        """Slices on a finer grid; none in between."""
        return Slices(self.operator.finer(factor), self.depth)

    @cached_property
    def norm_squared(self) -> float:
        """That of a slice."""
        return self.operator.norm_squared
