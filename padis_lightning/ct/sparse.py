"""This backend keeps the scan as a sparse matrix: exact, with an exact transpose, on any device."""

from __future__ import annotations

import math
import warnings

import numpy as np
import scipy
import torch
from scipy import sparse
from torch import Tensor

from padis_lightning.ct.geometry import Array, Geometry
from padis_lightning.ct.projectors import Projector
from padis_lightning.memory import free_memory

COMFORTABLE = 4 << 30  # bytes beyond which another backend is better, if there is one
SHARE = 0.5  # of the free memory that the matrix and its transpose may take
KEPT = 0.1  # of the free memory that entries in another precision may take
CHUNK = 1 << 21  # samples of rays at once, while building


def crossings(size: tuple[int, int], h: float, theta: Array, s: Array, steep: bool) -> tuple[Array, Array]:
    """Find where rays cross lines of pixels (rows if steep, else columns): ``start + slope * line`` in pixels of side h."""
    height, width = size
    cos, sin = np.cos(theta), np.sin(theta)
    if steep:  # x = (s - y sin) / cos with y = ((height - 1) / 2 - row) h
        slope = sin / cos
        return s / (h * cos) - slope * (height - 1) / 2 + (width - 1) / 2, slope
    slope = cos / sin  # y = (s - x cos) / sin with x = (column - (width - 1) / 2) h
    return -s / (h * sin) - slope * (width - 1) / 2 + (height - 1) / 2, slope


def entries(geometry: Geometry) -> int:
    """Count the entries of :func:`joseph_matrix` without building it; the count is a bound and nearly exact."""
    theta, s = (part.ravel() for part in geometry.lines())
    is_steep, total = np.abs(np.cos(theta)) >= np.abs(np.sin(theta)), 0
    for steep in (True, False):
        lines, across = geometry.size if steep else geometry.size[::-1]
        start, slope = crossings(geometry.size, geometry.pixel_spacing, theta[is_steep == steep], s[is_steep == steep], steep)
        slope = np.where(np.abs(slope) < 1e-12, 1e-12, slope)
        first, last = np.sort([(-1 - start) / slope, (across - start) / slope], 0).clip(0, lines)
        total += 2 * int(np.ceil(last - first).sum())
    return total


def matrix_bytes(geometry: Geometry) -> int:
    """Return the memory of the matrix and its transpose in single precision, bytes."""
    count = entries(geometry)
    index = 4 if count < 2**31 else 8
    return 2 * count * (4 + index) + index * (math.prod(geometry.shape) + math.prod(geometry.size))


