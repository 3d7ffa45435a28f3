"""The prior as a file, the one that solvers need."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from padis_lightning.diffusion import PatchModel


class PriorExport(Callback):
    """Write ``prior.safetensors`` into the run's folder when training ends: the averaged weights and their metadata.

    Args:
        half: store half precision, at half the size.
    """

    def __init__(self, half: bool = False) -> None:
        self.half = half

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the prior; by now the weights are the averaged ones."""
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self.write(pl_module.patch_model(), Path(trainer.default_root_dir))

    def write(self, model: PatchModel, folder: Path) -> None:
        """Write a model as ``folder``'s prior."""
        path = folder / "prior.safetensors"
        model.save(path, self.half)
        print(f"wrote {path}")

    def complete(self, checkpoint: Path, folder: Path) -> None:
        """Write the prior that the run of a last checkpoint did not live to write."""
        model, path = PatchModel.load(checkpoint), folder / "prior.safetensors"
        if not path.is_file() or PatchModel.load(path).training.get("steps") != model.training["steps"]:
            self.write(model, folder)
