"""The one file that solvers need."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class PriorExport(Callback):
    """Write ``prior.safetensors`` into the run's folder when training ends: the averaged weights and their metadata.

    Args:
        half: store half precision, at half the size.
    """

    def __init__(self, half: bool = False) -> None:
        self.half = half

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """By now the weights are the averaged ones."""
        if trainer.is_global_zero and not trainer.fast_dev_run:
            path = Path(trainer.default_root_dir) / "prior.safetensors"
            pl_module.patch_model().save(path, self.half)
            print(f"wrote {path}")
