"""Partitions of the canvas into patches: geometry only, never the network.

With zeros of width M on every side, a grid of patches that starts at an offset ``0 .. M`` covers the image whatever the
offset. On one such grid, splitting is a crop and a reshape, joining is a reshape and a crop. What of the canvas the image
does not cover is the border, zero in clean images, so joining leaves it zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from einops import rearrange
from torch import Tensor

from padis_lightning.canvas import box, inverse_turn, padding, patch_shape, turned, zero_pad
from padis_lightning.errors import InputError, require_at_least
from padis_lightning.random import Generators


class Tiles(ABC):
    """A frozen partition that cuts images and coordinates alike; it cuts volumes along all three axes."""

    @abstractmethod
    def split(self, x: Tensor) -> Tensor:
        """Cut canvases ``(B, C, H, W)`` into patches ``(B * T, C, P, P)``, the patches of one image together."""

    @abstractmethod
    def join(self, patches: Tensor) -> Tensor:
        """Put patches ``(B * T, C, P, P)`` together as canvases ``(B, C, H, W)``: border zero, overlaps averaged."""


@dataclass(frozen=True)
class GridTiles(Tiles):
    """A grid of patches side by side, at an offset of its own for every image.

    Args:
        size: height and width of the image; slices, height and width of a volume.
        pad: zeros on every side, along each axis.
        patch: sides of a patch.
        offsets: row and column of the grid's corner on the canvas, for every image.
    """

    size: tuple[int, ...]
    pad: tuple[int, ...]
    patch: tuple[int, ...]
    offsets: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for n, m, p in zip(self.size, self.pad, self.patch, strict=True):
            if (n + m) % p:
                raise InputError(f"image and padding are {n} + {m}; wanted a multiple of the patch size {p}, or OverlapTiling")

    @property
    def counts(self) -> tuple[int, ...]:
        """Count the patches along each axis, such as down and across."""
        return tuple((n + m) // p for n, m, p in zip(self.size, self.pad, self.patch, strict=True))

    @property
    def borders(self) -> list[tuple[list[int], ...]]:
        """Return the rows and columns of each image at which a tile begins, those at the image's own edge left out."""
        return [
            tuple(
                [k for k in range(offset - m, n, p) if k > 0]
                for offset, m, n, p in zip(corner, self.pad, self.size, self.patch, strict=True)
            )
            for corner in self.offsets
        ]

    def split(self, x: Tensor) -> Tensor:
        """Crop the grid of each image and cut it up."""
        covered = [n + m for n, m in zip(self.size, self.pad, strict=True)]
        crops = torch.stack([image[box(corner, covered)] for image, corner in zip(x, self.offsets, strict=True)])
        grid, patches, axes = self._pattern()
        return rearrange(crops, f"{grid} -> {patches}", **axes)

    def join(self, patches: Tensor) -> Tensor:
        """Lay the grid of each image out and keep the image of it."""
        grid, pattern, axes = self._pattern()
        grids = rearrange(patches, f"{pattern} -> {grid}", **axes)
        inside = [[m - i for m, i in zip(self.pad, corner, strict=True)] for corner in self.offsets]
        images = torch.stack([grid[box(corner, self.size)] for grid, corner in zip(grids, inside, strict=True)])
        return zero_pad(images, self.pad)

    def _pattern(self) -> tuple[str, str, dict[str, int]]:
        """Describe a grid and its patches for einops, with the lengths of their axes."""
        counts, lengths = ([f"{letter}{k}" for k in range(len(self.patch))] for letter in "mp")
        grid = " ".join(f"({m} {p})" for m, p in zip(counts, lengths, strict=True))
        axes = dict(zip([*counts, *lengths], [*self.counts, *self.patch], strict=True))
        return f"b c {grid}", f"(b {' '.join(counts)}) c {' '.join(lengths)}", axes


