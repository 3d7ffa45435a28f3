"""Blur convolves an image with one kernel, by FFT."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from padis_lightning.errors import InputError, require_above, require_at_least
from padis_lightning.linalg import at_least_single
from padis_lightning.operators.base import dimensions
from padis_lightning.operators.files import Matrix, is_picture, read_kernel
from padis_lightning.operators.pixels import PixelOperator

log = logging.getLogger(__name__)

SAMPLES = 32  # points along a side of a pixel by which its overlap with a line is counted
LARGE = 2**21  # frequencies from which channels are transformed one after the other, to spare memory
Border = Literal["circular", "reflect"]


class Blur(PixelOperator):
    r"""A blur convolves every channel with one kernel.

    .. math:: (A x)_i = \sum_k h_k \, x_{i + c - k}, \quad c = \lfloor n / 2 \rfloor

    ``circular`` continues the image by itself and A is diagonal in the Fourier transform. ``reflect`` mirrors it with half a
    sample, d c b a | a b c d | d c b a; A is then diagonal in the DCT-II if the kernel is symmetric along each axis.
    Elsewhere pinv and prox are conjugate gradients, as with a ``precision``.

    Source: Hansen, Nagy and O'Leary, Deblurring images: matrices, spectra, and filtering, 2006, chapter 4.

    Args:
        image_shape: channels, height and width.
        kernel: h, rows of numbers or a .npy file of them, taken as it is, or a picture, brought to a sum of 1; its centre is at
            (rows // 2, columns // 2).
        border: what lies outside the image.

    Raises:
        InputError: the kernel cannot be read, is larger than the image or sums to 0.
    """

    pixelwise = False
    kernel: Tensor
    spectrum: Tensor

    def __init__(self, image_shape: Sequence[int] = (3, 256, 256), *, kernel: Matrix | str, border: Border = "circular") -> None:
        super().__init__()
        if border not in ("circular", "reflect"):
            raise InputError(f"border is {border!r}; wanted 'circular' or 'reflect'")
        self.image_shape = self.measurement_shape = dimensions(image_shape)
        self.border = border
        values = torch.from_numpy(read_kernel(kernel))
        if is_picture(kernel):
            log.warning("padis_lightning: %s is a kernel of %dx%d, brought to a sum of 1", kernel, *values.shape)
        (rows, columns), (height, width) = values.shape, self.image_shape[1:]
        if rows > height or columns > width:
            raise InputError(f"kernel is {rows}x{columns}; wanted at most {height}x{width}, the size of the image")
        if values.sum().abs() <= 1e-12 * values.abs().sum():
            raise InputError(f"kernel sums to {float(values.sum()):g}; wanted a sum other than 0")
        periods = 1 if border == "circular" else 2
        self.grid = (periods * height, periods * width)
        response = torch.zeros(self.grid, dtype=torch.float64)
        response[:rows, :columns] = values
        response = response.roll((-(rows // 2), -(columns // 2)), (0, 1))
        self.closed_form = border == "circular" or _symmetric(response)
        spectrum = torch.fft.rfft2(response)
        if border == "reflect":  # a mirrored image has nothing at the frequency H or W
            spectrum[height], spectrum[:, width] = 0, 0
        self.register_buffer("kernel", values, persistent=False)
        self.register_buffer("spectrum", torch.view_as_real(spectrum), persistent=False)

    def resized(self, image_shape: Sequence[int]) -> Blur:
        """Return the blur by the same kernel of images of another shape."""
        return Blur(image_shape, kernel=self.kernel.cpu().numpy(), border=self.border)

    def singular_values(self, like: Tensor) -> Tensor:
        """Return the kernel's transform, ``grid`` cut to half in its last axis."""
        return torch.view_as_complex(self.spectrum.to(like))

    def to_spectrum(self, y: Tensor) -> Tensor:
        """Return the Fourier transform of the continued image."""
        if self.border == "reflect":
            y = torch.cat([y, y.flip(-2)], -2)
            y = torch.cat([y, y.flip(-1)], -1)
        return torch.fft.rfft2(y)

    def from_spectrum(self, coefficients: Tensor) -> Tensor:
        """Return the image of such a transform."""
        _, height, width = self.image_shape
        return torch.fft.irfft2(coefficients, s=self.grid)[..., :height, :width]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the kernel, ``(B, C, H, W) -> (B, C, H, W)``."""
        wide = at_least_single(x)
        return self.from_spectrum(self.singular_values(wide) * self.to_spectrum(wide)).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """Correlate with the kernel and fold back what falls outside, ``(B, C, H, W) -> (B, C, H, W)``."""
        self.check(y, self.measurement_shape, "measurement")
        wide = at_least_single(y)
        spread = torch.fft.irfft2(self.singular_values(wide).conj() * torch.fft.rfft2(wide, s=self.grid), s=self.grid)
        if self.border == "reflect":
            _, height, width = self.image_shape
            spread = spread[..., :height, :] + spread[..., height:, :].flip(-2)
            spread = spread[..., :width] + spread[..., width:].flip(-1)
        return spread.to(y.dtype)

    def _prox(
        self, v: Tensor, y: Tensor, weight: float | Tensor, precision: Tensor | None, *limits: *tuple[int, float]
    ) -> Tensor:
        if precision is not None or not self.closed_form or len(v[0]) == 1 or math.prod(self.grid) < LARGE:
            return super()._prox(v, y, weight, precision, *limits)
        single = copy.copy(self)  # which shares the kernel's transform
        single.image_shape = single.measurement_shape = (1, *self.image_shape[1:])
        channels = zip(v.split(1, 1), y.split(1, 1), strict=True)
        return torch.cat([single._prox(*pair, weight, None, *limits) for pair in channels], 1)

    def approximate_inverse(self, y: Tensor) -> Tensor:
        """Return the blurred image."""
        return y


class UniformBlur(Blur):
    """Uniform blur takes the mean over a square.

    Args:
        image_shape: channels, height and width.
        size: pixels along a side; an even square reaches one pixel further up and left.
        border: what lies outside the image, see :class:`Blur`.
    """

    def __init__(self, image_shape: Sequence[int] = (3, 256, 256), size: int = 9, border: Border = "circular") -> None:
        require_at_least(1, size=size)
        super().__init__(image_shape, kernel=np.full((size, size), 1 / size**2), border=border)


class GaussianBlur(Blur):
    """Gaussian blur convolves with a Gaussian, sampled at pixel centres, of sum 1.

    Args:
        image_shape: channels, height and width.
        std: standard deviation, pixels.
        size: pixels along a side of the kernel, odd (default: 4 deviations to each side).
        border: what lies outside the image, see :class:`Blur`.
    """

    def __init__(
        self, image_shape: Sequence[int] = (3, 256, 256), std: float = 3.0, size: int | None = None, border: Border = "circular"
    ) -> None:
        require_above(0, std=std)
        size = 2 * math.ceil(4 * std) + 1 if size is None else size
        if size < 1 or size % 2 == 0:
            raise InputError(f"size is {size}; wanted an odd number of at least 1")
        profile = np.exp(-0.5 * ((np.arange(size) - size // 2) / std) ** 2)
        profile /= profile.sum()
        super().__init__(image_shape, kernel=np.outer(profile, profile), border=border)


class MotionBlur(Blur):
    """Motion blur convolves with a straight line one pixel wide: the share of each pixel that it covers, of sum 1.

    Args:
        image_shape: channels, height and width.
        length: of the line, pixels.
        angle: of the line, degrees counter-clockwise from the horizontal.
        border: what lies outside the image, see :class:`Blur`.
    """

    def __init__(
        self, image_shape: Sequence[int] = (3, 256, 256), length: float = 15, angle: float = 30.0, border: Border = "circular"
    ) -> None:
        require_at_least(1, length=length)
        if not math.isfinite(angle):
            raise InputError(f"angle is {angle:g}; wanted degrees")
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        y, x = _points(length * abs(sin) + abs(cos))[:, None], _points(length * abs(cos) + abs(sin))
        along, across = x * cos - y * sin, x * sin + y * cos  # y points down
        covered = (np.abs(along) <= length / 2) & (np.abs(across) <= 0.5)
        covered = covered.reshape(len(y) // SAMPLES, SAMPLES, len(x) // SAMPLES, SAMPLES).mean((1, 3))
        super().__init__(image_shape, kernel=covered / covered.sum(), border=border)


def _points(extent: float) -> np.ndarray:
    """Return ``SAMPLES`` places a pixel along an odd number of pixels around 0 that hold ``extent``."""
    pixels = 2 * math.ceil(round((extent - 1) / 2, 6)) + 1
    return (np.arange(pixels * SAMPLES) - (pixels * SAMPLES - 1) / 2) / SAMPLES


def _symmetric(response: Tensor) -> bool:
    """Tell whether a periodic impulse response equals its mirror images around its first row and its first column."""
    margin = 1e-12 * float(response.abs().max())
    mirrored = (response.flip(axis).roll(1, axis) for axis in (0, 1))
    return all(torch.allclose(response, other, rtol=0, atol=margin) for other in mirrored)
