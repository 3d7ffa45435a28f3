"""Train the patch diffusion model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from padis_lightning import __version__
from padis_lightning.canvas import patch_shape
from padis_lightning.data.datamodule import ImageData, data_of
from padis_lightning.data.notes import note
from padis_lightning.diffusion import Denoiser, PatchModel, Positions, padding
from padis_lightning.errors import InputError, first_few, require_above, require_at_least
from padis_lightning.hub import is_address
from padis_lightning.machine import in_bfloat16
from padis_lightning.networks import PatchNetwork
from padis_lightning.random import seed_dropout, seeded
from padis_lightning.training.optimisation import OptimisedModule
from padis_lightning.training.patches import (
    Patches,
    cut_patches,
    device_places,
    draw_corners,
    draw_sigma,
    noisy_contexts,
    sizes_and_odds,
)
from padis_lightning.types import Batch

SIZE, PATCHES, VALIDATION, DROPOUT = 2, 3, 4, 6  # purposes of the streams keyed by (seed, step) or (seed, image)


class PatchDiffusion(OptimisedModule):
    r"""Train a denoiser on random patches of zero-padded images, with their coordinates.

    .. math:: \min_\theta \; E \; w(\sigma) \, \|D_\theta(x_0 + \sigma z; \sigma, \text{position}) - x_0\|^2,
        \quad \ln \sigma \sim N(m, s^2)

    A step draws one patch size, the same on all devices, and cuts patches out of the images of the batch in turn, about
    as many pixels whatever the size. A network of three axes is trained on patches of volumes, cubes but for volumes of fewer
    slices, which they take whole. What is drawn depends on (seed, step) and the place of a patch in the whole step, so
    a resumed run draws it again, and n devices of batches of b train like one of batches of n b. With ``context`` the network
    also sees the noisy whole image, averaged down to the sides of the patch.

    Source: Hu et al., PaDIS, NeurIPS 2024, section 3.2 and appendix; Karras et al., EDM, NeurIPS 2022, table 1.

    Args:
        network: the patch network.
        positions: the encoding of a patch's place (default: coordinates).
        context: show the network the whole image, too; its ``positions`` then counts the image's channels besides.
        patch_sizes: sides of the training patches; solvers use the largest.
        patch_odds: probability of each size (default: all alike).
        pad: least padding of the images (default: one pixel; 0 with one patch size as large as the image trains a
            model of whole images).
        sigma_data: root mean square of the images in the units of the network.
        span: the network's values of 0 and 1.
        log_sigma_mean: m.
        log_sigma_std: s.
        sigma_range: ends at which sigma is cut off.
        patches: patches a step and device at the largest size; smaller ones come in the inverse ratio of pixels.
        loss_power: power of EDM's weight in the loss: 1 as published; 0.5 where a solver's estimates count at every level.
        optimizer: Adam, or Muon for networks of kernels alone.
        lr: learning rate of the optimiser.
        warmup_patches: patches over which the learning rate rises from 0.
        decay: let the learning rate fall to 0 along a cosine until ``trainer.max_steps``.
        seed: key of the patches and their noise.
        initial: a prior to begin with, as ``predict`` takes them: its weights where names and shapes are equal.
        credit: authors and licence of the data, which the prior then names.
        compile_network: compile the network in place, one graph a patch size (needs a C++ compiler; minutes at first).
        recompute: activation checkpointing: blocks are computed again in the backward pass, a third more time for a
            fraction of the memory.
    """

    #: coordinates that the network takes besides those of the place
    extra_coordinates: int = 0

    def __init__(
        self,
        network: PatchNetwork,
        positions: Positions | None = None,
        context: bool = False,
        patch_sizes: Sequence[int] = (16, 32),
        patch_odds: Sequence[float] | None = None,
        pad: int = 1,
        sigma_data: float = 0.5,
        span: tuple[float, float] = (0.0, 1.0),
        log_sigma_mean: float = -1.2,
        log_sigma_std: float = 1.2,
        sigma_range: tuple[float, float] = (0.002, 80.0),
        patches: int = 64,
        loss_power: float = 1.0,
        optimizer: Literal["Adam", "Muon"] = "Adam",
        lr: float = 2e-4,
        warmup_patches: int = 10_000,
        decay: bool = False,
        seed: int = 0,
        initial: str | None = None,
        credit: str = "",
        compile_network: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        require_at_least(0, pad=pad)
        require_above(0, patches=patches, lr=lr, log_sigma_std=log_sigma_std)
        self.denoiser = Denoiser(network, sigma_data, positions, span, context, loss_power)
        self.patch_sizes, self.patch_odds = sizes_and_odds(patch_sizes, patch_odds, network.divisor)
        if not 0 < sigma_range[0] < sigma_range[1]:
            raise InputError(f"sigma_range is {tuple(sigma_range)}; wanted two values above 0, the lower first")
        self.least_pad = pad
        self.log_sigma = (log_sigma_mean, log_sigma_std)
        self.sigma_range, self.patches = sigma_range, patches
        self.optimizer, self.lr, self.warmup_patches, self.decay, self.seed = optimizer, lr, warmup_patches, decay, seed
        self.credit, self.compile_network, network.recompute = credit, compile_network, recompute
        self.initial = None if initial is None else self._take_weights(initial)

    def setup(self, stage: str) -> None:
        """Adapt to the trainer's data; bring the network into its fastest form."""
        self.adapt(data_of(self.trainer))
        on_processor = self.trainer.strategy.root_device.type == "cpu"
        if self.denoiser.network.axes == 3 and in_bfloat16(self.trainer.precision) and on_processor:
            # oneDNN's gradients of such convolutions hold memory that nobody wrote (torch 2.13, two slices at the coarsest level)
            raise InputError(f"trainer.precision is {self.trainer.precision}; wanted 32-true to train on cubes on a processor")
        layout = torch.channels_last if self.denoiser.network.axes == 2 else torch.channels_last_3d
        network = self.denoiser.network.to(memory_format=layout)  # type: ignore[call-overload]  # torch has no word of it
        if self.compile_network:
            network.compile(dynamic=False)

    def on_fit_start(self) -> None:
        """Silence Lightning's doubt of a run that goes on within an epoch: what a step draws depends on (seed, step) alone."""
        warnings.filterwarnings("ignore", ".*resuming from a checkpoint that ended before the epoch ended")

    def _take_weights(self, prior: str) -> dict[str, Any]:
        """Begin with the weights of a prior where they fit; return where that comes from."""
        model, ours = PatchModel.load(prior), self.denoiser.state_dict()
        theirs = model.denoiser.state_dict()
        taken = {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}
        if not taken:
            seen, wanted = (type(denoiser.network).__name__ for denoiser in (model.denoiser, self.denoiser))
            raise InputError(f"{prior} is a {seen} that has no weight of the shapes of this {wanted}; wanted one like it")
        self.denoiser.load_state_dict(ours | taken)
        fresh = [f"{name.removeprefix('network.')} {list(value.shape)}" for name, value in ours.items() if name not in taken]
        rest = f"; begun anew: {first_few(fresh)}" if fresh else ""
        note(f"training begins with {len(taken)} of {len(ours)} tensors of {prior}{rest}")
        return {"prior": prior if is_address(prior) else Path(prior).name, **model.training}

    def adapt(self, data: ImageData) -> None:
        """Take the image's shape from the data and lay out the canvas."""
        self.lay_out(data.image_shape)
        self.normalisation, self.source = data.normalisation, data.source

    def lay_out(self, image_shape: tuple[int, ...]) -> None:
        """Lay out the canvas for images of this shape; raise an InputError where network or patches do not fit them."""
        network, size = self.denoiser.network, image_shape[1:]
        if image_shape[0] != network.channels:
            raise InputError(f"the network has {network.channels} image channels; wanted {image_shape[0]}, the data's")
        if network.axes != len(size):
            raise InputError(f"the network takes patches of {network.axes} axes; wanted {len(size)}, those of the data")
        positions, wanted = self.denoiser.positions, network.axes + self.extra_coordinates
        if positions.channels and positions.axes != wanted:
            raise InputError(f"{type(positions).__name__} takes {positions.axes} coordinates; wanted {wanted}: axes: {wanted}")
        for patch in self.patch_sizes:
            if patch_shape(size, patch)[0] % network.divisor:
                raise InputError(f"the volumes have {size[0]} slices; wanted a multiple of {network.divisor} or at least {patch}")
        self.image_shape = tuple(image_shape)
        self.pad = padding(size, self.patch_sizes[-1], self.least_pad)

    def patch_model(self) -> PatchModel:
        """Return the denoiser as it is now, with all that a solver has to know."""
        training = {"patches": self.patches_seen, "log_sigma": list(self.log_sigma), "sigma_range": list(self.sigma_range)}
        training |= {"seed": self.seed, "data": self.source, "padis_lightning": __version__}
        training |= {"credit": self.credit} if self.credit else {}
        training |= {"initial": self.initial} if self.initial else {}
        if self._trainer is not None:
            training["steps"] = self.trainer.global_step
        return PatchModel(self.denoiser, self.image_shape, self.patch_sizes, self.pad, self.normalisation, training)

    def draw_size(self, step: int) -> int:
        """Draw the patch size of a step, the same on all devices."""
        odds = torch.tensor(self.patch_odds, dtype=torch.float64)
        return self.patch_sizes[int(torch.multinomial(odds, 1, generator=seeded(self.seed, step, SIZE)))]

    def patch_count(self, size: int) -> int:
        """Return the number of patches a step at ``size``, with the pixels of ``patches`` largest ones."""
        largest, pixels = (math.prod(patch_shape(self.image_shape[1:], side)) for side in (self.patch_sizes[-1], size))
        return round(self.patches * largest / pixels)

    def draw_patches(self, size: int, n: int, generator: torch.Generator) -> Patches:
        """Draw corners of patches that touch the image, noise levels, noise, and noise of the context where there is one."""
        patch, device, channels = patch_shape(self.image_shape[1:], size), generator.device, self.image_shape[0]
        corners = draw_corners(self.image_shape[1:], self.pad, patch, n, generator)
        sigma = draw_sigma(n, self.log_sigma, self.sigma_range, generator)
        shapes = (n, channels, *patch), (n, channels * self.denoiser.context, *patch)
        return Patches(corners, sigma, *(torch.randn(shape, generator=generator, device=device) for shape in shapes))

    def cut(self, images: Tensor, corners: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Cut patches and their coordinates, ``(B, C, H, W), (n, 2) -> (n, C, P, P), (n, 2, P, P)``; see :func:`cut_patches`."""
        return cut_patches(images, self.pad, corners, patch_shape(self.image_shape[1:], size))

    def losses(self, images: Tensor, size: int, patches: Patches) -> Tensor:
        """Return the loss of each patch, ``(n,)``."""
        clean, positions = self.cut(images, patches.corners, size)
        context = noisy_contexts(images, self.pad, patches) if self.denoiser.context else None
        return self.denoiser.loss(clean, patches.sigma, patches.noise, positions, context)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of many patches of one size."""
        assert batch.image is not None
        step, parts = self.global_step, self.trainer.accumulate_grad_batches
        part = batch_idx % parts
        size = self.draw_size(step)
        n = self.patch_count(size)
        generator = seeded(self.seed, step, PATCHES, device=self.device)
        total, own = device_places(n, len(batch.image), parts, self.trainer.world_size, part, self.global_rank)
        patches = Patches(*(values[own.to(self.device)] for values in self.draw_patches(size, total, generator)))
        seed_dropout(self.seed, step, DROPOUT, self.global_rank, part)
        losses = self.losses(batch.image, size, patches)
        self.last = size, patches.sigma, losses.detach()
        self.patches_seen += n * self.trainer.world_size
        loss = losses.mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss at the largest size on patches of the image's own: in training's mix of noise, and in bands of it."""
        assert batch.image is not None
        size, bands = self.patch_sizes[-1], self.bands()
        drawn = [self.draw_validation(index, bands) for index in batch.index.tolist()]
        patches = Patches(*(torch.stack(values, 1).flatten(0, 1).to(self.device) for values in zip(*drawn, strict=True)))
        losses = self.losses(batch.image, size, patches).unflatten(0, (-1, len(drawn))).mean(1)
        count = len(drawn)
        self.log("val/loss", losses[len(bands) :].mean(), prog_bar=True, sync_dist=True, batch_size=count)
        for (low, high), loss in zip(bands, losses[: len(bands)], strict=True):
            self.log(f"val/sigma_{low:g}-{high:g}", loss, sync_dist=True, batch_size=count)

    def bands(self) -> list[tuple[float, float]]:
        """Return the range of sigma by decades."""
        low, high = self.sigma_range
        inner = range(math.floor(math.log10(low)) + 1, math.ceil(math.log10(high)))
        return list(pairwise([low, *(10.0**k for k in inner), high]))

    def draw_validation(self, index: int, bands: Sequence[tuple[float, float]]) -> Patches:
        """Draw an image's patches, always the same: one a band, with log sigma uniform in it, and eight as in training."""
        generator = seeded(self.seed, index, VALIDATION)
        patches = self.draw_patches(self.patch_sizes[-1], len(bands) + 8, generator)
        low, high = torch.tensor(bands, dtype=torch.float64).log().unbind(1)
        share = torch.rand(len(bands), generator=generator, dtype=torch.float64)
        patches.sigma[: len(bands)] = (low + (high - low) * share).exp().float()
        return patches

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a solver has to know, so that a checkpoint serves as a prior; refuse weights that are not finite."""
        super().on_save_checkpoint(checkpoint)
        settings = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})  # modules given as objects would be pickled as code
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {k: v for k, v in settings.items() if not isinstance(v, nn.Module)}
        checkpoint["patch_model"] = self.patch_model().describe()
