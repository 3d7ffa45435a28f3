"""Parallel-beam computed tomography with a sparse system matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.operators.base import LinearOperator


@dataclass(frozen=True)
class ParallelGeometry:
    """A parallel-beam scan of a square image in physical units; the image and the detector are centred on the axis.

    Args:
        size: pixels along a side of the image.
        angles: direction of the detector axis, radians.
        bins: detector bins.
        pixel_spacing: side of a pixel.
        bin_spacing: width of a bin, in the same unit.
    """

    size: int
    angles: tuple[float, ...]
    bins: int
    pixel_spacing: float
    bin_spacing: float

    def __post_init__(self) -> None:
        for name in ("size", "bins", "pixel_spacing", "bin_spacing"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; wanted a value above 0")
        if not self.angles:
            raise InputError("the scan has 0 angles; wanted at least 1")

    @property
    def axis(self) -> np.ndarray:
        """Pixel centres along a side, ``(size,)``."""
        return (np.arange(self.size) - (self.size - 1) / 2) * self.pixel_spacing

    @property
    def detector(self) -> np.ndarray:
        """Bin centres, ``(bins,)``."""
        return (np.arange(self.bins) - (self.bins - 1) / 2) * self.bin_spacing


def joseph_matrix(geometry: ParallelGeometry) -> sparse.csr_array:
    r"""Line integrals through every bin's centre, ``(views * bins, size**2)``, float64.

    A ray :math:`x \cos\theta + y \sin\theta = s` is sampled once in each row of pixels (or column, whichever it crosses
    more steeply) with linear interpolation between the two neighbours; a sample weighs the length between rows.
    Row 0 of the image is at the top, y points up.

    Source: Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE TMI 1982.
    """
    n, h = geometry.size, geometry.pixel_spacing
    lines = np.arange(n)
    entries = []
    for view, theta in enumerate(geometry.angles):
        cos, sin = math.cos(theta), math.sin(theta)
        steep = abs(cos) >= abs(sin)
        # Along a row y is known and x follows from the ray; along a column the other way round.
        known = -geometry.axis if steep else geometry.axis
        across = (geometry.detector[:, None] - known * (sin if steep else cos)) / (cos if steep else sin)
        place = (across if steep else -across) / h + (n - 1) / 2
        low = np.floor(place).astype(np.int64)
        weight = h / max(abs(cos), abs(sin))
        for side, share in ((low, 1 - (place - low)), (low + 1, place - low)):
            inside = (side >= 0) & (side < n)
            bins, line = np.nonzero(inside)
            cells = lines[line] * n + side[inside] if steep else side[inside] * n + lines[line]
            entries.append((share[inside] * weight, view * geometry.bins + bins, cells))
    values, rows, columns = (np.concatenate(part) for part in zip(*entries, strict=True))
    shape = (len(geometry.angles) * geometry.bins, n * n)
    matrix = sparse.csr_array((values, (rows, columns)), shape=shape)
    matrix.eliminate_zeros()
    return matrix


class _SparseProduct(torch.autograd.Function):
    """A sparse matrix times each row of a dense one, ``(B, n) -> (B, m)``; its derivative is the transpose, and so on."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, operator: ParallelBeam, name: str) -> Tensor:
        ctx.operator, ctx.opposite = operator, "transpose" if name == "matrix" else "matrix"
        matrix = operator.sparse(name, x.dtype)
        with torch.autocast(x.device.type, enabled=False):  # data terms keep their precision
            return (matrix @ x.t().contiguous()).t().contiguous()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _SparseProduct.apply(grad, ctx.operator, ctx.opposite), None, None


