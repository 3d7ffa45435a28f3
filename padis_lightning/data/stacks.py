"""Places of slices in the patient: their order along the normal, and the affine of the stack."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from padis_lightning.errors import InputError

UNEVEN = 0.01  # share of a gap by which gaps may differ
SAME_PLACE = 1e-4  # mm


class Run(NamedTuple):
    """Lists slices that are evenly spaced, in the order in which they lie, with their affine where there is one."""

    order: list[int]
    affine: np.ndarray | None


def even_runs(heights: np.ndarray) -> list[slice]:
    """Cut rising heights into parts that are evenly spaced; two at one height are in no part together."""
    gaps = np.diff(heights)
    usual = np.median(gaps[gaps > 0]) if (gaps > 0).any() else 1.0
    breaks = np.flatnonzero(np.abs(gaps / usual - 1) > UNEVEN) + 1
    return [slice(first, last) for first, last in pairwise([0, *breaks, len(heights)])]


def doubled(positions: np.ndarray, orientation: np.ndarray) -> bool:
    """Return whether two slices lie at one height."""
    heights = np.sort(positions @ np.cross(orientation[:3], orientation[3:]))
    return len(heights) > 1 and bool(np.diff(heights).min() < SAME_PLACE)


def stack(
    name: str,
    files: Sequence[str],
    positions: np.ndarray,
    orientation: np.ndarray,
    spacing: tuple[float, float] | None,
    thickness: float,
) -> tuple[list[Run], str]:
    """Return the evenly spaced runs of slices along their normal, and a sentence about gaps where there are several.

    An affine brings (row, column, slice, 1) to millimetres.

    Args:
        name: of the series, for sentences.
        files: names of n slices, for sentences.
        positions: ``(n, 3)`` of the centres of the first pixels.
        orientation: ``(6,)``: direction of the rows, in which columns are counted, then of the columns.
        spacing: mm from row to row and from column to column; without it there is no affine.
        thickness: mm from slice to slice, where there is only one.

    Raises:
        InputError: slices lie at one place, or not above each other.
    """
    along_row, along_column = orientation[:3], orientation[3:]
    normal = np.cross(along_row, along_column)
    if abs(np.linalg.norm(normal) - 1) > 1e-3 or abs(along_row @ along_column) > 1e-3:
        raise InputError(f"series {name} has the orientation {orientation.tolist()}; wanted two unit vectors at right angles")
    order = np.argsort(positions @ normal, kind="stable")
    positions, files = positions[order], [files[k] for k in order]
    heights = positions @ normal
    gap = _uneven(name, files, np.diff(heights)) if len(order) > 1 else ""
    runs = []
    for part in even_runs(heights) if gap else [slice(None)]:
        step = _step(name, files[part], positions[part], normal, thickness, spacing)
        affine = None
        if spacing is not None:
            affine = np.eye(4)
            affine[:3] = np.stack([along_column * spacing[0], along_row * spacing[1], step, positions[part][0]], 1)
        runs.append(Run(order[part].tolist(), affine))
    return runs, gap


def _step(
    name: str, files: list[str], places: np.ndarray, normal: np.ndarray, thickness: float, spacing: tuple[float, float] | None
) -> np.ndarray:
    """Return the way from slice to slice, along which all must lie."""
    if len(places) == 1:
        return normal * thickness
    step = (places[-1] - places[0]) / (len(places) - 1)
    aside = places - places[0] - np.arange(len(places))[:, None] * step
    reach = np.linalg.norm(aside - np.outer(aside @ normal, normal), axis=1)
    if reach.max() > min(spacing or (1, 1)) / 2:
        far = files[int(reach.argmax())]
        raise InputError(f"series {name} has {far} {reach.max():g} mm beside the line of the others; wanted slices on a line")
    return step


def _uneven(name: str, files: list[str], gaps: np.ndarray) -> str:
    """Return what is uneven about the gaps, or nothing; two slices at one place are refused."""
    k = int(gaps.argmin())
    if gaps[k] < SAME_PLACE:
        raise InputError(f"series {name} has {files[k]} and {files[k + 1]} at one place; wanted one slice at each")
    usual = float(np.median(gaps))
    shares = gaps / usual
    k = int(np.abs(shares - 1).argmax())
    between, multiple = f"between {files[k]} and {files[k + 1]}", round(float(shares[k]))
    if abs(shares[k] - 1) <= UNEVEN:
        return ""
    if abs(shares[k] - multiple) <= UNEVEN * multiple:
        lacking = f"series {name} lacks {multiple - 1} of its slices {between}, {gaps[k]:g} mm apart"
        return f"{lacking}; wanted one every {usual:g} mm"
    return f"series {name} has uneven gaps, {gaps[k]:g} mm {between}; wanted {usual:g} mm as elsewhere"
