"""Data Exchange: HDF5 of synchrotrons, with raw frames, white and dark ones, and angles.

Source: De Carlo et al., Scientific Data Exchange, Journal of Synchrotron Radiation 2014.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from padis_lightning.data.conventions import Named
from padis_lightning.data.scans.base import Format, field, has, opened, rows_of, stack_of, unit_of
from padis_lightning.errors import InputError

FIELDS = {"flat": "exchange/data_white", "dark": "exchange/data_dark"}


def read(path: Path, named: Named) -> dict[str, np.ndarray]:
    """Read ``exchange/data``, the means of ``data_white`` and ``data_dark``, and ``theta``."""
    with opened(path, "exchange/data") as (file, frames):
        rows = named.pick(frames.shape[1], path)
        arrays = {"counts": rows_of(frames, rows, path), **stack_of(rows, path)}
        for key, name in FIELDS.items():
            shape = getattr(file.get(name), "shape", ())
            if 0 in shape or not shape:
                continue
            if shape[-2:] != frames.shape[1:] or len(shape) > 3:
                count, bins = frames.shape[1:]
                raise InputError(f"{path} has {name} of shape {shape}; wanted (n, {count}, {bins}), as the frames")
            arrays[key] = field(rows_of(file[name], rows, path))
        if "exchange/theta" not in file:
            raise InputError(f"{path} has exchange/data without exchange/theta; wanted the angles of its views")
        angles = file["exchange/theta"]
        return {**arrays, "angles": np.asarray(angles[()]), **unit_of(angles, path)}


SCAN = Format("Data Exchange", lambda path: has(path, "exchange/data"), read)
