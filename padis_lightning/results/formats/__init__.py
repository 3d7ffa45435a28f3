"""Estimates in the formats of other programs; each is one small module, and its library is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from padis_lightning.data.sources.base import Source
from padis_lightning.data.sources.series import Series
from padis_lightning.data.sources.volumes import VolumeSource
from padis_lightning.errors import InputError, first_few
from padis_lightning.files import safe_names
from padis_lightning.results.formats import dicom, nifti, pictures16
from padis_lightning.results.provenance import Origin
from padis_lightning.types import Normalisation

__all__ = ["Format", "check_formats", "write_image", "write_volumes"]

Format = Literal["nifti", "dicom", "png16", "tiff"]
LIBRARIES = {"nifti": ("nibabel", "nifti"), "dicom": ("pydicom", "dicom")}  # and the extra that installs them


def check_formats(formats: Sequence[str], source: Source | None, image_shape: Sequence[int] | None) -> None:
    """Refuse formats that are unknown, lack their library or cannot hold the data, before anything is solved.

    Items that are drawn have no source; their prior decides where ``image_shape`` is None.
    """
    for name in formats:
        if name not in get_args(Format):
            raise InputError(f"formats has {name!r}; wanted some of {', '.join(get_args(Format))}")
        library, extra = LIBRARIES.get(name, (None, None))
        if library and find_spec(library) is None:
            raise InputError(
                f"writing {name.upper()} needs {library}, which is not installed; wanted pip install 'padis_lightning[{extra}]'"
            )
        if library and image_shape is not None and image_shape[0] > 2:  # of complex images the magnitude is written
            raise InputError(f"the images have {image_shape[0]} channels; wanted 1 to be written as {name}")
    flat = [name for name in formats if name in ("png16", "tiff")]
    if flat and image_shape is not None and len(image_shape) == 4:
        raise InputError(f"formats has {flat[0]!r} and the data is volumes; wanted nifti or dicom")
    if "dicom" in formats:
        dicom.check_series(source.slices if isinstance(source, VolumeSource) else source)


def write_image(
    formats: Sequence[str],
    folder: Path,
    name: str,
    values: np.ndarray,
    scale: Normalisation,
    source: Source | None,
    index: int,
    origin: Origin,
    volumetric: bool,
) -> list[Path]:
    """Write estimate ``index`` of a source in every format of single images, or of volumes, and return the files.

    ``values`` are ``(H, W)`` or ``(H, W, 3)`` in the units of the data, of a volume ``(D, H, W)``; the ends of ``scale`` are the
    darkest and the brightest 16-bit grey. Of complex ones the magnitude is written, and as NIfTI the phase as well.
    """
    files, (series, first) = [], _place(source, index) or (None, 0)
    parts = parts_of(values)
    if volumetric and "nifti" in formats:
        affine = None if source is None else source.affine
        if series is not None:
            affine = nifti.volume_affine(series, values.shape[1:], range(first, first + len(values)))
        for kind, part in parts.items():
            files.append(folder / "volumes" / f"{name}{kind}.nii.gz")
            nifti.write_volume(files[-1], np.moveaxis(part, 0, -1), affine, origin.solver)
    values = parts[""]
    if "png16" in formats:
        files.append(folder / "pictures16" / f"{name}.png")
        pictures16.write_png(files[-1], values, (scale.lower, scale.upper))
    if "tiff" in formats:
        files.append(folder / "pictures16" / f"{name}.tiff")
        pictures16.write_tiff(files[-1], values.astype(np.float32), _resized_spacing(series, values.shape))
    if "dicom" in formats and series is not None:
        (stem,) = safe_names([series.name])
        for k, part in enumerate(values if volumetric else [values], first):
            files.append(folder / "dicom" / stem / f"{k:04d}.dcm")
            dicom.write_slice(files[-1], series.files[k], part, (scale.lower, scale.upper), series.units, origin)
    return files


def parts_of(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return complex values as their magnitude and, under ``_phase``, their phase in radians; others as they are."""
    return {"": np.abs(values), "_phase": np.angle(values)} if np.iscomplexobj(values) else {"": values}


def _place(source: Source | None, index: int) -> tuple[Series, int] | None:
    return None if source is None else source.place(index)


def _resized_spacing(series: Series | None, shape: Sequence[int]) -> tuple[float, float] | None:
    """Return mm from row to row and from column to column of an image (H, W, ...) over a slice's field of view, where known."""
    if series is None or series.spacing is None:
        return None
    rows, columns = (s * old / new for s, old, new in zip(series.spacing, series.shape, shape, strict=False))
    return rows, columns


def write_volumes(folder: Path, rows: Sequence[dict[str, Any]], source: Source | None, origin: Origin) -> None:
    """Write the estimates of each series as a NIfTI volume, phases, intervals and risks beside it; data without series is one."""
    volumes: dict[str, tuple[Series | None, list[tuple[int, str]]]] = {}
    for row in rows:
        series, k = _place(source, row["index"]) or (None, row["index"])
        volumes.setdefault(series.name if series else "images", (series, []))[1].append((k, row["name"]))
    for (name, (series, places)), stem in zip(volumes.items(), safe_names(list(volumes)), strict=True):
        numbers, names = zip(*sorted(places), strict=True)
        if series is not None and not nifti.evenly_spaced(numbers):
            seen = first_few(numbers)
            print(f"no volume of {name} was written: its slices {seen} are not evenly spaced; wanted all, or every n-th")
            continue
        for kind in ("arrays", "interval", "risk"):
            label = stem if kind == "arrays" else f"{stem}_{kind}"
            files = [folder / kind / f"{one}.npy" for one in names]
            if not all(one.is_file() for one in files):
                (folder / "volumes" / f"{label}.nii.gz").unlink(missing_ok=True)  # of an earlier run
                continue
            volume = np.stack([np.load(one, allow_pickle=False) for one in files], -1)
            affine = None if series is None else nifti.volume_affine(series, volume.shape[:2], numbers)
            for part, values in parts_of(volume).items():
                nifti.write_volume(folder / "volumes" / f"{label}{part}.nii.gz", values, affine, origin.solver)
