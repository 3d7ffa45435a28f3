"""Where images come from: arrays, or a generator. Both yield single items that a batch is collated from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from padis_lightning.data.leaves import DeadLeaves
from padis_lightning.data.phantoms import ChestPhantoms
from padis_lightning.errors import InputError
from padis_lightning.types import Batch, Normalisation


class Item(NamedTuple):
    """One image or measurement of a data set; see :class:`Batch`."""

    index: int
    name: str
    group: str
    image: Tensor | None
    measurement: Tensor | None


def collate(items: Sequence[Item]) -> Batch:
    """Items to a batch; tensors are stacked, what is missing stays None."""

    def stack(parts: Sequence[Tensor | None]) -> Tensor | None:
        return None if parts[0] is None else torch.stack(list(parts))

    index, names, groups, images, measurements = zip(*items, strict=True)
    return Batch(torch.tensor(index), list(names), list(groups), stack(images), stack(measurements))


def check_square(height: int, width: int, size: int) -> None:
    """Refuse to bring images to ``size`` that are not square.

    Raises:
        InputError: they are not; stretching them would change the anatomy.
    """
    if height != width:
        raise InputError(f"the images are {height}x{width}; wanted square ones to be brought to {size}x{size}")


def resize(images: Tensor, size: int) -> Tensor:
    """Bring square images ``(n, C, H, W)`` to ``size``: box means for whole factors, anti-aliased bilinear for others.

    Raises:
        InputError: the images are not square.
    """
    height, width = images.shape[-2:]
    check_square(height, width, size)
    if height == size:
        return images
    if height % size == 0:
        return functional.avg_pool2d(images, height // size)
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


class Source(Dataset, ABC):
    """Images or measurements that can be counted and picked.

    Attributes:
        image_shape: channels, height and width; of volumes channels, slices, height and width.
        normalisation: what stored values became 0 and 1.
        groups: a label an item; items of one group (a patient) are never split between training and validation.
        heights: where each slice lies along the patient, where the data says so.
        labels: what slices that lie on each other have in common (default: their group).
        description: a line for a checkpoint's provenance.
        has_images: False for measurements alone.
        parts: ``train``, ``validation`` or ``test`` for each item, where the data says so.
        affine: ``(4, 4)``, from (row, column, slice, 1) of every volume to LPS millimetres, where a scan says so.
    """

    image_shape: tuple[int, ...]
    normalisation: Normalisation
    groups: list[str]
    description: str
    heights: Sequence[float] | None = None
    labels: list[str] | None = None
    has_images: bool = True
    parts: list[str] | None = None
    affine: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.groups)

    def name(self, index: int) -> str:
        """What item ``index`` is called, in files as well."""
        return f"{index:04d}"

    @abstractmethod
    def __getitem__(self, index: int) -> Item:
        """Item ``index``, normalised."""


class GeneratedSource(Source):
    """Images that are generated when they are asked for; a subclass says how.

    Args:
        names: a group an image.
        keep: keep what was generated once.
    """

    def __init__(self, names: list[str], keep: bool) -> None:
        self.groups, self.keep = names, keep
        self.kept: dict[int, Tensor] = {}

    @abstractmethod
    def generate(self, index: int) -> Tensor:
        """Image ``index``, ``(C, H, W)``; of volumes ``(C, D, H, W)``."""

    def image(self, index: int) -> Tensor:
        """The same, from memory where it is kept."""
        image = self.kept[index] if index in self.kept else self.generate(index)
        if self.keep:
            self.kept[index] = image
        return image

    def __getitem__(self, index: int) -> Item:
        return Item(index, self.name(index), self.groups[index], self.image(index), None)


class PhantomSource(GeneratedSource):
    """Chest-like CT phantoms.

    Args:
        count: number of phantoms.
        size: pixels along a side.
        seed: phantoms of different seeds are different.
        keep: keep what was generated once.
    """

    def __init__(self, count: int, size: int, seed: int, keep: bool = True) -> None:
        super().__init__([f"phantom {index}" for index in range(count)], keep)
        self.phantoms = ChestPhantoms(count, seed)
        self.image_shape = (1, size, size)
        lower, upper = self.phantoms.window
        self.normalisation = Normalisation(lower, upper, (lower, upper))
        self.description = f"{count} chest phantoms, seed {seed}"

    def generate(self, index: int) -> Tensor:
        """Hounsfield units over their window."""
        return self.normalisation.normalise(torch.from_numpy(self.phantoms.image(index, self.image_shape[-1]))[None])


class LeavesSource(GeneratedSource):
    """Colour dead-leaves images, kept in 8 bits.

    Args:
        count: number of images.
        size: pixels along a side.
        seed: images of different seeds are different.
        keep: keep what was generated once.
    """

    def __init__(self, count: int, size: int, seed: int, keep: bool = True) -> None:
        super().__init__([f"leaves {index}" for index in range(count)], keep)
        self.leaves = DeadLeaves(count, seed)
        self.image_shape = (3, size, size)
        self.normalisation = Normalisation(0.0, 1.0)
        self.description = f"{count} colour dead-leaves images, seed {seed}"

    def generate(self, index: int) -> Tensor:
        """Eight bits a colour."""
        image = torch.from_numpy(self.leaves.image(index, self.image_shape[-1]))
        return (255 * image).round().byte().permute(2, 0, 1).contiguous()

    def image(self, index: int) -> Tensor:
        """In [0, 1]."""
        return super().image(index).float() / 255


class ArraySource(Source):
    """Images, measurements or both, held in memory.

    Args:
        images: ``(n, C, H, W)`` normalised, or None.
        measurements: ``(n, ...)`` normalised, or None.
        image_shape: channels, height and width of an image.
        normalisation: what stored values became 0 and 1.
        groups: a label an item.
        description: a line for a checkpoint's provenance.
    """

    def __init__(
        self,
        images: Tensor | None,
        measurements: Tensor | None,
        image_shape: tuple[int, int, int],
        normalisation: Normalisation,
        groups: list[str],
        description: str,
    ) -> None:
        self.images, self.measurements = images, measurements
        self.has_images = images is not None
        self.image_shape, self.normalisation = image_shape, normalisation
        self.groups, self.description = groups, description

    def __getitem__(self, index: int) -> Item:
        image = None if self.images is None else self.images[index]
        measurement = None if self.measurements is None else self.measurements[index]
        return Item(index, self.name(index), self.groups[index], image, measurement)


PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "stereo_motorcycle", "hubble_deep_field")


def photographs(size: int) -> ArraySource:
    """Six public-domain colour photographs that scikit-image carries, centre squares brought to ``size``.

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
