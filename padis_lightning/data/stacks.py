"""Places of slices in the patient: their order along the normal, and the affine of the stack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from padis_lightning.errors import InputError

UNEVEN = 0.01  # share of a gap by which gaps may differ
SAME_PLACE = 1e-4  # mm


def stack(
    name: str,
    files: Sequence[str],
    positions: np.ndarray,
    orientation: np.ndarray,
    spacing: tuple[float, float] | None,
    thickness: float,
) -> tuple[list[int], np.ndarray | None]:
    """Return the order of slices along their normal, and the affine from (row, column, slice, 1) to millimetres.

    Args:
        name: of the series, for sentences.
        files: names of n slices, for sentences.
        positions: ``(n, 3)`` of the centres of the first pixels.
        orientation: ``(6,)``: direction of the rows, in which columns are counted, then of the columns.
        spacing: mm from row to row and from column to column; without it there is no affine.
        thickness: mm from slice to slice, where there is only one.

    Raises:
        InputError: slices are missing, lie at one place, unevenly, or not above each other.
    """
    along_row, along_column = orientation[:3], orientation[3:]
    normal = np.cross(along_row, along_column)
    if abs(np.linalg.norm(normal) - 1) > 1e-3 or abs(along_row @ along_column) > 1e-3:
        raise InputError(f"series {name} has the orientation {orientation.tolist()}; wanted two unit vectors at right angles")
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    step = normal * thickness
    if len(order) > 1:
        _check_gaps(name, [files[k] for k in order], np.diff(positions @ normal))
        step = (positions[-1] - positions[0]) / (len(order) - 1)
        aside = positions - positions[0] - np.arange(len(order))[:, None] * step
        reach = np.linalg.norm(aside - np.outer(aside @ normal, normal), axis=1)
        if reach.max() > min(spacing or (1, 1)) / 2:
            far = files[order[int(reach.argmax())]]
            raise InputError(f"series {name} has {far} {reach.max():g} mm beside the line of the others; wanted slices on a line")
    if spacing is None:
        return order.tolist(), None
    affine = np.eye(4)
    affine[:3] = np.stack([along_column * spacing[0], along_row * spacing[1], step, positions[0]], 1)
    return order.tolist(), affine


def _check_gaps(name: str, files: list[str], gaps: np.ndarray) -> None:
    k = int(gaps.argmin())
    if gaps[k] < SAME_PLACE:
        raise InputError(f"series {name} has {files[k]} and {files[k + 1]} at one place; wanted one slice at each")
    usual = float(np.median(gaps))
    shares = gaps / usual
    k = int(np.abs(shares - 1).argmax())
    between, multiple = f"between {files[k]} and {files[k + 1]}", round(float(shares[k]))
    if abs(shares[k] - 1) <= UNEVEN:
        return
    if abs(shares[k] - multiple) <= UNEVEN * multiple:
        raise InputError(
            f"series {name} lacks {multiple - 1} of its slices {between}, {gaps[k]:g} mm apart; wanted one every {usual:g} mm"
        )
    raise InputError(f"series {name} has uneven gaps, {gaps[k]:g} mm {between}; wanted {usual:g} mm as elsewhere")
