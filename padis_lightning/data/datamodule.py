"""The data module that serves training and reconstruction alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler, Subset

from padis_lightning.data.arrays import read_arrays
from padis_lightning.data.sources import LeavesSource, PhantomSource, Source, collate, photographs
from padis_lightning.errors import InputError
from padis_lightning.random import seeded
from padis_lightning.types import Normalisation

SHUFFLE = 5  # purpose of the streams keyed by (seed, pass)
TRAIN, VALIDATE, PREDICT, PURPOSES = 0, 1, 2, 3  # generated images of any two seeds and purposes differ
GENERATORS = {"phantoms": PhantomSource, "leaves": LeavesSource}


class StepBatches(Sampler[list[int]]):
    """Batches keyed by (seed, step): passes through shuffled data, end to end, cut into steps and shared among devices.

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
            shuffles = {p: shuffles.get(p) or self._shuffle(p) for p in passes}
            yield [shuffles[place // self.count][place % self.count] for place in places]

    def _shuffle(self, number: int) -> list[int]:
        return torch.randperm(self.count, generator=seeded(self.seed, number, SHUFFLE)).tolist()


def spread(groups: list[str], count: int) -> list[int]:
    """``count`` positions that take from all groups (patients) in turn, and evenly within each."""
    places: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    names = list(places)
    if count < len(names):
        turns = [names[int(i)] for i in np.linspace(0, len(names) - 1, count).round()]
    else:
        turns = [name for k in range(len(groups)) for name in names if len(places[name]) > k][:count]
    picked = []
    for group, share in Counter(turns).items():
        steps = (np.arange(share) + 0.5) * len(places[group]) / share
        picked += [places[group][int(step)] for step in steps]
    return sorted(picked)


class ImageData(LightningDataModule):
    """Images for training, images or measurements for reconstruction.

    Without a path there are built-in ones: chest phantoms, colour dead leaves (both generated: training, validation and
    prediction then use different seeds), or photographs, for prediction only.

    Args:
        path: a ``.npz`` or ``.npy`` file; see :func:`padis_lightning.data.arrays.read_arrays`.
        builtin: what there is without a path.
        size: side that images are brought to (generated ones: 128 by default; photographs: 256; files: as they are).
        batch_size: images a step and device.
        count: for prediction, take so many items, spread evenly over groups and in each (default: all; of generated ones 8).
        subset: for prediction, which part of the split: all, or what ``fit`` trains or validates on.
        range: stored values that become 0 and 1, where the file does not say.
        generated: images to train on, where there is no path.
        validation: share of groups (patients) kept from training.
        training_groups: train on so many of the other groups (default: all), fewer a part of more.
        seed: key of phantoms, of the split and of the order.
        num_workers: processes that load.
    """

    def __init__(
        self,
        path: str | None = None,
        builtin: Literal["phantoms", "leaves", "photographs"] = "phantoms",
        size: int | None = None,
        batch_size: int = 16,
        count: int | None = None,
        subset: Literal["all", "train", "validation"] = "all",
        range: tuple[float, float] | None = None,  # noqa: A002 - the word that users type
        generated: int = 1000,
        validation: float = 0.1,
        training_groups: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; wanted at least 1")
        if count is not None and count < 1:
            raise InputError(f"count is {count}; wanted at least 1")
        if size is not None and size < 1:
            raise InputError(f"size is {size}; wanted at least 1")
        if generated < 1:
            raise InputError(f"generated is {generated}; wanted at least 1")
        if seed < 0:
            raise InputError(f"seed is {seed}; wanted at least 0")
        if training_groups is not None and training_groups < 1:
            raise InputError(f"training_groups is {training_groups}; wanted at least 1")
        if not 0 < validation < 1:
            raise InputError(f"validation is {validation:g}; wanted a share between 0 and 1")
        self.path, self.size, self.batch_size, self.count, self.subset = path, size, batch_size, count, subset
        self.builtin, self.range, self.generated, self.validation = builtin, range, generated, validation
        self.training_groups = training_groups
        self.seed, self.num_workers = seed, num_workers
        self._parts: dict[str, Source | Subset] = {}

    def setup(self, stage: str) -> None:
        """Read or generate what ``fit``, ``validate`` or ``predict`` needs, once."""
        stage = "fit" if stage == "validate" else stage
        if stage in self._parts:
            return
        if stage == "fit":
            self._parts["fit"], self._parts["validation"] = self._divided()
            return
        if self.subset != "all":
            part: Source | Subset = self._divided()[self.subset == "validation"]
        elif self.path is None and self.builtin == "photographs":
            part = self._whole = photographs(self.size or 256)
        elif self.path is None:
            part = self._generate(self.count or 8, PREDICT)
        else:
            part = self._whole = read_arrays(self.path, self.size, self.range)
        if self.count is not None and self.count < len(part):
            groups = part.groups if isinstance(part, Source) else [self._whole.groups[i] for i in part.indices]
            part = Subset(part, spread(groups, self.count))
        self._parts["predict"] = part

    def _generate(self, count: int, purpose: int) -> Source:
        self._whole = GENERATORS[self.builtin](count, self.size or 128, PURPOSES * self.seed + purpose)
        return self._whole

    def _divided(self) -> tuple[Source | Subset, Source | Subset]:
        """What is trained and what is validated on."""
        if self.path is None:
            if self.builtin not in GENERATORS:
                raise InputError(f"builtin is {self.builtin!r}; wanted {' or '.join(GENERATORS)} to train on")
            held = self._generate(max(1, round(self.generated * self.validation)), VALIDATE)
            return self._generate(self.generated, TRAIN), held
        self._whole = whole = read_arrays(self.path, self.size, self.range)
        if whole.images is None:
            raise InputError(f"{self.path} has only measurements; wanted 'images' to train on")
        train, held = self.split(whole.groups)
        return Subset(whole, train), Subset(whole, held)

    def split(self, groups: list[str]) -> tuple[list[int], list[int]]:
        """Items for training and for validation; a group is in one of them only."""
        names = sorted(set(groups))
        order = torch.randperm(len(names), generator=seeded(self.seed, 0, SHUFFLE)).tolist()
        kept = max(1, round(len(names) * self.validation))
        count = len(names) - kept if self.training_groups is None else self.training_groups
        if len(names) < 2:
            raise InputError(f"{self.path} has {len(names)} group; wanted at least 2, one to train and one to validate on")
        if count > len(names) - kept:
            raise InputError(f"training_groups is {count}; wanted at most {len(names) - kept}, which validation leaves")
        held, used = ({names[i] for i in part} for part in (order[:kept], order[kept : kept + count]))
        train, validation = ([i for i, g in enumerate(groups) if g in names] for names in (used, held))
        return train, validation

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self._whole.image_shape

    @property
    def normalisation(self) -> Normalisation:
        """What stored values became 0 and 1."""
        return self._whole.normalisation

    @property
    def whole(self) -> Source:
        """What items are numbered in, whether or not all of them are used."""
        return self._whole

    @property
    def source(self) -> str:
        """A line for a checkpoint's provenance."""
        return self._whole.description

    def train_dataloader(self) -> DataLoader:
        """A stream of ``trainer.max_steps`` steps, from the one that training is at."""
        trainer, data = self.trainer, self._parts["fit"]
        parts = trainer.accumulate_grad_batches  # batches an optimiser's step
        batches = StepBatches(
            len(data),
            self.batch_size,
            self.seed,
            trainer.global_step * parts,
            trainer.max_steps * parts,
            trainer.global_rank,
            trainer.world_size,
        )
        return DataLoader(data, batch_sampler=batches, collate_fn=collate, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        """What was kept from training."""
        return DataLoader(self._parts["validation"], batch_size=self.batch_size, collate_fn=collate, num_workers=self.num_workers)

    def predict_dataloader(self) -> DataLoader:
        """What is to be reconstructed."""
        return DataLoader(self._parts["predict"], batch_size=self.batch_size, collate_fn=collate, num_workers=self.num_workers)
