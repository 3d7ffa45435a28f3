"""Readers of image files: one small file a format, each with ``read(path)``, which yields series of slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from padis_lightning.data.readers import dicom, hdf5, mat, nifti, pictures
from padis_lightning.data.readers.names import common, natural, safe, unique
from padis_lightning.data.readers.prepared import PreparedSource
from padis_lightning.data.sources.series import Series
from padis_lightning.errors import InputError

__all__ = ["PreparedSource", "open_series"]

VOLUMES = {".nii": nifti.read, ".nii.gz": nifti.read, ".h5": hdf5.read, ".hdf5": hdf5.read, ".mat": mat.read}
FORMATS = "DICOM, NIfTI, HDF5, .mat, pictures (PNG, JPEG, TIFF, BMP) or a .zip of pictures"


def open_series(path: str | Path) -> list[Series]:
    """The series of slices of a file or a folder, whose pixels are read when they are asked for.

    A file is read by its suffix, one with another suffix or none if it is DICOM. Of a folder and its sub-folders all DICOM is
    read; where there is none, all NIfTI, HDF5 and .mat files; where there are none either, all pictures.

    Raises:
        InputError: there is nothing to read, or what there is cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return unique(_folder(path))
    if not path.is_file():
        raise InputError(f"there is no file or folder {str(path)!r}; wanted {FORMATS}")
    read = _volume_reader(path)
    if read is None and path.suffix.lower() in (*pictures.SUFFIXES, ".zip"):
        read = pictures.read
    if read is None and dicom.is_dicom(path):
        read = dicom.read
    if read is None:
        raise InputError(f"{path} ends in {path.suffix!r} and is not DICOM; wanted {FORMATS}")
    return unique(read(path))


def _volume_reader(path: Path) -> Callable[[Path], list[Series]] | None:
    return next((read for suffix, read in VOLUMES.items() if path.name.lower().endswith(suffix)), None)


def _folder(path: Path) -> list[Series]:
    files = sorted((p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")), key=lambda p: natural(str(p)))
    volumes = [p for p in files if _volume_reader(p)]
    shown = {p for p in files if p.suffix.lower() in pictures.SUFFIXES}
    if any(dicom.is_dicom(p) for p in files if p not in shown and p not in volumes):
        return dicom.read(path)
    if volumes:
        shared = len(common([volume.parts[:-1] for volume in volumes]))
        return [one for volume in volumes for one in _placed(volume, volume.parts[shared:-1])]
    if shown:
        return pictures.read(path)
    seen = f"holds {len(files)} files, none of which can be read" if files else "is empty"
    raise InputError(f"the folder {path} {seen}; wanted {FORMATS}")


def _placed(volume: Path, parents: tuple[str, ...]) -> list[Series]:
    """The series of a file; those in folders that not all share are named after them, and the first is the patient."""
    series = _volume_reader(volume)(volume)
    if not parents:
        return series
    prefix = safe("_".join(parents))
    return [replace(one, name=f"{prefix}_{one.name}", group=parents[0]) for one in series]