def joseph_matrix(geometry: Geometry, dtype: np.dtype | type = np.float64) -> sparse.csr_array:
    r"""Build the matrix of line integrals through every bin's centre, ``(views * bins, height * width)``.

    A ray :math:`x \cos\theta + y \sin\theta = s` is sampled once in each row of pixels (or column, whichever it crosses
    more steeply) with linear interpolation between the two neighbours; a sample weighs the length between rows.

    Source: Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE TMI 1982.
    """
    theta, s = (part.ravel() for part in geometry.lines())
    step = max(1, CHUNK // max(geometry.size))
    parts = [slice(first, first + step) for first in range(0, len(theta), step)]
    return sparse.vstack([_block(geometry, theta[part], s[part]).astype(dtype) for part in parts], format="csr")


def _block(geometry: Geometry, theta: Array, s: Array) -> sparse.csr_array:
    """Build the rows of the matrix that belong to the rays ``theta``, ``s``."""
    is_steep, found = np.abs(np.cos(theta)) >= np.abs(np.sin(theta)), []
    for steep in (True, False):
        rays = np.flatnonzero(is_steep == steep)
        lines, across = geometry.size if steep else geometry.size[::-1]
        start, slope = crossings(geometry.size, geometry.pixel_spacing, theta[rays], s[rays], steep)
        place = start[:, None] + slope[:, None] * np.arange(lines)
        near = np.floor(place)
        share = place - near
        length = geometry.pixel_spacing * np.hypot(1, slope)
        for side, weight in ((near, 1 - share), (near + 1, share)):
            ray, line = np.nonzero((side >= 0) & (side < across) & (weight > 0))
            other = side[ray, line].astype(np.int64)
            cells = line * across + other if steep else other * lines + line
            found.append((weight[ray, line] * length[ray], rays[ray], cells))
    values, rows, columns = (np.concatenate(part) for part in zip(*found, strict=True))
    return sparse.csr_array((values, (rows, columns)), shape=(len(theta), math.prod(geometry.size)))


class SparseMatrix(Projector[Geometry]):
    """The sparse matrix holds Joseph's weights and is stored with its transpose."""

    name = "sparse"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        dtype = torch.get_default_dtype()
        matrix = joseph_matrix(geometry, np.float64 if dtype == torch.float64 else np.float32)
        self.shape, self.count = matrix.shape, matrix.nnz
        self._converted: dict[str, tuple[Tensor, Tensor]] = {}  # entries as they are stored, and in the last other precision
        self._keep("matrix", matrix)
        self._keep("transpose", sparse.csr_array(matrix.T))
        with warnings.catch_warnings():  # torch says once that such matrices are in beta and unchecked, which is on purpose
            warnings.simplefilter("ignore")
            self.sparse("matrix", dtype)

    def _keep(self, name: str, part: sparse.csr_array) -> None:
        index = np.int32 if max(part.nnz, *part.shape) < 2**31 else np.int64
        rows, columns = (indices.astype(index, copy=False) for indices in (part.indptr, part.indices))
        for kind, array in (("rows", rows), ("columns", columns), ("values", part.data)):
            self.register_buffer(f"{name}_{kind}", torch.from_numpy(array), persistent=False)

    @classmethod
    def version(cls) -> str:
        """Name the version of scipy, which builds the matrix."""
        return f"of scipy {scipy.__version__}"

    @classmethod
    def obstacle(cls, geometry: Geometry) -> str | None:
        """Refuse a matrix that would take too much memory, before it is built."""
        free = free_memory()
        if torch.cuda.is_available():
            free = min(free, torch.cuda.mem_get_info()[0])
        needed = matrix_bytes(geometry)
        if needed > SHARE * free:
            return f"its matrix would take {needed / 2**30:.2g} GiB; it may have half of the {free / 2**30:.2g} GiB that are free"
        return None

    @classmethod
    def comfortable(cls, geometry: Geometry) -> bool:
        """Accept matrices of up to 4 GiB."""
        return matrix_bytes(geometry) <= COMFORTABLE

    def describe(self) -> str:
        """Say how many entries the matrix has and what memory it takes."""
        size = matrix_bytes(self.geometry) / 2**20
        count = f"{self.count / 1e6:.2g} million entries"
        return f"a sparse matrix of {count}, {size:.3g} MiB with its transpose (scipy {scipy.__version__})"

    def _values(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return the entries in a precision. To convert them takes longer than a product: they are kept where memory is free."""
        stored = getattr(self, f"{name}_values")
        if stored.dtype == dtype:
            return stored
        of, kept = self._converted.get(name, (None, stored))
        if of is stored and kept.dtype == dtype:
            return kept
        converted = stored.to(dtype)
        if converted.nbytes <= KEPT * free_memory(stored.device):
            self._converted[name] = stored, converted
        return converted

    def sparse(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return the ``matrix`` ``(views * bins, H * W)`` or its ``transpose``, in CSR form."""
        rows, columns = (getattr(self, f"{name}_{part}") for part in ("rows", "columns"))
        shape = self.shape if name == "matrix" else self.shape[::-1]
        return torch.sparse_csr_tensor(rows, columns, self._values(name, dtype), shape)

    def _product(self, name: str, x: Tensor) -> Tensor:
        return (self.sparse(name, x.dtype) @ x.flatten(1).t().contiguous()).t().contiguous()

    def project(self, x: Tensor) -> Tensor:
        """Project, ``(B, H, W) -> (B, views, bins)``."""
        return self._product("matrix", x).reshape(-1, *self.geometry.shape)

    def backproject(self, y: Tensor) -> Tensor:
        """Multiply with the transposed matrix, ``(B, views, bins) -> (B, H, W)``."""
        return self._product("transpose", y).reshape(-1, *self.geometry.size)
