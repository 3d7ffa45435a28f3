"""What the formats of other programs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from padis_lightning.data.containers import HDF5, hdf5
from padis_lightning.data.conventions import Named, read_unit
from padis_lightning.data.notes import note
from padis_lightning.errors import InputError
from padis_lightning.inputs import require_size

if TYPE_CHECKING:
    import h5py

NEXUS = (*HDF5, ".nxs", ".hdf")


class Format(NamedTuple):
    """Says how scans of a kind are recognised and read; ``read`` gets the file and what the user names of it."""

    kind: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Named], dict[str, np.ndarray]]


def has(path: Path, name: str) -> bool:
    """Return whether a file is HDF5 that has ``name`` in it."""
    if path.suffix.lower() not in NEXUS or not path.is_file():
        return False
    with hdf5(path) as file:
        return name in file


@contextmanager
def opened(path: Path, name: str) -> Iterator[tuple[h5py.File, h5py.Dataset]]:
    """Open the frames (frames, rows, bins) of a file; others are refused."""
    with hdf5(path) as file:
        frames = file[name]
        if len(getattr(frames, "shape", ())) != 3 or frames.dtype.kind not in "uif" or 0 in frames.shape:
            seen = f"{getattr(frames, 'dtype', 'no data')} of shape {getattr(frames, 'shape', ())}"
            raise InputError(f"{path} has {seen} in {name}; wanted numbers, (views, rows, bins)")
        yield file, frames


def rows_of(frames: h5py.Dataset, rows: Sequence[int], path: Path) -> np.ndarray:
    """Read rows of frames, or of a single one, as ``(rows, frames, bins)``, float32."""
    count, bins = frames.size // math.prod(frames.shape[-2:]), frames.shape[-1]
    require_size(path, len(rows) * count * bins * 4, max(frames.nbytes, path.stat().st_size))
    return np.stack([np.asarray(frames[..., row, :], dtype=np.float32).reshape(count, bins) for row in rows])


def field(frames: np.ndarray) -> np.ndarray:
    """Return the mean of frames ``(rows, frames, bins)``, ``(rows, 1, bins)``."""
    return frames.mean(1, keepdims=True, dtype=np.float64)


def unit_of(angles: h5py.Dataset, path: Path) -> dict[str, np.ndarray]:
    """Return the unit that a set of angles names, as a key of ours; nothing where it names none."""
    return {"angle_unit": np.asarray(read_unit(angles.attrs["units"], path))} if "units" in angles.attrs else {}


def stack_of(rows: Sequence[int], path: Path) -> dict[str, np.ndarray]:
    """Return the keys that make the rows of a scan one volume."""
    return {"patient": np.array([path.stem] * len(rows)), "z": np.asarray(rows, dtype=float)}


def fan_row(rows: int, named: Named, path: Path) -> list[int]:
    """Return the rows of a cone-beam scan to take as fans: the middle one, or those that the user names."""
    middle = rows // 2
    if rows > 1 and named.rows is None:
        note(f"{path} has {rows} rows of a cone beam; row {middle} is taken as a fan, --data.rows names another")
        return [middle]
    return named.pick(rows, path)
