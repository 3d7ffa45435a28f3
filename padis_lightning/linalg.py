"""Linear algebra on batches of images: every inner product is taken per image, so that a batch is a set of problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from scipy.linalg import eigh_tridiagonal
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


def largest_eigenvalue(apply: Linear, like: Tensor, tolerance: float = 1e-5, iterations: int = 100) -> float:
    """Find the largest eigenvalue of a symmetric positive semi-definite map by Lanczos iteration from a fixed random start.

    An eigenvalue lies no further from what is found than the residual: the largest, unless the start has next to nothing of its
    eigenvector. No vectors are kept: rounding then adds copies of eigenvalues, which do not move the largest.

    Source: Parlett, The Symmetric Eigenvalue Problem, 1980, chapter 13.

    Args:
        apply: the map.
        like: ``(1, ...)``, a tensor whose shape, type and device the map takes.
        tolerance: relative residual at which to end.
        iterations: to end after, each of which applies the map once; without gaps between eigenvalues these end first.
    """
    q = torch.randn(like.shape, generator=seeded(0), dtype=like.dtype).to(like)
    last, q, beta = torch.zeros_like(like), q / norm(q), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    for k in range(iterations):
        r = apply(q).sub(last, alpha=beta)
        diagonal.append(float(dot(q, r)))
        r = r.sub(q, alpha=diagonal[-1])
        beta = float(norm(r))
        value, share = diagonal[0], 1.0
        if k:  # SciPy 1.11 takes no matrix of one entry
            (value,), vector = eigh_tridiagonal(diagonal, beside, select="i", select_range=(k, k))
            share = abs(vector[-1, 0])
        if beta * share <= tolerance * value:
            break
        beside.append(beta)
        last, q = q, r / beta
    return float(value)


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
