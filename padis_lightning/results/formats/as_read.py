"""Restored pictures in the format and with the bits of those that were measured, and with all else that these had."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from padis_lightning.data.carried import Carried
from padis_lightning.data.sources.base import middle_square
from padis_lightning.data.sources.series import Series
from padis_lightning.files import whole
from padis_lightning.results.formats import pictures16

BITS = {255.0: np.uint8, 65535.0: np.uint16}  # by the value that is white
TIFF = (".tif", ".tiff")


def write_as_read(
    folder: Path, name: str, values: np.ndarray, series: Series, k: int = 0, *, filled: bool = False, crop: bool = False
) -> Path:
    """Write ``(H, W)`` or ``(H, W, 3)`` in the units of a series whole; return the file, a TIFF for a TIFF, else a PNG.

    Values beyond what the bits hold are clipped, and what was grey is grey. Numbers other than of 8 or 16 bits become float32.
    Alpha, ICC profile and EXIF are those of the picture.

    Args:
        folder: of the results.
        name: of the picture.
        values: of its estimate.
        series: that it is of.
        k: its number there.
        filled: what was transparent is not in the estimate, which has no alpha then.
        crop: the estimate is of the picture's middle.
    """
    if values.ndim == 3 and series.channels == 1:
        values = values.mean(-1)
    bits = BITS.get(series.range[1]) if series.range else None
    if bits is None or series.range is None:
        values = values.astype(np.float32)
    else:
        values = values.clip(*series.range).round().astype(bits)
    carried = series.carried(series.first + k) if series.carried else Carried()
    height, width = (min(series.shape[:2]),) * 2 if crop else series.shape[:2]
    carried = carried.for_shape((height, width, *series.shape[2:]), values.shape)
    profile = carried.profile_for(3 if values.ndim == 3 else 1, name)
    if bits and carried.alpha is not None and not filled:
        values = np.dstack([values, _fitted(carried.alpha, values.shape[:2], crop)])
    if bits is None or series.files[-1].suffix.lower() in TIFF:
        path = folder / "pictures" / f"{name}.tiff"
        pictures16.write_tiff(path, values, series.spacing, profile, carried.exif)
        return path
    path = folder / "pictures" / f"{name}.png"
    if bits is np.uint8:
        with whole(path) as temporary:
            dots = {"dpi": carried.dots} if carried.dots else {}
            Image.fromarray(values).save(temporary, "PNG", icc_profile=profile, exif=carried.exif, **dots)
        return path
    about = {b"iCCP": b"ICC profile\0\0" + zlib.compress(profile)} if profile else {}
    about |= {b"pHYs": struct.pack(">IIB", *(round(d / 0.0254) for d in carried.dots), 1)} if carried.dots else {}
    about |= {b"eXIf": carried.exif.tobytes().removeprefix(b"Exif\0\0")} if len(carried.exif) else {}
    pictures16.write_codes(path, values, about)
    return path


def _fitted(alpha: np.ndarray, size: tuple[int, ...], crop: bool) -> np.ndarray:
    """Bring alpha to the size of an estimate, in its own type."""
    if alpha.shape == size:
        return alpha
    image = torch.from_numpy(alpha.astype(np.float32))[None]
    image = middle_square(image) if crop else image
    if tuple(image.shape[1:]) != size:
        image = functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    return image[0].round().numpy().astype(alpha.dtype)
