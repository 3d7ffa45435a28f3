"""What a model of a scan gets wrong is no white noise: it grows with the frequency along bins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from padis_lightning.operators.base import LinearOperator

LEAST = 0.2  # of the spectrum of what pixels cannot show, whose mean is 1


class Whitening(LinearOperator):
    r"""Whitening makes white what is white noise and what pixels cannot show, ``(B, C, views, bins) -> (B, C, views, 2 bins)``.

    .. math:: W = F \, P^{1/2}, \quad F(f)^{-2} = 1 - q + q \, (0.2 + 2.4 f^2)

    along bins, with zeros on either side, f from 0 to 1 at the highest frequency. An object has detail within pixels that no
    image of them projects to. The power of what that changes in a measurement grows with the square of the frequency.

    Args:
        shape: of a measurement without the batch.
        share: q of each measurement, ``(B, 1, ...)``: what pixels cannot show, over all that is wrong.
        precision: P, of the shape of a measurement (default: the identity).
    """

    variance: Tensor
    weight: Tensor

    def __init__(self, shape: Sequence[int], share: Tensor, precision: Tensor | None = None) -> None:
        super().__init__()
        self.image_shape = tuple(shape)
        self.measurement_shape = (*self.image_shape[:-1], 2 * self.image_shape[-1])
        frequency = torch.fft.rfftfreq(self.measurement_shape[-1], 0.5, dtype=torch.float64, device=share.device)
        self.register_buffer("variance", 1 + share * (LEAST + 3 * (1 - LEAST) * frequency**2 - 1), persistent=False)
        self.register_buffer("weight", torch.ones_like(share) if precision is None else precision.sqrt(), persistent=False)

    @staticmethod
    def gain(share: Tensor) -> Tensor:
        r"""Return :math:`\|F\|^2` of each measurement, the most that it trusts one frequency."""
        return 1 / (1 + share * (LEAST - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Filter a measurement, ``(B, C, views, bins) -> (B, C, views, 2 bins)``."""
        return self._filtered(x * self.weight, self.variance.rsqrt()).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose, ``(B, C, views, 2 bins) -> (B, C, views, bins)``."""
        self.check(y, self.measurement_shape, "whitened measurement")
        return self._weighed(self._filtered(y, self.variance.rsqrt())).to(y.dtype)

    def normal(self, x: Tensor) -> Tensor:
        """Return ``W' W x`` by one filter."""
        return self._weighed(self._filtered(x * self.weight, 1 / self.variance)).to(x.dtype)

    def _filtered(self, y: Tensor, response: Tensor) -> Tensor:
        count = self.measurement_shape[-1]
        return torch.fft.irfft(torch.fft.rfft(y.double(), n=count) * response, n=count)

    def _weighed(self, y: Tensor) -> Tensor:
        return y[..., : self.image_shape[-1]] * self.weight
