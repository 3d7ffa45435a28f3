"""An operator on images measures volumes slice by slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import InputError, require_at_least
from padis_lightning.linalg import concatenated, per_image
from padis_lightning.memory import on_device_of
from padis_lightning.operators.base import LinearOperator

SLICES_AT_ONCE = 32  #: slices that are computed at once, which bounds memory and changes no result


def slices(x: Tensor) -> Tensor:
    """Turn volumes ``(B, C, D, H, W)`` into images ``(B D, C, H, W)``, the slices of one volume together."""
    return x.transpose(1, 2).flatten(0, 1)


def volumes(x: Tensor, depth: int) -> Tensor:
    """Turn images back into volumes, the inverse of :func:`slices`."""
    return x.unflatten(0, (-1, depth)).transpose(1, 2)


class Slices(LinearOperator):
    """Slices apply an operator to each slice of volumes, ``(B, C, D, H, W)`` to ``(B, D, ...)``.

    Slices are a batch of the operator's, whose own adjoint, pseudo-inverse and proximal step serve; conjugate gradients run
    slice by slice. They are computed where the operator is and come back to where the volume is: a volume on the host needs no
    more of a GPU's memory than :data:`SLICES_AT_ONCE` slices.

    Args:
        operator: on images ``(B, C, H, W)``.
        depth: slices of a volume.
    """

    def __init__(self, operator: LinearOperator, depth: int = 32) -> None:
        super().__init__()
        require_at_least(1, depth=depth)
        if operator.volumetric:
            raise InputError(f"the operator takes {tuple(operator.image_shape)}; wanted channels, height, width of slices")
        self.operator, self.depth, self.geometry = operator, depth, operator.geometry
        channels, *size = operator.image_shape
        self.image_shape, self.measurement_shape = (channels, depth, *size), (depth, *operator.measurement_shape)
        self.exact_adjoint, self.closed_form = operator.exact_adjoint, operator.closed_form
        self.orthonormal, self.signed, self.noise_orders = operator.orthonormal, operator.signed, operator.noise_orders

    def forward(self, x: Tensor) -> Tensor:
        """Measure each slice, ``(B, C, D, H, W) -> (B, D, ...)``."""
        return self._slicewise(self.operator, slices(x)).unflatten(0, (-1, self.depth))

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose to each slice, ``(B, D, ...) -> (B, C, D, H, W)``."""
        self.check(y, self.measurement_shape, "measurement")
        return self._to_volumes(self.operator.adjoint, y.flatten(0, 1))

    def normal(self, x: Tensor) -> Tensor:
        """Return ``A' A x`` of each slice."""
        self.check(x, self.image_shape, "image")
        return self._to_volumes(self.operator.normal, slices(x))

    def approximate_inverse(self, y: Tensor) -> Tensor:
        """Return the plain baseline of each slice, such as filtered back-projection."""
        self.check(y, self.measurement_shape, "measurement")
        return self._to_volumes(self.operator.approximate_inverse, y.flatten(0, 1))

    def _pinv(self, y: Tensor, *limits: *tuple[int, float]) -> Tensor:
        return self._to_volumes(lambda part: self.operator._pinv(part, *limits), y.flatten(0, 1))

    def prox(
        self,
        v: Tensor,
        y: Tensor,
        weight: float | Tensor = 0.0,
        precision: Tensor | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Tensor:
        """Compute the proximal step of each slice; in float64, too, a chunk of slices at a time."""
        self.check(y, self.measurement_shape, "measurement")
        return self._proximal(lambda *part: self.operator.prox(*part, **options), v, y, weight, precision)

    def _prox(
        self, v: Tensor, y: Tensor, weight: float | Tensor, precision: Tensor | None, *limits: *tuple[int, float]
    ) -> Tensor:
        def step(v: Tensor, y: Tensor, weight: Tensor, precision: Tensor | None = None) -> Tensor:
            return self.operator._prox(v, y, weight.to(v), precision, *limits)

        return self._proximal(step, v, y, weight, precision)

    def _proximal(
        self, step: Callable[..., Tensor], v: Tensor, y: Tensor, weight: float | Tensor, precision: Tensor | None
    ) -> Tensor:
        """Apply the proximal step of slices, with the weight of their volume."""
        images, weights = slices(v), torch.as_tensor(weight, dtype=torch.float64, device=v.device).flatten()
        parts = [images, y.flatten(0, 1), per_image(weights.expand(len(v)).repeat_interleave(self.depth), images)]
        parts += [] if precision is None else [precision.flatten(0, 1)]
        return self._to_volumes(step, *parts)

    def _slicewise(self, compute: Callable[..., Tensor], *parts: Tensor) -> Tensor:
        """Compute a chunk of slices at a time, where the operator is."""
        chunks = zip(*(part.split(SLICES_AT_ONCE) for part in parts), strict=True)
        there = on_device_of(self.operator, compute)
        return concatenated((there(*chunk) for chunk in chunks), len(parts[0]))

    def _to_volumes(self, compute: Callable[..., Tensor], *parts: Tensor) -> Tensor:
        return volumes(self._slicewise(compute, *parts), self.depth)

    def zero_unmeasured(self, y: Tensor) -> Tensor:
        """Set to 0 what is not measured of each slice."""
        return self.operator.zero_unmeasured(y.flatten(0, 1)).unflatten(0, (-1, self.depth))

    def finer(self, factor: int) -> LinearOperator:
        """Return the same slices on a finer grid, with none in between."""
        return Slices(self.operator.finer(factor), self.depth)

    def calibrated(self, y: Tensor) -> LinearOperator:
        """Return slices of the scan of a measured object; other operators are as they are."""
        operator = self.operator if self.geometry is None else self.operator.calibrated(y.flatten(0, 1))
        return self if operator is self.operator else Slices(operator, self.depth)

    def _norm_squared(self) -> float:
        return self.operator.norm_squared
