"""torch-radon (GPL, optional, from conda-forge as carterbox-torch-radon) projects batches of images on NVIDIA GPUs."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padis_lightning.ct.geometry import Geometry
from padis_lightning.ct.projectors import Projector, installed

MOST_ANGLES = 4096


def _import() -> Any:  # noqa: ANN401 - the module
    """Import the library. It imports a name from ``turtle`` that it never uses: without tkinter a stand-in gives it."""
    stand_in = importlib.util.find_spec("tkinter") is None and "turtle" not in sys.modules
    if stand_in:
        sys.modules["turtle"] = types.ModuleType("turtle")
        sys.modules["turtle"].__dict__["width"] = None
    try:
        import torch_radon
    finally:
        if stand_in:
            del sys.modules["turtle"]
    return torch_radon


class TorchRadon(Projector[Geometry]):
    """torch-radon, version 2, follows rays forwards and pixels backwards, so that the adjoint is approximate (1e-3).

    It computes on unit pixels in single precision: lengths are divided by the pixel spacing, results multiplied by it, and
    batches computed on the GPU's default stream.

    Source: Ronchetti, TorchRadon: fast differentiable routines for computed tomography, arXiv 2009.14788, 2020.
    """

    name = "torch_radon"
    exact_adjoint = False

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        library, h = _import(), geometry.pixel_spacing
        volume = library.Volume2D()
        volume.set_size(*geometry.size)
        options = {"det_spacing": geometry.bin_spacing / h, "volume": volume}
        if geometry.source_distance and geometry.detector_distance is not None:
            options |= {"src_dist": geometry.source_distance / h, "det_dist": geometry.detector_distance / h}
        beam = library.FanBeam if geometry.fan else library.ParallelBeam
        self.scan = beam(geometry.bins, np.asarray(geometry.angles, dtype=np.float32), **options)

    @classmethod
    def version(cls) -> str | None:
        """Return the version of the package, without importing it."""
        return installed("torch_radon", "torch-radon", "torch_radon", "carterbox-torch-radon")

    @classmethod
    def obstacle(cls, geometry: Geometry) -> str | None:
        """Refuse machines without an NVIDIA GPU, curved detectors, an axis off the middle and too many views."""
        if not torch.cuda.is_available():
            return "it needs an NVIDIA GPU"
        if geometry.curved:
            return "it has no curved detectors"
        if np.any(geometry.bin_offset) or any(geometry.middle):
            return "it has no axis off the middle"
        if len(geometry.angles) > MOST_ANGLES:
            return f"it takes at most {MOST_ANGLES} views"
        return None

    def _on_device(self, x: Tensor, compute: Any) -> Tensor:  # noqa: ANN401 - a function of torch-radon
        device = x.device if x.is_cuda else torch.device("cuda")
        inputs = x.to(device, torch.float32).contiguous()
        ours, default = torch.cuda.current_stream(device), torch.cuda.default_stream(device)
        default.wait_stream(ours)
        with torch.cuda.stream(default):  # its kernels run on no other
            result = compute(inputs)
        ours.wait_stream(default)
        return (self.geometry.pixel_spacing * result).to(x)

    def project(self, x: Tensor) -> Tensor:
        """Project, ``(B, H, W) -> (B, views, bins)``."""
        return self._on_device(x, self.scan.forward)

    def backproject(self, y: Tensor) -> Tensor:
        """Back-project, ``(B, views, bins) -> (B, H, W)``."""
        return self._on_device(y, self.scan.backward)
