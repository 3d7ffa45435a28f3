"""Opening of whatever data there is, by one function, and of the scan that it was measured with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from padis_lightning.ct import ConeGeometry, Geometry
from padis_lightning.data.containers import HDF5, NUMPY
from padis_lightning.data.readers import open_series
from padis_lightning.data.sources.arrays import read_arrays
from padis_lightning.data.sources.base import Source
from padis_lightning.data.sources.cone_scans import ConeSource, cone_files, cone_geometry
from padis_lightning.data.sources.measurements import geometry_of, is_measured, load_measured
from padis_lightning.data.sources.prepared import PreparedSource, is_prepared
from padis_lightning.data.sources.series import SeriesSource, in_hounsfield_units
from padis_lightning.errors import InputError


def open_source(
    path: str | Path,
    size: int | None = None,
    data_range: Sequence[float] | None = None,
    *,
    hu: bool = False,
    skip_bad: bool = False,
    volumes: bool = False,
) -> Source:
    """Open the images or measurements of a file or a folder.

    ``.npz`` and ``.npy`` hold images or measurements (:func:`padis_lightning.data.sources.arrays.read_arrays`), HDF5 what
    ``prepare`` wrote, measurements or images. Everything else is read by :func:`padis_lightning.data.readers.open_series`.
    Cone-beam scans may be a folder of files (:class:`padis_lightning.data.sources.cone_scans.ConeSource`).

    Args:
        path: the file or the folder.
        size: side that images are brought to (default: as they are).
        data_range: values that become 0 and 1, in place of what the files say.
        hu: values are Hounsfield units, where the files do not say so.
        skip_bad: leave out series that cannot be used (see :func:`padis_lightning.data.readers.open_series`).
        volumes: slices become volumes.

    Raises:
        InputError: there is nothing to read, what there is cannot be read, or nothing says what becomes 0 and 1.
    """
    path = Path(path)
    bounds = None if data_range is None else (float(data_range[0]), float(data_range[1]))
    scans = cone_files(path)
    if hu and (scans or (path.suffix in HDF5 and path.is_file() and is_measured(path))):
        raise InputError(f"hu is true and {path} has measurements; wanted images, or 'hu_window' in the file")
    if scans:
        return ConeSource(scans, bounds, f"{len(scans)} cone-beam scans of {path.name}")
    if path.suffix in NUMPY:
        return read_arrays(path, size, bounds, hounsfield=hu)
    if path.suffix in HDF5 and path.is_file():
        if is_prepared(path):
            return PreparedSource(path, size, bounds, hounsfield=hu)
        if is_measured(path):
            return read_arrays(path, size, bounds)
    series = open_series(path, skip_bad=skip_bad, volumes=volumes)
    if hu:
        series = [in_hounsfield_units(one) for one in series]
    return SeriesSource(series, size, bounds, f"{sum(one.count for one in series)} slices of {path.name}")


def read_geometry(path: str | Path) -> Geometry | ConeGeometry | None:
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
    scans = cone_files(path)
    if scans:
        return cone_geometry(scans[0])
    if path.suffix in NUMPY or (path.suffix in HDF5 and path.is_file() and is_measured(path)):
        return geometry_of(load_measured(path), path)
    return None
