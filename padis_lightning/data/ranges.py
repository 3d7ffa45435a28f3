"""What becomes 0 and 1: the one place where it is decided, from what the user, a file and its numbers say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, uniform_filter1d

from padis_lightning.ct import Geometry
from padis_lightning.ct.fbp import FilteredBackProjection
from padis_lightning.ct.sparse import SparseMatrix
from padis_lightning.data.containers import read_pair
from padis_lightning.data.notes import note
from padis_lightning.errors import InputError
from padis_lightning.types import Normalisation, pair_of

Pair = tuple[float, float]

HU_WINDOW = (-1000.0, 1000.0)
COARSE, SLICES, MOST_VIEWS, FEW_VIEWS = 128, 8, 180, 60  # of the quick reconstruction
HIGHEST = 99.5  # percentile
NAME_IT = "--data.range '[LOWER, UPPER]'"


def implied_range(dtype: np.dtype, *, picture: bool = False) -> Pair | None:
    """Return the range that a type of numbers implies: 8 bits imply 0 to 255, 16 bits of a picture 0 to 65535."""
    bits = {"u1": 255.0, "u2": 65535.0} if picture else {"u1": 255.0}
    highest = bits.get(np.dtype(dtype).str[1:])
    return None if highest is None else (0.0, highest)


class Scale(NamedTuple):
    """Says what the numbers of a file mean: a value is ``stored * slope + intercept``.

    Attributes:
        slope: units a stored step.
        intercept: units of a stored 0.
        units: ``HU`` or empty.
        range: values that become 0 and 1, or None where neither the file nor its type of numbers says.
    """

    slope: float
    intercept: float
    units: str
    range: Pair | None

    def apply(self, stored: np.ndarray) -> np.ndarray:
        """Return the values of stored numbers, float32."""
        return stored.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)


def file_scale(arrays: dict[str, np.ndarray], dtype: np.dtype, path: Path) -> Scale:
    """Read the meaning of a file's numbers from its keys ``range`` and ``hu_window``, each of two rising numbers.

    With ``hu_window`` the stored ``range`` (default: from 0, one stored step a unit) stands for that window.
    """
    window, stored = (read_pair(arrays, key, path) for key in ("hu_window", "range"))
    if window is None:
        return Scale(1.0, 0.0, "", stored or implied_range(dtype))
    low, high = stored or (0.0, window[1] - window[0])
    for pair in (window, (low, high)):
        Normalisation(*pair)  # refuses one that is not in order
    slope = (window[1] - window[0]) / (high - low)
    return Scale(slope, window[0] - low * slope, "HU", window)


def decide(
    subject: object,
    *,
    named: Sequence[float] | None = None,
    stored: Pair | None = None,
    window: Pair | None = None,
    hounsfield: bool = False,
    dtype: np.dtype | None = None,
    extremes: Pair | None = None,
) -> Normalisation:
    """Decide which values of images become 0 and 1.

    The first that is known counts: what the user names, what the file or its type of numbers says, the width of the file's
    window, the window of -1000 to 1000 HU where values are HU, and 0 to 1 where no value lies beyond.

    Values beyond a range that the user names are clipped to it, whatever the format, and so are Hounsfield units, as metal and
    the scanner's padding lie outside of any window. Others are left as they are, since they may be meant.

    Args:
        subject: what sentences speak of.
        named: the user's ``--data.range``.
        stored: the range of the file, or the one that its type of numbers implies.
        window: the range in HU of a file that stores other numbers.
        hounsfield: values are HU.
        dtype: of the stored numbers, where it is not in ``stored`` already; integers are never taken as values from 0 to 1.
        extremes: the lowest and the highest value, where they are known.

    Raises:
        InputError: nothing says it; the sentence says what to name.
    """
    pair = pair_of(named) if named is not None else stored
    if pair is None and window is not None:
        pair = 0.0, window[1] - window[0]
    if pair is None and hounsfield:
        pair = HU_WINDOW
    if pair is None and dtype is not None:
        pair = implied_range(dtype)
    if pair is None:
        if extremes is None:
            raise InputError(f"{subject} have no range of values; wanted {NAME_IT}, or --data.hu true where they are HU")
        low, high = extremes
        if low < 0 or high > 1 or (dtype is not None and dtype.kind in "ui"):
            raise InputError(
                f"{subject} has values from {low:g} to {high:g} and no 'range'; wanted values from 0 to 1, 8-bit integers, "
                f"or the range named: {NAME_IT}"
            )
        pair = 0.0, 1.0
    window = pair if hounsfield else window
    return Normalisation(*pair, window, clip=window is not None or named is not None)


def for_channels(scale: Normalisation, channels: int, subject: object) -> Normalisation:
    """Return the scale of images of so many channels: parts of complex ones, which are two, are neither shifted nor clipped.

    Raises:
        InputError: the range of complex images does not begin at 0.
    """
    if channels != 2:
        return scale
    if scale.lower != 0:
        seen = f"{subject} have two channels, real and imaginary part, and the range {scale.lower:g} to {scale.upper:g}"
        raise InputError(f"{seen}; wanted 0 first")
    return replace(scale, clip=False)


def decide_measured(
    path: Path, key: str, arrays: dict[str, np.ndarray], *, named: Sequence[float] | None = None
) -> Normalisation:
    """Decide which value of an image becomes 1 where line integrals ``key`` of it were measured; nothing is clipped.

    Raises:
        InputError: neither the user nor the file names a range, or it does not begin at 0: a line integral cannot be shifted.
    """
    window, stored = read_pair(arrays, "hu_window", path), read_pair(arrays, "range", path)
    pair = pair_of(named) if named is not None else stored
    if pair is None or pair[0] != 0:
        seen = "no 'range'" if pair is None else f"a range from {pair[0]:g}"
        raise InputError(f"{path} has {key} and {seen}; wanted the range (0, value that becomes 1) in the units of y per length")
    return Normalisation(*pair, window)


def calibrate(path: Path, y: np.ndarray, geometry: Geometry) -> Pair | None:
    """Return 0 and the value that measured slices hardly exceed, by a quick filtered back-projection; None where all are below 0.

    The detector is brought to about :data:`COARSE` bins, which takes most of the noise; few views are smoothed besides, as
    their streaks are sharp. What counts is inside of the circle that every view sees. The value has two digits, so that it is
    the same wherever it is computed.

    Args:
        path: what sentences speak of.
        y: line integrals ``(n, views, bins)``.
        geometry: of the measurement.
    """
    some = y[np.unique(np.linspace(0, len(y) - 1, min(len(y), SLICES)).round().astype(int))]
    scan, coarse = _coarse(geometry, some.astype(np.float32))
    images = FilteredBackProjection(SparseMatrix(scan), "hann")(torch.from_numpy(coarse)).numpy()
    if len(scan.angles) < FEW_VIEWS:
        images = gaussian_filter(images, (0, 1, 1))
    row, column = (np.arange(n) - (n - 1) / 2 for n in scan.size)
    seen = scan.bins * scan.bin_spacing * (scan.source_distance / scan.reach if scan.source_distance else 1) / scan.pixel_spacing
    inside = images[:, np.hypot(row[:, None], column) < max(1, min(*scan.size, seen) / 2)]
    highest = float(f"{np.percentile(inside, HIGHEST):.2g}")
    if not highest > 0:
        return None
    note(f"{path}: 1 stands for {highest:g}, as a quick reconstruction has it; {NAME_IT} names another")
    return 0.0, highest


def _coarse(geometry: Geometry, y: np.ndarray) -> tuple[Geometry, np.ndarray]:
    """Return a scan of fewer views, bins and pixels over the same lengths, and its line integrals."""
    views, bins = y.shape[1:]
    share, thin = max(1, round(bins / COARSE)), max(1, views // MOST_VIEWS)
    count, size = math.ceil(bins / share), tuple(max(1, round(n / share)) for n in geometry.size)
    places = (np.arange(count) - (count - 1) / 2) * share + (bins - 1) / 2
    smooth = uniform_filter1d(y[:, ::thin], share, axis=-1, mode="constant")
    coarse = np.apply_along_axis(lambda row: np.interp(places, np.arange(bins), row), -1, smooth)
    lengths = {"pixel_spacing": geometry.pixel_spacing * geometry.size[0] / size[0], "bin_spacing": geometry.bin_spacing * share}
    scan = replace(geometry.views(range(0, views, thin)), size=size, bins=count, **lengths)
    return scan, coarse.astype(np.float32)


def decide_shared(subject: str, ranges: set[Pair | None], *, named: Sequence[float] | None, hounsfield: bool) -> Normalisation:
    """Decide which values become 0 and 1 for several series at once, whose ranges must be one where none is named."""
    if named is None and len(ranges) > 1:
        seen = " and ".join(sorted("unknown" if r is None else f"{r[0]:g} to {r[1]:g}" for r in ranges))
        raise InputError(f"{subject} mix the ranges {seen}; wanted one kind, or {NAME_IT}")
    stored = next(iter(ranges)) if len(ranges) == 1 else None
    return decide(subject, named=named, stored=stored, hounsfield=hounsfield)
