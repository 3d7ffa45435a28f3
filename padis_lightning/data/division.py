"""Which items are trained on, which are kept for validation, and which to test on."""

from __future__ import annotations

from torch.utils.data import Subset

from padis_lightning.data.batches import shuffled
from padis_lightning.data.notes import note
from padis_lightning.data.sources.base import Source
from padis_lightning.errors import InputError


class Division:
    """Divides items into parts: as their file names them, or else by groups, such as patients, each in one part only.

    Args:
        source: the items.
        path: where they are from, as messages name it.
        validation: share of the groups that is kept from training, where the file names none to validate on.
        training_groups: train on so many of the other groups (None: all), fewer a part of more.
        seed: of the order of the groups.
    """

    def __init__(self, source: Source, path: str | None, validation: float, training_groups: int | None, seed: int) -> None:
        self.source, self.path, self.validation = source, path, validation
        self.training_groups, self.seed = training_groups, seed

    def part(self, name: str) -> Subset:
        """Return the items of ``train``, ``validation`` or ``test``.

        Raises:
            InputError: there are none, or fewer groups than are wanted.
        """
        groups, parts = self.source.groups, self.source.parts
        if parts is None and name == "test":
            raise InputError(f"subset is 'test' and {self.path} names no parts; wanted all, train or validation")
        if parts is None or (name != "test" and "train" in parts and "validation" not in parts):
            items = [i for i in range(len(groups)) if parts is None or parts[i] == "train"]
            used = self._groups({groups[i] for i in items})[name == "validation"]
            if parts is not None:
                note(f"{self.path} has no part 'validation'; a share of the groups of 'train' is kept for it (data.validation)")
            return Subset(self.source, [i for i in items if groups[i] in used])
        items = [i for i, part in enumerate(parts) if part == name]
        if not items:
            raise InputError(f"{self.path} has nothing in the part {name!r}; wanted one of {', '.join(sorted(set(parts)))}")
        if name == "train":
            used = self._first(shuffled(sorted({groups[i] for i in items}), self.seed), "the part 'train' has")
            items = [i for i in items if groups[i] in used]
        return Subset(self.source, items)

    def _groups(self, groups: set[str]) -> tuple[set[str], set[str]]:
        """Divide groups into those to train and to validate on, where the file does not."""
        names = shuffled(sorted(groups), self.seed)
        if len(names) < 2:
            raise InputError(f"{self.path} has {len(names)} group; wanted at least 2, one to train and one to validate on")
        kept = min(max(1, round(len(names) * self.validation)), len(names) - 1)
        return self._first(names[kept:], "validation leaves"), set(names[:kept])

    def _first(self, names: list[str], origin: str) -> set[str]:
        """Return the groups to train on of those that there are."""
        count = len(names) if self.training_groups is None else self.training_groups
        if count > len(names):
            raise InputError(f"training_groups is {count}; wanted at most {len(names)}, which {origin}")
        return set(names[:count])
