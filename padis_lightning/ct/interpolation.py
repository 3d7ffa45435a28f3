"""These functions interpolate linearly along the rows of a table, and apply the transpose."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Positions(NamedTuple):
    """Positions lie between the entries ``low`` and ``low + 1`` of a padded row, at ``share`` from the first."""

    low: Tensor
    share: Tensor


def pad(table: Tensor) -> Tensor:
    """Put a zero before each row and two behind it, ``(..., size) -> (..., size + 3)``."""
    return nn.functional.pad(table, (1, 2))


def positions(first: Tensor, step: Tensor, count: int, size: int, dtype: torch.dtype) -> Positions:
    """Return the positions ``first + step * k`` for k below ``count``, in rows that are 0 beyond their ends.

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
    return Positions(low.long(), place.sub_(low))


def interpolate(table: Tensor, at: Positions) -> Tensor:
    """Interpolate each row of a padded table, ``(n, size + 3) -> (n, count)``."""
    return torch.lerp(table[:, :-1].gather(1, at.low), table[:, 1:].gather(1, at.low), at.share)


def interpolate_transposed(values: Tensor, at: Positions, size: int) -> Tensor:
    """Apply the transpose of :func:`interpolate`, ``(n, count) -> (n, size + 3)``."""
    far = values * at.share
    table = values.new_zeros(len(values), size + 3)
    table[:, :-1].scatter_add_(1, at.low, values - far)
    table[:, 1:].scatter_add_(1, at.low, far)
    return table
