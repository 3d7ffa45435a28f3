"""Partitions of the canvas into patches: geometry only, never the network.

With zeros of width M on every side, a grid of patches that starts at an offset ``0 .. M`` covers the image whatever the
offset. On one such grid, splitting is a crop and a reshape, joining is a reshape and a crop. What of the canvas the image
does not cover is the border, zero in clean images, so joining leaves it zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from padis_lightning.errors import InputError
from padis_lightning.random import Generators


class Tiles(ABC):
    """One frozen partition, alike for images and coordinates."""

    @abstractmethod
    def split(self, x: Tensor) -> Tensor:
        """Canvases ``(B, C, H, W)`` to patches ``(B * T, C, P, P)``, the patches of one image together."""

    @abstractmethod
    def join(self, patches: Tensor) -> Tensor:
        """Patches ``(B * T, C, P, P)`` to canvases ``(B, C, H, W)``: border zero, overlaps averaged."""


@dataclass(frozen=True)
class GridTiles(Tiles):
    """A grid of patches side by side, at an offset of its own for every image.

    Args:
        size: height and width of the image.
        pad: zeros on every side, height and width.
        patch: height and width of a patch.
        offsets: row and column of the grid's corner on the canvas, for every image.
    """

    size: tuple[int, int]
    pad: tuple[int, int]
    patch: tuple[int, int]
    offsets: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        for n, m, p in zip(self.size, self.pad, self.patch, strict=True):
            if (n + m) % p:
                raise InputError(f"image and padding are {n} + {m}; wanted a multiple of the patch size {p}, or OverlapTiling")

    @property
    def counts(self) -> tuple[int, int]:
        """Patches down and across."""
        return tuple((n + m) // p for n, m, p in zip(self.size, self.pad, self.patch, strict=True))

    @property
    def borders(self) -> list[tuple[list[int], list[int]]]:
        """Rows and columns of each image at which a tile begins, those at the image's own edge left out."""
        return [
            tuple(
                [k for k in range(offset - m, n, p) if k > 0]
                for offset, m, n, p in zip(corner, self.pad, self.size, self.patch, strict=True)
            )
            for corner in self.offsets
        ]

    def split(self, x: Tensor) -> Tensor:
        """Crop the grid of each image and cut it up."""
        (p, q), (height, width) = self.patch, (n + m for n, m in zip(self.size, self.pad, strict=True))
        crops = torch.stack([image[:, i : i + height, j : j + width] for image, (i, j) in zip(x, self.offsets, strict=True)])
        return rearrange(crops, "b c (m p) (n q) -> (b m n) c p q", p=p, q=q)

    def join(self, patches: Tensor) -> Tensor:
        """Lay the grid of each image out and keep the image of it."""
        m, n = self.counts
        grids = rearrange(patches, "(b m n) c p q -> b c (m p) (n q)", m=m, n=n)
        (height, width), (top, left) = self.size, self.pad
        images = torch.stack(
            [
                grid[:, top - i : top - i + height, left - j : left - j + width]
                for grid, (i, j) in zip(grids, self.offsets, strict=True)
            ]
        )
        return functional.pad(images, (left, left, top, top))


@dataclass(frozen=True)
class OverlapTiles(Tiles):
    """Patches that overlap, the same for every image; each pixel is the mean of the patches that cover it.

    Args:
        size: height and width of the image.
        pad: zeros on every side, height and width.
        patch: side of a patch.
        stride: distance of one patch to the next.
    """

    size: tuple[int, int]
    pad: tuple[int, int]
    patch: int
    stride: int

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Row and column of each patch on the canvas."""
        axes = []
        for n, m in zip(self.size, self.pad, strict=True):
            steps = -(-max(n - self.patch, 0) // self.stride)
            start = m - (steps * self.stride + self.patch - n) // 2
            last = n + 2 * m - self.patch
            axes.append([min(max(start + k * self.stride, 0), last) for k in range(steps + 1)])
        return [(i, j) for i in axes[0] for j in axes[1]]

    def split(self, x: Tensor) -> Tensor:
        """Cut every patch out of every image."""
        p = self.patch
        return torch.stack([x[:, :, i : i + p, j : j + p] for i, j in self.corners], 1).flatten(0, 1)

    def join(self, patches: Tensor) -> Tensor:
        """Sum the patches and divide by how many cover a pixel."""
        (height, width), (top, left), p = self.size, self.pad, self.patch
        stacked = patches.unflatten(0, (-1, len(self.corners)))
        total = stacked.new_zeros(len(stacked), stacked.shape[2], height + 2 * top, width + 2 * left)
        count = stacked.new_zeros(total.shape[-2:])
        for k, (i, j) in enumerate(self.corners):
            total[:, :, i : i + p, j : j + p] += stacked[:, k]
            count[i : i + p, j : j + p] += 1
        images = (total / count.clamp_min(1))[:, :, top : top + height, left : left + width]
        return functional.pad(images, (left, left, top, top))


class Tiling(ABC):
    """A way to partition the canvas."""

    @abstractmethod
    def draw(self, size: tuple[int, int], pad: tuple[int, int], patch: int, generator: Generators) -> Tiles:
        """Partitions for a batch with one stream an image."""


class RandomTiling(Tiling):
    """A grid at a random offset, drawn anew in every call: the score of one partition estimates the mean of all.

    A convolutional network takes larger patches than it was trained on, which have fewer edges for as many pixels: with
    ``tiles: 1`` the image and its margin are one patch.

    Source: Hu et al., PaDIS, NeurIPS 2024, section 3.3 and algorithm 1.

    Args:
        tiles: patches down and across (default: as many as the side that was trained makes).
    """

    def __init__(self, tiles: int | None = None) -> None:
        if tiles is not None and tiles < 1:
            raise InputError(f"tiles is {tiles}; wanted at least 1")
        self.tiles = tiles

    def draw(self, size: tuple[int, int], pad: tuple[int, int], patch: int, generator: Generators) -> Tiles:
        """Offsets uniform in ``0 .. pad``, an own one for every image."""
        rows, columns = generator.integers(pad[0] + 1), generator.integers(pad[1] + 1)
        shape = (patch, patch) if self.tiles is None else tuple(self._side(n + m) for n, m in zip(size, pad, strict=True))
        return GridTiles(size, pad, shape, tuple(zip(rows, columns, strict=True)))

    def _side(self, length: int) -> int:
        if length % self.tiles:
            raise InputError(f"tiles is {self.tiles}; wanted a divisor of {length}, image and padding")
        return length // self.tiles


class FixedTiling(Tiling):
    """The same grid in every call, the image in its middle: its seams stay."""

    def draw(self, size: tuple[int, int], pad: tuple[int, int], patch: int, generator: Generators) -> Tiles:
        """Offset ``pad // 2`` for every image."""
        return GridTiles(size, pad, (patch, patch), ((pad[0] // 2, pad[1] // 2),) * len(generator))


class OverlapTiling(Tiling):
    """Patches that overlap and are averaged: patch averaging and stitching of the paper, at a multiple of the cost.

    Args:
        overlap: pixels that neighbours share.
    """

    def __init__(self, overlap: int = 8) -> None:
        if overlap < 0:
            raise InputError(f"overlap is {overlap}; wanted at least 0")
        self.overlap = overlap

    def draw(self, size: tuple[int, int], pad: tuple[int, int], patch: int, generator: Generators) -> Tiles:
        """The same overlapping patches for every image."""
        if self.overlap >= patch:
            raise InputError(f"overlap is {self.overlap}; wanted less than the patch size {patch}")
        return OverlapTiles(size, pad, patch, patch - self.overlap)
