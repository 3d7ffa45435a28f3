"""What goes into a prepared file: the series, the range of their values, and the part that each patient is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from padis_lightning import __version__
from padis_lightning.commands.prepare.fitting import Frame, fit, fitted_affine, frame
from padis_lightning.commands.prepare.settings import LEVELS, PARTS, Settings, split
from padis_lightning.data.readers import open_series
from padis_lightning.data.readers.names import unique
from padis_lightning.data.sources.array_series import open_arrays
from padis_lightning.data.sources.series import HU_WINDOW, Series
from padis_lightning.errors import InputError


@dataclass(frozen=True)
class Plan:
    """Everything about a prepared file but the values.

    Attributes:
        settings: as asked for.
        series: what is read, with names that no two share.
        frames: the grid of each series.
        starts: the place in the file of the first slice of each series, and the number of all slices.
        shape: of a slice as it is stored.
        range: values in units that become 0 and 1.
        units: ``HU`` or empty.
        parts: the part of each group.
        files: what is read, with the names that the manifest gives them.
    """

    settings: Settings
    series: list[Series]
    frames: list[Frame]
    starts: np.ndarray
    shape: tuple[int, ...]
    range: tuple[float, float]
    units: str
    parts: dict[str, str]
    files: list[tuple[str, Path]]

    @property
    def count(self) -> int:
        """Slices."""
        return int(self.starts[-1])

    @property
    def dtype(self) -> np.dtype:
        """Of the stored numbers."""
        return np.dtype(self.settings.dtype)

    @property
    def scale(self) -> tuple[float, float]:
        """Slope and intercept: a value in units is ``stored * slope + intercept``."""
        low, high = self.range
        levels = LEVELS[self.settings.dtype]
        return ((high - low) / levels, low) if levels else (1.0, 0.0)

    def locate(self, i: int) -> tuple[int, int]:
        """The series of slice ``i`` and its number there."""
        which = int(np.searchsorted(self.starts, i, "right")) - 1
        return which, (i - int(self.starts[which])) * self.settings.every

    def name(self, i: int) -> str:
        """Name of slice ``i``."""
        which, k = self.locate(i)
        return f"{self.series[which].name}_{k:04d}"

    def group(self, i: int) -> str:
        """Group of slice ``i``."""
        return self.series[self.locate(i)[0]].group

    def part(self, i: int) -> str:
        """Part of slice ``i``."""
        return self.parts[self.group(i)]

    def affine(self, i: int) -> np.ndarray:
        """Affine of slice ``i``, NaN where unknown."""
        which, k = self.locate(i)
        affine = self.series[which].affine
        return np.full((4, 4), np.nan) if affine is None else fitted_affine(affine, k, self.frames[which])

    def stored(self, i: int) -> np.ndarray:
        """Slice ``i`` clipped, on its grid, and in the numbers of the file.

        Raises:
            InputError: it cannot be read, or has values that are not finite.
        """
        which, k = self.locate(i)
        series, (low, high) = self.series[which], self.range
        image = torch.from_numpy(np.clip(series.read(k), low, high).reshape(*series.shape[:2], series.channels)).movedim(-1, 0)
        fitted = fit(image, self.frames[which], low).movedim(0, -1).reshape(self.shape).numpy()
        levels = LEVELS[self.settings.dtype]
        if levels is None:
            return fitted
        slope, intercept = self.scale
        return np.rint((fitted.astype(np.float64) - intercept) / slope).clip(0, levels).astype(self.dtype)

    def counts(self) -> dict[str, dict[str, int]]:
        """Slices and groups of each part."""
        groups = list(self.parts.values())
        counts = {part: {"slices": 0, "groups": groups.count(part)} for part in PARTS}
        for series, count in zip(self.series, np.diff(self.starts), strict=True):
            counts[self.parts[series.group]]["slices"] += int(count)
        return counts

    def header(self) -> dict[str, Any]:
        """What must be the same for a run that goes on with the work of another."""
        files = [[name, file.stat().st_size, file.stat().st_mtime_ns] for name, file in self.files]
        made = {"slices": self.count, "shape": list(self.shape), "range": list(self.range), "version": __version__}
        return asdict(self.settings) | made | {"sources": files}

    def manifest(self, hashes: Sequence[str], images: str) -> dict[str, Any]:
        """Where the values come from and what was done to them.

        Args:
            hashes: SHA-256 of each file.
            images: SHA-256 of the stored values.
        """
        sources = [
            {"name": name, "size": file.stat().st_size, "sha256": digest}
            for (name, file), digest in zip(self.files, hashes, strict=True)
        ]
        return {
            "sources": sources,
            "licence": self.settings.licence,
            "units": self.units,
            "range": list(self.range),
            "window": list(self.range) if self.units == "HU" else None,
            "counts": self.counts(),
            "settings": {key: value for key, value in asdict(self.settings).items() if key != "licence"},
            "images": {"sha256": images},
            "padis_lightning": __version__,
        }


def _open(source: Path, settings: Settings) -> list[Series]:
    if not source.exists():
        raise InputError(f"there is no file or folder {str(source)!r}; wanted data")
    return open_arrays(source, settings.range) if source.suffix in (".npz", ".npy") else open_series(source)


def _files(opened: Sequence[tuple[Path, Sequence[Series]]]) -> list[tuple[str, Path]]:
    """What is read of each source, with names that begin at what was given."""
    found: dict[Path, str] = {}
    for source, series in opened:
        files = dict.fromkeys(file.resolve() for one in series for file in one.files or (source,))
        for file in files:
            if file in found:
                raise InputError(f"{file} belongs to two sources; wanted each slice once")
            root = source.resolve().parent
            found[file] = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
    return [(name, file) for file, name in found.items()]


def _only(what: str, values: set) -> Any:  # noqa: ANN401 - whatever the values are
    """The one value that all series share."""
    if len(values) > 1:
        seen = " and ".join(sorted(str(value) or "none" for value in values))
        raise InputError(f"the sources have the {what} {seen}; wanted one")
    return next(iter(values))


def _range(series: Sequence[Series], units: str, asked: tuple[float, float] | None) -> tuple[float, float]:
    implied = {one.range for one in series}
    if asked is not None:
        return asked
    if len(implied) == 1 and None not in implied:
        low, high = next(iter(implied))
        return float(low), float(high)
    if units == "HU":
        return HU_WINDOW
    raise InputError("the sources have no range of values in common; wanted --range LOW HIGH")


def make_plan(sources: Sequence[Path], settings: Settings) -> Plan:
    """Open the sources and settle all but the values, of which none is read.

    Args:
        sources: files and folders.
        settings: what to do.

    Raises:
        InputError: a source cannot be read, the sources do not go together, or the settings do not fit them.
    """
    opened = [(source, _open(source, settings)) for source in sources]
    series = unique([one for _, found in opened for one in found])
    units = _only("units", {one.units for one in series})
    channels = _only("numbers of channels", {one.channels for one in series})
    frames = [frame(one, settings.size, settings.spacing) for one in series]
    grids = {to.after for to in frames}
    if len(grids) > 1:
        seen = ", ".join(f"{height}x{width}" for height, width in sorted(grids))
        raise InputError(f"the slices have the sizes {seen}; wanted one, or --size")
    starts = np.cumsum([0, *(len(range(0, one.count, settings.every)) for one in series)])
    shape = next(iter(grids)) + ((channels,) if channels > 1 else ())
    value_range = _range(series, units, settings.range)
    parts = split([one.group for one in series], settings.split, settings.seed)
    return Plan(settings, series, frames, starts, shape, value_range, units, parts, _files(opened))
