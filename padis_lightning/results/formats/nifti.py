"""Volumes as NIfTI files, in millimetres of the patient."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from padis_lightning.data.sources.series import Series, resized_affine
from padis_lightning.files import whole

SCANNER, ALIGNED = 1, 2  # what an affine leads to: the scanner's millimetres, or those of nothing known
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's millimetres run to the left and the back, NIfTI's to the right and the front


def evenly_spaced(numbers: Sequence[int]) -> bool:
    """Return whether slices in rising order are all of a stack, or every n-th of them."""
    return len(set(np.diff(numbers))) <= 1


def volume_affine(series: Series, size: Sequence[int], numbers: Sequence[int]) -> np.ndarray | None:
    """Return the affine from (row, column, k, 1) to LPS millimetres for images (H, W) of the evenly spaced slices ``numbers``."""
    if series.affine is None:
        return None
    affine = resized_affine(series.affine, series.shape[:2], size)
    affine[:3, 3] += numbers[0] * affine[:3, 2]
    affine[:3, 2] *= numbers[1] - numbers[0] if len(numbers) > 1 else 1
    return affine


def write_volume(path: Path, volume: np.ndarray, affine: np.ndarray | None, solver: str) -> None:
    """Write ``(H, W, slices)`` whole as ``.nii.gz``, columns first as other programs do.

    The affine leads from (row, column, slice, 1) to LPS millimetres; the identity stands for None.
    """
    import nibabel

    known = affine is not None
    placed, code = ((TO_RAS @ affine)[:, [1, 0, 2, 3]], SCANNER) if known else (np.eye(4), ALIGNED)
    image = nibabel.Nifti1Image(volume.transpose(1, 0, 2).astype(np.float32), placed)
    image.header.set_xyzt_units("mm" if known else "unknown")
    image.header["descrip"] = f"padis_lightning {solver}".encode()[:79]
    image.set_sform(placed, code=code)
    image.set_qform(placed, code=code)
    if not np.allclose(image.get_qform(), placed, atol=1e-3):  # sheared, as by a tilted gantry: a qform cannot say so
        image.set_qform(None, code=0)
    with whole(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=5, mtime=0))
