"""Linear algebra on batches of images: every inner product is taken per image, so that a batch is a set of problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from padis_lightning.random import seeded

Linear = Callable[[Tensor], Tensor]
CUTOFF = 1e-4  # singular values up to this share of the largest count as 0; those above may amplify noise 10 000 times


def at_least_single(x: Tensor) -> Tensor:
    """Return ``x`` in a precision to compute in: half precision becomes float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Shape one number an image, ``(B,)`` or ``(B, 1, ...)``, to be broadcast against ``like`` ``(B, ...)``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each image, ``(B, ...), (B, ...) -> (B, 1, ...)``."""
    return per_image((a * b).flatten(1).sum(1), a)


def norm(a: Tensor) -> Tensor:
    """Return the Euclidean norm of each image, ``(B, ...) -> (B, 1, ...)``."""
    return dot(a, a).sqrt()


def concatenated(parts: Iterator[Tensor], count: int) -> Tensor:
    """Concatenate tensors along their first axis, ``count`` entries in all; each is freed before the next is made."""
    first = next(parts)
    if len(first) == count:
        return first
    if first.requires_grad:
        return torch.cat([first, *parts])
    out, end = first.new_empty(count, *first.shape[1:]), len(first)
    out[:end] = first
    del first
    for part in parts:
        out[end : end + len(part)] = part
        end += len(part)
    return out


def conjugate_gradient(apply: Linear, b: Tensor, x: Tensor, iterations: int, tolerance: float = 0.0) -> Tensor:
    r"""Solve :math:`H x = b` for a symmetric positive semi-definite :math:`H`, image by image, from the start ``x``.

    Ends after ``iterations``. An image whose :math:`\|b - H x\|` is at most ``tolerance`` :math:`\|b\|`, or what rounding
    leaves of it, no longer changes while the others go on: more steps would only add noise where H is singular.

    Source: Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, 1952.
    """
    precision = torch.finfo(x.dtype)
    limit = max(tolerance, 8 * precision.eps) ** 2 * dot(b, b)
    r = b - apply(x)
    del b
    p, rho = r, dot(r, r)
    for _ in range(iterations):
        active = rho > limit
        if tolerance > 0 and not bool(active.any()):
            break
        q = apply(p)
        alpha = torch.where(active, rho / dot(p, q).clamp_min(precision.tiny), 0)
        x = x + alpha * p
        r = r - alpha * q
        del q
        rho_next = dot(r, r)
        p = r + rho_next / rho.clamp_min(precision.tiny) * p
        rho = rho_next
    return x


def largest_eigenvalue(apply: Linear, like: Tensor, tolerance: float = 1e-3) -> float:
    """Find the largest eigenvalue of a symmetric positive semi-definite map, by ARPACK's Lanczos iteration from a fixed start.

    Args:
        apply: the map.
        like: ``(1, ...)``, a tensor whose shape, type and device the map takes.
        tolerance: relative residual of the eigenvector; the error of the value is about its square.
    """
    start = torch.randn(like.shape, generator=seeded(0), dtype=like.dtype)
    if like.numel() == 1:
        return float(apply(torch.ones_like(like)))

    def product(v: np.ndarray) -> np.ndarray:
        return apply(torch.from_numpy(v.reshape(like.shape)).to(like)).numpy(force=True).ravel()

    linear = LinearOperator((like.numel(),) * 2, matvec=product, dtype=start.numpy().dtype)
    options = {"k": 1, "which": "LA", "ncv": min(10, like.numel()), "tol": tolerance, "return_eigenvectors": False}
    return float(eigsh(linear, v0=start.numpy().ravel(), **options)[0])


def damped_inverse(values: Tensor, weight: float | Tensor = 0.0, precision: float | Tensor = 1.0) -> Tensor:
    r"""Invert singular values s under a proximal weight w and weights P of the measurements.

    .. math:: P \bar s / (P |s|^2 + w)

    Where w = 0, values up to :data:`CUTOFF` of the largest have the inverse 0, as have measurements of the weight P = 0.

    Args:
        values: s, real or complex, ``(m, n)`` or a number.
        weight: w, a number or ``(B, 1, 1, 1)``.
        precision: P, a number or ``(B, C, m, n)``.
    """
    square = values.abs().square()
    total = precision * square + weight
    kept = ((square > CUTOFF**2 * square.max()) & (total > 0)) | (weight > 0)
    return torch.where(kept, precision * values.conj() / torch.where(kept, total, 1), 0)
