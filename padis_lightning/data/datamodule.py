"""The data module that serves training and reconstruction alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from padis_lightning.data.batches import Listed, check_shard, leave_signals, left_loader
from padis_lightning.data.sources.base import LeavesSource, PhantomSource, Source, collate, photographs
from padis_lightning.data.sources.open import open_source
from padis_lightning.data.sources.volumes import PhantomVolumes, VolumeSource
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


def numbers(part: Dataset) -> list[int]:
    """Where the items of a part are in the whole."""
    if isinstance(part, Subset):
        inner = numbers(part.dataset)
        return [inner[index] for index in part.indices]
    return list(range(len(part)))


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
    for group, wanted in Counter(turns).items():
        steps = (np.arange(wanted) + 0.5) * len(places[group]) / wanted
        picked += [places[group][int(step)] for step in steps]
    return sorted(picked)


class ImageData(LightningDataModule):
    """Images for training, images or measurements for reconstruction.

    Without a path there are built-in ones: chest phantoms, colour dead leaves (both generated: training, validation and
    prediction then use different seeds), or photographs, for prediction only.

    Args:
        path: a file or a folder; see :func:`padis_lightning.data.sources.open.open_source`.
        builtin: what there is without a path.
        size: side that images are brought to (generated ones: 128 by default; photographs: 256; files: as they are).
        batch_size: images a step and device.
        count: for prediction, take so many items, spread evenly over groups and in each (default: all; of generated ones 8).
        subset: for prediction, which part of the split: all, what ``fit`` trains or validates on, or the ``test`` part of a file
            that names its parts.
        range: stored values that become 0 and 1, where the file does not say.
        generated: images to train on, where there is no path.
        validation: share of groups (patients) kept from training, where the file does not name its parts.
        training_groups: train on so many of the other groups (default: all), fewer a part of more.
        seed: key of phantoms, of the split and of the order.
        num_workers: processes that load.
        shard: for prediction, solve every ``shards``-th batch from this one on; all shards may share a folder.
        shards: parts that prediction is divided into.
        volumes: take slices that lie on each other as one item: each series, or the slices of each ``patient`` of a .npz by
            their ``z``; of built-in data, phantoms of 32 slices.
        depth: slices of a volume; higher stacks are cut into several (default: whole stacks).
    """

    def __init__(
        self,
        path: str | None = None,
        builtin: Literal["phantoms", "leaves", "photographs"] = "phantoms",
        size: int | None = None,
        batch_size: int = 16,
        count: int | None = None,
        subset: Literal["all", "train", "validation", "test"] = "all",
        range: tuple[float, float] | None = None,  # noqa: A002 - the word that users type
        generated: int = 1000,
        validation: float = 0.1,
        training_groups: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        shard: int = 0,
        shards: int = 1,
        volumes: bool = False,
        depth: int | None = None,
    ) -> None:
        super().__init__()
        check_shard(shard, shards)
        if depth is not None and not (volumes and depth >= 1):
            raise InputError(
                f"depth is {depth} and volumes {str(volumes).lower()}; wanted at least 1 slice, and --data.volumes true"
            )
        if volumes and path is None and builtin != "phantoms":
            raise InputError(f"builtin is {builtin!r} and volumes true; wanted phantoms, or a path")
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
        self.shard, self.shards = shard, shards
        self.allow_zero_length_dataloader_with_multiple_devices = True  # of what is left there may be less than devices
        self.volumes, self.depth = volumes, depth
        #: places of what :attr:`listed` has and need not be solved
        self.done: set[int] = set()
        self._parts: dict[str, Source | Subset] = {}

    def setup(self, stage: str) -> None:
        """Read or generate what ``fit``, ``validate`` or ``predict`` needs, once."""
        stage = "fit" if stage == "validate" else stage
        if stage in self._parts:
            return
        if stage == "fit":
            self._parts["fit"], self._parts["validation"] = self._divided()
            return
        if self.path is not None:
            self._whole = self._open()
            part: Source | Subset = self._whole if self.subset == "all" else self._part(self.subset)
        elif self.subset == "test":
            raise InputError("subset is 'test'; wanted all, train or validation of what is built in")
        elif self.subset != "all":
            part = self._divided()[self.subset == "validation"]
        elif self.builtin == "photographs":
            part = self._whole = photographs(self.size or 256)
        else:
            part = self._generate(self.count or 8, PREDICT, keep=False)
        if self.count is not None and self.count < len(part):
            part = Subset(part, spread([self._whole.groups[i] for i in numbers(part)], self.count))
        self._parts["predict"] = part

    def _open(self) -> Source:
        source = open_source(self.path, self.size, self.range)
        return VolumeSource(source, self.depth) if self.volumes and len(source.image_shape) == 3 else source

    def _generate(self, count: int, purpose: int, keep: bool = True) -> Source:
        seed, size = PURPOSES * self.seed + purpose, self.size or 128
        if self.volumes:
            self._whole = PhantomVolumes(count, self.depth or 32, size, seed, keep)
        else:
            self._whole = GENERATORS[self.builtin](count, size, seed, keep)
        return self._whole

    def _divided(self) -> tuple[Source | Subset, Source | Subset]:
        """What is trained and what is validated on."""
        if self.path is None:
            if self.builtin not in GENERATORS:
                raise InputError(f"builtin is {self.builtin!r}; wanted {' or '.join(GENERATORS)} to train on")
            held = self._generate(max(1, round(self.generated * self.validation)), VALIDATE)
            return self._generate(self.generated, TRAIN), held
        self._whole = self._open()
        if not self._whole.has_images:
            raise InputError(f"{self.path} has only measurements; wanted 'images' to train on")
        return self._part("train"), self._part("validation")

    def _part(self, name: str) -> Subset:
        """Items of one part, as the file names them or else as they are split."""
        groups, parts = self._whole.groups, self._whole.parts
        if parts is None and name == "test":
            raise InputError(f"subset is 'test' and {self.path} names no parts; wanted all, train or validation")
        if parts is None:
            return Subset(self._whole, self.split(groups)[name == "validation"])
        items = [i for i, part in enumerate(parts) if part == name]
        if not items:
            raise InputError(f"{self.path} has nothing in the part {name!r}; wanted one of {', '.join(sorted(set(parts)))}")
        if name == "train":
            used = self._training(self._shuffled({groups[i] for i in items}), "the part 'train' has")
            items = [i for i in items if groups[i] in used]
        return Subset(self._whole, items)

    def split(self, groups: list[str]) -> tuple[list[int], list[int]]:
        """Items for training and for validation; a group is in one of them only."""
        names = self._shuffled(set(groups))
        if len(names) < 2:
            raise InputError(f"{self.path} has {len(names)} group; wanted at least 2, one to train and one to validate on")
        kept = max(1, round(len(names) * self.validation))
        held, used = set(names[:kept]), self._training(names[kept:], "validation leaves")
        train, validation = ([i for i, g in enumerate(groups) if g in names] for names in (used, held))
        return train, validation

    def _shuffled(self, groups: set[str]) -> list[str]:
        names = sorted(groups)
        return [names[i] for i in torch.randperm(len(names), generator=seeded(self.seed, 0, SHUFFLE)).tolist()]

    def _training(self, names: list[str], origin: str) -> set[str]:
        """The groups to train on, fewer a part of more."""
        count = len(names) if self.training_groups is None else self.training_groups
        if count > len(names):
            raise InputError(f"training_groups is {count}; wanted at most {len(names)}, which {origin}")
        return set(names[:count])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width; of volumes channels, slices, height and width."""
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
        return self._loader(data, batch_sampler=batches)

    def val_dataloader(self) -> DataLoader:
        """What was kept from training."""
        return self._loader(self._parts["validation"], batch_size=self.batch_size)

    @property
    def listed(self) -> list[Listed]:
        """The items to reconstruct, of all shards."""
        return [Listed(k, self._whole.name(k), self._whole.groups[k]) for k in numbers(self._parts["predict"])]

    def predict_dataloader(self) -> DataLoader:
        """What this device has left to reconstruct."""
        return left_loader(self, self._parts["predict"], self.num_workers)

    def _loader(self, data: Dataset, **batches: Any) -> DataLoader:  # noqa: ANN401 - how the items make batches
        workers = {"num_workers": self.num_workers, "worker_init_fn": leave_signals}
        return DataLoader(data, collate_fn=collate, **workers, **batches)
