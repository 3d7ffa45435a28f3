"""Feldkamp's method reconstructs circular cone-beam scans."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from padis_lightning.ct import fbp
from padis_lightning.ct.cone import ConeGeometry
from padis_lightning.ct.fbp import Filter, filter_rows, full_turn_weights, ramp_filter, redundancy, view_shares
from padis_lightning.ct.interpolation import interpolate, pad, positions

CHUNK = 1 << 17  # values along z at once: what a processor's cache holds


def obstacle(geometry: ConeGeometry) -> str | None:
    """Say why a scan has no such reconstruction; None where it has one."""
    if not geometry.circular:
        return "the source does not move on a circle"
    if np.any(geometry.bin_offset) and not view_shares(np.asarray(geometry.angles), 2 * math.pi)[1]:
        return "the detector is shifted and the views do not go all round"
    return fbp.obstacle(geometry)


class FDK(nn.Module):
    r"""Feldkamp's method weighs rays, filters the rows, and spreads back over the square of the distance.

    A ray weighs the cosine of its angle to the central one. In the middle slice the result is the filtered back-projection of a
    fan. Elsewhere it is approximate, the more the wider the cone.

    Source: Feldkamp, Davis and Kress, Practical cone-beam algorithm, JOSA A 1984; Kak and Slaney, 1988, section 3.6.

    Args:
        geometry: the scan, one without an :func:`obstacle`.
        window: on the ramp.

    Raises:
        InputError: the scan is not a circle, or there is no such window.
    """

    response: Tensor
    columns: Tensor
    cosine: Tensor

    def __init__(self, geometry: ConeGeometry, window: Filter = "ram-lak") -> None:
        super().__init__()
        g = self.geometry = geometry
        across = np.atleast_2d(g.detector)[:, None]  # of one view for all, or of each
        cosine = g.reach / np.sqrt(g.reach**2 + across**2 + g.detector_rows[:, None] ** 2)
        self.spacing = g.bin_spacing * g.source_distance / g.reach  # of the bins, seen at the axis
        self.margins = fbp.margins(g)
        for name, values in {
            "response": ramp_filter(g.bins + sum(self.margins), self.spacing, window),
            "columns": full_turn_weights(g)[:, None] * redundancy(g.fan),
            "cosine": cosine,
        }.items():
            self.register_buffer(name, torch.from_numpy(np.array(values)), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        """Reconstruct, ``(B, views, rows, bins) -> (B, D, H, W)``."""
        g = self.geometry
        pillars = y.new_zeros(len(y), g.size[1] * g.size[2], g.size[0])
        axis_bins = np.broadcast_to(g.axis_bin + self.margins[0], len(g.angles))
        for view, angle in enumerate(g.angles):
            weighted = y[:, view] * (self.columns[view] * self.cosine[view % len(self.cosine)]).to(y)
            filtered = filter_rows(nn.functional.pad(weighted, self.margins), self.response)
            self._spread(nn.functional.pad(pad(filtered.mT), (0, 0, 1, 2)), angle, axis_bins[view], pillars)
        return pillars.mT.unflatten(2, g.size[1:]).contiguous()

    def _spread(self, tables: Tensor, angle: float, axis_bin: float, pillars: Tensor) -> None:
        """Add what the detector of a view, ``(B, bins + 3, rows + 3)``, has at all voxels."""
        g, (depth, height, width) = self.geometry, self.geometry.size
        across, down = (torch.arange(n, dtype=self.cosine.dtype, device=tables.device) for n in (width, height))
        x, up = (across - (width - 1) / 2) * g.pixel_spacing, ((height - 1) / 2 - down)[:, None] * g.pixel_spacing
        cos, sin = math.cos(angle), math.sin(angle)
        away = (g.source_distance + up * cos - x * sin).flatten()  # from the source, along the central ray
        larger = g.reach / away
        u = (larger * (x * cos + up * sin).flatten() / g.bin_spacing + axis_bin + 1).clamp(0, tables.shape[1] - 2)
        low = u.long()
        share = (u - low)[:, None].to(tables)
        shrink = (g.source_distance / away).square()[:, None].to(tables)
        step = larger * g.slice_spacing / g.row_spacing
        first = (g.rows - 1) / 2 - g.row_offset / g.row_spacing - step * (depth - 1) / 2
        count = max(1, CHUNK // depth)
        for part in (slice(start, start + count) for start in range(0, height * width, count)):
            at = positions(first[part], step[part], depth, g.rows, tables.dtype)
            for table, out in zip(tables, pillars, strict=True):
                out[part] += shrink[part] * interpolate(torch.lerp(table[low[part]], table[low[part] + 1], share[part]), at)