class ParallelBeam(LinearOperator):
    r"""Line integrals of an image over parallel rays, images ``(B, 1, N, N)`` to sinograms ``(B, 1, views, bins)``.

    By default the paper's scan: the image is a square of side 40, the detector has twice as many bins as the image has
    pixels across and bins as wide as pixels, angles are cell centres :math:`(i + \tfrac12)\pi / n`.

    Source: Hu et al., PaDIS, NeurIPS 2024, section 4; weights by Joseph, IEEE TMI 1982.

    Args:
        size: pixels along a side of the image.
        views: number of angles over ``arc``.
        angles: the angles themselves, radians, in place of ``views``.
        bins: detector bins (default: twice ``size``).
        pixel_spacing: side of a pixel (default: 40 / ``size``).
        bin_spacing: width of a bin (default: ``pixel_spacing``).
        arc: what the views cover, radians.
    """

    def __init__(
        self,
        size: int = 128,
        views: int = 20,
        angles: Sequence[float] | None = None,
        bins: int | None = None,
        pixel_spacing: float | None = None,
        bin_spacing: float | None = None,
        arc: float = math.pi,
    ) -> None:
        super().__init__()
        if views < 1:
            raise InputError(f"views is {views}; wanted at least 1")
        if size < 1:
            raise InputError(f"size is {size}; wanted at least 1")
        angles = tuple(angles) if angles is not None else tuple((i + 0.5) * arc / views for i in range(views))
        spacing = 40 / size if pixel_spacing is None else pixel_spacing
        self.geometry = ParallelGeometry(size, angles, bins or 2 * size, spacing, spacing if bin_spacing is None else bin_spacing)
        self.image_shape = (1, size, size)
        self.measurement_shape = (1, len(angles), self.geometry.bins)
        matrix = joseph_matrix(self.geometry)
        for name, part in (("matrix", matrix), ("transpose", sparse.csr_array(matrix.T))):
            index = np.int32 if max(part.nnz, *part.shape) < 2**31 else np.int64
            self.register_buffer(f"{name}_rows", torch.from_numpy(part.indptr.astype(index)), persistent=False)
            self.register_buffer(f"{name}_columns", torch.from_numpy(part.indices.astype(index)), persistent=False)
            values = torch.from_numpy(part.data).to(torch.get_default_dtype())
            self.register_buffer(f"{name}_values", values, persistent=False)
        self.register_buffer("filter", torch.from_numpy(ramp_filter(self.geometry)).to(values.dtype), persistent=False)

    def sparse(self, name: str, dtype: torch.dtype) -> Tensor:
        """The ``matrix`` ``(views * bins, N**2)`` or its ``transpose``, in CSR form."""
        rows, columns, values = (getattr(self, f"{name}_{part}") for part in ("rows", "columns", "values"))
        shape = (math.prod(self.measurement_shape), math.prod(self.image_shape))
        shape = shape if name == "matrix" else shape[::-1]
        return torch.sparse_csr_tensor(rows, columns, values.to(dtype), shape)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 1, N, N) -> (B, 1, views, bins)``."""
        self._check(x, self.image_shape, "image")
        return _SparseProduct.apply(x.flatten(1), self, "matrix").reshape(-1, *self.measurement_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """The transposed matrix, ``(B, 1, views, bins) -> (B, 1, N, N)``."""
        self._check(y, self.measurement_shape, "sinogram")
        return _SparseProduct.apply(y.flatten(1), self, "transpose").reshape(-1, *self.image_shape)

    def direct(self, y: Tensor) -> Tensor:
        """Filtered back-projection."""
        return self.fbp(y)

    def fbp(self, y: Tensor) -> Tensor:
        r"""Filtered back-projection with the Ram-Lak filter, ``(B, 1, views, bins) -> (B, 1, N, N)``.

        The transposed matrix spreads a bin over :math:`h^2 / d` of pixel area (pixel side h, bin width d), which is divided
        out; each view weighs :math:`\pi / n`, whatever arc the views cover: over :math:`2\pi` each line is measured twice.

        Source: Kak and Slaney, Principles of computerized tomographic imaging, 1988, section 3.3.
        """
        length = 2 * (len(self.filter) - 1)
        spectrum = torch.fft.rfft(y, length) * self.filter.to(y.dtype)
        filtered = torch.fft.irfft(spectrum, length)[..., : self.geometry.bins].contiguous()
        weight = math.pi / len(self.geometry.angles) * self.geometry.bin_spacing / self.geometry.pixel_spacing**2
        return weight * self.adjoint(filtered)

    @staticmethod
    def _check(x: Tensor, shape: tuple[int, ...], what: str) -> None:
        if tuple(x.shape[1:]) != shape:
            raise InputError(f"the {what} has the shape {tuple(x.shape[1:])}; wanted {shape}, the operator's")


def ramp_filter(geometry: ParallelGeometry) -> np.ndarray:
    r"""Spectrum of the band-limited ramp, ``(length / 2 + 1,)``, from its samples in space, which keeps the mean right.

    .. math:: d \cdot h(0) = \frac{1}{4 d}, \quad d \cdot h(n d) = -\frac{1}{\pi^2 n^2 d} \text{ for odd } n

    Source: Kak and Slaney, Principles of computerized tomographic imaging, 1988, equation 61.
    """
    length = 2 ** math.ceil(math.log2(2 * geometry.bins))
    n = np.fft.fftfreq(length, 1 / length)
    kernel = np.where(n % 2 == 1, -1 / (np.pi * np.where(n == 0, 1, n)) ** 2, 0) / geometry.bin_spacing
    kernel[0] = 1 / (4 * geometry.bin_spacing)
    return np.fft.rfft(kernel).real
