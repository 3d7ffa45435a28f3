"""Linear interpolation along the rows of a table, and its transpose."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Places(NamedTuple):
    """Where to take values: between the entries ``low`` and ``low + 1`` of a padded row, at ``share`` from the first."""

    low: Tensor
    share: Tensor


def pad(table: Tensor) -> Tensor:
    """``(..., size) -> (..., size + 3)``: a zero before each row and two behind it."""
    return nn.functional.pad(table, (1, 2))


def unpad(table: Tensor) -> Tensor:
    """The transpose of :func:`pad`."""
    return table[..., 1:-2]


def places(first: Tensor, step: Tensor, count: int, size: int, dtype: torch.dtype) -> Places:
    """The places ``first + step * k`` for k below ``count``, in rows that are 0 beyond their ends.

    Args:
        first: ``(n,)``, in entries.
        step: ``(n,)``, in entries.
        count: values of each row.
        size: entries of a row, without the padding.
        dtype: of the shares.
    """
    k = torch.arange(count, device=first.device, dtype=dtype)
    place = torch.addcmul((first + 1).to(dtype)[:, None], step.to(dtype)[:, None], k).clamp_(0, size + 1)
    low = place.int()
    return Places(low.long(), place.sub_(low))


def take(table: Tensor, at: Places) -> Tensor:
    """``(n, size + 3) -> (n, count)``."""
    return torch.lerp(table[:, :-1].gather(1, at.low), table[:, 1:].gather(1, at.low), at.share)


def put(values: Tensor, at: Places, size: int) -> Tensor:
    """The transpose of :func:`take`: ``(n, count) -> (n, size + 3)``."""
    far = values * at.share
    table = values.new_zeros(len(values), size + 3)
    table[:, :-1].scatter_add_(1, at.low, values - far)
    table[:, 1:].scatter_add_(1, at.low, far)
    return table
