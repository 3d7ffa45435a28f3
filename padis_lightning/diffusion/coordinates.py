"""Where a patch lies: the padded canvas and its coordinate channels."""

from __future__ import annotations

import torch
from torch import Tensor

from padis_lightning.errors import InputError


def padding(size: tuple[int, int], patch: int, at_least: int = 1) -> tuple[int, int]:
    r"""Zeros on every side of an image, so that a grid of patches covers it at every offset ``0 .. pad``.

    .. math:: M = t P - N, \quad t = \lceil (N + m) / P \rceil

    with ``m = at_least``; for m = 1 this is the paper's :math:`M = (\lfloor N / P \rfloor + 1) P - N`. A single patch as
    large as the image needs none, which makes ``at_least = 0`` with P = N the whole-image model.

    Source: Hu et al., PaDIS, NeurIPS 2024, section 3.1.

    Args:
        size: height and width of the image.
        patch: side of the largest patch.
        at_least: smallest padding wanted.

    Raises:
        InputError: the patch is larger than the image.
    """
    if patch > min(size):
        raise InputError(f"patch size {patch} is larger than the image of {size[0]}x{size[1]}; wanted at most {min(size)}")
    return tuple(-(-(n + at_least) // patch) * patch - n for n in size)


def coordinates(height: int, width: int) -> Tensor:
    """Column and row coordinates in [-1, 1] over a canvas, ``(2, H, W)``, x first."""
    y = torch.linspace(-1, 1, height)
    x = torch.linspace(-1, 1, width)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
