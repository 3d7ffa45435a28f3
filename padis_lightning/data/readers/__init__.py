"""Readers of image files. A new format is one new module here: ``read(path)`` that yields series of slices, and ``READER``."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from pathlib import Path

from padis_lightning.data.dicom_checks import is_dicom
from padis_lightning.data.names import common_depth, files_below, unique
from padis_lightning.data.readers.results import RUN, is_results
from padis_lightning.data.sources.prepared import PreparedSource
from padis_lightning.data.sources.series import Reader, Series, odd_series, settle
from padis_lightning.errors import InputError

__all__ = ["READERS", "PreparedSource", "open_series"]

READERS: dict[str, Reader] = {
    m.name: importlib.import_module(f"{__name__}.{m.name}").READER for m in pkgutil.iter_modules(__path__)
}
FORMATS = ", ".join(reader.kind for reader in READERS.values())


def open_series(path: str | Path, *, skip_bad: bool = False, volumes: bool = False) -> list[Series]:
    """Return the series of slices of a file or a folder, whose pixels are read when they are asked for.

    A file is read by its suffix, one with another suffix or none if it is DICOM. A folder that ``predict`` wrote has the images
    that it found. Of any other and its sub-folders all DICOM is read; where there is none, all files of formats that have whole
    images in each (NIfTI, HDF5, .mat); where there are none either, all pictures. Names of series become unique and fit for
    files.

    Args:
        path: the file or the folder.
        skip_bad: leave out series and files that cannot be used, in a word (default: refuse all of them by name).
        volumes: slices become volumes: those of a TIFF or a folder of pictures are one series, and gaps are not read across.

    Raises:
        InputError: there is nothing to read, or what there is cannot be read.
    """
    return settle(found_series(path, volumes=volumes), skip_bad=skip_bad, volumes=volumes)


def found_series(path: str | Path, *, volumes: bool = False) -> list[Series]:
    """Return what :func:`open_series` does, and odd series as well, which hold no slices."""
    path = Path(path)
    if path.is_dir():
        return unique(_folder(path, volumes))
    if not path.is_file():
        raise InputError(f"there is no file or folder {str(path)!r}; wanted {FORMATS}")
    reader = _reader(path)
    if reader is None:
        raise InputError(f"{path} ends in {path.suffix!r} and is not DICOM; wanted {FORMATS}")
    return unique(_read(reader, path, volumes))


def _read(reader: Reader, path: Path, volumes: bool) -> list[Series]:
    return (reader.volumes or reader.read)(path) if volumes else reader.read(path)


def _reader(path: Path) -> Reader | None:
    """Return the reader of a file's suffix, or that of DICOM where the file begins so."""
    by_suffix = next((reader for reader in READERS.values() if path.name.lower().endswith(reader.suffixes)), None)
    return by_suffix or (READERS["dicom"] if is_dicom(path) else None)


def _folder(path: Path, volumes: bool) -> list[Series]:
    if is_results(path):
        return READERS["results"].read(path / RUN)
    files = files_below(path)
    found = {p: reader for p in files if (reader := _reader(p))}
    if READERS["dicom"] in found.values():
        return READERS["dicom"].read(path)
    images = [p for p, reader in found.items() if reader.folder == "each"]
    if images:
        shared = common_depth([p.parts[:-1] for p in images])
        return [one for p in images for one in _placed(_tried(found[p], p, volumes), p.parts[shared:-1])]
    for reader in found.values():
        if reader.folder == "whole":
            return _read(reader, path, volumes)
    seen = f"holds {len(files)} files, none of which can be read" if files else "is empty"
    raise InputError(f"the folder {path} {seen}; wanted {FORMATS}")


def _tried(reader: Reader, path: Path, volumes: bool) -> list[Series]:
    try:
        return _read(reader, path, volumes)
    except InputError as error:
        return [odd_series(path.stem, error, path)]


def _placed(series: list[Series], parents: tuple[str, ...]) -> list[Series]:
    """Name the series of a file after the folders that not all files share; the first of these is the patient."""
    return [replace(one, name="_".join([*parents, one.name]), group=parents[0]) for one in series] if parents else series
