"""Voxels of volumes as they are shown: their proportions, and how many of them a page holds."""

from __future__ import annotations

import math

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from padis_lightning.ct import ConeGeometry
from padis_lightning.data.sources.base import Source
from padis_lightning.data.sources.volumes import VolumeSource
from padis_lightning.operators import LinearOperator

Spacing = tuple[float, float, float]  # from slice to slice, from row to row and from column to column

CUBES = (1.0, 1.0, 1.0)
LONGEST = 50  # sides of a voxel that are further apart say nothing about anatomy
MOST = 2**23  # voxels of one array on a page


def spacing_of(source: Source | None, index: int, operator: LinearOperator | None) -> Spacing:
    """Return the sides of the voxels of item ``index``: as the data says, else as a cone-beam scan does, else those of cubes."""
    known = source.spacing(index) if isinstance(source, VolumeSource) else None
    scan = None if operator is None else operator.geometry
    if known is None and isinstance(scan, ConeGeometry):
        known = scan.slice_spacing, scan.pixel_spacing, scan.pixel_spacing
    if known is None or not 0 < max(known) <= LONGEST * min(known) < math.inf:
        return CUBES
    return known


def average_to_fit(volume: Tensor, most: int = MOST) -> Tensor:
    """Average the longest axes of ``(C, D, H, W)`` to one length, the largest with which at most ``most`` voxels remain."""
    sides = tuple(volume.shape[1:])
    longest = max(sides)
    while math.prod(min(n, longest) for n in sides) > most:
        longest -= 1
    depth, height, width = (min(n, longest) for n in sides)
    return volume if (depth, height, width) == sides else F.adaptive_avg_pool3d(volume.float(), (depth, height, width))
