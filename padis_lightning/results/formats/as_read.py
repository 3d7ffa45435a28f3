"""Restored pictures in the format and with the bits of those that were measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from padis_lightning.data.sources.series import Series
from padis_lightning.results.formats import pictures16
from padis_lightning.results.pictures import save_picture

BITS = {255.0: np.uint8, 65535.0: np.uint16}  # by the value that is white


def write_as_read(folder: Path, name: str, values: np.ndarray, series: Series) -> Path:
    """Write ``(H, W)`` or ``(H, W, 3)`` in the units of a series whole; return the file, a TIFF for a TIFF, else a PNG.

    Values beyond what the bits hold are clipped, and what was grey is grey. Numbers other than of 8 or 16 bits become float32.
    """
    if values.ndim == 3 and series.channels == 1:
        values = values.mean(-1)
    bits = BITS.get(series.range[1]) if series.range else None
    if bits is not None:
        values = values.clip(*series.range).round().astype(bits)
    if bits is None or series.files[-1].suffix.lower() in (".tif", ".tiff"):
        path = folder / "pictures" / f"{name}.tiff"
        pictures16.write_tiff(path, values if bits else values.astype(np.float32), series.spacing)
        return path
    path = folder / "pictures" / f"{name}.png"
    if bits is np.uint8:
        save_picture(path, Image.fromarray(values))
    else:
        pictures16.write_png(path, values, series.range)
    return path
