"""Arrays as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from padis_lightning.files import whole

GAP, CAPTION = 4, 14


def planes(image: Tensor) -> Tensor:
    """The middle planes of a volume ``(C, D, H, W)`` as one picture: axial, sagittal right of it, coronal below.

    ``(C, H + D, W + D)``, each seen at the scale of its voxels, the last slice on top; an image ``(C, H, W)`` is itself.
    """
    if image.ndim == 3:
        return image
    channels, depth, height, width = image.shape
    out = image.new_zeros(channels, height + depth, width + depth)
    out[:, :height, :width] = image[:, depth // 2]
    out[:, :height, width:] = image[..., width // 2].flip(1).transpose(1, 2)
    out[:, height:, :width] = image[:, :, height // 2].flip(1)
    return out


class Shown(NamedTuple):
    """One image with what stands beside it, normalised.

    Attributes:
        estimate: ``(C, H, W)``.
        truth: ``(C, H, W)``, or None where there is none.
        baselines: ``(C, H, W)`` each.
        deviation: ``(C, H, W)``, that of the samples, or None for one.
        measurement: of any shape, or None where nothing was measured.
    """

    estimate: Tensor
    truth: Tensor | None
    baselines: dict[str, Tensor]
    deviation: Tensor | None
    measurement: Tensor | None

    def flat(self) -> Shown:
        """The same with the middle planes of volumes, and the measurement of the middle slice."""
        if self.estimate.ndim == 3:
            return self
        truth, deviation = (None if volume is None else planes(volume) for volume in (self.truth, self.deviation))
        measured = None if self.measurement is None else self.measurement[len(self.measurement) // 2]
        return Shown(planes(self.estimate), truth, {k: planes(v) for k, v in self.baselines.items()}, deviation, measured)


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


def beside(one: Shown, window: tuple[float, float], error_scale: float) -> Image.Image:
    """Truth, baselines, estimate, error and deviation of one image side by side."""
    tiles = {} if one.truth is None else {"truth": to_pixels(one.truth, window)}
    tiles |= {name: to_pixels(image, window) for name, image in one.baselines.items()}
    tiles["estimate"] = to_pixels(one.estimate, window)
    if one.truth is not None:
        tiles[f"error (colours end at {error_scale:g})"] = error_pixels(one.estimate - one.truth, error_scale)
    if one.deviation is not None:
        deviation = one.deviation.mean(0, keepdim=True)
        tiles[f"deviation (white: {error_scale:g})"] = to_pixels(deviation, (0.0, error_scale))
    return panel(tiles)


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
