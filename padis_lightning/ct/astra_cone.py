"""The ASTRA toolbox (GPL, optional) projects volumes one by one, on NVIDIA GPUs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from padis_lightning.ct.astra import AstraProjector
from padis_lightning.ct.cone import ConeGeometry
from padis_lightning.ct.geometry import Array
from padis_lightning.ct.joseph import Joseph
from padis_lightning.errors import InputError

TOLERANCE = 0.1  # by which its projection may differ from Joseph's


def vectors(g: ConeGeometry) -> Array:
    """Return ASTRA's twelve numbers a view: source, middle of the detector, from column to column, from row to row.

    Its rows of voxels run along y, ours against it, so that the signs of y are turned.
    """
    angles, flat = np.asarray(g.angles), np.zeros(len(g.angles))
    e = np.stack([np.cos(angles), -np.sin(angles), flat], 1)
    d = np.stack([-np.sin(angles), -np.cos(angles), flat], 1)
    z = np.tile([0.0, 0.0, 1.0], (len(angles), 1))
    heights = np.asarray(g.heights)[:, None] * z
    middle = g.detector_distance * d + np.asarray(g.bin_offset)[..., None] * e + g.row_offset * z + heights
    return np.concatenate([heights - g.source_distance * d, middle, g.bin_spacing * e, g.row_spacing * z], 1)


class AstraCone(AstraProjector[ConeGeometry]):
    """ASTRA projects volumes by CUDA, in single precision; its adjoint is approximate and scaled to match.

    Volumes that lie on a GPU are copied to the host and back. Two views of a volume are held against :class:`Joseph`'s, since
    conventions have changed between versions: an InputError says where they differ.
    """

    def __init__(self, geometry: ConeGeometry) -> None:
        super().__init__(geometry)
        self.exact_adjoint, self.scale = False, 1.0
        z, y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in geometry.size), indexing="ij")
        probe = (x.square() * (1 - x) * y.square() * (1 - y) * z.square() * (1 - z))[None]  # without symmetries
        projected, few = self.project(probe), sorted({0, len(geometry.angles) // 3})
        expected = Joseph(geometry.views(few)).project(probe)
        gap = float((projected[:, few] - expected).norm() / expected.norm())
        if not gap < TOLERANCE:
            raise InputError(f"ASTRA's projection is {gap:.2g} from Joseph's; wanted at most {TOLERANCE}, or the backend joseph")
        self.scale = float(projected.square().sum() / (probe * self.backproject(projected)).sum())

    def _create(self) -> int:
        g, astra = self.geometry, self.library
        depth, height, width = g.size
        z, y, x = depth * g.slice_spacing / 2, height * g.pixel_spacing / 2, width * g.pixel_spacing / 2
        volume = astra.create_vol_geom(height, width, depth, -x, x, -y, y, -z, z)
        scan = astra.create_proj_geom("cone_vec", g.rows, g.bins, vectors(g))
        return astra.create_projector("cuda3d", scan, volume)

    @classmethod
    def obstacle(cls, geometry: ConeGeometry) -> str | None:
        """Refuse machines without an NVIDIA GPU."""
        return None if torch.cuda.is_available() else "it needs an NVIDIA GPU"

    def __del__(self) -> None:
        """Give ASTRA's memory back."""
        if "identifier" in self.__dict__:
            self.library.projector3d.delete(self.identifier)

    def project(self, x: Tensor) -> Tensor:
        """Project, ``(B, D, H, W) -> (B, views, rows, bins)``."""
        views, rows, bins = self.geometry.shape
        projections = self._imagewise(x, (rows, views, bins), self.library.projector3d.direct_FP)
        return projections.transpose(1, 2).contiguous()

    def backproject(self, y: Tensor) -> Tensor:
        """Back-project, ``(B, views, rows, bins) -> (B, D, H, W)``."""
        return self.scale * self._imagewise(y.transpose(1, 2), self.geometry.size, self.library.projector3d.direct_BP)
