"""Images that need no file: generated phantoms and dead leaves, and photographs that a library carries."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from padis_lightning.data.leaves import dead_leaves
from padis_lightning.data.phantoms import ChestPhantoms, ChestVolumes
from padis_lightning.data.sources.arrays import ArraySource
from padis_lightning.data.sources.base import Item, Source, resize
from padis_lightning.types import Normalisation

PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "stereo_motorcycle", "hubble_deep_field")


class GeneratedSource(Source):
    """Generates images when they are asked for; a subclass says how.

    Subclasses take the number of images, their ``size`` in pixels along a side and a ``seed``: images of different seeds are
    different.

    Args:
        kind: what one is called.
        count: number of images.
        image_shape: of each.
        keep: keep what was generated once.
    """

    def __init__(self, kind: str, count: int, image_shape: tuple[int, ...], keep: bool) -> None:
        self.groups, self.image_shape, self.keep = [f"{kind} {index}" for index in range(count)], image_shape, keep
        self.kept: dict[int, Tensor] = {}

    @abstractmethod
    def generate(self, index: int) -> Tensor:
        """Generate image ``index``, ``(C, H, W)``; of volumes ``(C, D, H, W)``."""

    def image(self, index: int) -> Tensor:
        """Return image ``index``, from memory where it is kept."""
        image = self.kept[index] if index in self.kept else self.generate(index)
        if self.keep:
            self.kept[index] = image
        return image

    def __getitem__(self, index: int) -> Item:
        return Item(index, self.name(index), self.groups[index], self.image(index))


class PhantomSource(GeneratedSource):
    """Generates chest-like CT phantoms."""

    def __init__(self, count: int, size: int, seed: int, keep: bool = True) -> None:
        super().__init__("phantom", count, (1, size, size), keep)
        self.phantoms = ChestPhantoms(count, seed)
        self.normalisation = Normalisation(*self.phantoms.window, self.phantoms.window)
        self.description = f"{count} chest phantoms, seed {seed}"

    def generate(self, index: int) -> Tensor:
        """Generate Hounsfield units over their window."""
        return self.normalisation.normalise(torch.from_numpy(self.phantoms.image(index, self.image_shape[-1]))[None])


class PhantomVolumes(GeneratedSource):
    """Generates chest-like CT phantoms whose anatomy changes slowly from slice to slice. ``depth``: slices of each."""

    def __init__(self, count: int, depth: int, size: int, seed: int, keep: bool = True) -> None:
        super().__init__("phantom", count, (1, depth, size, size), keep)
        self.phantoms = ChestVolumes(count, depth, seed)
        self.normalisation = Normalisation(*self.phantoms.window, self.phantoms.window)
        self.description = f"{count} chest phantoms of {depth} slices, seed {seed}"

    def generate(self, index: int) -> Tensor:
        """Generate Hounsfield units over their window, ``(1, depth, size, size)``."""
        return self.normalisation.normalise(torch.from_numpy(self.phantoms.volume(index, self.image_shape[-1]))[None])


class LeavesSource(GeneratedSource):
    """Generates colour dead-leaves images, kept in 8 bits."""

    def __init__(self, count: int, size: int, seed: int, keep: bool = True) -> None:
        super().__init__("leaves", count, (3, size, size), keep)
        self.seed = seed
        self.normalisation = Normalisation(0.0, 1.0)
        self.description = f"{count} colour dead-leaves images, seed {seed}"

    def generate(self, index: int) -> Tensor:
        """Generate eight bits a colour."""
        image = torch.from_numpy(dead_leaves(self.image_shape[-1], self.seed, index))
        return (255 * image).round().byte().permute(2, 0, 1).contiguous()

    def image(self, index: int) -> Tensor:
        """Return image ``index`` in [0, 1]."""
        return super().image(index).float() / 255


def photographs(size: int) -> ArraySource:
    """Return six public-domain colour photographs that scikit-image carries, centre squares brought to ``size``.

    Source: scikit-image's ``data``: NASA (astronaut, Hubble), SpaceX (rocket), Stefan van der Walt (cat), Rachel Michetti
    (coffee), CC0; the Middlebury motorcycle, Scharstein et al., GCPR 2014.
    """
    import skimage.data

    images = []
    for name in PHOTOGRAPHS:
        picture = getattr(skimage.data, name)()
        picture = picture[0] if isinstance(picture, tuple) else picture  # a stereo pair
        side = min(picture.shape[:2])
        top, left = ((n - side) // 2 for n in picture.shape[:2])
        square = torch.from_numpy(picture[top : top + side, left : left + side].copy()).permute(2, 0, 1)[None]
        images.append(resize(square.float() / 255, size))
    names = list(PHOTOGRAPHS)
    description = f"{len(names)} photographs of scikit-image"
    return ArraySource(torch.cat(images), None, (3, size, size), Normalisation(0.0, 1.0), names, description)
