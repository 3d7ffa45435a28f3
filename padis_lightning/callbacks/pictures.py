"""Arrays as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from padis_lightning.files import whole

GAP, CAPTION = 4, 14


def to_pixels(image: Tensor, window: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """``(C, H, W)`` to 8-bit ``(H, W, 3)``; the window's ends become black and white."""
    low, high = window
    scaled = ((image.detach().cpu().float() - low) / (high - low)).clamp(0, 1).mul(255).round().byte()
    return scaled.expand(3, -1, -1).permute(1, 2, 0).numpy() if len(image) == 1 else scaled.permute(1, 2, 0).numpy()


def error_pixels(error: Tensor, scale: float) -> np.ndarray:
    """``(C, H, W)`` to blue (too low), white (right) and orange (too high), saturated at ``scale``: ``(H, W, 3)``."""
    value = (error.detach().cpu().float().mean(0) / scale).clamp(-1, 1)[..., None].numpy()
    blue, white, orange = (np.array(c, dtype=np.float32) for c in ((0, 90, 181), (255, 255, 255), (220, 90, 0)))
    mixed = white + value.clip(0, None) * (orange - white) - value.clip(None, 0) * (blue - white)
    return mixed.round().astype(np.uint8)


def panel(tiles: dict[str, np.ndarray]) -> Image.Image:
    """Pictures ``(H, W, 3)`` side by side, each under its name."""
    height, width = next(iter(tiles.values())).shape[:2]
    canvas = Image.new("RGB", (len(tiles) * (width + GAP) - GAP, height + CAPTION), "white")
    draw = ImageDraw.Draw(canvas)
    for k, (name, pixels) in enumerate(tiles.items()):
        canvas.paste(Image.fromarray(pixels), (k * (width + GAP), CAPTION))
        draw.text((k * (width + GAP), 1), name, fill="black")
    return canvas


def sheet(images: Tensor, columns: int = 4) -> Image.Image:
    """Images ``(B, C, H, W)`` of [0, 1] in rows of ``columns``."""
    pixels = [to_pixels(image) for image in images]
    height, width = pixels[0].shape[:2]
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    canvas = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for k, one in enumerate(pixels):
        canvas.paste(Image.fromarray(one), (k % columns * (width + GAP), k // columns * (height + GAP)))
    return canvas


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG whole."""
    with whole(path) as temporary:
        picture.save(temporary, "PNG")
