"""Decide what goes into a prepared file: the series, the range of their values, and the part that each patient is in."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from padis_lightning import __version__
from padis_lightning.commands.prepare.grid import Grid
from padis_lightning.data.names import unique
from padis_lightning.data.ranges import HU_WINDOW, for_channels
from padis_lightning.data.readers import found_series
from padis_lightning.data.readers.npz import open_arrays
from padis_lightning.data.sources.prepared import FORMAT, PARTS, VERSION
from padis_lightning.data.sources.series import Series, in_hounsfield_units, settle
from padis_lightning.errors import InputError
from padis_lightning.random import seeded
from padis_lightning.results.records import digest
from padis_lightning.types import Normalisation

BEYOND = 2  # what 1 stands for is estimated for k-space: magnitudes are kept so far above it
LEVELS = {"uint16": 65535, "uint8": 255}  # steps over the range
SPLIT = 7  # purpose of the stream that patients are shuffled by
SETTINGS = ("size", "spacing", "range", "split", "dtype", "every", "seed")  # options that the manifest names


@dataclass(frozen=True)
class Plan(Dataset):
    """List the slices of a prepared file; an item is a slice as it is stored.

    Attributes:
        options: of the command line.
        slices: for each slice of the file its series, its number there, and the grid.
        shape: of a slice as it is stored, ``(H, W)`` or ``(H, W, C)``.
        range: values in units that become 0 and 1.
        units: ``HU`` or empty.
        parts: the part of each group.
        files: the names that the manifest gives to what is read.
    """

    options: Namespace
    slices: list[tuple[Series, int, Grid]]
    shape: tuple[int, ...]
    range: tuple[float, float]
    units: str
    parts: dict[str, str]
    files: dict[Path, str]

    @property
    def dtype(self) -> str:
        """Return the type of the stored numbers."""
        return self.options.dtype

    @property
    def ends(self) -> tuple[float, float]:
        """Return the lowest and the highest value that is stored, of complex images, which have two channels, of a part."""
        most = BEYOND * self.range[1]
        return (-most, most) if self.shape[2:] == (2,) else self.range

    @property
    def scale(self) -> tuple[float, float]:
        """Return slope and intercept: a value in units is ``stored * slope + intercept``."""
        low, high = self.ends
        return ((high - low) / LEVELS[self.dtype], low) if self.dtype in LEVELS else (1.0, 0.0)

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, i: int) -> np.ndarray:
        (series, k, grid), (low, high), (slope, intercept) = self.slices[i], self.ends, self.scale
        values = series.read(k).reshape(*series.shape[:2], series.channels)
        if self.ends == self.range:
            values = np.clip(values, low, high)
        else:  # the magnitude of complex ones, so that the phase stays
            values *= high / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), high)
        image = grid.resample(torch.from_numpy(values).movedim(-1, 0), self.range[0])
        pixels = image.movedim(0, -1).reshape(self.shape).numpy()
        if self.dtype not in LEVELS:
            return pixels
        return np.rint((pixels.astype(float) - intercept) / slope).clip(0, LEVELS[self.dtype]).astype(self.dtype)

    def __str__(self) -> str:
        shared = ", ".join(f"{part} {count['slices']}" for part, count in self.counts().items())
        size, (low, high) = "x".join(map(str, self.shape)), self.range
        held = f"{len(self)} slices of {size} {self.dtype}, {len(self.parts)} groups ({shared})"
        return f"{held}, values from {low:g} to {high:g} {self.units}".rstrip()

    def labels(self) -> dict[str, list[str]]:
        """Return name, group and part of each slice."""
        groups = [series.group for series, _, _ in self.slices]
        names = [f"{series.name}_{k:04d}" for series, k, _ in self.slices]
        return {"name": names, "group": groups, "part": [self.parts[group] for group in groups]}

    def affines(self) -> np.ndarray:
        """Return the affine of each slice, ``(n, 4, 4)``, NaN where it is unknown."""
        unknown = np.full((4, 4), np.nan)
        return np.stack([unknown if s.affine is None else grid.slice_affine(s.affine, k) for s, k, grid in self.slices])

    def units_of_one(self) -> np.ndarray | None:
        """Return the magnitude that became 1 in each slice, ``(n,)``, where every series has one of its own."""
        found = [series.unit for series, _, _ in self.slices]
        return None if None in found else np.array(found)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the numbers of slices and groups in each part."""
        slices, groups = Counter(self.labels()["part"]), Counter(self.parts.values())
        return {part: {"slices": slices[part], "groups": groups[part]} for part in PARTS}

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the file but for the manifest, as :class:`PreparedSource` reads them."""
        slope, intercept = self.scale
        out = {"format": FORMAT, "version": VERSION, "slope": slope, "intercept": intercept, "units": self.units}
        return out | {"range": self.range} | ({"window": self.range} if self.units == "HU" else {})

    def manifest(self) -> dict[str, Any]:
        """Return where the values come from and what is done to them; every file is read for its SHA-256."""
        files = tqdm(self.files.items(), desc="hash", unit="file", leave=False, disable=None)
        return {
            "sources": [{"name": name, "size": file.stat().st_size, "sha256": digest(file)} for file, name in files],
            "licence": self.options.licence,
            "units": self.units,
            "range": list(self.range),
            "window": list(self.range) if self.units == "HU" else None,
            "counts": self.counts(),
            "settings": {key: getattr(self.options, key) for key in SETTINGS},
            "padis_lightning": __version__,
        }


def make_plan(sources: Sequence[Path], options: Namespace) -> Plan:
    """Open the sources and decide all but the values, of which none is read.

    Raises:
        InputError: a source cannot be read, the sources do not go together, or the options do not fit them.
    """
    opened = _usable([(source, _open(source, options)) for source in sources], options)
    series = unique([one for _, found in opened for one in found])
    units = _shared("units", {one.units for one in series})
    channels = _shared("numbers of channels", {one.channels for one in series})
    grids = [Grid.of(one, options.size, options.spacing) for one in series]
    sizes = {grid.after for grid in grids}
    if len(sizes) > 1:
        seen = ", ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise InputError(f"the slices have the sizes {seen}; wanted one, or --size")
    shape = (*sizes.pop(), channels) if channels > 1 else sizes.pop()
    slices = [(one, k, grid) for one, grid in zip(series, grids, strict=True) for k in range(0, one.count, options.every)]
    low, high = value_range = _range(series, units, options.range)
    for_channels(Normalisation(low, high), channels, "the sources")
    parts = split([one.group for one in series], options.split, options.seed)
    return Plan(options, slices, shape, value_range, units, parts, _files(opened))


def _open(source: Path, options: Namespace) -> list[Series]:
    if not source.exists():
        raise InputError(f"there is no file or folder {str(source)!r}; wanted data")
    if source.suffix in (".npz", ".npy"):
        return open_arrays(source, HU_WINDOW if options.hu else options.range)
    return found_series(source)


def _usable(opened: list[tuple[Path, list[Series]]], options: Namespace) -> list[tuple[Path, list[Series]]]:
    """Leave out or refuse the odd series of all sources at once, and give the others the units that the user names."""
    usable = settle([one for _, found in opened for one in found], skip_bad=options.skip_bad, option="--skip_bad")
    chosen, known = {id(one) for one in usable}, in_hounsfield_units if options.hu else lambda one: one
    return [(source, [known(one) for one in found if id(one) in chosen]) for source, found in opened]


def _shared(what: str, values: set) -> Any:  # noqa: ANN401 - whatever the values are
    if len(values) > 1:
        seen = " and ".join(sorted(str(value) or "none" for value in values))
        raise InputError(f"the sources have the {what} {seen}; wanted one")
    return values.pop()


def _range(series: Sequence[Series], units: str, asked: Sequence[float] | None) -> tuple[float, float]:
    implied = {one.range for one in series} if asked is None else {tuple(asked)}
    pair = implied.pop() if len(implied) == 1 else None
    if pair is None and units != "HU":
        raise InputError("the sources have no range of values in common; wanted --range LOW HIGH, or --hu where they are HU")
    low, high = pair or HU_WINDOW
    return float(low), float(high)


def _files(opened: Sequence[tuple[Path, list[Series]]]) -> dict[Path, str]:
    """Return the files that are read, with names relative to the folder in which the source lies."""
    found: dict[Path, str] = {}
    for source, series in opened:
        for file in dict.fromkeys(file.resolve() for one in series for file in one.files or (source,)):
            if file in found:
                raise InputError(f"{file} belongs to two sources; wanted each slice once")
            root = source.resolve().parent
            found[file] = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
    return found


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
    near = [[n for n in range(len(names) + 1) if abs(n - w) <= 1 + 1e-6 and (n > 0) == (w > 0)] for w in wanted]
    possible = [counts for counts in product(*near) if sum(counts) == len(names)]
    if not possible:
        seen, asked = f"{len(names)} group{'s' * (len(names) > 1)}", " ".join(f"{share:g}" for share in shares)
        wish = f"wanted enough for --split {asked} to leave one in each part, or other shares such as 1 0 0"
        raise InputError(f"the sources have {seen}; {wish}")
    counts = min(possible, key=lambda counts: sum(abs(n - w) for n, w in zip(counts, wanted, strict=True)))
    order = torch.randperm(len(names), generator=seeded(seed, 0, SPLIT)).tolist()
    parts = [part for part, count in zip(PARTS, counts, strict=True) for _ in range(count)]
    return {names[i]: part for i, part in zip(order, parts, strict=True)}
