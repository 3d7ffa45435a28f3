"""Training of patch diffusion models."""

from padis_lightning.training.patch_diffusion import PatchDiffusion
from padis_lightning.training.slice_groups import GroupPatchDiffusion

__all__ = ["GroupPatchDiffusion", "PatchDiffusion"]
