"""Complex images of fully sampled k-space, to train on and to simulate with."""

from __future__ import annotations

from functools import partial

import numpy as np

from padis_lightning.data.sources.kspace import KSpace, KSpaceSource
from padis_lightning.data.sources.series import Series
from padis_lightning.errors import InputError
from padis_lightning.mri import to_complex
from padis_lightning.operators.mri import MeasuredMRI

LEAST, EVEN = 0.5, 0.9  # share of a side that is sampled, and of the longer half of it that the shorter one is


def combined_series(found: KSpace) -> list[Series]:
    """Return the slices of fully sampled k-space as complex images ``(H, W, 2)``: one series, and one group.

    Coils are whitened and combined, and 1 stands for, what ``predict`` does and takes 1 for where it measures the same file, so
    that a prior sees the same images there.
    """
    if found.sides is not None:
        raise InputError(f"{found.path} has k-space off the grid; wanted k-space of whole columns and rows to make images of")
    source, path = KSpaceSource(found), found.path
    count, _, height, width = found.shape
    return [
        Series(
            name=path.stem,
            group=path.stem,
            count=count,
            shape=(height, width, 2),
            load=partial(_combined, source),
            range=(0.0, 1.0),
            spacing=found.spacing(),
            files=(path,),
            unit=source.normalisation.upper,
        )
    ]


def _combined(source: KSpaceSource, k: int) -> np.ndarray:
    """Return slice k as the adjoint of its own operator has it, whose maps have no phase but that of the coils."""
    measured = source[k].measurement
    assert measured is not None
    kspace = to_complex(measured[None])[0]
    require_full((kspace != 0).any(0).numpy(), f"{source.found.path} at slice {k}")
    _, height, width = source.image_shape
    operator = MeasuredMRI((height, width), len(kspace)).calibrated(measured[None])
    return operator.adjoint(measured[None])[0].movedim(0, -1).numpy()


def require_full(mask: np.ndarray, subject: str) -> None:
    """Refuse samples ``(H, W)`` with gaps between them, to one side, or of a small part of k-space; zeros may lie around them.

    Raises:
        InputError: the images would have aliases or lack detail, which a prior would learn.
    """
    full = bool(mask.any())
    for axis, side in enumerate(mask.shape):
        runs = (np.diff(mask.astype(np.int8), axis=axis, prepend=0) == 1).sum(axis)
        places = np.flatnonzero(mask.any(1 - axis))
        if not full or runs.max() > 1:
            full = False
            break
        reach = sorted((side // 2 - places[0], places[-1] + 1 - side // 2))
        full = reach[0] >= EVEN * reach[1] - 1 and sum(reach) >= LEAST * side
    if not full:
        seen = f"{subject} has {mask.sum()} of {mask.size} points of k-space"
        raise InputError(f"{seen}, with gaps or to one side; wanted full k-space: images of less have artefacts to be learned")
