"""The data module that serves training and reconstruction alike."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset, Subset

from padis_lightning.data.batches import ItemLabel, SharedItems, StepBatches, leave_signals, spread_over_groups
from padis_lightning.data.conventions import Named
from padis_lightning.data.division import Division
from padis_lightning.data.generators import BrainSource, LeavesSource, ObjectSource, PhantomSource, photographs
from padis_lightning.data.notes import note
from padis_lightning.data.sources.base import Item, Source, collate
from padis_lightning.data.sources.crops import CropSource, MixedSource
from padis_lightning.data.sources.open import compared, open_source
from padis_lightning.data.sources.phases import PhaseSource
from padis_lightning.data.sources.volumes import VolumeSource, require_one_size
from padis_lightning.errors import InputError, require_at_least
from padis_lightning.files import safe_names
from padis_lightning.types import Normalisation

log = logging.getLogger(__name__)

TRAIN, VALIDATE, PREDICT, PURPOSES = 0, 1, 2, 3  # generated images of any two seeds and purposes differ
VALIDATION_CROPS = 16  # of each picture
TAKEN_BY = {"coils": "k-space", "axis": "projections"}  # others: sinograms
GENERATORS = {"phantoms": PhantomSource, "objects": ObjectSource, "leaves": LeavesSource, "brains": BrainSource}


def data_of(trainer: Trainer) -> Any:  # noqa: ANN401 - of whatever kind it is
    """Return the data module that a trainer works on."""
    return trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it


class ImageData(SharedItems, LightningDataModule):
    """Serves images for training, and images or measurements for reconstruction.

    Without a path there are built-in ones: chest phantoms, grey objects, colour dead leaves, complex brains (all generated:
    training, validation and prediction then use different seeds), or photographs, for prediction only.

    Args:
        path: a file or a folder; see :func:`padis_lightning.data.sources.open.open_source`.
        builtin: what there is without a path.
        size: side that images are brought to (generated ones: 128 by default; photographs: 256; files: as they are).
        batch_size: images a step and device.
        count: for prediction, take so many items, spread evenly over groups and in each (default: all; of generated ones 8).
        subset: for prediction: all, what ``fit`` trains or validates on, or the ``test`` part of a file that names its parts.
        range: stored values that become 0 and 1; auto finds the second from measured slices (default: the file's, else auto).
        generated: images to train on, where there is no path.
        validation: share of groups (patients) kept from training, where the file does not name those to validate on.
        crops: train on so many random squares of ``size`` of each picture, of whatever sizes, or of generated images of twice the
            sides (default: on whole pictures).
        leaves: share of the squares of pictures that are of built-in dead leaves instead, where pictures are few (default: none).
        training_groups: train on so many of the other groups (default: all), fewer a part of more.
        seed: key of phantoms, of the split and of the order.
        num_workers: processes that load.
        shard: for prediction, solve every ``shards``-th batch from this one on; all shards may share a folder.
        shards: parts that prediction is divided into.
        volumes: take slices that lie on each other as one item: each series, or the slices of each ``patient`` of a .npz by
            their ``z``; of built-in data, phantoms of 32 slices.
        depth: slices of a volume; higher stacks are cut into several (default: whole stacks).
        rows: of a scan of several rows, those to take, counted from 0 (default: all).
        pixel_spacing: side of a pixel, for scans that do not name it (default: pixels cover the width of the detector).
        remove_stripes: take off stripes of measured sinograms, which are rings in the image.
        views: take so many of the views of measured slices, evenly spread (default: all).
        coils: combine the coils of k-space to so many that hold most of it (default: all).
        measured: pictures are measurements: nothing is simulated, and their size, not ``size``, decides that of the images.
        reference: a file or a folder with the truth of measurements, by name, which is scored then.
        channels: bring pictures to 3 channels, grey in three equal ones, or to 1 (default: as they are).
        crop: cut the middle out of pictures that are not square.
        hu: values of files are Hounsfield units, where the files do not say so (NIfTI, TIFF, arrays).
        skip_bad: leave out files and series that cannot be used, each in a word (default: refuse all of them by name).
        random_phase: make complex images of magnitudes: each has a smooth phase of its own, drawn from ``seed``.
        axis: the bin, from 0, that sees a scan's axis of rotation; middle; auto to find it (default: the file's, else auto).
    """

    whole: Source

    def __init__(
        self,
        path: str | None = None,
        builtin: Literal["phantoms", "objects", "leaves", "brains", "photographs"] = "phantoms",
        size: int | None = None,
        batch_size: int = 16,
        count: int | None = None,
        subset: Literal["all", "train", "validation", "test"] = "all",
        range: tuple[float, float] | Literal["auto"] | None = None,  # noqa: A002 - the word that users type
        generated: int = 1000,
        validation: float = 0.1,
        crops: int | None = None,
        leaves: float = 0.0,
        training_groups: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        shard: int = 0,
        shards: int = 1,
        volumes: bool = False,
        depth: int | None = None,
        rows: int | list[int] | None = None,
        pixel_spacing: float | None = None,
        remove_stripes: bool = False,
        views: int | None = None,
        coils: int | None = None,
        measured: bool = False,
        reference: str | None = None,
        channels: Literal[1, 3] | None = None,
        crop: bool = False,
        hu: bool = False,
        skip_bad: bool = False,
        random_phase: bool = False,
        axis: Literal["auto", "middle"] | float | None = None,
    ) -> None:
        super().__init__()
        optional = {"count": count, "size": size, "crops": crops, "training_groups": training_groups, "depth": depth}
        require_at_least(1, generated=generated, **{name: value for name, value in optional.items() if value is not None})
        require_at_least(0, seed=seed, num_workers=num_workers)
        if validation is None or not 0 < validation < 1:
            raise InputError(f"validation is {validation}; wanted a share between 0 and 1")
        if not 0 <= leaves < 1 or (leaves and (crops is None or path is None)):
            raise InputError(f"leaves is {leaves}; wanted a share below 1, with crops and a path")
        if crops is not None and volumes:
            raise InputError(f"crops is {crops} with volumes; wanted pictures to cut them of")
        if depth is not None and not volumes:
            raise InputError(f"depth is {depth} and volumes false; wanted at least 1 slice, and --data.volumes true")
        if volumes and path is None and builtin != "phantoms":
            raise InputError(f"builtin is {builtin!r} and volumes true; wanted phantoms, or a path")
        if range is not None and path is None:
            raise InputError(f"range is {list(range)} without a path; wanted a path: built-in images are from 0 to 1")
        self.share_out(batch_size, shard, shards)
        self.path, self.builtin, self.size, self.count, self.subset = path, builtin, size, count, subset
        self.range, self.generated, self.validation, self.training_groups = range, generated, validation, training_groups
        self.crops, self.leaves = crops, leaves
        self.seed, self.num_workers, self.volumes, self.depth = seed, num_workers, volumes, depth
        self.scan = Named(rows, size, pixel_spacing, remove_stripes, views, coils)
        said = {"rows": rows, "pixel_spacing": pixel_spacing, "views": views, "coils": coils, "axis": axis}
        said |= {"remove_stripes": remove_stripes or None}
        self._said = {name: value for name, value in said.items() if value is not None}
        if path is None:
            self._require_taken((), "built-in data")
        if path is None and (measured or reference or crop or channels or random_phase):
            raise InputError(
                "measured, reference, channels, crop or random_phase is given and path null; wanted a file or a folder"
            )
        self.measured, self.reference, self.channels, self.crop = measured, reference, channels, crop
        self.hu, self.skip_bad, self.random_phase, self.axis = hu, skip_bad, random_phase, axis
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
            self.whole = self._phased(self._open())
            part = self.whole if self.subset == "all" else self._part(self.subset)
        elif self.subset == "test":
            raise InputError("subset is 'test'; wanted all, train or validation of what is built in")
        elif self.subset != "all":
            part = self._divided()[self.subset == "validation"]
        elif self.builtin == "photographs":
            part = self.whole = photographs(self.size or 256)
        else:
            part = self._generate(self.count or 8, PREDICT, keep=False)
        part = part if isinstance(part, Subset) else Subset(part, range(len(part)))
        if self.count is not None and self.count < len(part):
            kept = spread_over_groups([self.whole.groups[k] for k in part.indices], self.count)
            part = Subset(part.dataset, [part.indices[k] for k in kept])
        if self.batch_size > 1 and len({self.whole.shape(k) for k in part.indices}) > 1:
            log.warning("padis_lightning: %s have several sizes; they are solved one by one", self.whole.description)
            self.batch_size = 1
        self.batch_size = 1 if self.whole.singly else self.batch_size
        self._parts["predict"] = part

    def _open(self) -> Source:
        assert self.path is not None
        options: dict[str, Any] = {"channels": self.channels, "crop": self.crop}
        bounds = None if self.range == "auto" else self.range
        size = self.size if self.crops is None else None
        source = open_source(
            self.path,
            size,
            bounds,
            self.scan,
            measured=self.measured,
            hu=self.hu,
            skip_bad=self.skip_bad,
            volumes=self.volumes,
            **options,
        )
        self._require_taken(source.takes, source.description)
        if self.reference is not None:
            source = compared(source, self.reference, options)
        return VolumeSource(source, self.depth) if self.volumes and not source.volumetric else source

    def _require_taken(self, takes: Sequence[str], data: str) -> None:
        """Refuse what the user says of a scan where the data does not take it."""
        for name, value in self._said.items():
            if name not in takes:
                raise InputError(f"{name} is {value}, which {data} do not take; wanted {TAKEN_BY.get(name, 'sinograms')}")

    def _phased(self, source: Source) -> Source:
        return PhaseSource(source, self.seed) if self.random_phase else source

    def _generate(self, count: int, purpose: int, keep: bool = True, finer: int = 1) -> Source:
        seed, size = PURPOSES * self.seed + purpose, finer * (self.size or 128)
        depth = {"depth": self.depth or 32} if self.volumes else {}
        self.whole = GENERATORS[self.builtin](count, size, seed, keep, **depth)
        return self.whole

    def _divided(self) -> tuple[Source | Subset, Source | Subset]:
        """Return what is trained and what is validated on."""
        if self.path is None:
            if self.builtin not in GENERATORS:
                raise InputError(f"builtin is {self.builtin!r}; wanted one of {', '.join(GENERATORS)} to train on")
            counts = {VALIDATE: max(1, round(self.generated * self.validation)), TRAIN: self.generated}
            if self.crops is None:
                held, used = (self._generate(count, purpose) for purpose, count in counts.items())
                return used, held
            whole = (self._generate(count, purpose, keep=False, finer=2) for purpose, count in counts.items())
            held, used = (self._squares(images, self.crops) for images in whole)
            return used, held
        self.whole = self._open()
        if not self.whole.has_images:
            wanted = "a folder of scans of full k-space, or what prepare makes of it," if self.whole.singly else "'images'"
            raise InputError(f"{self.path} has only measurements; wanted {wanted} to train on")
        if self.crops is not None:
            pictures = self.whole
            if pictures.parts is None and len(set(pictures.groups)) == 1:
                note(f"{self.path} has 1 group; its squares are trained on and validated on, so that val/loss is too low")
                train = kept = list(range(len(pictures)))
            else:
                train, kept = (list(self._part(name).indices) for name in ("train", "validation"))
            checked = self._squares(pictures, VALIDATION_CROPS, kept)
            squares = self._squares(pictures, self.crops, train)
            return self._with_leaves(squares) if self.leaves else squares, checked
        self.whole = self._phased(self.whole)
        require_one_size(self.whole)
        return self._part("train"), self._part("validation")

    def _squares(self, images: Source, count: int, indices: list[int] | None = None) -> Source:
        """Return so many squares of each of these images."""
        indices = list(range(len(images))) if indices is None else indices
        self.whole = self._phased(CropSource(images, indices, count, self.size or 128, self.seed))
        return self.whole

    def _with_leaves(self, squares: Source) -> Source:
        """Return squares of pictures and so many of dead leaves that these have their share."""
        images = LeavesSource(self.generated, 2 * squares.image_shape[-1], PURPOSES * self.seed + TRAIN, keep=False)
        each = max(1, round(len(squares) * self.leaves / (1 - self.leaves) / self.generated))
        self.whole = MixedSource(squares, self._squares(images, each))
        return self.whole

    def _part(self, name: str) -> Subset:
        return Division(self.whole, self.path, self.validation, self.training_groups, self.seed).part(name)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Return channels, height and width; of volumes channels, slices, height and width."""
        return self.whole.image_shape

    @property
    def normalisation(self) -> Normalisation:
        """Return what stored values became 0 and 1."""
        return self.whole.normalisation

    @property
    def source(self) -> str:
        """Return a line for a checkpoint's provenance."""
        return self.whole.description

    def known_items(self, count: int) -> list[Item]:
        """Return so many items of validation, evenly from all groups; where it has fewer, items of training, too."""
        items: list[Item] = []
        for part in (self._parts["validation"], self._parts["fit"]):
            groups = [self.whole.groups[k] for k in part.indices] if isinstance(part, Subset) else part.groups
            items += [part[k] for k in spread_over_groups(groups, min(count - len(items), len(part)))]
        return items

    def train_dataloader(self) -> DataLoader:
        """Return a stream of ``trainer.max_steps`` steps, from the one that training is at."""
        trainer, data = self.trainer, self._parts["fit"]
        parts = trainer.accumulate_grad_batches  # batches an optimiser's step
        start, stop = trainer.global_step * parts, trainer.max_steps * parts
        batches = StepBatches(len(data), self.batch_size, self.seed, start, stop, trainer.global_rank, trainer.world_size)
        return self._loader(data, batch_sampler=batches)

    def val_dataloader(self) -> DataLoader:
        """Return what was kept from training."""
        return self._loader(self._parts["validation"], batch_size=self.batch_size)

    @property
    def item_labels(self) -> list[ItemLabel]:
        """Return the items to reconstruct, of all shards; sources and batches have the names that files were made of."""
        part = self._parts["predict"]
        assert isinstance(part, Subset)
        places = part.indices
        names = safe_names([self.whole.name(k) for k in places])
        return [ItemLabel(k, name, self.whole.groups[k]) for k, name in zip(places, names, strict=True)]

    def predict_dataloader(self) -> DataLoader:
        """Return what this device has left to reconstruct."""
        return self.left_loader(self._parts["predict"], self.num_workers)

    def _loader(self, data: Dataset, **batches: Any) -> DataLoader:  # noqa: ANN401 - how the items make batches
        return DataLoader(data, collate_fn=collate, num_workers=self.num_workers, worker_init_fn=leave_signals, **batches)
