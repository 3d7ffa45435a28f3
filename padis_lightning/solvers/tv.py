"""Total variation, the classical prior to beat."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.operators import LinearOperator
from padis_lightning.random import Generators
from padis_lightning.solvers.base import Solver


def gradient(x: Tensor) -> Tensor:
    """Forward differences, zero across the far border: ``(B, C, H, W) -> (B, 2, C, H, W)``."""
    out = x.new_zeros(len(x), 2, *x.shape[1:])
    out[:, 0, :, :-1] = x[:, :, 1:] - x[:, :, :-1]
    out[:, 1, :, :, :-1] = x[:, :, :, 1:] - x[:, :, :, :-1]
    return out


def gradient_adjoint(p: Tensor) -> Tensor:
    """The transpose of :func:`gradient` (minus the divergence): ``(B, 2, C, H, W) -> (B, C, H, W)``."""
    rows, columns = p[:, 0, :, :-1], p[:, 1, :, :, :-1]
    out = torch.zeros_like(p[:, 0])
    out[:, :, 1:] += rows
    out[:, :, :-1] -= rows
    out[:, :, :, 1:] += columns
    out[:, :, :, :-1] -= columns
    return out


class TotalVariation(Solver):
    r"""Isotropic total variation with values kept in [0, 1].

    .. math:: \min_{0 \le x \le 1} \tfrac{1}{2 \|A\|^2} \|A x - y\|^2 + w \sum_i \|(\nabla x)_i\|_2

    by the primal-dual method with relaxation; dividing by the norm of A makes one weight serve many operators.

    Source: Rudin, Osher and Fatemi, 1992; Chambolle and Pock, A first-order primal-dual algorithm, 2011, algorithm 1.

    Args:
        operator: A.
        noise_std: standard deviation of the measurement noise.
        seed: key of the random streams.
        weight: w.
        iterations: primal-dual iterations; CT with few views needs about a thousand.
    """

    def __init__(
        self,
        operator: LinearOperator,
        noise_std: float = 0.0,
        seed: int = 0,
        weight: float = 1e-3,
        iterations: int = 1000,
    ) -> None:
        super().__init__(operator, noise_std, seed)
        if weight < 0:
            raise InputError(f"weight is {weight:g}; wanted at least 0")
        self.weight, self.iterations = weight, iterations

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """``(B, ...) -> (B, C, H, W)``; nothing random."""
        scale = math.sqrt(self.operator.norm_squared)
        y = y / scale
        x = self.operator.direct(y * scale).clamp(0, 1)
        leading, q, p = x, torch.zeros_like(y), torch.zeros_like(gradient(x))
        # The dual steps differ: the data term is smooth and strong, the other's dual lies in a ball of radius w.
        tau, sigma_data, sigma_tv = 0.1, 8.0, 0.2  # tau (sigma_data 1 + sigma_tv 8) < 1
        for _ in range(self.iterations):
            q = (q + sigma_data * (self.operator(leading) / scale - y)) / (1 + sigma_data)
            p = p + sigma_tv * gradient(leading)
            p = p / (torch.linalg.vector_norm(p, dim=1, keepdim=True) / max(self.weight, 1e-12)).clamp_min(1)
            new = (x - tau * (self.operator.adjoint(q) / scale + gradient_adjoint(p))).clamp(0, 1)
            leading, x = 2 * new - x, new
        return x
