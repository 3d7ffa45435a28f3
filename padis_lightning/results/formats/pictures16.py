"""PNG of 16 bits and TIFF."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from padis_lightning.files import whole

GREY, COLOUR = 0, 2  # types of PNG


def write_png(path: Path, values: np.ndarray, ends: tuple[float, float]) -> None:
    """Write ``(H, W)`` or ``(H, W, 3)`` whole, 16 bits between ``ends``, which a text in the file names.

    Source: PNG specification, third edition, W3C, 2025.
    """
    codes = np.interp(values, ends, (0, 65535)).round().astype(">u2")
    height, width = codes.shape[:2]
    lines = b"".join(b"\0" + line.tobytes() for line in codes)  # every line is stored as it is
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR if codes.ndim == 3 else GREY, 0, 0, 0)
    chunks = {
        b"IHDR": header,
        b"tEXt": f"Comment\0black is {ends[0]:g}, white is {ends[1]:g}".encode("latin-1"),
        b"IDAT": zlib.compress(lines),
        b"IEND": b"",
    }
    with whole(path) as temporary:
        temporary.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks.items()))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_tiff(path: Path, values: np.ndarray, spacing: tuple[float, float] | None) -> None:
    """Write ``(H, W)`` or ``(H, W, 3)`` whole, in their type; ``spacing`` is mm from row to row and from column to column."""
    import tifffile

    options = {} if spacing is None else {"resolution": (10 / spacing[1], 10 / spacing[0]), "resolutionunit": "CENTIMETER"}
    options |= {"photometric": "rgb" if values.ndim == 3 else "minisblack", "software": "padis_lightning", "metadata": None}
    with whole(path) as temporary, open(temporary, "wb") as handle:
        tifffile.imwrite(handle, values, **options)
