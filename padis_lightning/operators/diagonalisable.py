"""Operators whose singular value decomposition is known share this base."""

from __future__ import annotations

import torch
from torch import Tensor

from padis_lightning.linalg import damped_inverse
from padis_lightning.memory import device_of
from padis_lightning.operators.base import LinearOperator


class Diagonalisable(LinearOperator):
    r"""An operator :math:`A = U \operatorname{diag}(s) V^*` is inverted singular value by singular value.

    .. math:: A^+ y = V \frac{\bar s}{|s|^2} U^* y, \quad
        \operatorname{prox}(v) = v + V \frac{P \bar s}{P |s|^2 + w} U^* (y - A v)

    Singular values up to :data:`~padis_lightning.linalg.CUTOFF` of the largest count as 0 where w = 0. A subclass gives
    :meth:`singular_values`, :meth:`to_spectrum` and :meth:`from_spectrum`. By default U = I and :math:`A A^T = s^2 I` on what is
    measured, with s = 1: an operator that keeps pixels.

    Attributes:
        pixelwise: whether U = I. Then the weights P of single measurements keep the closed form; otherwise they take conjugate
            gradients.
    """

    closed_form = True
    pixelwise = True

    def singular_values(self, like: Tensor) -> Tensor:
        """Return s in the precision and on the device of ``like``."""
        return like.new_ones(())

    def to_spectrum(self, y: Tensor) -> Tensor:
        """Return the coefficients :math:`U^* y` of a measurement."""
        return y

    def from_spectrum(self, coefficients: Tensor) -> Tensor:
        """Return the image :math:`V c` of coefficients c."""
        return self.adjoint(coefficients) / self.singular_values(coefficients)

    def _pinv(self, y: Tensor, *limits: *tuple[int, float]) -> Tensor:
        if not self.closed_form:
            return super()._pinv(y, *limits)
        return self.from_spectrum(damped_inverse(self.singular_values(y)) * self.to_spectrum(y))

    def _prox(
        self, v: Tensor, y: Tensor, weight: float | Tensor, precision: Tensor | None, *limits: *tuple[int, float]
    ) -> Tensor:
        if not self.closed_form or (precision is not None and not self.pixelwise):
            return super()._prox(v, y, weight, precision, *limits)
        inverse = damped_inverse(self.singular_values(v), weight, 1.0 if precision is None else precision)
        if self.pixelwise:  # in this order known pixels are kept to the bit
            return v - self.from_spectrum(inverse * self(v)) + self.from_spectrum(inverse * y)
        return v + self.from_spectrum(inverse * self.to_spectrum(y - self(v)))

    def _norm_squared(self) -> float:
        if not self.closed_form:
            return super()._norm_squared()
        like = torch.zeros((), dtype=torch.float64, device=device_of(self))
        return float(self.singular_values(like).abs().square().max())
