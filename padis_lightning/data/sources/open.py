"""Opening of whatever data there is, by one function, and of the scan that it was measured with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from padis_lightning.ct import ConeGeometry, Geometry
from padis_lightning.data.containers import HDF5, NUMPY
from padis_lightning.data.conventions import Named
from padis_lightning.data.readers import open_series
from padis_lightning.data.scans import find_format
from padis_lightning.data.sources.arrays import ArraySource, read_arrays
from padis_lightning.data.sources.base import Source
from padis_lightning.data.sources.cone_scans import ConeSource, cone_files, cone_geometry
from padis_lightning.data.sources.kspace import KSpaceSource, SamplesSource, find_kspace
from padis_lightning.data.sources.measurements import geometry_of, is_measured, load_measured
from padis_lightning.data.sources.pictures import ReferenceSource, holds_measurement, holds_pictures, read_pictures
from padis_lightning.data.sources.prepared import PreparedSource, is_prepared
from padis_lightning.data.sources.series import SeriesSource, in_hounsfield_units
from padis_lightning.errors import InputError


def open_source(
    path: str | Path,
    size: int | None = None,
    data_range: Sequence[float] | None = None,
    named: Named = Named(),  # noqa: B008
    *,
    channels: int | None = None,
    crop: bool = False,
    measured: bool = False,
    hu: bool = False,
    skip_bad: bool = False,
    volumes: bool = False,
) -> Source:
    """Open the images or measurements of a file or a folder.

    ``.npz`` and ``.npy`` hold images or measurements (:func:`padis_lightning.data.sources.arrays.read_arrays`), HDF5 what
    ``prepare`` wrote, measurements or images. Everything else is read by :func:`padis_lightning.data.readers.open_series`.
    Cone-beam scans may be a folder of files (:class:`padis_lightning.data.sources.cone_scans.ConeSource`), and k-space is any
    file that :func:`padis_lightning.data.sources.kspace.find_kspace` knows.

    Args:
        path: the file or the folder.
        size: side that images are brought to (default: as they are).
        data_range: values that become 0 and 1, in place of what the files say.
        named: what the user says of a scan.
        channels: number that pictures are brought to, 1 or 3 (default: as they are).
        crop: cut the middle out of pictures that are not square.
        measured: pictures are what was measured; a scan always is.
        hu: values are Hounsfield units, where the files do not say so.
        skip_bad: leave out series that cannot be used (see :func:`padis_lightning.data.readers.open_series`).
        volumes: slices become volumes.

    Raises:
        InputError: there is nothing to read, what there is cannot be read, or nothing says what becomes 0 and 1.
    """
    path = Path(path)
    bounds = None if data_range is None else (float(data_range[0]), float(data_range[1]))
    if kspace := find_kspace(path):
        kind = SamplesSource if kspace.sides else KSpaceSource
        return _converted(kind(kspace, bounds, named.coils), channels, crop)
    foreign = find_format(path)
    if hu and (foreign or cone_files(path)):
        raise InputError(f"hu is true and {path} has measurements; wanted images, or 'hu_window' in the file")
    if foreign:
        return _converted(read_arrays(path, size, bounds, named), channels, crop)
    if path.is_file() and path.suffix in (*NUMPY, *HDF5):
        source = _open_arrays(path, size, bounds, named, measured, hu)
        if source is not None:
            return _converted(source, channels, crop)
    elif scans := cone_files(path):
        return _converted(ConeSource(scans, bounds, f"{len(scans)} cone-beam scans of {path.name}"), channels, crop)
    series = open_series(path, skip_bad=skip_bad, volumes=volumes)
    if hu:
        series = [in_hounsfield_units(one) for one in series]
    described = f"{sum(one.count for one in series)} slices of {path.name}"
    return SeriesSource(series, None if measured else size, bounds, described, channels=channels, crop=crop, pictured=measured)


def _open_arrays(
    path: Path, size: int | None, bounds: tuple[float, float] | None, named: Named, measured: bool, hu: bool
) -> Source | None:
    """Open a file of named arrays; None for one of HDF5 that has a reader."""
    if measured and (holds_pictures(path) or not holds_measurement(path)):
        return read_pictures(path, bounds)
    if scans := cone_files(path):
        return ConeSource(scans, bounds, f"{len(scans)} cone-beam scans of {path.name}")
    if path.suffix in NUMPY or is_measured(path):
        return read_arrays(path, size, bounds, named, hounsfield=hu)
    return PreparedSource(path, size, bounds, hounsfield=hu) if is_prepared(path) else None


def _converted(source: Source, channels: int | None, crop: bool) -> Source:
    """Bring images in memory to a number of channels; refuse what is asked of other data."""
    if crop:
        raise InputError(f"crop is true and {source.description} are no pictures; wanted pictures, or false")
    if channels in (None, source.image_shape[0]):
        return source
    if not isinstance(source, ArraySource) or not (source.has_images or source.pictured):
        seen = source.image_shape[0]
        raise InputError(f"channels is {channels} and {source.description} have {seen}; wanted pictures, or {seen}")
    return source.with_channels(channels)


def compared(source: Source, reference: str, options: dict[str, Any]) -> Source:
    """Put the truth of ``reference`` beside the measurements of a source; arrays are in the units of the estimates."""
    if source.has_images or source.volumetric or source.singly:
        seen = f"{source.description} are {'volumes' if source.volumetric else 'images' if source.has_images else 'of MRI'}"
        raise InputError(f"reference is {reference!r} and {seen}; wanted measurements, of pictures --data.measured true")
    bounds = (source.normalisation.lower, source.normalisation.upper) if Path(reference).suffix in (*NUMPY, *HDF5) else None
    return ReferenceSource(source, open_source(reference, None, bounds, measured=source.pictured, **options))


def is_flat_scan(path: Path) -> bool:
    """Return whether a file or a folder may hold measured slices: another program's scan, arrays, or measurements in HDF5."""
    if find_format(path):
        return True
    if cone_files(path):
        return False
    return path.suffix in NUMPY or (path.suffix in HDF5 and path.is_file() and is_measured(path))


def read_geometry(path: str | Path, named: Named = Named()) -> Geometry | ConeGeometry | None:  # noqa: B008
    """Read the scan that a file's projections were measured with, that of a folder of cone-beam scans; None where there are none.

    Keys of the file: ``angles`` (views,) in radians, ``size`` of the image in pixels (or height and width), ``pixel_spacing``,
    ``bin_spacing``; for a fan ``source_distance``, ``detector_distance`` and perhaps ``curved``; for a cone also
    ``slice_spacing``, ``row_spacing``, and perhaps ``heights`` (views,), ``row_offset``, ``bin_offset``. Without them, the
    geometry is read from the file of the same name that ends in ``.json``; see :class:`padis_lightning.ct.Geometry` and
    :class:`padis_lightning.ct.ConeGeometry`. LoDoPaB's is known.

    Raises:
        InputError: there is no geometry, a key is missing, or the geometry does not fit the projections.
    """
    path = Path(path)
    if is_flat_scan(path):
        return geometry_of(load_measured(path, (), named), path)
    scans = cone_files(path)
    return cone_geometry(scans[0]) if scans else None
