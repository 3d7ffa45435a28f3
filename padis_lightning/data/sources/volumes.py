"""Volumes: slices of one patient that lie one above the other, as one item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from padis_lightning.data.names import unique
from padis_lightning.data.sources.base import Item, Source
from padis_lightning.data.sources.series import Series, SeriesSource
from padis_lightning.data.stacks import even_runs
from padis_lightning.errors import InputError, first_few


@dataclass(frozen=True)
class Stack:
    """Lists slices in the order in which they lie in the patient, evenly spaced.

    Attributes:
        name: unique, fit for a file's name.
        group: the patient.
        items: numbers of the slices in their source.
    """

    name: str
    group: str
    items: list[int]


def stacks(source: Source) -> list[Stack]:
    """Return the stacks of a source: its series, or the slices of one label by their heights, cut where these are not even.

    Raises:
        InputError: nothing says which slices lie on each other.
    """
    if isinstance(source, SeriesSource):
        numbers = iter(range(len(source)))
        return [Stack(one.name, one.group, [next(numbers) for _ in range(one.count)]) for one in source.series]
    if source.heights is None:
        raise InputError(
            f"{source.description} have no heights; wanted series (DICOM, NIfTI), or 'patient' and 'z' in .npz for volumes"
        )
    out, labels, heights = [], np.array(source.labels or source.groups), np.array(source.heights, dtype=float)
    for label in dict.fromkeys(labels.tolist()):
        items = np.flatnonzero(labels == label)
        items = items[np.argsort(heights[items], kind="stable")]
        runs = even_runs(heights[items])
        for k, run in enumerate(runs):
            name = label if len(runs) == 1 else f"{label}_part{k}"
            out.append(Stack(name, source.groups[items[0]], items[run].tolist()))
    return unique(out)


def require_one_size(source: Source) -> None:
    """Refuse images of several sizes, which neither make volumes nor batches to train on."""
    if len(source.shapes) > 1:
        seen = ", ".join(f"{h}x{w}" for h, w in sorted(shape[-2:] for shape in source.shapes))
        raise InputError(f"{source.description} have the sizes {seen}; wanted one, or --data.size")


class VolumeSource(Source):
    """Yields volumes ``(C, D, H, W)`` and measurements ``(D, ...)`` of the slices of a source.

    Args:
        source: of slices.
        depth: cut stacks into volumes of so many consecutive slices; what is left over is not used (default: whole stacks,
            which must be of one height).
    """

    def __init__(self, source: Source, depth: int | None = None) -> None:
        require_one_size(source)
        self.slices, found = source, stacks(source)
        heights = sorted({len(stack.items) for stack in found})
        if depth is None and len(heights) > 1:
            seen = f"{source.description} has stacks of {first_few(heights)} slices"
            raise InputError(f"{seen}; wanted one number, or --data.depth")
        depth = heights[0] if depth is None else depth
        self.stacks = [part for stack in found for part in _cut(stack, depth)]
        if not self.stacks:
            raise InputError(f"the highest stack of {source.description} has {heights[-1]} slices; wanted at least {depth}")
        channels, *size = source.image_shape
        self.image_shape = (channels, depth, *size)
        self.normalisation, self.has_images = source.normalisation, source.has_images
        self.groups = [stack.group for stack in self.stacks]
        self.parts = source.parts and [source.parts[stack.items[0]] for stack in self.stacks]
        self.description = f"{len(self.stacks)} volumes of {depth} slices of {source.description}"

    def name(self, index: int) -> str:
        """Return the name of the stack, and its first slice where there are several volumes of it."""
        return self.stacks[index].name

    def place(self, index: int) -> tuple[Series, int] | None:
        """Return the series that a volume is of and the number of its first slice, where the data has series."""
        return self.slices.place(self.stacks[index].items[0])

    def spacing(self, index: int) -> tuple[float, float, float] | None:
        """Return the mm from slice to slice, from row to row and from column to column of a volume, where the data says."""
        first, *others = self.stacks[index].items
        affine, heights = self.slices.slice_affine(first), self.slices.heights
        if affine is None:
            return None
        rows, columns, slices = np.linalg.norm(affine[:3, :3], axis=0).tolist()
        return (heights[others[0]] - heights[first] if heights is not None and others else 1) * slices, rows, columns

    def __getitem__(self, index: int) -> Item:
        stack = self.stacks[index]
        images, *measured = zip(*[self.slices[k][3:] for k in stack.items], strict=True)
        image = None if images[0] is None else torch.stack(images, 1)
        measurement, weights = (None if parts[0] is None else torch.stack(parts) for parts in measured)
        return Item(index, stack.name, stack.group, image, measurement, weights)


def _cut(stack: Stack, depth: int) -> list[Stack]:
    """Cut a stack into volumes, those slices left out at both ends that fill none."""
    count, rest = divmod(len(stack.items), depth)
    starts: Sequence[int] = range(rest // 2, rest // 2 + count * depth, depth)
    names = [stack.name] if count == 1 else [f"{stack.name}_from{first:04d}" for first in starts]
    return [replace(stack, name=name, items=stack.items[k : k + depth]) for name, k in zip(names, starts, strict=True)]
