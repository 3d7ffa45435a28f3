"""The base of all sources: items that can be counted and picked, and that a batch is collated from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from padis_lightning.canvas import box
from padis_lightning.errors import InputError
from padis_lightning.types import Batch, Normalisation

if TYPE_CHECKING:
    from padis_lightning.data.sources.series import Series

LUMA = torch.tensor([0.299, 0.587, 0.114])  # weights of red, green and blue


class Item(NamedTuple):
    """Holds one image or measurement of a data set; see :class:`padis_lightning.types.Batch`."""

    index: int  # type: ignore[assignment]  # hides a method of tuples that nobody needs here
    name: str
    group: str
    image: Tensor | None = None
    measurement: Tensor | None = None
    weights: Tensor | None = None


def collate(items: Sequence[Item]) -> Batch:
    """Make a batch of items; tensors are stacked, what is missing stays None. Measurements without weights count alike."""
    index, names, groups, *tensors = zip(*items, strict=True)
    image, measurement, weights = (None if t[0] is None else torch.stack(t) for t in tensors)
    if measurement is not None and weights is None:
        weights = measurement.new_ones(len(items), *[1] * (measurement.ndim - 1))
    return Batch(torch.tensor(index), list(names), list(groups), image, measurement, weights)


def check_square(height: int, width: int, size: int) -> None:
    """Refuse to bring images to ``size`` that are not square; stretching them would change the anatomy."""
    if height != width:
        raise InputError(f"the images are {height}x{width}; wanted square ones to be brought to {size}x{size}")


def resize(images: Tensor, size: int) -> Tensor:
    """Bring square images ``(n, C, H, W)`` to ``size``: box means for whole factors, anti-aliased bilinear for others."""
    height, width = images.shape[-2:]
    check_square(height, width, size)
    if height == size:
        return images
    if height % size == 0:
        return functional.avg_pool2d(images, height // size)
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


def with_channels(image: Tensor, channels: int | None) -> Tensor:
    """Return ``(..., C, H, W)`` with one or three channels: grey in three equal ones, or the luma of colours.

    Source: Recommendation ITU-R BT.601-7, section 2.5.1.
    """
    found = image.shape[-3]
    if channels is None or found == channels:
        return image
    if {found, channels} != {1, 3}:
        raise InputError(f"the images have {found} channels and channels is {channels}; wanted 1 and 3")
    return (
        image.repeat_interleave(3, -3)
        if channels == 3
        else torch.einsum("c,...chw->...hw", LUMA.to(image), image)[..., None, :, :]
    )


def middle_square(image: Tensor) -> Tensor:
    """Cut the largest square out of the middle of ``(..., H, W)``."""
    side = min(image.shape[-2:])
    corner = [(n - side) // 2 for n in image.shape[-2:]]
    return image[box(corner, (side, side))]


class Source(Dataset, ABC):
    """Yields images or measurements that can be counted and picked; one whose files cannot be used raises InputError.

    Attributes:
        image_shape: channels, height and width; of volumes channels, slices, height and width.
        normalisation: what stored values became 0 and 1.
        groups: a label an item; items of one group (a patient) are never split between training and validation.
        heights: where each slice lies along the patient, where the data says so.
        labels: what slices that lie on each other have in common (default: their group).
        description: a line for a checkpoint's provenance.
        has_images: False for measurements alone.
        singly: whether items are solved one by one, since each of them says more of its operator.
        pictured: whether measurements are pictures; then ``image_shape`` is theirs, and the operator says that of the images.
        takes: what a user may say of its scan: ``axis``, and fields of :class:`padis_lightning.data.conventions.Named`.
        parts: ``train``, ``validation`` or ``test`` for each item, where the data says so.
        affine: ``(4, 4)``, from (row, column, slice, 1) of every volume to LPS millimetres, where a scan says so.
        size: side that images are brought to, or None for as they are.
        channels: number that images are brought to, or None for as they are.
        crop: whether images that are not square are cut to their middle before they are brought to ``size``.
    """

    image_shape: tuple[int, ...]
    normalisation: Normalisation
    groups: list[str]
    description: str
    heights: Sequence[float] | np.ndarray | None = None
    labels: list[str] | None = None
    has_images: bool = True
    singly: bool = False
    pictured: bool = False
    takes: tuple[str, ...] = ()
    parts: list[str] | None = None
    affine: np.ndarray | None = None
    size: int | None = None
    channels: int | None = None
    crop: bool = False

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def volumetric(self) -> bool:
        """Return whether items are volumes."""
        return len(self.image_shape) == 4

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """Return the shapes that items have; where there are several, items are solved one by one."""
        return {tuple(self.image_shape)}

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of the image of item ``index``, or of its measurement where that is a picture; nothing is read."""
        return tuple(self.image_shape)

    def reference_shape(self, index: int) -> tuple[int, ...] | None:
        """Return the shape of the image that a measured item is compared with, where there is one."""
        return None

    def name(self, index: int) -> str:
        """Return the name of item ``index``, which files have as well."""
        return f"{index:04d}"

    def place(self, index: int) -> tuple[Series, int] | None:
        """Return the series that item ``index`` is of and the number of its first slice, where the data has series."""
        return None

    def step(self, index: int) -> float:
        """Return how many units of the source one of the file of item ``index`` is."""
        return 1.0

    def slice_affine(self, index: int) -> np.ndarray | None:
        """Return the affine ``(4, 4)`` of slice ``index`` from (row, column, slice, 1) to LPS millimetres, where it is known."""
        return None

    def to_image(self, values: np.ndarray) -> Tensor:
        """Return values ``(H, W)`` or ``(H, W, C)`` as a normalised image ``(C, H, W)`` of the source's size."""
        values = np.moveaxis(values, -1, 0) if values.ndim == 3 else values[None]
        image = self.normalisation.normalise(torch.from_numpy(np.array(values)))  # a mapped file is read-only
        image = with_channels(image, self.channels)
        image = middle_square(image) if self.crop else image
        return resize(image[None], self.size)[0] if self.size else image

    @abstractmethod
    def __getitem__(self, index: int) -> Item:
        """Return item ``index``, normalised."""


class Wrapped(Source):
    """Yields what another source does, changed as a subclass says; the rest is that of the other.

    Args:
        inner: the other source.
    """

    def __init__(self, inner: Source) -> None:
        self.inner = inner
        self.image_shape, self.normalisation, self.groups = inner.image_shape, inner.normalisation, inner.groups
        self.heights, self.labels, self.parts, self.affine = inner.heights, inner.labels, inner.parts, inner.affine
        self.has_images, self.pictured, self.crop = inner.has_images, inner.pictured, inner.crop

    def name(self, index: int) -> str:
        """Return the name of item ``index``."""
        return self.inner.name(index)

    def place(self, index: int) -> tuple[Series, int] | None:
        """Return the place of item ``index``."""
        return self.inner.place(index)

    def step(self, index: int) -> float:
        """Return the step of item ``index``."""
        return self.inner.step(index)

    def slice_affine(self, index: int) -> np.ndarray | None:
        """Return the affine of item ``index``."""
        return self.inner.slice_affine(index)

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of item ``index``."""
        return self.inner.shape(index)

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """Return the shapes of all items."""
        return self.inner.shapes
