"""Pictures of what has been learned."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from padis_lightning.errors import require_at_least
from padis_lightning.priors import PatchPrior
from padis_lightning.random import Generators
from padis_lightning.results.pictures import planes, save_picture, sheet
from padis_lightning.solvers.ancestral import Ancestral
from padis_lightning.training import PatchDiffusion


class Samples(Callback):
    """Draw whole images from the averaged weights at validation, always from the same noise.

    They go to ``samples/step_<n>.png`` in the run's folder and to loggers that take pictures (W&B).

    Args:
        count: images (0: none).
        steps: network evaluations.
        sigma_max: first noise level.
        sigma_min: last noise level.
        every: draw at every so many validations.
    """

    def __init__(
        self, count: int = 4, steps: int = 50, sigma_max: float = 10.0, sigma_min: float = 0.005, every: int = 1
    ) -> None:
        require_at_least(0, count=count)
        require_at_least(1, every=every)
        self.count, self.every, self._validations = count, every, 0
        self.levels = {"steps": steps, "sigma_max": sigma_max, "sigma_min": sigma_min}

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int, *rest: int
    ) -> None:
        """Draw the pictures; by now the weights are the averaged ones."""
        if batch_idx > 0 or trainer.sanity_checking:
            return
        self._validations += 1
        if self.count == 0 or self._validations % self.every or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, PatchDiffusion)
        model = copy.deepcopy(pl_module.patch_model())  # a prior needs no gradients, training does
        prior = PatchPrior(model).to(pl_module.device)
        nothing = torch.empty(self.count, 0, device=pl_module.device)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            images = Ancestral(prior, **self.levels).solve(nothing, Generators.keyed(0, range(self.count)))
        picture = sheet(torch.stack([planes(image) for image in images]))
        save_picture(Path(trainer.default_root_dir) / "samples" / f"step_{trainer.global_step:07d}.png", picture)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("samples", [picture], step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return how many validations there have been."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up how many validations there have been."""
        self._validations = state_dict["validations"]
