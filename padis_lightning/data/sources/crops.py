"""Random squares of pictures of any size, to train on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from padis_lightning.canvas import box, turned
from padis_lightning.data.sources.base import Item, Source
from padis_lightning.errors import InputError
from padis_lightning.random import seeded

KEPT = 2**31  #: bytes of pictures that stay in memory, in half precision; others are read again
CROP = 8  # purpose of the streams keyed by (seed, image)


class CropSource(Source):
    """Yields random squares of another source's images, each turned and mirrored at random, half of them halved in scale.

    Item k is of image k mod n, the same whenever it is asked for. Halving is by means of 2x2 pixels, where the image allows.

    Args:
        source: of images of any sizes.
        indices: which of them.
        count: squares of each image.
        size: side of a square.
        seed: key of the squares.
    """

    def __init__(self, source: Source, indices: list[int], count: int, size: int, seed: int) -> None:
        small = [k for k in indices if min(source.shape(k)[-2:]) < size]
        if small:
            height, width = source.shape(small[0])[-2:]
            seen = f"{source.name(small[0])} has {height}x{width} pixels"
            raise InputError(f"{seen}; wanted at least {size}x{size} to cut squares of")
        self.source, self.indices, self.side, self.seed = source, indices, size, seed
        self.groups = [source.groups[k] for k in indices] * count
        self.image_shape, self.normalisation = (source.image_shape[0], size, size), source.normalisation
        self.description = f"{count} squares of {size}x{size} of each of {len(indices)} of {source.description}, seed {seed}"
        self._images: dict[int, Tensor] = {}

    def _image(self, index: int) -> Tensor:
        if index in self._images:
            return self._images[index]
        whole = self.source[index].image
        assert whole is not None
        image = whole.half()
        if sum(kept.nbytes for kept in self._images.values()) + image.nbytes <= KEPT:
            self._images[index] = image
        return image

    def __getitem__(self, index: int) -> Item:
        image = self._image(self.indices[index % len(self.indices)])
        generator = seeded(self.seed, index, CROP)
        turns, mirrored, halved, *shares = torch.rand(5, generator=generator).tolist()
        side = 2 * self.side if halved < 0.5 and 2 * self.side <= min(image.shape[-2:]) else self.side
        corner = [int(share * (length - side + 1)) for share, length in zip(shares, image.shape[-2:], strict=True)]
        square = image[box(corner, (side, side))].float()
        square = square if side == self.side else functional.avg_pool2d(square, 2)
        return Item(index, self.name(index), self.groups[index], turned(square, int(4 * turns) + 4 * (mirrored < 0.5)))


class MixedSource(Source):
    """Yields the items of one source, then those of another whose images have the same shape."""

    def __init__(self, first: Source, second: Source) -> None:
        if first.image_shape != second.image_shape:
            shapes = " and ".join("x".join(map(str, source.image_shape)) for source in (first, second))
            raise InputError(f"images of {shapes} are mixed; wanted one shape")
        self.sources = (first, second)
        self.groups, self.image_shape, self.normalisation = first.groups + second.groups, first.image_shape, first.normalisation
        self.description = f"{first.description}; {second.description}"

    def __getitem__(self, index: int) -> Item:
        first, second = self.sources
        return first[index] if index < len(first) else second[index - len(first)]._replace(index=index)
