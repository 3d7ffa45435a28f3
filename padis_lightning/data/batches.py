"""What predict works through: batches that stay whole, whoever solves them and whatever has been solved before."""

from __future__ import annotations

import signal
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

from torch.utils.data import DataLoader, Dataset, DistributedSampler

from padis_lightning.data.sources.base import Item, collate
from padis_lightning.errors import InputError
from padis_lightning.types import Batch

STOPPING = (signal.SIGTERM, signal.SIGUSR1)  # at which a run stops so that it can go on


class Listed(NamedTuple):
    """What an item is called without reading it; see :class:`Batch`."""

    index: int
    name: str
    group: str


def check_shard(shard: int, shards: int) -> None:
    """Refuse a share that there is not.

    Raises:
        InputError: with the numbers that there are.
    """
    if shards < 1:
        raise InputError(f"shards is {shards}; wanted at least 1")
    if not 0 <= shard < shards:
        raise InputError(f"shard is {shard}; wanted 0 to {shards - 1}, one of {shards}")


def share(
    count: int, batch_size: int, done: Collection[int] = (), shard: int = 0, shards: int = 1, rank: int = 0, world: int = 1
) -> list[list[int]]:
    """The batches that one device of one shard solves, as places of their items.

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


class Shared(Protocol):
    """A data module whose items are shared out: ``batch_size``, ``done``, ``shard`` and ``shards`` are as in :func:`share`."""

    batch_size: int
    done: set[int]
    shard: int
    shards: int
    trainer: Any


def left_loader(data: Shared, items: Sequence[Item], num_workers: int = 0) -> DataLoader:
    """The batches that a data module has left for this device."""
    device = (data.trainer.global_rank, data.trainer.world_size) if data.trainer else (0, 1)
    places = share(len(items), data.batch_size, data.done, data.shard, data.shards, *device)
    return Batches(items, places).loader(num_workers)


class Batches(Dataset):
    """Items in batches.

    Args:
        items: single items by their place.
        places: those of each batch.
    """

    def __init__(self, items: Sequence[Item], places: Sequence[Sequence[int]]) -> None:
        self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Batch:
        return collate([self.items[place] for place in self.places[index]])

    def loader(self, num_workers: int = 0) -> DataLoader:
        """One batch after the other; the sampler's kind keeps a trainer from sharing them out once more."""
        sampler = DistributedSampler(self, num_replicas=1, rank=0, shuffle=False)
        return DataLoader(self, batch_size=None, sampler=sampler, num_workers=num_workers, worker_init_fn=leave_signals)
