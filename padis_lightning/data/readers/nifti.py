"""NIfTI volumes: slices along the third axis of the array, rows along its second and columns along its first."""

from __future__ import annotations

import gzip
import math
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from padis_lightning.data.conventions import MILLIMETRES
from padis_lightning.data.ranges import implied_range
from padis_lightning.data.sources.series import Reader, Series
from padis_lightning.errors import InputError
from padis_lightning.inputs import reading, require_size
from padis_lightning.registry import needed
from padis_lightning.types import pair_of

if TYPE_CHECKING:
    from nibabel import Nifti1Image

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
WHOLE = "NIfTI that is whole"
MOST_EXTENSIONS = 2**24  # bytes before the values


def read(path: Path) -> list[Series]:
    """Return the one series of a ``.nii`` or ``.nii.gz`` file; its units are not known, so that a range has to be named.

    Slice k is ``array[:, :, k].T``, so that ``affine`` is that of the file with its first two columns exchanged, and x and y
    turned from nibabel's right and front to left and back. It is None where the file names no space.
    """
    nibabel = needed("nibabel", "reading NIfTI needs nibabel", "nifti")
    with reading(path, WHOLE):
        _length(path)
        image = nibabel.load(path)
        dtype, stored = image.get_data_dtype(), tuple(image.shape)
        scaled = image.dataobj.slope, image.dataobj.inter
    shape = stored
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    colours = dtype.names == ("R", "G", "B") or (len(shape) == 4 and shape[3] == 3 and dtype == np.uint8)
    if len(shape) not in (2, 3, 4 if colours else 3) or not all(shape) or (dtype.kind not in "uif" and not colours):
        raise InputError(f"{path} has {dtype} of shape {stored}; wanted one volume of real numbers, (columns, rows, slices)")
    affine = _affine(image)
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    return [
        Series(
            name=name,
            group=name,
            count=shape[2] if len(shape) > 2 else 1,
            shape=(shape[1], shape[0], 3) if colours else (shape[1], shape[0]),
            load=partial(_values, path),
            range=implied_range(np.dtype("u1") if colours else dtype) if colours or scaled == (1, 0) else None,
            spacing=None if affine is None else pair_of(float(np.linalg.norm(affine[:3, axis])) for axis in (0, 1)),
            affine=affine,
            files=(path,),
        )
    ]


@lru_cache(maxsize=1)
def _open(path: Path, changed: int) -> Nifti1Image:
    """Open the file, in memory where it is compressed: going back in it would mean to begin again."""
    import nibabel

    length, image = _length(path), cast(Any, nibabel.load(path))  # of one of the two kinds that have such headers
    if _packed(path):
        with gzip.open(path) as stream:
            image = type(image).from_bytes(stream.read(length))
    return image


def _packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _length(path: Path) -> int:
    """Return the bytes that a header claims for all of the file; more than there are, or than there is memory, are refused."""
    from nibabel import Nifti1Header, Nifti2Header

    held = path.stat().st_size
    with gzip.open(path) if _packed(path) else open(path, "rb") as stream:
        start = stream.read(540)
    kind = Nifti1Header if Nifti1Header.may_contain_header(start) else Nifti2Header
    header = kind(start[: kind.template_dtype.itemsize])
    begin, shape = int(header.get_data_offset()), [int(side) for side in header.get_data_shape()]
    length = begin + math.prod(shape) * header.get_data_dtype().itemsize
    if not 0 <= begin <= MOST_EXTENSIONS or min(shape, default=0) < 0 or (length > held and not _packed(path)):
        raise ValueError(f"{held} bytes where the header names {length}, the first {begin} of them for itself")
    require_size(path, length, held)
    return length


def _affine(image: Nifti1Image) -> np.ndarray | None:
    """Return the affine from (row, column, slice, 1) to millimetres towards left, back and head."""
    if not (image.header["sform_code"] or image.header["qform_code"]):
        return None
    affine = RAS_TO_LPS @ image.affine[:, [1, 0, 2, 3]]
    unit = image.header.get_xyzt_units()[0].replace("meter", "m")  # as nibabel calls it
    affine[:3] *= MILLIMETRES.get(unit, 1.0)
    return affine if np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 1e-9 else None


def _values(path: Path, k: int) -> np.ndarray:
    with reading(path, WHOLE):
        data = _open(path, path.stat().st_mtime_ns).dataobj
        plane = data[:, :, k] if len(data.shape) > 2 else data[...]
    if plane.dtype.names:
        plane = np.stack([plane[name] for name in plane.dtype.names], -1)
    plane = plane.reshape(*plane.shape[:2], -1).swapaxes(0, 1)
    return np.asarray(plane[..., 0] if plane.shape[2] == 1 else plane, dtype=np.float32)


READER = Reader("NIfTI", (".nii", ".nii.gz"), read)
