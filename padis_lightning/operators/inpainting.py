"""Inpainting: a part of the pixels of an image is missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from padis_lightning.errors import InputError, require_at_least
from padis_lightning.operators.base import dimensions
from padis_lightning.operators.files import Matrix, read_mask
from padis_lightning.operators.pixels import PixelOperator


class Inpainting(PixelOperator):
    """Inpainting measures an image with zeros where it is not known, A = diag(m).

    Args:
        image_shape: channels, height and width (default: 3 and those of the mask).
        mask: m, the same for all channels, ``(H, W)``: a picture (white known, black missing; or opaque known, transparent
            missing), a .npy or rows of numbers (other than 0 known).
        missing_colour: red, green and blue from 0 to 255, by which the picture ``mask`` marks what is missing.

    Raises:
        InputError: the mask cannot be read, has another shape or keeps nothing.
    """

    mask: Tensor
    nearest: Tensor

    def __init__(
        self, image_shape: Sequence[int] | None = None, *, mask: Matrix | str, missing_colour: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        known = read_mask(mask, missing_colour)
        self.image_shape = self.measurement_shape = dimensions(image_shape or (3, *known.shape))
        if known.shape != self.image_shape[1:]:
            raise InputError(f"the mask has the shape {known.shape}; wanted {self.image_shape[1:]}, that of the image")
        if not known.any():
            raise InputError("the mask keeps 0 pixels; wanted at least 1")
        rows, columns = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        nearest = torch.from_numpy(rows.astype(np.int64) * known.shape[1] + columns)
        self.register_buffer("mask", torch.from_numpy(known), persistent=False)
        self.register_buffer("nearest", nearest.flatten(), persistent=False)

    def resized(self, image_shape: Sequence[int]) -> Inpainting:
        """Return the same of images with other channels; a mask that is given is of one size."""
        return Inpainting(image_shape, mask=self.mask.cpu().numpy())

    def forward(self, x: Tensor) -> Tensor:
        """Set missing pixels to 0: ``m x``, ``(B, C, H, W) -> (B, C, H, W)``."""
        return x * self.mask

    def adjoint(self, y: Tensor) -> Tensor:
        """Set missing pixels to 0: ``m y``."""
        return self(y)

    def zero_unmeasured(self, y: Tensor) -> Tensor:
        """Set missing pixels to 0: ``m y``."""
        return self(y)

    def approximate_inverse(self, y: Tensor) -> Tensor:
        """Give every unknown pixel the value of the nearest known one."""
        self.check(y, self.measurement_shape, "measurement")
        return y.flatten(2)[..., self.nearest].reshape(y.shape)


class BoxInpainting(Inpainting):
    """Box inpainting misses a rectangle.

    Args:
        image_shape: channels, height and width.
        box: height and width of the rectangle.
        at: row and column of its upper left corner (default: it is centred).
    """

    def __init__(
        self, image_shape: Sequence[int] = (3, 256, 256), box: Sequence[int] = (64, 64), at: Sequence[int] | None = None
    ) -> None:
        _, height, width = dimensions(image_shape)
        if len(box) != 2 or min(box) < 1:
            raise InputError(f"box is {list(box)}; wanted height and width, each at least 1")
        top, left = ((height - box[0]) // 2, (width - box[1]) // 2) if at is None else at
        if not (0 <= top <= height - box[0] and 0 <= left <= width - box[1]):
            raise InputError(f"the box of {box[0]}x{box[1]} at {top}, {left} leaves the image; wanted it within {height}x{width}")
        known = np.ones((height, width))
        known[top : top + box[0], left : left + box[1]] = 0
        super().__init__(image_shape, mask=known)
        self.box, self.at = box, at

    def resized(self, image_shape: Sequence[int]) -> Inpainting:
        """Return the same of images of another shape, with the box in its place."""
        return BoxInpainting(image_shape, self.box, self.at)


class RandomInpainting(Inpainting):
    """Random inpainting misses single pixels, an exact share of them.

    Args:
        image_shape: channels, height and width.
        share: of pixels that are missing.
        seed: masks of different seeds are different.
    """

    def __init__(self, image_shape: Sequence[int] = (3, 256, 256), share: float = 0.7, seed: int = 0) -> None:
        _, height, width = dimensions(image_shape)
        rng = _generator(share, seed)
        known = np.ones(height * width)
        known[rng.permutation(height * width)[: round(share * height * width)]] = 0
        super().__init__(image_shape, mask=known.reshape(height, width))
        self.share, self.seed = share, seed

    def resized(self, image_shape: Sequence[int]) -> Inpainting:
        """Draw the mask of images of another shape."""
        return RandomInpainting(image_shape, self.share, self.seed)


class IrregularInpainting(Inpainting):
    """Irregular inpainting misses bent strokes of a round brush, as many as cover a share of the image.

    Args:
        image_shape: channels, height and width.
        share: of pixels that are missing, at least; a piece of a stroke more at most.
        width: of a stroke, pixels.
        seed: masks of different seeds are different.
    """

    def __init__(self, image_shape: Sequence[int] = (3, 256, 256), share: float = 0.3, width: float = 9, seed: int = 0) -> None:
        _, *size = dimensions(image_shape)
        require_at_least(1, width=width)
        rng = _generator(share, seed)
        known, pieces = np.ones(size), 0
        while known.mean() > 1 - share:
            if pieces == 0:  # a new stroke
                pieces, turn, place = int(rng.integers(4, 13)), rng.uniform(0, 2 * np.pi), rng.uniform(0, size)
            turn = turn + rng.normal(0, 0.6)
            step = rng.uniform(0.05, 0.2) * min(size) * np.array([np.sin(turn), np.cos(turn)])
            _erase(known, place, place + step, width / 2)
            place = place + step
            pieces = pieces - 1 if (0 <= place).all() and (place < size).all() else 0
        super().__init__(image_shape, mask=known)
        self.share, self.width, self.seed = share, width, seed

    def resized(self, image_shape: Sequence[int]) -> Inpainting:
        """Draw the mask of images of another shape."""
        return IrregularInpainting(image_shape, self.share, self.width, self.seed)


def _generator(share: float, seed: int) -> np.random.Generator:
    if not 0 <= share < 1:
        raise InputError(f"share is {share:g}; wanted at least 0 and less than 1")
    require_at_least(0, seed=seed)
    return np.random.default_rng(seed)


def _erase(known: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> None:
    """Set to 0, in ``(H, W)``, the pixels whose centres are within ``radius`` of the line between two points."""
    low = np.floor(np.minimum(start, end) - radius).astype(int).clip(0)
    high = np.ceil(np.maximum(start, end) + radius).astype(int)
    window = known[low[0] : high[0], low[1] : high[1]]
    points = np.moveaxis(np.indices(window.shape), 0, -1) + low + 0.5
    line = end - start
    along = ((points - start) @ line / max(line @ line, 1e-12)).clip(0, 1)
    window[np.linalg.norm(points - start - along[..., None] * line, axis=-1) <= radius] = 0
