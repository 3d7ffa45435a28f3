"""Complex images as channels of real ones, and their centred orthonormal Fourier transform."""

from __future__ import annotations

import torch
from torch import Tensor

PLANE = (-2, -1)


def to_complex(x: Tensor) -> Tensor:
    """Turn channels that hold real and imaginary parts in turn into complex ones, ``(B, 2 n, H, W) -> (B, n, H, W)``."""
    return torch.view_as_complex(x.unflatten(1, (-1, 2)).movedim(2, -1).contiguous())


def to_channels(x: Tensor) -> Tensor:
    """Turn complex channels into real and imaginary parts in turn, the inverse of :func:`to_complex`."""
    return torch.view_as_real(x).movedim(-1, 2).flatten(1, 2)


def fourier(x: Tensor) -> Tensor:
    """Return the orthonormal transform of ``(..., H, W)``; 0 is at (H // 2, W // 2) in both domains."""
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x, PLANE), norm="ortho"), PLANE)


def inverse_fourier(k: Tensor) -> Tensor:
    """Return the inverse, and adjoint, of :func:`fourier`."""
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(k, PLANE), norm="ortho"), PLANE)


def magnitude(x: Tensor, axis: int = 1) -> Tensor:
    """Return the magnitude of complex images, whose two channels lie along ``axis``, as one channel; others as they are."""
    return torch.linalg.vector_norm(x, dim=axis, keepdim=True) if x.shape[axis] == 2 else x
