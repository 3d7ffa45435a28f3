"""BM3D, the denoiser without training to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.operators import LinearOperator
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.registry import needed
from padis_lightning.solvers.denoising import DenoisingSolver

LEAST_SIDE = 8  # of the blocks that BM3D matches


class BM3D(DenoisingSolver):
    """Denoise by block matching and collaborative filtering, in colours with blocks matched in their luminance.

    The work is that of the authors' package ``bm3d``, which is free for non-commercial use only, and is on the processor.
    Noise that differs from pixel to pixel is taken at its mean.

    Source: Dabov, Foi, Katkovnik and Egiazarian, Image denoising by sparse 3-D transform-domain collaborative filtering, IEEE TIP
    2007; Makinen, Azzari and Foi, Collaborative filtering of correlated noise, IEEE TIP 2020.

    Args:
        problem: what was measured, or its operator A, the identity.
        options: those of :class:`DenoisingSolver`.
    """

    def __init__(
        self,
        problem: Problem | LinearOperator,
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(problem, **options)
        self._library = needed("bm3d", "BM3D needs bm3d", "bm3d", ", which is free for non-commercial use only")

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Denoise, ``(B, C, H, W) -> (B, C, H, W)``; nothing is random."""
        if min(y.shape[2:]) < LEAST_SIDE:
            raise InputError(f"the images are {tuple(y.shape[2:])}; wanted sides of at least {LEAST_SIDE} for BM3D")
        pairs = zip(y, self.deviations(y).tolist(), strict=True)
        return torch.stack([self._denoised(image, s) if s > 0 else image for image, s in pairs])

    def _denoised(self, image: Tensor, deviation: float) -> Tensor:
        """Denoise ``(C, H, W)``."""
        pixels = image.permute(1, 2, 0).double().cpu().numpy()
        found = self._library.bm3d_rgb(pixels, deviation) if len(image) == 3 else self._library.bm3d(pixels, deviation)
        return torch.from_numpy(np.ascontiguousarray(found.reshape(pixels.shape))).permute(2, 0, 1).to(image)
