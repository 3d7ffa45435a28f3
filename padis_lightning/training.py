"""Training of the patch diffusion model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from padis_lightning import __version__
from padis_lightning.data import ImageData
from padis_lightning.diffusion import Denoiser, PatchModel, coordinates, padding
from padis_lightning.errors import InputError
from padis_lightning.networks import PatchNetwork
from padis_lightning.random import seeded
from padis_lightning.types import Batch

SIZE, CROPS, VALIDATION = 2, 3, 4  # purposes of the streams keyed by (seed, step)


class PatchDiffusion(LightningModule):
    r"""Train a denoiser on random patches of zero-padded images, with their coordinates.

    .. math:: \min_\theta \; E \; w(\sigma) \, \|D_\theta(x_0 + \sigma z; \sigma, \text{position}) - x_0\|^2,
        \quad \ln \sigma \sim N(m, s^2)

    A step draws one patch size, the same on all devices, and cuts patches out of the images of the batch in turn, about
    as many pixels whatever the size. What is drawn depends on (seed, step, device) alone, so a resumed run draws it again.

    Source: Hu et al., PaDIS, NeurIPS 2024, section 3.2 and appendix; Karras et al., EDM, NeurIPS 2022, table 1.

    Args:
        network: the patch network.
        patch_sizes: sides of the training patches; solvers use the largest.
        patch_odds: probability of each size (default: all alike).
        pad: least padding of the images (default: one pixel; 0 with one patch size as large as the image trains a
            model of whole images).
        sigma_data: root mean square of the normalised images.
        log_sigma_mean: m.
        log_sigma_std: s.
        sigma_range: ends at which sigma is cut off.
        patches: patches a step and device at the largest size; smaller ones come in the inverse ratio of pixels.
        lr: learning rate of Adam.
        warmup_patches: patches over which the learning rate rises from 0.
        decay: let the learning rate fall to 0 along a cosine until ``trainer.max_steps``.
        seed: key of the patches and their noise.
    """

    def __init__(
        self,
        network: PatchNetwork,
        patch_sizes: Sequence[int] = (16, 32),
        patch_odds: Sequence[float] | None = None,
        pad: int = 1,
        sigma_data: float = 0.5,
        log_sigma_mean: float = -1.2,
        log_sigma_std: float = 1.2,
        sigma_range: tuple[float, float] = (0.002, 80.0),
        patches: int = 64,
        lr: float = 2e-4,
        warmup_patches: int = 10_000,
        decay: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if pad < 0:
            raise InputError(f"pad is {pad}; wanted at least 0")
        for name, value in {"patches": patches, "lr": lr, "log_sigma_std": log_sigma_std}.items():
            if not value > 0:
                raise InputError(f"{name} is {value:g}; wanted a value above 0")
        self.denoiser = Denoiser(network, sigma_data)
        self.patch_sizes, self.patch_odds = self._check_sizes(network, patch_sizes, patch_odds)
        if not 0 < sigma_range[0] < sigma_range[1]:
            raise InputError(f"sigma_range is {tuple(sigma_range)}; wanted two values above 0, the lower first")
        self.least_pad = pad
        self.log_sigma = (log_sigma_mean, log_sigma_std)
        self.sigma_range, self.patches = sigma_range, patches
        self.lr, self.warmup_patches, self.decay, self.seed = lr, warmup_patches, decay, seed
        self.patches_seen = 0

    @staticmethod
    def _check_sizes(network: PatchNetwork, sizes: Sequence[int], odds: Sequence[float] | None) -> tuple[list[int], list[float]]:
        if not sizes:
            raise InputError("patch_sizes is empty; wanted at least one size")
        odds = list(odds) if odds is not None else [1 / len(sizes)] * len(sizes)
        if len(odds) != len(sizes):
            raise InputError(f"patch_odds has {len(odds)} values; wanted {len(sizes)}, one a patch size")
        if min(odds) < 0 or not sum(odds) > 0:
            raise InputError(f"patch_odds is {odds}; wanted values of at least 0, not all 0")
        for size in sizes:
            if size < 1 or size % network.divisor:
                raise InputError(f"patch size {size} does not fit the network; wanted a multiple of {network.divisor}")
        pairs = sorted(zip(sizes, odds, strict=True))
        return [size for size, _ in pairs], [odd for _, odd in pairs]

    def setup(self, stage: str) -> None:
        """Adapt to the trainer's data."""
        self.adapt(self.trainer.datamodule)

    def adapt(self, data: ImageData) -> None:
        """Take the image's shape from the data and lay out the canvas.

        Raises:
            InputError: the network or the patches do not fit the images.
        """
        channels, height, width = data.image_shape
        if channels != self.denoiser.network.channels:
            raise InputError(f"the network has {self.denoiser.network.channels} image channels; wanted {channels}, the data's")
        self.image_shape = data.image_shape
        self.pad = padding((height, width), self.patch_sizes[-1], self.least_pad)
        self.normalisation, self.source = data.normalisation, data.source

    def patch_model(self) -> PatchModel:
        """The denoiser as it is now, with all that a solver has to know."""
        training = {"patches": self.patches_seen, "log_sigma": list(self.log_sigma), "sigma_range": list(self.sigma_range)}
        training |= {"seed": self.seed, "data": self.source, "padis_lightning": __version__}
        if self._trainer is not None:
            training["steps"] = self.trainer.global_step
        return PatchModel(self.denoiser, self.image_shape, self.patch_sizes, self.pad, self.normalisation, training)

    def draw_size(self, step: int) -> int:
        """The patch size of a step, the same on all devices."""
        odds = torch.tensor(self.patch_odds, dtype=torch.float64)
        return self.patch_sizes[int(torch.multinomial(odds, 1, generator=seeded(self.seed, step, SIZE)))]

    def patch_count(self, size: int) -> int:
        """Patches a step at ``size``: the pixels of ``patches`` largest ones."""
        return round(self.patches * (self.patch_sizes[-1] / size) ** 2)

    def cut(self, images: Tensor, size: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random patches of zero-padded images that touch the image, and their coordinates.

        ``(B, C, H, W) -> (n, C, size, size), (n, 2, size, size)``, the images taken in turn.
        """
        top, left = self.pad
        padded = functional.pad(images, (left, left, top, top))
        source = torch.arange(n, device=images.device)[:, None, None] % len(images)
        grid = torch.arange(size, device=images.device)
        places = []
        for length, pad in zip(self.image_shape[1:], self.pad, strict=True):
            low, high = max(0, pad - size + 1), min(length + 2 * pad - size, pad + length - 1)
            places.append(torch.randint(low, high + 1, (n, 1), generator=generator, device=images.device) + grid)
        rows, columns = places[0][:, :, None], places[1][:, None, :]
        patches = padded.permute(0, 2, 3, 1)[source, rows, columns].permute(0, 3, 1, 2)
        canvas = coordinates(*padded.shape[-2:]).to(images.device)
        positions = canvas.permute(1, 2, 0)[rows, columns].permute(0, 3, 1, 2)
        return patches, positions

    def draw_sigma(self, n: int, generator: torch.Generator) -> Tensor:
        """Log-normal noise levels ``(n,)``, truncated to ``sigma_range`` by inverting the distribution function."""
        mean, std = self.log_sigma
        ends = (torch.tensor(self.sigma_range, dtype=torch.float64).log() - mean) / std
        low, high = torch.special.ndtr(ends).tolist()
        share = torch.rand(n, generator=generator, device=self.device, dtype=torch.float64)
        return (mean + std * torch.special.ndtri(low + (high - low) * share)).exp().float()

    def loss(self, batch: Batch, size: int, n: int, generator: torch.Generator) -> Tensor:
        """Mean loss of ``n`` patches that ``generator`` draws from a batch."""
        clean, positions = self.cut(batch.image, size, n, generator)
        sigma = self.draw_sigma(len(clean), generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        return self.denoiser.loss(clean, sigma, noise, positions).mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One patch size, many patches."""
        step, part = self.global_step, batch_idx % self.trainer.accumulate_grad_batches
        size = self.draw_size(step)
        generator = seeded(self.seed, step, CROPS, self.global_rank, part, device=self.device)
        loss = self.loss(batch, size, self.patch_count(size), generator)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}, patch size {size}; training stops here")
        self.patches_seen += self.patch_count(size) * self.trainer.world_size
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss at the largest size, eight patches an image, the same and with the same noise every time."""
        generator = seeded(self.seed, batch_idx, VALIDATION, self.global_rank, device=self.device)
        loss = self.loss(batch, self.patch_sizes[-1], 8 * len(batch.index), generator)
        self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch.index))

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam; the learning rate rises with the patches seen and, if asked, falls with the steps done."""
        optimizer: Optimizer = Adam(self.denoiser.parameters(), lr=self.lr, betas=(0.9, 0.999))
        total = self.trainer.max_steps

        def factor(step: int) -> float:
            rise = min(1.0, (self.patches_seen + 1) / max(self.warmup_patches, 1))
            return rise * (math.cos(math.pi / 2 * min(step / total, 1)) ** 2 if self.decay and total > 0 else 1.0)

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a solver has to know, so that a checkpoint serves as a prior."""
        checkpoint["patches_seen"] = self.patches_seen
        checkpoint["patch_model"] = self.patch_model().describe()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self.patches_seen = checkpoint["patches_seen"]
