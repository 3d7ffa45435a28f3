"""Arrays as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F  # noqa: N812
from PIL import Image, ImageDraw
from torch import Tensor

from padis_lightning.files import whole
from padis_lightning.results.voxels import CUBES, Spacing

GAP, CAPTION = 4, 14


def planes(image: Tensor, spacing: Spacing = CUBES) -> Tensor:
    """The middle planes of a volume ``(C, D, H, W)`` as one picture: axial, sagittal right of it, coronal below.

    ``(C, H + D, W + D)`` for cubes; others are stretched to their proportions, the smaller side of a pixel being one pixel of
    the picture. The last slice is on top; an image ``(C, H, W)`` is itself.
    """
    if image.ndim == 3:
        return image
    pixel, voxels = min(spacing[1:]), image.shape[1:]
    depth, height, width = (max(1, round(n * step / pixel)) for n, step in zip(voxels, spacing, strict=True))
    out = image.new_zeros(len(image), height + depth, width + depth)
    out[:, :height, :width] = _stretched(image[:, voxels[0] // 2], (height, width))
    out[:, :height, width:] = _stretched(image[..., voxels[2] // 2].flip(1).transpose(1, 2), (height, depth))
    out[:, height:, :width] = _stretched(image[:, :, voxels[1] // 2].flip(1), (depth, width))
    return out


def _stretched(plane: Tensor, size: tuple[int, int]) -> Tensor:
    if plane.shape[1:] == size:
        return plane
    return F.interpolate(plane[None].float(), size, mode="bilinear", antialias=True)[0]


class Shown(NamedTuple):
    """One image with what stands beside it, normalised.

    Attributes:
        estimate: ``(C, H, W)``, of a volume ``(C, D, H, W)`` like the others.
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

    def flat(self, spacing: Spacing = CUBES) -> Shown:
        """The same with the middle planes of volumes."""
        truth, deviation = (None if volume is None else planes(volume, spacing) for volume in (self.truth, self.deviation))
        baselines = {name: planes(volume, spacing) for name, volume in self.baselines.items()}
        return Shown(planes(self.estimate, spacing), truth, baselines, deviation, self.measurement)


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
