"""What becomes 0 and 1: the one place where it is decided, from what the user, a file and its numbers say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from padis_lightning.data.containers import read_pair
from padis_lightning.errors import InputError
from padis_lightning.types import Normalisation

Pair = tuple[float, float]

HU_WINDOW = (-1000.0, 1000.0)
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
    pair = tuple(map(float, named)) if named is not None else stored
    if pair is None and window is not None:
        pair = 0.0, window[1] - window[0]
    if pair is None and hounsfield:
        pair = HU_WINDOW
    if pair is None and dtype is not None:
        pair = implied_range(dtype)
    if pair is None and extremes is None:
        raise InputError(f"{subject} have no range of values; wanted {NAME_IT}")
    if pair is None:
        low, high = extremes
        if low < 0 or high > 1 or (dtype is not None and dtype.kind in "ui"):
            raise InputError(
                f"{subject} has values from {low:g} to {high:g} and no 'range'; wanted values from 0 to 1, 8-bit integers, "
                f"or the range named: {NAME_IT}"
            )
        pair = 0.0, 1.0
    window = pair if hounsfield else window
    return Normalisation(*pair, window, clip=window is not None or named is not None)


def decide_measured(
    path: Path, key: str, arrays: dict[str, np.ndarray], *, named: Sequence[float] | None = None
) -> Normalisation:
    """Decide which value of an image becomes 1 where line integrals ``key`` of it were measured; nothing is clipped.

    Raises:
        InputError: neither the user nor the file names a range, or it does not begin at 0: a line integral cannot be shifted.
    """
    window, stored = read_pair(arrays, "hu_window", path), read_pair(arrays, "range", path)
    pair = tuple(map(float, named)) if named is not None else stored
    if pair is None or pair[0] != 0:
        seen = "no 'range'" if pair is None else f"a range from {pair[0]:g}"
        raise InputError(f"{path} has {key} and {seen}; wanted the range (0, value that becomes 1) in the units of y per length")
    return Normalisation(*pair, window)


def decide_shared(subject: str, ranges: set[Pair | None], *, named: Sequence[float] | None, hounsfield: bool) -> Normalisation:
    """Decide which values become 0 and 1 for several series at once, whose ranges must be one where none is named."""
    if named is None and len(ranges) > 1:
        seen = " and ".join(sorted("unknown" if r is None else f"{r[0]:g} to {r[1]:g}" for r in ranges))
        raise InputError(f"{subject} mix the ranges {seen}; wanted one kind, or {NAME_IT}")
    stored = next(iter(ranges)) if len(ranges) == 1 else None
    return decide(subject, named=named, stored=stored, hounsfield=hounsfield)
