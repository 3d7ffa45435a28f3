"""Batches: those of training steps, and those that predict works through, which stay whole whoever solves them."""

from __future__ import annotations

import signal
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler, Subset

from padis_lightning.data.sources.base import Item, Source, collate
from padis_lightning.errors import InputError, require_at_least
from padis_lightning.random import seeded
from padis_lightning.signals import STOPPING
from padis_lightning.types import Batch, Normalisation

SHUFFLE = 5  # purpose of the streams keyed by (seed, pass)


class ItemLabel(NamedTuple):
    """Says what an item is called without reading it: its place in the source, a name for files that no two share, its group."""

    index: int  # type: ignore[assignment]  # hides a method of tuples that nobody needs here
    name: str
    group: str


def share(
    count: int, batch_size: int, done: Collection[int] = (), shard: int = 0, shards: int = 1, rank: int = 0, world: int = 1
) -> list[list[int]]:
    """Return the batches that one device of one shard solves, as places of their items.

    A batch has the same members for any number of shards and devices and whatever is done, so that its results keep their
    bits. One that is done is left out; one that is done in part is solved again.

    Args:
        count: items in all.
        batch_size: items a batch; the last one may have fewer.
        done: places of items that need not be solved.
        shard: every ``shards``-th batch from this one on.
        shards: shares of the whole.
        rank: every ``world``-th batch of what the shard has left, from this one on.
        world: devices of the shard.
    """
    batches = [range(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]
    left = [list(batch) for batch in batches[shard::shards] if not set(batch).issubset(done)]
    return left[rank::world]


def leave_signals(worker: int) -> None:
    """Let a signal to the whole group of processes be the trainer's business, which still needs its workers."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


class Batches(Dataset[Batch]):
    """Yields items in batches.

    Args:
        items: single items by their place.
        places: those of each batch.
    """

    def __init__(self, items: Sequence[Item] | Source | Subset[Item], places: Sequence[Sequence[int]]) -> None:
        self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Batch:
        return collate([self.items[place] for place in self.places[index]])

    def loader(self, num_workers: int = 0) -> DataLoader:
        """Return one batch after the other; the sampler's kind keeps a trainer from sharing them out once more."""
        sampler: Sampler[int] = DistributedSampler(self, num_replicas=1, rank=0, shuffle=False)
        return DataLoader(self, batch_size=None, sampler=sampler, num_workers=num_workers, worker_init_fn=leave_signals)


class SharedItems:
    """Mixes into a data module that its items are shared out among shards and devices.

    Attributes:
        batch_size: items solved at once, on a device.
        done: places of what :attr:`item_labels` has and need not be solved.
        shard: solve every ``shards``-th batch from this one on.
        shards: parts that the work is divided into.
        whole: the source that items are numbered in, or None where there is none.
        reference: where the truth of measurements is, or None where nobody says.
    """

    trainer: Any
    whole: Source | None = None
    reference: str | None = None

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """Return the shape of the items, or None where whatever solves them says it."""
        return None

    @property
    def normalisation(self) -> Normalisation | None:
        """Return what stored values became 0 and 1, or None where the prior says it."""
        return None

    @property
    @abstractmethod
    def item_labels(self) -> list[ItemLabel]:
        """Return the items of all shards."""

    def share_out(self, batch_size: int, shard: int, shards: int) -> None:
        """Set how items are shared out, where there are such shares."""
        require_at_least(1, batch_size=batch_size, shards=shards)
        if not 0 <= shard < shards:
            raise InputError(f"shard is {shard}; wanted 0 to {shards - 1}, one of {shards}")
        self.batch_size, self.shard, self.shards = batch_size, shard, shards
        self.done: set[int] = set()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # of what is left there may be less than devices

    def left_loader(self, items: Sequence[Item] | Source | Subset[Item], num_workers: int = 0) -> DataLoader:
        """Return the batches that are left for this device."""
        device = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        places = share(len(items), self.batch_size, self.done, self.shard, self.shards, *device)
        return Batches(items, places).loader(num_workers)


class StepBatches(Sampler[list[int]]):
    """Yields batches keyed by (seed, step): passes through shuffled data, cut into steps and shared among devices.

    A run that is resumed begins at its ``start`` and draws what the unbroken run would have drawn.

    Args:
        count: items of the data set.
        batch_size: items a step and device.
        seed: key of the shuffles.
        start: first step to yield.
        stop: steps in all, those before ``start`` included; also the length, by which Lightning counts.
        rank: this device.
        world: devices.
    """

    def __init__(self, count: int, batch_size: int, seed: int, start: int, stop: int, rank: int = 0, world: int = 1) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.start, self.stop, self.rank, self.world = start, stop, rank, world

    def __len__(self) -> int:
        return self.stop

    def __iter__(self) -> Iterator[list[int]]:
        width = self.batch_size * self.world
        shuffles: dict[int, list[int]] = {}
        for step in range(self.start, self.stop):
            places = range(step * width + self.rank, (step + 1) * width, self.world)
            passes = {place // self.count for place in places}
            shuffles = {p: shuffles.get(p) or shuffled(range(self.count), self.seed, p) for p in passes}
            yield [shuffles[place // self.count][place % self.count] for place in places]


def shuffled(items: Sequence[Any], seed: int, number: int = 0) -> list[Any]:
    """Return the items in the random order of pass ``number``."""
    return [items[k] for k in torch.randperm(len(items), generator=seeded(seed, number, SHUFFLE)).tolist()]


def spread_over_groups(groups: list[str], count: int) -> list[int]:
    """Return ``count`` positions that take from all groups (patients) in turn, and evenly within each."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        places[group].append(place)
    names = list(places)
    if count < len(names):
        turns = [names[int(i)] for i in np.linspace(0, len(names) - 1, count).round()]
    else:
        turns = [name for k in range(len(groups)) for name in names if len(places[name]) > k][:count]
    picked = []
    for group, wanted in Counter(turns).items():
        steps = (np.arange(wanted) + 0.5) * len(places[group]) / wanted
        picked += [places[group][int(step)] for step in steps]
    return sorted(picked)
