"""A moving average of the weights with a half-life in patches."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from padis_lightning.errors import require_above
from padis_lightning.training.optimisation import OptimisedModule


class EMA(WeightAveraging):
    r"""Keep an exponential moving average of the weights, which is what is validated, saved and exported.

    .. math:: \bar\theta \leftarrow \theta + 2^{-n / h} (\bar\theta - \theta), \quad h = \min(H, r \cdot \text{patches seen})

    after a step of n patches.

    Source: Karras et al., EDM, NeurIPS 2022, appendix F.2 (half-life and ramp-up).

    Args:
        half_life: H, in patches.
        ramp_up: r, which keeps the average short while little has been seen.
    """

    def __init__(self, half_life: int = 500_000, ramp_up: float = 0.05) -> None:
        require_above(0, half_life=half_life, ramp_up=ramp_up)
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self.half_life, self.ramp_up = half_life, ramp_up
        self._decay, self._seen = 0.0, 0

    def _average(self, averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        torch._foreach_lerp_(averaged, current, 1 - self._decay)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the average into the precision of the weights, which is known by now."""
        assert self._average_model is not None
        self._average_model.to(pl_module.dtype)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Set the decay by the patches since the last update, then update."""
        if trainer.global_step > self._latest_update_step:
            assert isinstance(pl_module, OptimisedModule)
            seen = pl_module.patches_seen
            half_life = min(self.half_life, self.ramp_up * seen)
            self._decay, self._seen = 0.5 ** ((seen - self._seen) / half_life), seen
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def state_dict(self) -> dict[str, Any]:
        """Return the patches at the last update, besides Lightning's state."""
        return {**super().state_dict(), "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the patches at the last update, besides Lightning's state."""
        super().load_state_dict(state_dict)
        self._seen = state_dict["seen"]
