"""PNG of 16 bits and TIFF."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from padis_lightning.files import whole

TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by channels
KINDS = {"u": 1, "i": 2, "f": 3}  # of numbers in TIFF
ALPHA = 2  # that colours are not multiplied by


def write_png(path: Path, values: np.ndarray, ends: tuple[float, float]) -> None:
    """Write ``(H, W)`` or ``(H, W, 3)`` whole, 16 bits between ``ends``, which a text in the file names."""
    codes = np.interp(values, ends, (0, 65535)).round().astype(np.uint16)
    write_codes(path, codes, {b"tEXt": f"Comment\0black is {ends[0]:g}, white is {ends[1]:g}".encode("latin-1")})


def write_codes(path: Path, codes: np.ndarray, about: dict[bytes, bytes]) -> None:
    """Write 16-bit numbers ``(H, W)`` or ``(H, W, C)`` as a PNG, whole; two or four channels have alpha last.

    Source: PNG specification, third edition, W3C, 2025.

    Args:
        path: the file.
        codes: the numbers.
        about: chunks before the pixels.
    """
    height, width, channels = (*codes.shape, 1)[:3]
    lines = np.zeros((height, 1 + 2 * width * channels), np.uint8)  # every line begins with 0: it is stored as it is
    lines[:, 1:] = codes.astype(">u2").reshape(height, -1).view(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 16, TYPES[channels], 0, 0, 0)
    chunks = {b"IHDR": header, **about, b"IDAT": zlib.compress(lines.data), b"IEND": b""}
    with whole(path) as temporary, open(temporary, "wb") as handle:
        handle.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks.items():
            handle.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def write_tiff(
    path: Path,
    values: np.ndarray,
    spacing: tuple[float, float] | None,
    profile: bytes | None = None,
    exif: Image.Exif | None = None,
) -> None:
    """Write ``(H, W)`` or ``(H, W, C)`` whole, in their type; two or four channels have alpha last.

    Source: TIFF revision 6.0, Adobe, 1992.

    Args:
        path: the file.
        values: the numbers.
        spacing: mm from row to row and from column to column.
        profile: ICC profile.
        exif: tags of the picture and below them those of EXIF and GPS.
    """
    height, width, channels = (*values.shape, 1)[:3]
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    tags = {305: "padis_lightning", **(exif or {})}
    if spacing is not None:
        tags |= {282: 10 / spacing[1], 283: 10 / spacing[0], 296: 3}  # pixels a centimetre
    tags |= {256: width, 257: height, 258: (8 * values.itemsize,) * channels, 259: 1, 262: 2 if channels > 2 else 1}
    tags |= {273: 0, 277: channels, 278: height, 279: values.nbytes, 284: 1, 339: (KINDS[values.dtype.kind],) * channels}
    tags |= ({338: ALPHA} if channels in (2, 4) else {}) | ({34675: profile} if profile else {})
    directory = ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[tag] = value
    with whole(path) as temporary, open(temporary, "wb") as handle:
        directory.save(handle)
        handle.write(values.data)
