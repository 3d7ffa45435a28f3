"""How an image lies on its zero-padded canvas: padding, boxes cut out of it, and the coordinates of its pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from padis_lightning.errors import InputError


def axis_names(image_shape: Sequence[int]) -> str:
    """Return what the entries of an image's shape, or of a volume's, are called."""
    return "channels, slices, height, width" if len(image_shape) == 4 else "channels, height, width"


def zero_pad(x: Tensor, pad: Sequence[int]) -> Tensor:
    """Put zeros around the last axes, ``pad[k]`` of them on both sides of each: ``(..., H, W) -> (..., H + 2 p, W + 2 q)``."""
    return functional.pad(x, [margin for margin in reversed(pad) for _ in range(2)])


def box(corner: Sequence[int], size: Sequence[int]) -> tuple:
    """Return the index that cuts a box of ``size`` at ``corner`` out of the last axes of a tensor."""
    return ..., *(slice(first, first + length) for first, length in zip(corner, size, strict=True))


def patch_shape(size: Sequence[int], patch: int | Sequence[int]) -> tuple[int, ...]:
    """Return the sides of a patch: as given, or ``patch`` along each axis, but never more slices than a volume has."""
    if not isinstance(patch, int):
        return tuple(patch)
    slices = (min(patch, size[0]),) if len(size) == 3 else ()
    return *slices, *[patch] * (len(size) - len(slices))


def padding(size: Sequence[int], patch: int, at_least: int = 1) -> tuple[int, ...]:
    r"""Return the zeros that an image needs on every side, so that a grid of patches covers it at every offset ``0 .. pad``.

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
    """Return coordinates in [-1, 1] over a canvas, ``(axes, *size)``, the last axis first: x, y and, of a volume, z."""
    axes = [torch.linspace(-1, 1, n).reshape(-1, *[1] * k) for k, n in enumerate(reversed(size))]
    return torch.stack([axis.expand(size) for axis in axes])


def turned(x: Tensor, way: int) -> Tensor:
    """Turn images ``(..., H, W)`` in one of eight ways: by so many quarters, and mirrored after that from 4 on."""
    x = x.rot90(way % 4, (-2, -1))
    return x.flip(-1) if way >= 4 else x


def inverse_turn(way: int) -> int:
    """Return the way of :func:`turned` that undoes another: a mirror image undoes itself."""
    return way if way >= 4 else -way % 4
