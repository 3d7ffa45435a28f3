"""The ASTRA toolbox (GPL, optional) projects images one by one, on the CPU or by CUDA."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padis_lightning.ct.geometry import Array, G, Geometry
from padis_lightning.ct.projectors import Projector, installed


def vectors(g: Geometry) -> Array:
    """Return ASTRA's six numbers a view: source (or direction of parallel rays), middle of the detector, from bin to bin.

    It places them about the middle of the image, where we have the axis.
    """
    angles = np.asarray(g.angles)
    e, d = np.stack([np.cos(angles), np.sin(angles)], 1), np.stack([-np.sin(angles), np.cos(angles)], 1)
    start = -g.source_distance * d - g.middle if g.source_distance else d
    middle = (g.detector_distance or 0) * d + np.asarray(g.bin_offset)[..., None] * e - g.middle
    return np.concatenate([start, middle, g.bin_spacing * e], 1)


class AstraProjector(Projector[G]):
    """Images are computed one by one, in single precision. Those that lie on a GPU are copied to the host and back."""

    name = "astra"

    def __init__(self, geometry: G) -> None:
        super().__init__(geometry)
        self._start()

    def _start(self) -> None:
        """Load the library and create the projector, which belong to this process."""
        import astra

        self.library = astra
        self.identifier = self._create()

    @abstractmethod
    def _create(self) -> int:
        """Return the number of a projector of ASTRA."""

    @classmethod
    def version(cls) -> str | None:
        """Return the version of the package, without importing it."""
        return installed("astra", "astra-toolbox")

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but what belongs to this process."""
        return {k: v for k, v in self.__dict__.items() if k not in ("library", "identifier")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def _imagewise(self, images: Tensor, shape: tuple[int, ...], compute: Any) -> Tensor:  # noqa: ANN401 - a function of ASTRA
        inputs = images.detach().to("cpu", torch.float32).contiguous()
        out = torch.empty(len(inputs), *shape)
        for image, result in zip(inputs.numpy(), out.numpy(), strict=True):
            compute(self.identifier, image, out=result)
        return out.to(images)


class Astra(AstraProjector[Geometry]):
    """ASTRA takes Joseph's weights for parallel rays, intersection lengths for a flat fan on the CPU, and its own by CUDA.

    It computes in single precision. The CUDA pair is not matched: its back-projection is approximate. Measurements that lie
    on a GPU are copied to the host and back.

    Source: van Aarle et al., Fast and flexible X-ray tomography using the ASTRA toolbox, Optics Express 2016.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.exact_adjoint = not self.library.use_cuda()

    def _create(self) -> int:
        g, astra = self.geometry, self.library
        height, width = (n * g.pixel_spacing / 2 for n in g.size)
        volume = astra.create_vol_geom(*g.size, -width, width, -height, height)
        scan = astra.create_proj_geom("fanflat_vec" if g.fan else "parallel_vec", g.bins, vectors(g))
        weights = "cuda" if astra.use_cuda() else "line_fanflat" if g.fan else "linear"
        return astra.create_projector(weights, scan, volume)

    @classmethod
    def obstacle(cls, geometry: Geometry) -> str | None:
        """Refuse curved detectors, which it does not have."""
        return "it has no curved detectors" if geometry.curved else None

    def __del__(self) -> None:
        """Give ASTRA's memory back."""
        if "identifier" in self.__dict__:
            self.library.projector.delete(self.identifier)

    def project(self, x: Tensor) -> Tensor:
        """Project, ``(B, H, W) -> (B, views, bins)``."""
        return self._imagewise(x, (len(self.geometry.angles), self.geometry.bins), self.library.projector.direct_FP)

    def backproject(self, y: Tensor) -> Tensor:
        """Back-project, ``(B, views, bins) -> (B, H, W)``."""
        return self._imagewise(y, self.geometry.size, self.library.projector.direct_BP)
