"""Decide what goes into a prepared file: the series, the range of their values, and the part that each patient is in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from padis_lightning import __version__
from padis_lightning.commands.prepare.grid import Grid
from padis_lightning.data.names import unique
from padis_lightning.data.ranges import HU_WINDOW
from padis_lightning.data.readers import open_series
from padis_lightning.data.readers.npz import open_arrays
from padis_lightning.data.sources.prepared import FORMAT, PARTS, VERSION
from padis_lightning.data.sources.series import Series
from padis_lightning.errors import InputError, require_above, require_at_least
from padis_lightning.random import seeded

LEVELS = {"uint16": 65535, "uint8": 255}  # steps over the range
SPLIT = 7  # purpose of the stream that patients are shuffled by


@dataclass(frozen=True)
class Settings:
    """Hold what decides the content of a prepared file besides its sources; see ``prepare --help``."""

    size: int | None = None
    spacing: float | None = None
    range: tuple[float, float] | None = None
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    dtype: str = "uint16"
    every: int = 1
    seed: int = 0
    licence: str = ""

    def __post_init__(self) -> None:
        require_at_least(1, size=1 if self.size is None else self.size, every=self.every)
        require_at_least(0, seed=self.seed)
        require_above(0, spacing=1 if self.spacing is None else self.spacing)
        if self.range is not None and not -math.inf < self.range[0] < self.range[1] < math.inf:
            raise InputError(f"range is {self.range[0]:g} {self.range[1]:g}; wanted two values, the lower first")
        if not (min(self.split) >= 0 and abs(sum(self.split) - 1) < 1e-6):
            raise InputError(f"split is {' '.join(f'{share:g}' for share in self.split)}; wanted three shares that add up to 1")


@dataclass(frozen=True)
class Plan(Dataset):
    """List the slices of a prepared file; an item is a slice as it is stored.

    Attributes:
        settings: what was asked for.
        series: what is read, with names that no two share.
        grids: the grid of each series.
        places: for each slice of the file its series and its number there.
        shape: of a slice as it is stored, ``(H, W)`` or ``(H, W, C)``.
        range: values in units that become 0 and 1.
        units: ``HU`` or empty.
        parts: the part of each group.
        files: what is read, with the names that the manifest gives them.
    """

    settings: Settings
    series: list[Series]
    grids: list[Grid]
    places: list[tuple[int, int]]
    shape: tuple[int, ...]
    range: tuple[float, float]
    units: str
    parts: dict[str, str]
    files: list[tuple[str, Path]]

    @property
    def scale(self) -> tuple[float, float]:
        """Return slope and intercept: a value in units is ``stored * slope + intercept``."""
        low, high = self.range
        levels = LEVELS.get(self.settings.dtype)
        return ((high - low) / levels, low) if levels else (1.0, 0.0)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> np.ndarray:
        which, k = self.places[i]
        series, (low, high), (slope, intercept) = self.series[which], self.range, self.scale
        values = np.clip(series.read(k), low, high).reshape(*series.shape[:2], series.channels)
        image = self.grids[which].resample(torch.from_numpy(values).movedim(-1, 0), low)
        image = image.movedim(0, -1).reshape(self.shape).numpy()
        levels = LEVELS.get(self.settings.dtype)
        return np.rint((image.astype(float) - intercept) / slope).clip(0, levels).astype(self.settings.dtype) if levels else image

    def __str__(self) -> str:
        shared = ", ".join(f"{part} {count['slices']}" for part, count in self.counts().items())
        size, (low, high) = "x".join(map(str, self.shape)), self.range
        held = f"{len(self)} slices of {size} {self.settings.dtype}, {len(self.parts)} groups ({shared})"
        return f"{held}, values from {low:g} to {high:g} {self.units}".rstrip()

    def labels(self) -> dict[str, list[str]]:
        """Return name, group and part of each slice."""
        groups = [self.series[which].group for which, _ in self.places]
        names = [f"{self.series[which].name}_{k:04d}" for which, k in self.places]
        return {"name": names, "group": groups, "part": [self.parts[group] for group in groups]}

    def affines(self) -> np.ndarray:
        """Return the affine of each slice, ``(n, 4, 4)``, NaN where it is unknown."""
        out = np.full((len(self), 4, 4), np.nan)
        for i, (which, k) in enumerate(self.places):
            if self.series[which].affine is not None:
                out[i] = self.grids[which].slice_affine(self.series[which].affine, k)
        return out

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the numbers of slices and groups in each part."""
        slices = Counter(self.parts[self.series[which].group] for which, _ in self.places)
        groups = Counter(self.parts.values())
        return {part: {"slices": slices[part], "groups": groups[part]} for part in PARTS}

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the file but for the manifest, as :class:`PreparedSource` reads them."""
        slope, intercept = self.scale
        out = {"format": FORMAT, "version": VERSION, "slope": slope, "intercept": intercept, "units": self.units}
        return out | {"range": self.range} | ({"window": self.range} if self.units == "HU" else {})

    def manifest(self, hashes: Sequence[str], images: str) -> dict[str, Any]:
        """Return where the values come from and what was done to them, given the SHA-256 of each file and of the images."""
        settings = asdict(self.settings)
        return {
            "sources": [
                {"name": name, "size": file.stat().st_size, "sha256": digest}
                for (name, file), digest in zip(self.files, hashes, strict=True)
            ],
            "licence": settings.pop("licence"),
            "units": self.units,
            "range": list(self.range),
            "window": list(self.range) if self.units == "HU" else None,
            "counts": self.counts(),
            "settings": settings,
            "images": {"sha256": images},
            "padis_lightning": __version__,
        }


def make_plan(sources: Sequence[Path], settings: Settings) -> Plan:
    """Open the sources and decide all but the values, of which none is read.

    Raises:
        InputError: a source cannot be read, the sources do not go together, or the settings do not fit them.
    """
    opened = [(source, _open(source, settings)) for source in sources]
    series = unique([one for _, found in opened for one in found])
    units = _shared("units", {one.units for one in series})
    channels = _shared("numbers of channels", {one.channels for one in series})
    grids = [Grid.of(one, settings.size, settings.spacing) for one in series]
    sizes = {grid.after for grid in grids}
    if len(sizes) > 1:
        seen = ", ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise InputError(f"the slices have the sizes {seen}; wanted one, or --size")
    places = [(which, k) for which, one in enumerate(series) for k in range(0, one.count, settings.every)]
    shape = (*sizes.pop(), channels) if channels > 1 else sizes.pop()
    value_range = _range(series, units, settings.range)
    parts = split([one.group for one in series], settings.split, settings.seed)
    return Plan(settings, series, grids, places, shape, value_range, units, parts, _files(opened))


def _open(source: Path, settings: Settings) -> list[Series]:
    if not source.exists():
        raise InputError(f"there is no file or folder {str(source)!r}; wanted data")
    return open_arrays(source, settings.range) if source.suffix in (".npz", ".npy") else open_series(source)


def _shared(what: str, values: set) -> Any:  # noqa: ANN401 - whatever the values are
    if len(values) > 1:
        seen = " and ".join(sorted(str(value) or "none" for value in values))
        raise InputError(f"the sources have the {what} {seen}; wanted one")
    return values.pop()


def _range(series: Sequence[Series], units: str, asked: tuple[float, float] | None) -> tuple[float, float]:
    implied = {one.range for one in series} if asked is None else {asked}
    if len(implied) == 1 and None not in implied:
        low, high = implied.pop()
        return float(low), float(high)
    if units == "HU":
        return HU_WINDOW
    raise InputError("the sources have no range of values in common; wanted --range LOW HIGH")


def _files(opened: Sequence[tuple[Path, list[Series]]]) -> list[tuple[str, Path]]:
    """Return the files that are read, with names relative to the folder in which the source lies."""
    found: dict[Path, str] = {}
    for source, series in opened:
        for file in dict.fromkeys(file.resolve() for one in series for file in one.files or (source,)):
            if file in found:
                raise InputError(f"{file} belongs to two sources; wanted each slice once")
            root = source.resolve().parent
            found[file] = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
    return [(name, file) for file, name in found.items()]


def split(groups: Sequence[str], shares: Sequence[float], seed: int) -> dict[str, str]:
    """Return the part of each group, by chance; every share is met within one group.

    Args:
        groups: labels, in any order and number.
        shares: shares of the groups, one for each of :data:`PARTS`.
        seed: key of the shuffle.

    Raises:
        InputError: there are too few groups for one in every part that has a share.
    """
    names = sorted(set(groups))
    wanted = [share * len(names) for share in shares]
    counts = [max(1, math.floor(n)) if n > 0 else 0 for n in wanted]
    while sum(counts) < len(names):
        counts[max(range(len(counts)), key=lambda i: wanted[i] - counts[i])] += 1
    while sum(counts) > len(names) and max(counts) > 1:
        counts[max((i for i, n in enumerate(counts) if n > 1), key=lambda i: counts[i] - wanted[i])] -= 1
    if sum(counts) > len(names) or any(abs(n - count) > 1 + 1e-6 for n, count in zip(wanted, counts, strict=True)):
        seen, asked = f"{len(names)} group{'s' * (len(names) > 1)}", " ".join(f"{share:g}" for share in shares)
        wish = f"wanted enough for --split {asked} to leave one in each part, or other shares such as 1 0 0"
        raise InputError(f"the sources have {seen}; {wish}")
    order = torch.randperm(len(names), generator=seeded(seed, 0, SPLIT)).tolist()
    parts = [part for part, count in zip(PARTS, counts, strict=True) for _ in range(count)]
    return {names[i]: part for i, part in zip(order, parts, strict=True)}
