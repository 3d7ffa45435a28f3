"""Slices that belong together, with their place in the patient: every reader yields them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from padis_lightning.data.carried import Carried
from padis_lightning.data.notes import note
from padis_lightning.data.ranges import decide_shared, for_channels
from padis_lightning.data.sources.base import Item, Source
from padis_lightning.errors import InputError
from padis_lightning.inputs import require_pixels, require_size

log = logging.getLogger(__name__)

SERIES_BYTES = 1000  # that a series takes, without its values
JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
IMPLIED = ((0.0, 255.0), (0.0, 65535.0))  # by 8 and by 16 bits
SIDES = (1e-6, 1e6)  # of pixels, in mm


@dataclass(frozen=True)
class Series:
    """Holds slices of one size from one patient, which are read when they are asked for.

    Attributes:
        name: of the series; unique and fit for a file's name where a source has it.
        group: the patient, or whatever must never be split between training and test.
        count: slices.
        shape: ``(H, W)`` or ``(H, W, C)`` of each.
        load: yields the values of a slice, by its number from ``first`` on, in ``units``.
        units: ``HU``, or empty where the file does not say.
        range: values that become 0 and 1, where the file or the type of the stored numbers implies them (8 bits: 0 and 255).
        spacing: mm from row to row and from column to column, where known.
        affine: ``(4, 4)``, from (row, column, slice, 1) to millimetres towards the patient's left, back and head (LPS, as
            DICOM has it), where known.
        files: what was read: one file a slice in the order of the slices, or one for all.
        first: number of the first slice.
        see_through: yields the values of a slice that ``load`` refuses for its transparency, where there may be any.
        carried: yields what a picture has besides its colours, by its number.
        odd: why the slices cannot be used, a sentence; then there are none.
        gap: why they are no volume, a sentence; the series is then one of several evenly spaced parts.
        unit: of complex images, the magnitude in the file that became 1.
    """

    name: str
    group: str
    count: int
    shape: tuple[int, ...]
    load: Callable[[int], np.ndarray]
    units: str = ""
    range: tuple[float, float] | None = None
    spacing: tuple[float, float] | None = None
    affine: np.ndarray | None = None
    files: tuple[Path, ...] = ()
    first: int = 0
    see_through: Callable[[int], np.ndarray] | None = None
    carried: Callable[[int], Carried] | None = None
    odd: str = ""
    gap: str = ""
    unit: float | None = None

    def __post_init__(self) -> None:
        require_pixels(self.name, self.shape[0] * self.shape[1])
        if self.spacing and not all(SIDES[0] <= side <= SIDES[1] for side in self.spacing):
            seen = " x ".join(f"{side:g}" for side in self.spacing)
            raise InputError(f"{self.name} has pixels of {seen} mm; wanted sides from {SIDES[0]:g} to {SIDES[1]:g}")

    def read(self, k: int, transparent: bool = False) -> np.ndarray:
        """Read the values of slice k, float32, transparent or not; those that are not finite are refused."""
        load = self.see_through if transparent and self.see_through else self.load
        values = np.asarray(load(self.first + k), dtype=np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"{self.name} has values in slice {k} that are not finite; wanted finite numbers")
        return values

    @property
    def channels(self) -> int:
        """Return the number of channels: 1 for grey, C for ``(H, W, C)``."""
        return self.shape[2] if len(self.shape) == 3 else 1


def single_series(
    path: Path,
    count: int,
    load: Callable[[int], np.ndarray],
    groups: Sequence[str] | None = None,
    **described: Any,  # noqa: ANN401 - of Series
) -> list[Series]:
    """Return a series of one slice for each image of a file, by default each a group of its own."""
    require_size(path, SERIES_BYTES * count, path.stat().st_size)
    names = [f"{path.stem}_{k:04d}" for k in range(count)]
    labels = zip(names, groups or names, strict=True)
    return [Series(name, group, 1, load=load, files=(path,), first=k, **described) for k, (name, group) in enumerate(labels)]


def in_hounsfield_units(series: Series) -> Series:
    """Return the same series in Hounsfield units; what its type of numbers implies is no window of them."""
    if series.units == "HU":
        return series
    if series.channels > 1:
        raise InputError(f"hu is true and {series.name} has {series.channels} channels; wanted grey values")
    return replace(series, units="HU", range=None if series.range in IMPLIED else series.range)


def odd_series(name: str, reason: object, *files: Path) -> Series:
    """Return a series without slices, which says why there are none."""
    return Series(name, name, 0, (1, 1), load=np.zeros, files=files, odd=str(reason))


def settle(
    series: Sequence[Series], *, skip_bad: bool = False, volumes: bool = False, option: str = "--data.skip_bad true"
) -> list[Series]:
    """Return the series that can be used, in a word what is left out, and refuse all odd ones in one sentence.

    Args:
        series: of one source.
        skip_bad: leave out what is odd.
        volumes: slices become volumes, so that series with gaps are odd as well.
        option: what a user types to leave them out.

    Raises:
        InputError: a series is odd and ``skip_bad`` false, or nothing is left.
    """
    kept = [s for s in series if not s.odd and not (s.gap and (volumes or skip_bad))]
    reasons = list(dict.fromkeys(s.odd or s.gap for s in series if s.odd or (s.gap and (volumes or skip_bad))))
    if reasons and not (skip_bad and kept):
        if len(reasons) == 1:
            raise InputError(f"{reasons[0]}, or {option} where there are others" if not skip_bad else reasons[0])
        seen = ", ".join(reason.partition("; wanted ")[0] for reason in reasons)
        wish = f"{option} to leave them out" if not skip_bad else "one that is not"
        raise InputError(f"{len(reasons)} series are odd: {seen}; wanted {wish}")
    for reason in reasons:
        log.warning("%s; it is left out", reason.partition("; wanted ")[0])
    for gap, count in Counter(s.gap for s in kept if s.gap).items():
        log.warning("%s; it is read as %d series", gap.partition("; wanted ")[0], count)
    return kept


class Reader(NamedTuple):
    """Describes how one format is read; every module of ``data/readers`` has one as ``READER``.

    Attributes:
        kind: what people call the format.
        suffixes: of its files, in small letters; none for DICOM, which its first bytes tell.
        read: returns the series of a file, or of a folder where ``folder`` is ``whole``; raises InputError for what is broken,
            of a kind that is not read, or without images.
        folder: how a folder is read: ``each`` of its files, as a ``whole``, or ``never``.
        volumes: the same as ``read`` where slices become volumes, if that differs.
    """

    kind: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], list[Series]]
    folder: Literal["each", "whole", "never"] = "each"
    volumes: Callable[[Path], list[Series]] | None = None


def resized_affine(affine: np.ndarray, before: Sequence[int], after: Sequence[float]) -> np.ndarray:
    """Return the affine of an image of ``after`` (H, W) that covers the same field of view as one of ``before``; slices stay."""
    out = np.array(affine, dtype=float)
    for axis, (old, new) in enumerate(zip(before, after, strict=True)):
        scale = old / new
        out[:3, 3] += affine[:3, axis] * (scale - 1) / 2  # centres of the first pixels, old and new
        out[:3, axis] = affine[:3, axis] * scale
    return out


class SeriesSource(Source):
    """Yields all slices of several series as images, read when they are asked for; Hounsfield units are clipped to their range.

    Where pictures of 8 and of 16 bits are mixed, values are those of 16 bits, of which one of 8 is 257.

    An item is named after its series and its place in it; after the series alone where that is its only slice.

    Args:
        series: of one number of channels, unless ``channels`` is given.
        size: side that images are brought to (default: as they are, of whatever shapes).
        data_range: values that become 0 and 1 (default: what the files say; ``-1000`` and ``1000`` for HU).
        description: a line for a checkpoint's provenance.
        channels: 3 for grey in three equal channels, 1 for the luma of colours (default: as they are).
        crop: cut the middle out of images that are not square.
        pictured: the images are what was measured.
    """

    def __init__(
        self,
        series: Sequence[Series],
        size: int | None,
        data_range: tuple[float, float] | None,
        description: str,
        *,
        channels: int | None = None,
        crop: bool = False,
        pictured: bool = False,
    ) -> None:
        self.series, self.size, self.description = list(series), size, description
        self.channels, self.crop, self.pictured, self.has_images = channels, crop, pictured, not pictured
        more = ", or --data.channels 3"
        for kind, option in (("units", ""), ("channels", more)):
            values = {getattr(one, kind) for one in series}
            if len(values) > 1 and not (channels and option):
                seen = " and ".join(sorted(map(str, values)))
                raise InputError(f"{description} mix {kind} {seen}; wanted one kind{option}")
        for height, width in {s.shape[:2] for s in series} if size and not crop else ():
            if height != width:
                options = f"square ones to be brought to {size}x{size}, --data.crop true or --data.size null"
                raise InputError(f"the images are {height}x{width}; wanted {options}")
        if crop and any(s.spacing or s.affine is not None for s in series):
            raise InputError(f"crop is true and {description} say where they lie in the patient; wanted pictures")
        if pictured and any(file.suffix.lower() in JPEG for one in series for file in one.files):
            note(f"{description} have JPEG, which hides fine noise: an estimate of it is too low; --model.noise_std names it")
        hounsfield = self.series[0].units == "HU"
        ranges = {s.range for s in self.series}
        self.mixed = data_range is None and ranges == set(IMPLIED)
        ranges = {max(IMPLIED)} if self.mixed else ranges
        scale = decide_shared(description, ranges, named=data_range, hounsfield=hounsfield)
        self.normalisation = for_channels(scale, self.series[0].channels, description)
        self.places = [(s, k) for s in self.series for k in range(s.count)]
        self.groups = [s.group for s, _ in self.places]
        self.image_shape = self._shape(self.series[0])

    def _shape(self, series: Series) -> tuple[int, ...]:
        height, width = (min(series.shape[:2]),) * 2 if self.crop else series.shape[:2]
        return self.channels or series.channels, self.size or height, self.size or width

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of slice ``index``."""
        return self._shape(self.places[index][0])

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """Return the shapes of the series."""
        return {self._shape(one) for one in self.series}

    def name(self, index: int) -> str:
        """Return the series and the place in it, or the one of them that is enough."""
        series, k = self.places[index]
        if series.count == 1:
            return series.name
        return f"{series.name}_{k:04d}" if len(self.series) > 1 else f"{k:04d}"

    def place(self, index: int) -> tuple[Series, int]:
        """Return the series of slice ``index`` and its number there."""
        return self.places[index]

    def step(self, index: int) -> float:
        """Return 257 for 8 bits among pictures of 16, whose white is 65535, else 1."""
        series, _ = self.places[index]
        return self.normalisation.upper / series.range[1] if self.mixed and series.range else 1.0

    def slice_affine(self, index: int) -> np.ndarray | None:
        """Return the affine of the series at the size of the images, or None where the files do not say."""
        series, _ = self.places[index]
        return None if series.affine is None else resized_affine(series.affine, series.shape[:2], self.shape(index)[-2:])

    def __getitem__(self, index: int) -> Item:
        series, k = self.places[index]
        image = self.to_image(self.step(index) * series.read(k, transparent=self.pictured))
        return Item(index, self.name(index), series.group, *((None, image) if self.pictured else (image,)))
