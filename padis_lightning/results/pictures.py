"""Arrays as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch.nn.functional as F  # noqa: N812
from PIL import Image, ImageDraw
from torch import Tensor

from padis_lightning.files import whole
from padis_lightning.mri import magnitude
from padis_lightning.results.voxels import CUBES, Spacing
from padis_lightning.types import Reconstruction

GAP, CAPTION = 4, 14

Value = TypeVar("Value")


def planes(image: Tensor, spacing: Spacing = CUBES) -> Tensor:
    """Return the middle planes of a volume ``(C, D, H, W)`` as one picture: axial, sagittal right of it, coronal below.

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


def evenly_spread(values: Sequence[Value], count: int) -> list[Value]:
    """Return at most ``count`` of the values, evenly spread over all."""
    kept = min(len(values), count)
    return [values[k * len(values) // kept] for k in range(kept)]


class ImageResult(NamedTuple):
    """The estimate of one image or volume with what it is compared with, normalised.

    Attributes:
        estimate: ``(C, H, W)``, of a volume ``(C, D, H, W)`` like the others.
        truth: ``(C, H, W)``, or None where there is none.
        baselines: ``(C, H, W)`` each, by name.
        deviation: ``(C, H, W)``, the standard deviation of the samples, or None for one sample.
        measurement: of any shape, or None where nothing was measured.
        samples: ``(K, C, H, W)``, or None for one.
        interval: ``(C, H, W)``, half the calibrated 90 % interval, of complex images of the magnitude; or None.
        risk: ``(C, H, W)``, the probability of an error above ``large``, or None without a calibration.
        large: a size of errors.
    """

    estimate: Tensor
    truth: Tensor | None
    baselines: dict[str, Tensor]
    deviation: Tensor | None
    measurement: Tensor | None
    samples: Tensor | None = None
    interval: Tensor | None = None
    risk: Tensor | None = None
    large: float = 0.0

    @property
    def shown(self) -> ImageResult:
        """Return the same as pictures have it: of complex images the magnitudes."""
        if len(self.estimate) != 2:
            return self
        truth, samples = (None if part is None else magnitude(part, axis) for part, axis in ((self.truth, 0), (self.samples, 1)))
        baselines = {name: magnitude(image, 0) for name, image in self.baselines.items()}
        deviation = None if samples is None else samples.std(0)
        estimate = magnitude(self.estimate, 0)
        return self._replace(estimate=estimate, truth=truth, baselines=baselines, deviation=deviation, samples=samples)

    @property
    def images(self) -> list[tuple[str, str, Tensor]]:
        """Return the kind and the name of truth, baselines, estimate and first sample, and each image."""
        truth = [] if self.truth is None else [("truth", "truth", self.truth)]
        baselines = [("baseline", name, image) for name, image in self.baselines.items()]
        sample = [] if self.samples is None else [("sample", "a sample", self.samples[0])]
        return [*truth, *baselines, ("estimate", "estimate", self.estimate), *sample]

    @property
    def held(self) -> float | None:
        """Return the share of the truth that is inside the calibrated intervals; None without them or a truth."""
        seen = self.shown
        if self.interval is None or seen.truth is None:
            return None
        return float(((seen.truth - seen.estimate).abs() <= self.interval).float().mean())

    @classmethod
    def of(cls, i: int, truth: Tensor | None, baselines: dict[str, Tensor], found: Reconstruction) -> ImageResult:
        """Take item ``i`` out of a batch: truths, estimates of baselines, and what the solver found."""
        truth, y, samples = (None if part is None else part[i] for part in (truth, found.measurement, found.samples))
        deviation = None if samples is None else samples.std(0)
        return cls(found.estimate[i], truth, {name: one[i] for name, one in baselines.items()}, deviation, y, samples)


def to_pixels(image: Tensor, window: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Return ``(C, H, W)`` as 8-bit ``(H, W, 3)``; the window's ends become black and white; of complex images the magnitude."""
    low, high = window
    image = magnitude(image, 0)
    scaled = ((image.detach().cpu().float() - low) / (high - low)).clamp(0, 1).mul(255).round().byte()
    return scaled.expand(3, -1, -1).permute(1, 2, 0).numpy() if len(image) == 1 else scaled.permute(1, 2, 0).numpy()


def error_pixels(error: Tensor, scale: float) -> np.ndarray:
    """Return errors ``(C, H, W)`` in blue (too low), white and orange (too high), saturated at ``scale``: ``(H, W, 3)``."""
    value = (error.detach().cpu().float().mean(0) / scale).clamp(-1, 1)[..., None].numpy()
    blue, white, orange = (np.array(c, dtype=np.float32) for c in ((0, 90, 181), (255, 255, 255), (220, 90, 0)))
    mixed = white + value.clip(0, None) * (orange - white) - value.clip(None, 0) * (blue - white)
    return mixed.round().astype(np.uint8)


def comparison(result: ImageResult, window: tuple[float, float], error_scale: float, spacing: Spacing = CUBES) -> Image.Image:
    """Draw an image's truth, baselines, estimate, sample, and what is said of errors, side by side; of volumes middle planes."""

    def show(image: Tensor, ends: tuple[float, float] = window) -> np.ndarray:
        return to_pixels(planes(image, spacing), ends)

    tiles = [(name, show(image)) for _, name, image in result.images]
    if result.truth is not None:
        error = planes(result.estimate, spacing) - planes(result.truth, spacing)
        tiles.append((f"error (colours end at {error_scale:g})", error_pixels(error, error_scale)))
    if result.deviation is not None:
        deviation = result.deviation.mean(0, keepdim=True)
        tiles.append((f"deviation (white: {error_scale:g})", show(deviation, (0.0, error_scale))))
    for name, value, white in (("90 % interval, half", result.interval, error_scale), ("risk", result.risk, 1.0)):
        if value is not None:
            tiles.append((f"{name} (white: {white:g})", show(value.mean(0, keepdim=True), (0.0, white))))
    names, pixels = zip(*tiles, strict=True)
    return _grid(pixels, len(pixels), names)


def sheet(images: Tensor, columns: int = 4) -> Image.Image:
    """Draw images ``(B, C, H, W)`` of [0, 1] in rows of ``columns``."""
    return _grid([to_pixels(image) for image in images], columns)


def _grid(pixels: Sequence[np.ndarray], columns: int, captions: Sequence[str] = ()) -> Image.Image:
    """Draw pictures ``(H, W, 3)`` of one size in rows, each under its caption."""
    top, columns = CAPTION * bool(captions), min(columns, len(pixels))
    height, width = pixels[0].shape[0] + top, pixels[0].shape[1]
    rows = -(-len(pixels) // columns)
    canvas = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for k, one in enumerate(pixels):
        left, upper = k % columns * (width + GAP), k // columns * (height + GAP)
        canvas.paste(Image.fromarray(one), (left, upper + top))
        if captions:
            ImageDraw.Draw(canvas).text((left, upper + 1), captions[k], fill="black")
    return canvas


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG whole."""
    with whole(path) as temporary:
        picture.save(temporary, "PNG")
