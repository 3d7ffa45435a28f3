"""The prior as a file, the one that solvers need."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from padis_lightning.data.datamodule import ImageData, data_of
from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import require_at_least
from padis_lightning.priors import PatchPrior
from padis_lightning.priors.distance import Reference, denoising_errors
from padis_lightning.random import Generators
from padis_lightning.training import PatchDiffusion


class PriorExport(Callback):
    """Write ``prior.safetensors`` into the run's folder when training ends: the averaged weights and their metadata.

    Args:
        half: store half precision, at half the size.
        reference: images of validation, and of training where these are fewer, of which it is stored how well they are denoised,
            so that ``predict`` can say how far others lie from them (0: none; nothing is stored of volumes).
    """

    def __init__(self, half: bool = False, reference: int = 64) -> None:
        require_at_least(0, reference=reference)
        self.half, self.reference = half, reference

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the prior; by now the weights are the averaged ones."""
        assert isinstance(pl_module, PatchDiffusion)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by Lightning
            self.write(pl_module.patch_model(), data_of(trainer), pl_module.device, Path(trainer.default_root_dir))

    def _refer(self, model: PatchModel, data: ImageData, device: torch.device | str) -> None:
        """Note in a model how well images that it knows are denoised; each has a stream of its own."""
        prior = PatchPrior(copy.deepcopy(model)).to(device).float()  # training goes on to need gradients
        if prior.volumetric or prior.condition_channels:
            return
        with torch.no_grad():
            errors = [
                denoising_errors(prior, item.image[None].to(device), Generators.keyed(0, [k])).cpu()
                for k, item in enumerate(data.known_items(self.reference))
                if item.image is not None and tuple(item.image.shape) == tuple(prior.image_shape)
            ]
        if errors and (reference := Reference.of(torch.cat(errors))) is not None:
            model.training["reference"] = reference.describe()

    def write(self, model: PatchModel, data: ImageData, device: torch.device | str, folder: Path) -> None:
        """Write a model as ``folder``'s prior, once and with its reference."""
        path = folder / "prior.safetensors"
        self._refer(model, data, device)
        model.save(path, self.half)
        print(f"wrote {path}")

    def complete(self, checkpoint: Path, folder: Path, data: ImageData) -> None:
        """Write the prior that the run of a last checkpoint did not live to write."""
        model, path = PatchModel.load(checkpoint), folder / "prior.safetensors"
        if not path.is_file() or PatchModel.load(path).training.get("steps") != model.training["steps"]:
            data.setup("fit")
            self.write(model, data, "cpu", folder)
