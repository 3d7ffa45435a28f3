"""This backend projects a cone beam without a matrix: it computes Joseph's weights anew for a chunk of rays at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from padis_lightning.ct.cone import ConeGeometry
from padis_lightning.ct.geometry import Array
from padis_lightning.ct.interpolation import Positions, interpolate, interpolate_transposed, pad, positions
from padis_lightning.ct.projectors import Projector
from padis_lightning.ct.sparse import crossings

CHUNK = 1 << 18  # samples of rays at once: what a processor's cache holds ...
CHUNK_GPU = 1 << 24  # ... and what keeps a GPU busy with some 500 MiB
COMFORTABLE = 1 << 34  # samples of one projection beyond which another backend is better, if there is one


class RayWeights(NamedTuple):
    """These weights belong to the rays that end in a chunk of the detector's columns.

    Attributes:
        columns: which ones of all views, ``(n,)``.
        cells: the two pixels around each crossing of a line of pixels, ``(n * lines, 2)``.
        shares: their weights, ``(n * lines, 2)``.
        at: where the rays of a column cross these lines along z, ``(n * lines, rows)``.
        length: of a ray from one line to the next, ``(n, rows)``.
    """

    columns: Tensor
    cells: Tensor
    shares: Tensor
    at: Positions
    length: Tensor


def _lines(g: ConeGeometry, theta: Array, s: Array, steep: bool) -> tuple[Array, Array, Array, Array]:
    """Return :func:`crossings` and the way there from the source, seen along the axis, as ``first + step * line``."""
    start, slope = crossings(g.size[1:], g.pixel_spacing, theta, s, steep)
    cos, sin = np.cos(theta), np.sin(theta)
    middle = (g.size[1 if steep else 2] - 1) / 2 * g.pixel_spacing
    if steep:  # row 0 lies at y = middle, and y = s sin + t cos
        first, step = (middle - s * sin) / cos, -g.pixel_spacing / cos
    else:  # column 0 lies at x = -middle, and x = s cos - t sin
        first, step = (middle + s * cos) / sin, -g.pixel_spacing / sin
    return start, slope, first + np.sqrt(g.source_distance**2 - s**2), step


class Joseph(Projector[ConeGeometry]):
    r"""Joseph's method takes line integrals through the centres of the bins of a cone beam, with their exact transpose.

    A ray is sampled in each row of pixels (or column, whichever it crosses more steeply), with linear interpolation between
    the two neighbours in the slice and between the two slices. All rays that end in one column of the detector cross a slice
    in the same places, where it is interpolated once for all of them; along z their places are evenly apart. On a processor
    the same volume gives the same bits, whatever the batch; on a GPU sums are taken in any order.

    Source: Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE TMI 1982.
    """

    name = "joseph"
    steep: Tensor
    table: Tensor

    def __init__(self, geometry: ConeGeometry) -> None:
        super().__init__(geometry)
        theta, s = (part.ravel() for part in geometry.rays())
        is_steep, lines = np.abs(np.cos(theta)) >= np.abs(np.sin(theta)), np.empty((4, theta.size))
        for steep in (True, False):
            of = is_steep == steep
            lines[:, of] = _lines(geometry, theta[of], s[of], steep)
        flat = geometry.reach / np.cos(geometry.gamma)  # seen along the axis, to the detector
        flat = np.broadcast_to(flat, geometry.shape[::2]).ravel()
        heights = np.repeat(geometry.heights, geometry.bins)
        self.register_buffer("steep", torch.from_numpy(is_steep), persistent=False)
        self.register_buffer("table", torch.from_numpy(np.stack([*lines, flat, heights], 1)), persistent=False)

    @classmethod
    def version(cls) -> str:
        """Name the version of torch, which computes it."""
        return f"of torch {torch.__version__}"

    def describe(self) -> str:
        """Say how much is computed anew in every projection."""
        samples = len(self.table) * self.geometry.rows * max(self.geometry.size[1:])
        return f"Joseph's weights of {samples / 1e6:.3g} million samples, without a matrix (torch {torch.__version__})"

    @classmethod
    def comfortable(cls, geometry: ConeGeometry) -> bool:
        """Accept up to 17 thousand million samples of rays."""
        return len(geometry.angles) * geometry.rows * geometry.bins * max(geometry.size[1:]) <= COMFORTABLE

    def _ray_weights(self, dtype: torch.dtype) -> Iterator[RayWeights]:
        """Compute the weights of all rays, in an order that does not depend on :data:`CHUNK`."""
        g = self.geometry
        for steep in (True, False):
            lines = g.size[1] if steep else g.size[2]
            columns = torch.nonzero(self.steep if steep else ~self.steep)[:, 0]
            count = max(1, (CHUNK_GPU if columns.is_cuda else CHUNK) // (lines * g.rows))
            for start in range(0, len(columns), count):
                yield self._ray_weights_of(columns[start : start + count], steep, lines, dtype)

    def _ray_weights_of(self, columns: Tensor, steep: bool, lines: int, dtype: torch.dtype) -> RayWeights:
        g, (depth, height, width) = self.geometry, self.geometry.size
        start, slope, first, step, flat, z = self.table[columns, :, None].unbind(1)
        line = torch.arange(lines, device=columns.device)
        place = start + slope * line
        low, across, cells, shares = place.floor(), width if steep else height, [], []
        for side, share in ((low, 1 + low - place), (low + 1, place - low)):
            other = side.clamp(0, across - 1).long()
            cells.append(line * width + other if steep else other * width + line)
            shares.append(torch.where((side >= 0) & (side < across), share, 0))
        rows = torch.from_numpy(g.detector_rows).to(flat)
        ratio = (first + step * line) / (flat * g.slice_spacing)
        lowest = z / g.slice_spacing + (depth - 1) / 2 + ratio * rows[0]
        at = positions(lowest.flatten(), ratio.flatten() * g.row_spacing, g.rows, depth, dtype)
        length = g.pixel_spacing * (1 + slope.square()).sqrt() * (1 + (rows / flat).square()).sqrt()
        around, weights = (torch.stack(part, 2).flatten(0, 1) for part in (cells, shares))
        return RayWeights(columns, around, weights.to(dtype), at, length.to(dtype))

    def project(self, x: Tensor) -> Tensor:
        """Project, ``(B, D, H, W) -> (B, views, rows, bins)``."""
        g = self.geometry
        pillars = pad(x.flatten(2).mT.contiguous())  # one for each pixel, along z
        y = pillars.new_empty(len(x), len(self.table), g.rows)
        for rays in self._ray_weights(x.dtype):
            for volume, out in zip(pillars, y, strict=True):
                slices = embedding_bag(rays.cells, volume, per_sample_weights=rays.shares, mode="sum")
                samples = interpolate(slices, rays.at).unflatten(0, (len(rays.columns), -1))
                out[rays.columns] = samples.sum(1) * rays.length
        return y.unflatten(1, (len(g.angles), g.bins)).mT.contiguous()

    def backproject(self, y: Tensor) -> Tensor:
        """Apply the transpose, ``(B, views, rows, bins) -> (B, D, H, W)``."""
        g, depth = self.geometry, self.geometry.size[0]
        measured = y.mT.flatten(1, 2)
        pillars = measured.new_zeros(len(y), g.size[1] * g.size[2], depth + 3)
        for rays in self._ray_weights(y.dtype):
            lines = len(rays.at.low) // len(rays.columns)
            for values, out in zip(measured, pillars, strict=True):
                spread = (values[rays.columns] * rays.length).repeat_interleave(lines, 0)
                table = interpolate_transposed(spread, rays.at, depth)[:, None] * rays.shares[..., None]
                out.index_add_(0, rays.cells.flatten(), table.flatten(0, 1))
        return pillars[..., 1:-2].mT.unflatten(2, g.size[1:]).contiguous()
