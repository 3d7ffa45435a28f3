"""Images that need no file: generated phantoms, objects, dead leaves and brains, and photographs that a library carries."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from padis_lightning.data.brains import brain
from padis_lightning.data.drawing import HU_RANGE
from padis_lightning.data.leaves import dead_leaves, haze
from padis_lightning.data.objects import scanned_object
from padis_lightning.data.phantoms import chest_phantom, chest_volume
from padis_lightning.data.sources.arrays import ArraySource
from padis_lightning.data.sources.base import Item, Source, middle_square, resize
from padis_lightning.types import Normalisation

PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "stereo_motorcycle", "hubble_deep_field")


class GeneratedSource(Source):
    """Generates images when they are asked for; a subclass says how. Images of different seeds are different.

    Args:
        kind: what one is called.
        count: number of images.
        image_shape: of each.
        seed: key of the images.
        keep: keep what was generated once.
    """

    def __init__(self, kind: str, count: int, image_shape: tuple[int, ...], seed: int, keep: bool) -> None:
        self.groups, self.image_shape, self.seed, self.keep = [f"{kind} {k}" for k in range(count)], image_shape, seed, keep
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
    """Generates chest-like CT phantoms, ``size`` pixels along a side; with a ``depth`` they are volumes of so many slices."""

    normalisation = Normalisation(*HU_RANGE, HU_RANGE)

    def __init__(self, count: int, size: int, seed: int, keep: bool = True, depth: int | None = None) -> None:
        super().__init__("phantom", count, (1, size, size) if depth is None else (1, depth, size, size), seed, keep)
        self.description = f"{count} chest phantoms{'' if depth is None else f' of {depth} slices'}, seed {seed}"

    def generate(self, index: int) -> Tensor:
        """Generate Hounsfield units over their window."""
        _, *depth, _, size = self.image_shape
        values = chest_volume(size, depth[0], self.seed, index) if depth else chest_phantom(size, self.seed, index)
        return self.normalisation.normalise(torch.from_numpy(values)[None])


class EightBitSource(GeneratedSource):
    """Generates images of ``size`` pixels along a side that are kept in 8 bits; a subclass says how."""

    normalisation = Normalisation(0.0, 1.0)

    def image(self, index: int) -> Tensor:
        """Return image ``index`` in [0, 1]."""
        return super().image(index).float() / 255


class LeavesSource(EightBitSource):
    """Generates colour dead-leaves images, half of them in haze."""

    def __init__(self, count: int, size: int, seed: int, keep: bool = True) -> None:
        super().__init__("leaves", count, (3, size, size), seed, keep)
        self.description = f"{count} colour dead-leaves images, seed {seed}"

    def generate(self, index: int) -> Tensor:
        """Generate eight bits a colour."""
        image = torch.from_numpy(haze(dead_leaves(self.image_shape[-1], self.seed, index), self.seed, index))
        return (255 * image).round().byte().permute(2, 0, 1).contiguous()


class ObjectSource(EightBitSource):
    """Generates grey slices of scanned objects."""

    def __init__(self, count: int, size: int, seed: int, keep: bool = True) -> None:
        super().__init__("object", count, (1, size, size), seed, keep)
        self.description = f"{count} slices of generated objects, seed {seed}"

    def generate(self, index: int) -> Tensor:
        """Generate eight bits a pixel."""
        return (255 * torch.from_numpy(scanned_object(self.image_shape[-1], self.seed, index))).round().byte()[None]


class BrainSource(GeneratedSource):
    """Generates complex slices of heads as MRI has them: real and imaginary part, magnitudes up to 1."""

    normalisation = Normalisation(0.0, 1.0)

    def __init__(self, count: int, size: int, seed: int, keep: bool = True) -> None:
        super().__init__("brain", count, (2, size, size), seed, keep)
        self.description = f"{count} complex slices of generated heads, seed {seed}"

    def generate(self, index: int) -> Tensor:
        """Generate the two parts."""
        return torch.view_as_real(torch.from_numpy(brain(self.image_shape[-1], self.seed, index))).movedim(-1, 0).contiguous()


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
        square = middle_square(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])
        images.append(resize(square.float() / 255, size))
    description = f"{len(images)} photographs of scikit-image"
    return ArraySource(torch.cat(images), None, (3, size, size), Normalisation(0.0, 1.0), list(PHOTOGRAPHS), description)
