"""Total variation across the slices of a volume, as a proximal step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ITERATIONS = 30  #: after which the mean error is less than a thirtieth of the weight, of volumes of 256 slices too


def differences(x: Tensor) -> Tensor:
    """Subtract neighbouring slices, ``(B, C, D, H, W) -> (B, C, D - 1, H, W)``."""
    return x.diff(dim=2)


def differences_adjoint(p: Tensor) -> Tensor:
    """Apply the transpose of :func:`differences`."""
    out = p.new_zeros(*p.shape[:2], p.shape[2] + 1, *p.shape[3:])
    out[:, :, 1:] = p
    out[:, :, :-1] -= p
    return out


def slice_tv_step(v: Tensor, weight: float | Tensor, iterations: int = ITERATIONS) -> Tensor:
    r"""Take the proximal step of total variation across slices, every column of voxels on its own.

    .. math:: \arg\min_x \tfrac{1}{2} \|x - v\|^2 + w \|\nabla_z x\|_1

    It is found by accelerated projected gradients on the dual problem.

    Source: Beck and Teboulle, Fast gradient-based algorithms for constrained total variation image denoising and deblurring
    problems, IEEE TIP 2009, section 4.

    Args:
        v: volumes ``(B, C, D, H, W)``.
        weight: w, of each volume or of all, broadcast to ``v``.
        iterations: steps along the gradient.
    """
    dual, weight = torch.zeros_like(v[:, :, 1:]), torch.as_tensor(weight, dtype=v.dtype, device=v.device)
    ahead, momentum = dual, 1.0
    for _ in range(iterations):
        moved = ahead + differences(v - differences_adjoint(ahead)) / 4
        moved = moved.clamp(-weight, weight)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead, dual, momentum = moved + (momentum - 1) / following * (moved - dual), moved, following
    return v - differences_adjoint(dual)
