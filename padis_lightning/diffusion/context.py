"""Compute the context of a patch: the whole image, averaged down to the sides of the patch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def context_of(images: Tensor, sides: Sequence[int]) -> Tensor:
    """Return the means of the boxes that cut each image up into ``sides``, ``(B, C, H, W) -> (B, C, *sides)``.

    Every pixel is in one box; where sides do not divide, some boxes are a pixel longer. Along an axis that is shorter than
    asked for, pixels are repeated. Volumes have a further axis.
    """
    corners = torch.zeros(1, len(sides), dtype=torch.long, device=images.device)
    return _means(images, corners, images.shape[2:], sides)


def context_of_noise(patches: Tensor, rest: Tensor, corners: Tensor, size: Sequence[int]) -> Tensor:
    r"""Return the context of images of standard normal noise, of which only a patch each is known.

    .. math:: \frac{1}{N} \Bigl( \sum_{j \in \text{patch}} z_j + \sqrt{N - n} \, w \Bigr)

    in a box of N pixels with n of them in the patch. Together with the patch it has the distribution that the mean of all N
    has, at a cost that does not depend on the size of the image.

    Args:
        patches: z, ``(n, C, *sides)``.
        rest: w, standard normal, ``(n, C, *sides)``.
        corners: of the patches in the images, ``(n, axes)``; they may reach beyond them.
        size: of the images, such as height and width.
    """
    sides = patches.shape[2:]
    counts = [_boxes(length, side, patches.device)[1] for length, side in zip(size, sides, strict=True)]
    pixels = math.prod(torch.meshgrid(counts, indexing="ij"))
    known = _means(patches.new_ones(len(patches), 1, *sides), corners, size, sides)
    return _means(patches, corners, size, sides) + ((1 - known) / pixels).sqrt() * rest


def _boxes(length: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the first pixel of each of ``side`` boxes along an axis, and their numbers of pixels."""
    edges = torch.arange(side + 1, device=device) * length // side
    return edges[:-1], edges.diff().clamp_min(1)


def _means(parts: Tensor, corners: Tensor, size: Sequence[int], sides: Sequence[int]) -> Tensor:
    """Return the context of images that are zero but for parts ``(n, C, ...)`` of them at ``corners`` ``(n or 1, axes)``."""
    for axis, (length, side) in enumerate(zip(size, sides, strict=True), 2):
        shape = [-1 if k == 0 else side if k == axis else 1 for k in range(parts.ndim)]
        first, count = _boxes(length, side, parts.device)
        total = parts.new_zeros(())
        for step in range(-(-length // side)):
            place = first + step - corners[:, axis - 2, None]
            there = (step < count) & (place >= 0) & (place < parts.shape[axis])
            values = torch.take_along_dim(parts, place.clamp(0, parts.shape[axis] - 1).reshape(shape), axis)
            total = total + torch.where(there.reshape(shape), values, 0)
        parts = total / count.reshape(shape)
    return parts
