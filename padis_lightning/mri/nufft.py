"""The Fourier transform of images at any points of k-space, by FINUFFT on the host, and what follows from the points."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padis_lightning.mri.fourier import PLANE
from padis_lightning.registry import needed

Points = np.ndarray  # (samples, 2) in cycles per pixel, along height and width

PRECISION = 1e-15  # relative: A'A by a convolution has to be A'A up to rounding; coarser ones are hardly faster
COMPENSATIONS = 10  # iterations; twenty more change images by less than 0.1 dB, and make weights less even


def library() -> ModuleType:
    """Import FINUFFT, whose wheels hold FFTW (GPL); raise an InputError where it is not installed."""
    return needed("finufft", "points of k-space off the grid need finufft", "mri", ", whose wheel holds FFTW (GPL)")


def transform(x: Tensor, points: Points) -> Tensor:
    r"""Return k-space of complex images at points k, ``(..., H, W) -> (..., samples)``.

    .. math:: \frac{1}{\sqrt{H W}} \sum_r x_r \, e^{-2 \pi i k \cdot r}

    0 is at (H // 2, W // 2) of the image, so that points on the grid are those of :func:`padis_lightning.mri.fourier`.

    Source: Barnett, Magland and af Klinteberg, A parallel non-uniform fast Fourier transform library based on an exponential of
    semicircle kernel, SIAM Journal on Scientific Computing 2019.
    """
    return _Transform.apply(x, points, (x.shape[-2], x.shape[-1]), True)


def adjoint(y: Tensor, points: Points, sides: tuple[int, int]) -> Tensor:
    """Return the adjoint of :func:`transform`, ``(..., samples) -> (..., H, W)``."""
    return _Transform.apply(y, points, sides, False)


class _Transform(torch.autograd.Function):
    """This transform is to k-space or its adjoint; the derivative of the one is the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, points: Points, sides: tuple[int, int], forward: bool) -> Tensor:  # noqa: ANN401 - keeps what is set on it
        ctx.rest = points, sides, forward
        axes, finufft = (2 if forward else 1), library()
        values = np.ascontiguousarray(x.detach().reshape(-1, *x.shape[-axes:]).cpu().numpy(), np.complex128)
        # one oversampling, one thread a transform, and one in all to add samples up: an exact adjoint, bits that no batch changes
        threads = torch.get_num_threads() if forward else 1
        options = {"eps": PRECISION, "upsampfac": 2.0, "spread_thread": 2, "nthreads": threads}
        angles = 2 * math.pi * np.ascontiguousarray(points.T)
        if forward:
            found = finufft.nufft2d2(*angles, values, isign=-1, **options)
        else:
            found = finufft.nufft2d1(*angles, values, n_modes=sides, isign=1, **options)
        shape = (*x.shape[:-axes], *((len(points),) if forward else sides))
        return torch.from_numpy(found / math.sqrt(math.prod(sides))).reshape(shape).to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        points, sides, forward = ctx.rest
        return _Transform.apply(grad, points, sides, not forward), None, None, None


def normal_spectrum(points: Points, sides: tuple[int, int], density: Tensor) -> Tensor:
    """Return the eigenvalues of the circulant in which :func:`transform`, weights and its adjoint lie, real ``(2 H, 2 W)``.

    Source: Fessler et al., Toeplitz-based iterative image reconstruction for MRI with correction for magnetic field
    inhomogeneity, IEEE Transactions on Signal Processing 2005.

    Args:
        points: ``(samples, 2)``.
        sides: H and W.
        density: weights ``(samples,)``.
    """
    height, width = sides
    kernel = adjoint(density.to(torch.complex128), points, (2 * height, 2 * width)) * 2 / math.sqrt(height * width)
    return torch.fft.fft2(torch.fft.ifftshift(kernel, PLANE)).real  # the rest is of differences that no two pixels have


def convolved(x: Tensor, spectrum: Tensor) -> Tensor:
    """Apply the operator of :func:`normal_spectrum` to complex images ``(..., H, W)``."""
    height, width = x.shape[-2:]
    wide = torch.fft.fft2(x, (2 * height, 2 * width)) * spectrum
    return torch.fft.ifft2(wide)[..., :height, :width]


def compensation(points: Points, sides: tuple[int, int]) -> Tensor:
    r"""Return the share of k-space that each sample stands for, ``(samples,)``, in points of the grid: 1 where it is alone.

    .. math:: w \leftarrow \frac{w}{C w}, \quad C_{jl} = c(k_j - k_l)

    The kernel c is the transform of the triangle that two images' overlap is; it is not negative, is 1 at 0, and 0 at the other
    points of the grid.

    Source: Pipe and Menon, Sampling density compensation in MRI: rationale and an iterative numerical solution, MRM 1999, with
    the kernel of Johnson and Pipe, Convolution kernel design and efficient algorithm for sampling density correction, MRM 2009.
    """
    rows, columns = (1 - (torch.arange(-n, n, dtype=torch.float64) / n).abs() for n in sides)
    triangle, wide = 4 * torch.outer(rows, columns), (2 * sides[0], 2 * sides[1])
    weights = torch.ones(len(points), dtype=torch.complex128)
    for _ in range(COMPENSATIONS):
        weights = weights / transform(triangle * adjoint(weights, points, wide), points).real
    return weights.real


def gridded_middle(kspace: Tensor, points: Points, sides: tuple[int, int], reach: float) -> tuple[Tensor, float]:
    """Return images of low resolution, and the share of the middle of k-space that is covered.

    Args:
        kspace: complex ``(coils, samples)``.
        points: ``(samples, 2)``.
        sides: H and W of the images ``(coils, H, W)``.
        reach: radius of the middle, points of the grid.
    """
    near = np.hypot(*(points * sides).T) <= reach
    if not near.any():
        return kspace.new_zeros(len(kspace), *sides), 0.0
    shares = compensation(points[near], sides)
    images = adjoint(shares.to(kspace.device) * kspace[:, torch.from_numpy(near)], points[near], sides)
    return images, float(shares.sum()) / (math.pi * reach**2)
