"""What training needs of a model and a trainer."""

from __future__ import annotations

from padis_lightning.errors import InputError
from padis_lightning.training.patch_diffusion import PatchDiffusion


def check_training(model: object, max_steps: int) -> None:
    """Refuse a model that is not one to train, and training without an end.

    Raises:
        InputError: with what was seen.
    """
    if not isinstance(model, PatchDiffusion):
        raise InputError(f"the model to fit is {type(model).__name__}; wanted PatchDiffusion")
    if max_steps < 1:
        raise InputError(f"trainer.max_steps is {max_steps}; wanted at least 1, training is counted in steps")
