"""Priors: what a solver sees of a diffusion model, a denoiser of whole images."""

from padis_lightning.priors.base import Prior
from padis_lightning.priors.denoiser import DenoiserPrior
from padis_lightning.priors.gaussian import GaussianPrior
from padis_lightning.priors.groups import GroupPrior
from padis_lightning.priors.patch import PatchPrior
from padis_lightning.priors.slices import SlicePrior
from padis_lightning.priors.tiling import FixedTiling, OverlapTiling, RandomTiling, Tiles, Tiling

__all__ = [
    "DenoiserPrior",
    "FixedTiling",
    "GaussianPrior",
    "GroupPrior",
    "OverlapTiling",
    "PatchPrior",
    "Prior",
    "RandomTiling",
    "SlicePrior",
    "Tiles",
    "Tiling",
]
