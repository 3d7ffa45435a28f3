"""Frames of projections in TIFF files, one a file or a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from padis_lightning.errors import InputError
from padis_lightning.inputs import reading, require_pixels, require_size


def frame_shape(path: Path) -> tuple[int, int]:
    """Return rows and bins of the first frame of a file."""
    import tifffile

    with reading(path, "a TIFF that is whole"), tifffile.TiffFile(path) as file:
        page = file.pages.first
        return page.imagelength, page.imagewidth


def load_frames(files: Sequence[Path], rows: Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """Read rows of all pages of files, ``(rows, frames, bins)``, float32.

    Raises:
        InputError: a file is no TIFF, or a page is not of grey numbers of the ``shape`` (rows, bins).
    """
    import tifffile

    frames: list[np.ndarray] = []
    for path in files:
        with reading(path, "a TIFF that is whole"), tifffile.TiffFile(path) as file:
            for page in file.pages:
                if page.shape != shape or page.dtype is None or page.dtype.kind not in "uif":
                    raise InputError(f"{path} has a page of {page.dtype} and shape {page.shape}; wanted grey ones of {shape}")
                require_pixels(path, math.prod(page.shape))
                require_size(path, page.nbytes, path.stat().st_size)
                require_size(path, 4 * (len(frames) + 1) * len(rows) * shape[1], 4 * (len(frames) + 1) * len(rows) * shape[1])
                frames.append(np.asarray(page.asarray()[list(rows)], dtype=np.float32))
    return np.stack(frames, axis=1)
