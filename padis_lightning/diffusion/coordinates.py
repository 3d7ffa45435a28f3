"""Where a patch lies: the padded canvas and its coordinate channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from padis_lightning.errors import InputError


def sides(size: Sequence[int], patch: int) -> tuple[int, ...]:
    """Of a patch, along each axis: all alike, but in a volume of fewer slices than that all of its slices."""
    slices = (min(patch, size[0]),) if len(size) == 3 else ()
    return *slices, *[patch] * (len(size) - len(slices))


def padding(size: Sequence[int], patch: int, at_least: int = 1) -> tuple[int, ...]:
    r"""Zeros on every side of an image, so that a grid of patches covers it at every offset ``0 .. pad``.

    .. math:: M = t P - N, \quad t = \lceil (N + m) / P \rceil

    with ``m = at_least``; for m = 1 this is the paper's :math:`M = (\lfloor N / P \rfloor + 1) P - N`. A single patch as
    large as the image needs none, which makes ``at_least = 0`` with P = N the whole-image model. Patches that take all
    slices of a volume need none along them.

    Source: Hu et al., PaDIS, NeurIPS 2024, section 3.1.

    Args:
        size: height and width of the image; slices, height and width of a volume.
        patch: side of the largest patch.
        at_least: smallest padding wanted.

    Raises:
        InputError: the patch is larger than the image.
    """
    if patch > min(size[-2:]):
        pixels = "x".join(map(str, size))
        raise InputError(f"patch size {patch} is larger than the image of {pixels}; wanted at most {min(size[-2:])}")
    whole = len(size) == 3 and patch >= size[0]
    padded = tuple(-(-(n + at_least) // patch) * patch - n for n in size)
    return (0, *padded[1:]) if whole else padded


def coordinates(*size: int) -> Tensor:
    """Coordinates in [-1, 1] over a canvas of ``size``, the last axis first: x, y and, of a volume, z, ``(axes, *size)``."""
    axes = [torch.linspace(-1, 1, n).reshape(-1, *[1] * k) for k, n in enumerate(reversed(size))]
    return torch.stack([axis.expand(size) for axis in axes])
