"""Small linear algebra on batches of images; every inner product is per image, so a batch is a set of problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from padis_lightning.random import seeded

Linear = Callable[[Tensor], Tensor]
CUTOFF = 1e-4  # singular values up to this share of the largest count as 0; those above may amplify noise 10 000 times


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """One number an image, ``(B,)`` or ``(B, 1, ...)``, ready to be broadcast against ``like`` ``(B, ...)``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each image, ``(B, ...), (B, ...) -> (B, 1, ...)``, ready to be broadcast."""
    return per_image((a * b).flatten(1).sum(1), a)


def norm(a: Tensor) -> Tensor:
    """Euclidean norm of each image, ``(B, ...) -> (B, 1, ...)``."""
    return dot(a, a).sqrt()


def concatenated(parts: Iterator[Tensor], count: int) -> Tensor:
    """Tensors one behind the other along their first axis, ``count`` entries in all; each is let go before the next is made."""
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
    leaves of it, stands still while the others go on: more steps would only add noise where H is singular.

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


def largest_eigenvalue(apply: Linear, like: Tensor, iterations: int = 500, tolerance: float = 1e-6) -> float:
    r"""Largest eigenvalue of a symmetric positive semi-definite map on tensors shaped as ``like`` ``(1, ...)``.

    Power iteration from a fixed random start, ended when the Rayleigh quotient moves by less than ``tolerance``.
    """
    x = torch.randn(like.shape, generator=seeded(0), dtype=like.dtype).to(like.device)
    value = 0.0
    for _ in range(iterations):
        x = x / norm(x).clamp_min(torch.finfo(x.dtype).tiny)
        y = apply(x)
        previous, value = value, float(dot(x, y))
        if abs(value - previous) <= tolerance * abs(value):
            break
        x = y
    return value


def lanczos_eigenvalue(apply: Linear, like: Tensor, tolerance: float = 1e-3) -> float:
    """What :func:`largest_eigenvalue` finds, for maps that cost more than a few vectors do: a fifth of the products.

    ARPACK's Lanczos iteration from a constant, which a map with values of one sign does not take to zero.

    Args:
        apply: a symmetric positive semi-definite map.
        like: ``(1, ...)``, whose shape, type and device it takes.
        tolerance: relative residual of the vector; the value's error is about its square.
    """
    kind = torch.zeros((), dtype=like.dtype).numpy().dtype

    def product(v: np.ndarray) -> np.ndarray:
        return apply(torch.from_numpy(v.reshape(like.shape)).to(like)).numpy(force=True).ravel()

    linear = LinearOperator((like.numel(),) * 2, matvec=product, dtype=kind)
    options = {"k": 1, "which": "LA", "ncv": min(10, like.numel()), "tol": tolerance, "return_eigenvectors": False}
    return float(eigsh(linear, v0=np.ones(like.numel(), kind), **options)[0])


def damped_inverse(values: Tensor, weight: float | Tensor, largest: float) -> Tensor:
    r"""The inverse of singular values s with a proximal weight w, their pseudo-inverse where w = 0.

    .. math:: \bar s / (|s|^2 + w)

    Args:
        values: s, real or complex, ``(m, n)``.
        weight: w, a number or ``(B, 1, 1, 1)``.
        largest: the largest absolute value; where w = 0, those up to :data:`CUTOFF` of it have the inverse 0.

    Returns:
        ``(m, n)`` or ``(B, 1, m, n)``.
    """
    square = values.abs().square()
    kept = (square > (CUTOFF * largest) ** 2) | (weight > 0)
    return torch.where(kept, values.conj() / torch.where(kept, square + weight, 1), 0)