@dataclass(frozen=True)
class OverlapTiles(Tiles):
    """Patches that overlap, the same for every image; each pixel is a mean of the patches that cover it.

    Args:
        size: height and width of the image; slices, height and width of a volume.
        pad: zeros on every side, along each axis.
        patch: sides of a patch.
        overlap: least number of pixels that neighbours share.
        blend: let a patch count less in its overlap, the less the nearer to its edge.
        turns: the way in which the patches of each image are turned, as :func:`turned` has it (default: not at all).
    """

    size: tuple[int, ...]
    pad: tuple[int, ...]
    patch: tuple[int, ...]
    overlap: int
    blend: bool = False
    turns: tuple[int, ...] | None = None

    @property
    def corners(self) -> list[tuple[int, ...]]:
        """Return where each patch begins on the canvas, such as row and column."""
        axes = []
        for n, m, p in zip(self.size, self.pad, self.patch, strict=True):
            stride = max(p - self.overlap, 1)
            steps = -(-max(n - p, 0) // stride)
            start = m - (steps * stride + p - n) // 2
            last = n + 2 * m - p
            axes.append([min(max(start + k * stride, 0), last) for k in range(steps + 1)])
        return list(product(*axes))

    def split(self, x: Tensor) -> Tensor:
        """Cut every patch out of every image, and turn it."""
        return torch.stack([self._turn(x[box(corner, self.patch)]) for corner in self.corners], 1).flatten(0, 1)

    def join(self, patches: Tensor) -> Tensor:
        """Turn the patches back, sum them, and divide by the weights of those that cover a pixel."""
        corners = self.corners
        stacked = patches.unflatten(0, (-1, len(corners)))
        canvas = [n + 2 * m for n, m in zip(self.size, self.pad, strict=True)]
        total, count = stacked.new_zeros(len(stacked), stacked.shape[2], *canvas), stacked.new_zeros(canvas)
        weight = self._weight(stacked)
        for k, corner in enumerate(corners):
            place = box(corner, self.patch)
            total[place] += weight * self._turn(stacked[:, k], back=True)
            count[place] += weight
        inside = box(self.pad, self.size)
        return zero_pad(total[inside] / count[inside], self.pad)

    def _turn(self, patches: Tensor, back: bool = False) -> Tensor:
        """Turn a patch of each image ``(B, C, P, P)`` in the way of its image, or back."""
        if self.turns is None:
            return patches
        ways = [inverse_turn(way) if back else way for way in self.turns]
        return torch.stack([turned(patch, way) for patch, way in zip(patches, ways, strict=True)])

    def _weight(self, like: Tensor) -> Tensor:
        """Return the weight of each pixel of a patch; near its edges, where a network errs most, it rises slowly."""
        weight = like.new_ones(self.patch)
        for axis, side in enumerate(self.patch) if self.blend else ():
            place = torch.arange(1, side + 1, dtype=like.dtype, device=like.device)
            ramp = torch.minimum(place, place.flip(0)).clamp_max(self.overlap + 1) / (self.overlap + 1)
            weight *= (ramp**2 * (3 - 2 * ramp)).reshape(-1, *[1] * (len(self.patch) - axis - 1))
        return weight


class Tiling(ABC):
    """A way to partition the canvas.

    Attributes:
        reaches_out: whether a patch may be larger than the image.
        turned: whether patches are turned, which a network must not know the places of.
        tiles: patches along each axis, where somebody names them.
    """

    reaches_out = turned = False
    tiles: int | None = None

    @abstractmethod
    def partition(self, size: Sequence[int], pad: Sequence[int], patch: int | Sequence[int], generator: Generators) -> Tiles:
        """Return a partition for each image of a batch, with one random stream an image."""

    def padding(self, size: Sequence[int], patch: int | Sequence[int]) -> tuple[int, ...]:
        """Return the zeros that an image needs on every side; see :func:`padis_lightning.canvas.padding`."""
        return padding(size, max(patch_shape(size, patch)))


class RandomTiling(Tiling):
    """A grid at a random offset, drawn anew in every call: the score of one partition estimates the mean of all.

    A convolutional network takes larger patches than it was trained on, which have fewer edges for as many pixels: with
    ``tiles: 1`` the image and its margin are one patch.

    Source: Hu et al., PaDIS, NeurIPS 2024, section 3.3 and algorithm 1.

    Args:
        tiles: patches along each axis of a slice, down and across (default: as many as the side that was trained makes).
    """

    def __init__(self, tiles: int | None = None) -> None:
        if tiles is not None:
            require_at_least(1, tiles=tiles)
        self.tiles = tiles

    def partition(self, size: Sequence[int], pad: Sequence[int], patch: int | Sequence[int], generator: Generators) -> Tiles:
        """Place the grid at an offset uniform in ``0 .. pad``, an own one for every image."""
        offsets = [generator.integers(m + 1) for m in pad]
        shape = patch_shape(size, patch)
        if self.tiles is not None:
            shape = *shape[:-2], *(_side(n + m, self.tiles) for n, m in zip(size[-2:], pad[-2:], strict=True))
        return GridTiles(tuple(size), tuple(pad), shape, tuple(zip(*offsets, strict=True)))


def _side(length: int, tiles: int) -> int:
    if length % tiles:
        raise InputError(f"tiles is {tiles}; wanted a divisor of {length}, image and padding")
    return length // tiles


class FixedTiling(Tiling):
    """The same grid in every call, the image in its middle: its seams stay."""

    def partition(self, size: Sequence[int], pad: Sequence[int], patch: int | Sequence[int], generator: Generators) -> Tiles:
        """Place the grid at ``pad // 2`` for every image."""
        return GridTiles(tuple(size), tuple(pad), patch_shape(size, patch), (tuple(m // 2 for m in pad),) * len(generator))


class OverlapTiling(Tiling):
    """Patches that overlap and are averaged: patch averaging and stitching of the paper, at a multiple of the cost.

    Without positions an image needs no zeros around it, and patches can be turned: what the network gets wrong in one of the
    eight ways differs from what it does in another, and the steps of a solver average that.

    Source: Hu et al., PaDIS, NeurIPS 2024; Zhang et al., Plug-and-play image restoration with deep denoiser prior, IEEE TPAMI
    2022, for the turns, which are drawn at random here.

    Args:
        overlap: pixels that neighbours share.
        blend: let a patch count less in its overlap, the less the nearer to its edge, so that no seams are left.
        turned: turn and mirror the patches of an image at random, in every call anew; those that are not square by half turns.
    """

    reaches_out = True

    def __init__(self, overlap: int = 8, blend: bool = False, turned: bool = False) -> None:
        require_at_least(0, overlap=overlap)
        self.overlap, self.blend, self.turned = overlap, blend, turned

    def padding(self, size: Sequence[int], patch: int | Sequence[int]) -> tuple[int, ...]:
        """Return the zeros on every side that make an image hold a patch."""
        return tuple(max(0, -(-(p - n) // 2)) for n, p in zip(size, patch_shape(size, patch), strict=True))

    def partition(self, size: Sequence[int], pad: Sequence[int], patch: int | Sequence[int], generator: Generators) -> Tiles:
        """Lay the same overlapping patches over every image, each turned in its own way."""
        sides = patch_shape(size, patch)
        for n, p in zip(size[-2:], sides[-2:], strict=True):
            if self.overlap >= p and n > p:
                raise InputError(f"overlap is {self.overlap}; wanted less than the patch size {p}")
        square = sides[-2] == sides[-1]
        turns = tuple(k if square else 2 * k for k in generator.integers(8 if square else 4)) if self.turned else None
        return OverlapTiles(tuple(size), tuple(pad), sides, self.overlap, self.blend, turns)
