"""Model the diffusion of patches: preconditioned denoiser, noise levels, positions."""

from padis_lightning.canvas import coordinates, padding
from padis_lightning.diffusion.context import context_of
from padis_lightning.diffusion.denoiser import Denoiser
from padis_lightning.diffusion.model import PatchModel
from padis_lightning.diffusion.positions import Coordinates, FourierFeatures, LearnedMap, NoPositions, Positions
from padis_lightning.diffusion.schedules import geometric_sigmas, karras_sigmas, require_falling

__all__ = [
    "Coordinates",
    "Denoiser",
    "FourierFeatures",
    "LearnedMap",
    "NoPositions",
    "PatchModel",
    "Positions",
    "context_of",
    "coordinates",
    "geometric_sigmas",
    "karras_sigmas",
    "padding",
    "require_falling",
]
