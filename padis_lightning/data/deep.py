"""PNG and compressed TIFF of 16 bits for each of several channels, which PIL shortens to 8."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile

COLOUR, GREY_ALPHA, COLOUR_ALPHA = 2, 4, 6  # types of PNG


def deep_type(stream: BinaryIO) -> int | None:
    """Return the type of a PNG of 16 bits and several channels; None for any other stream, which is left at its start."""
    start = stream.read(26)
    stream.seek(0)
    deep = start[:8] == b"\x89PNG\r\n\x1a\n" and start[24:25] == b"\x10"
    return start[25] if deep and start[25] in (COLOUR, GREY_ALPHA, COLOUR_ALPHA) else None


def is_deep_tiff(image: Image.Image) -> bool:
    """Return whether an opened picture is a compressed TIFF of 16 bits and several channels, whose bytes libtiff unpacks."""
    tiles = getattr(image, "tile", [])
    return len(tiles) == 1 and tiles[0][0] == "libtiff" and tiles[0][3][0] in ("RGB;16N", "RGBA;16N")


def read_deep(opened: Callable[[], ImageFile.ImageFile], upright: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Return the numbers of such a picture, ``(H, W, 2)``, ``(H, W, 3)`` or ``(H, W, 4)``, uint16; alpha is last.

    PIL keeps one byte of two. It keeps the other one where it is told that the bytes are in the other order, so that two
    readings make the whole. Grey and alpha are four bytes, which it takes for four channels.

    Args:
        opened: opens the file anew, unread.
        upright: reads a picture and turns it.
    """
    image = opened()
    options: Any = image.tile[0][3]
    layout = str(options if isinstance(options, str) else options[0])
    if layout == "LA;16B":
        return np.ascontiguousarray(upright(_laid_out(image, "RGBA"))).view(">u2").astype(np.uint16)
    high = np.asarray(upright(image))
    order = "N" if layout.endswith("N") else "B"
    other = "B" if order == "N" and sys.byteorder == "little" else "L"
    low = np.asarray(upright(_laid_out(opened(), layout.replace(f"16{order}", f"16{other}"))))
    return (high.astype(np.uint16) << 8) | low


def _laid_out(image: ImageFile.ImageFile, layout: str) -> Image.Image:
    """Return a picture that is not read yet, whose bytes will be taken for those of another layout."""
    (one,) = image.tile
    options: Any = one[3]
    changed: Any = (*one[:3], layout if isinstance(options, str) else (layout, *options[1:]))
    image.tile = [type(one)(*changed) if hasattr(one, "_fields") else changed]
    return image
