"""Whole images from the patch prior alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.operators.identity import Identity
from padis_lightning.priors import Prior
from padis_lightning.random import Generators
from padis_lightning.solvers.diffusion import DiffusionSolver
from padis_lightning.types import Batch, Reconstruction


class Ancestral(DiffusionSolver):
    r"""Draw images from the prior: ancestral sampling with a fresh partition in every step; nothing is measured.

    .. math:: x \leftarrow D(x; \sigma) + \frac{\sigma'^2}{\sigma^2} (x - D(x; \sigma))
        + \sigma' \sqrt{1 - \sigma'^2 / \sigma^2} \; z

    This is the law of the image at :math:`\sigma'` given the one at :math:`\sigma` and :math:`x_0 = D`; as the steps become
    small, draws follow the prior.

    Source: Ho, Jain and Abbeel, Denoising diffusion probabilistic models, NeurIPS 2020, equation 7, in the
    variance-exploding form of Song et al., ICLR 2021, appendix F; Hu et al., PaDIS, NeurIPS 2024, for the partitions.

    Args:
        prior: denoiser of whole images.
        options: those of :class:`DiffusionSolver`; ``sigma_max`` has to hide any image, 10 for images in [0, 1].
    """

    def __init__(self, prior: Prior, **options: Any) -> None:  # noqa: ANN401 - checked and named by the base class
        super().__init__(prior, Identity(prior.image_shape), **options)
        if self.samples != 1:
            raise InputError(f"samples is {self.samples}; wanted 1 for Ancestral, whose images are data.count")

    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """Take one step by one network evaluation; ``y`` is not looked at."""
        return self.ancestral(x, self.prior(x, sigma, generator), sigma, sigma_next, generator)

    def reconstruct(self, batch: Batch) -> Reconstruction:
        """Draw an image for each index."""
        nothing = torch.empty(len(batch.index), 0, device=batch.index.device).to(self.dtype)
        estimate, seconds = self.solve_in_time(nothing, batch.index.tolist())
        return Reconstruction(estimate, None, None, seconds, self.evaluations, None, self.failures(estimate[:, None]))
