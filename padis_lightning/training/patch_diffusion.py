"""Training of the patch diffusion model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from padis_lightning import __version__
from padis_lightning.canvas import patch_shape, zero_pad
from padis_lightning.data.datamodule import ImageData
from padis_lightning.diffusion import Denoiser, PatchModel, Positions, context_of, padding
from padis_lightning.diffusion.context import context_of_noise
from padis_lightning.errors import InputError
from padis_lightning.linalg import per_image
from padis_lightning.networks import PatchNetwork
from padis_lightning.random import seed_dropout, seeded
from padis_lightning.types import Batch

SIZE, PATCHES, VALIDATION, DROPOUT = 2, 3, 4, 6  # purposes of the streams keyed by (seed, step) or (seed, image)


class Patches(NamedTuple):
    """What is random in a set of n patches.

    Attributes:
        corners: ``(n, 2)``, row and column on the padded canvas; of volumes ``(n, 3)``, slice, row and column.
        sigma: ``(n,)``.
        noise: ``(n, C, P, P)``; of volumes with a further axis.
        rest: noise of the context besides, of the same shape; of no channels without a context.
    """

    corners: Tensor
    sigma: Tensor
    noise: Tensor
    rest: Tensor


class PatchDiffusion(LightningModule):
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
        positions: what it is told of a patch's place (default: coordinates).
        context: show the network the whole image, too; its ``positions`` then counts the image's channels besides.
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
        compile_network: compile the network in place, one graph a patch size (needs a C++ compiler; minutes at first).
        recompute: activation checkpointing: blocks are computed again in the backward pass, a third more time for a
            fraction of the memory.

    Raises:
        InputError: the settings contradict each other or the data.
        FloatingPointError: a gradient or a weight is not finite; the checkpoints written before stay.
    """

    #: coordinates besides those of the place that the network is told
    told: int = 0

    def __init__(
        self,
        network: PatchNetwork,
        positions: Positions | None = None,
        context: bool = False,
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
        compile_network: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if pad < 0:
            raise InputError(f"pad is {pad}; wanted at least 0")
        for name, value in {"patches": patches, "lr": lr, "log_sigma_std": log_sigma_std}.items():
            if not value > 0:
                raise InputError(f"{name} is {value:g}; wanted a value above 0")
        self.denoiser = Denoiser(network, sigma_data, positions, context=context)
        self.patch_sizes, self.patch_odds = self._check_sizes(network, patch_sizes, patch_odds)
        if not 0 < sigma_range[0] < sigma_range[1]:
            raise InputError(f"sigma_range is {tuple(sigma_range)}; wanted two values above 0, the lower first")
        self.least_pad = pad
        self.log_sigma = (log_sigma_mean, log_sigma_std)
        self.sigma_range, self.patches = sigma_range, patches
        self.lr, self.warmup_patches, self.decay, self.seed = lr, warmup_patches, decay, seed
        self.compile_network, network.recompute = compile_network, recompute
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
        """Adapt to the trainer's data; bring the network into its fastest form."""
        self.adapt(self.trainer.datamodule)
        precision = str(self.trainer.precision)
        on_processor = self.trainer.strategy.root_device.type == "cpu"
        if self.denoiser.network.axes == 3 and precision.startswith("bf16") and on_processor:
            # oneDNN's gradients of such convolutions hold memory that nobody wrote (torch 2.13, two slices at the coarsest level)
            raise InputError(f"trainer.precision is {precision}; wanted 32-true to train on cubes on a processor")
        layout = torch.channels_last if self.denoiser.network.axes == 2 else torch.channels_last_3d
        network = self.denoiser.network.to(memory_format=layout)
        if self.compile_network:
            network.compile(dynamic=False)

    def adapt(self, data: ImageData) -> None:
        """Take the image's shape from the data and lay out the canvas.

        Raises:
            InputError: the network or the patches do not fit the images.
        """
        self.lay_out(data.image_shape)
        self.normalisation, self.source = data.normalisation, data.source

    def lay_out(self, image_shape: tuple[int, ...]) -> None:
        """Fit network, patches and canvas to images of this shape.

        Raises:
            InputError: they do not fit.
        """
        network, size = self.denoiser.network, image_shape[1:]
        if image_shape[0] != network.channels:
            raise InputError(f"the network has {network.channels} image channels; wanted {image_shape[0]}, the data's")
        if network.axes != len(size):
            raise InputError(f"the network takes patches of {network.axes} axes; wanted {len(size)}, those of the data")
        positions, wanted = self.denoiser.positions, network.axes + self.told
        if positions.channels and positions.axes != wanted:
            raise InputError(f"{type(positions).__name__} takes {positions.axes} coordinates; wanted {wanted}: axes: {wanted}")
        for patch in self.patch_sizes:
            if patch_shape(size, patch)[0] % network.divisor:
                raise InputError(f"the volumes have {size[0]} slices; wanted a multiple of {network.divisor} or at least {patch}")
        self.image_shape = tuple(image_shape)
        self.pad = padding(size, self.patch_sizes[-1], self.least_pad)

    @property
    def scaled(self) -> bool:
        """Whether losses are scaled to keep half-precision gradients from vanishing."""
        return self.trainer.precision == "16-mixed"

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
        largest, own = (math.prod(patch_shape(self.image_shape[1:], side)) for side in (self.patch_sizes[-1], size))
        return round(self.patches * largest / own)

    def draw(self, size: int, n: int, generator: torch.Generator) -> Patches:
        """Corners of patches that touch the image, noise levels, noise, and noise of the context where there is one."""
        device, corners = generator.device, []
        patch = patch_shape(self.image_shape[1:], size)
        for length, pad, side in zip(self.image_shape[1:], self.pad, patch, strict=True):
            low, high = max(0, pad - side + 1), min(length + 2 * pad - side, pad + length - 1)
            corners.append(torch.randint(low, high + 1, (n,), generator=generator, device=device))
        sigma = self.draw_sigma(n, generator)
        channels = self.image_shape[0]
        shapes = (n, channels, *patch), (n, channels * self.denoiser.context, *patch)
        noise, rest = (torch.randn(shape, generator=generator, device=device) for shape in shapes)
        return Patches(torch.stack(corners, 1), sigma, noise, rest)

    def draw_sigma(self, n: int, generator: torch.Generator) -> Tensor:
        """Log-normal noise levels ``(n,)``, truncated to ``sigma_range`` by inverting the distribution function."""
        mean, std = self.log_sigma
        ends = (torch.tensor(self.sigma_range, dtype=torch.float64).log() - mean) / std
        low, high = torch.special.ndtr(ends).tolist()
        share = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
        return (mean + std * torch.special.ndtri(low + (high - low) * share)).exp().float()

    def cut(self, images: Tensor, corners: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Patches of zero-padded images and their coordinates, the images taken in turn.

        ``(B, C, H, W), (n, 2) -> (n, C, size, size), (n, 2, size, size)``; of volumes with a further axis.
        """
        padded, device = zero_pad(images, self.pad), images.device
        patch = patch_shape(self.image_shape[1:], size)
        source = torch.arange(len(corners), device=device).reshape(-1, *[1] * len(patch)) % len(images)
        along = [corner[:, None] + torch.arange(side, device=device) for corner, side in zip(corners.T, patch, strict=True)]
        shaped = [(-1, *(side if j == k else 1 for j in range(len(patch)))) for k, side in enumerate(patch)]
        index = [places.reshape(shape) for places, shape in zip(along, shaped, strict=True)]
        patches = padded.movedim(1, -1)[(source, *index)].movedim(-1, 1)
        scales = [torch.linspace(-1, 1, length, device=device) for length in padded.shape[2:]]
        places = [scale[places].expand(-1, *patch) for scale, places in zip(scales, index, strict=True)]
        return patches, torch.stack(places[::-1], 1)

    def contexts(self, images: Tensor, draws: Patches) -> Tensor:
        """Of each patch, the noisy image that it is cut from, averaged down to its sides: ``(n, C, size, size)``."""
        size, sigma = self.image_shape[1:], draws.sigma
        clean = context_of(images, draws.noise.shape[2:])
        corners = draws.corners - torch.tensor(self.pad, device=images.device)
        noise = context_of_noise(draws.noise, draws.rest, corners, size)
        return clean[torch.arange(len(sigma), device=images.device) % len(images)] + per_image(sigma, noise) * noise

    def losses(self, images: Tensor, size: int, draws: Patches) -> Tensor:
        """The loss of each patch, ``(n,)``."""
        clean, positions = self.cut(images, draws.corners, size)
        context = self.contexts(images, draws) if self.denoiser.context else None
        return self.denoiser.loss(clean, draws.sigma, draws.noise, positions, context)

    def own(self, draws: Callable[[int], Patches], n: int, images: int, part: int) -> Patches:
        """This device's n patches out of those of the whole step, each of which belongs to one image of one device."""
        world, parts = self.trainer.world_size, self.trainer.accumulate_grad_batches
        rounds = -(-n // images)
        drawn = draws(rounds * images * world * parts)
        if n == len(drawn.sigma):
            return drawn
        place = torch.arange(rounds * images * world * parts, device=self.device)
        mine = place.reshape(rounds, parts, images, world)[:, part, :, self.global_rank].flatten()[:n]
        return Patches(*(values[mine] for values in drawn))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One patch size, many patches."""
        step, part = self.global_step, batch_idx % self.trainer.accumulate_grad_batches
        size = self.draw_size(step)
        n = self.patch_count(size)
        generator = seeded(self.seed, step, PATCHES, device=self.device)
        draws = self.own(lambda total: self.draw(size, total, generator), n, len(batch.image), part)
        seed_dropout(self.seed, step, DROPOUT, self.global_rank, part)
        losses = self.losses(batch.image, size, draws)
        self.last = size, draws.sigma, losses.detach()
        self.patches_seen += n * self.trainer.world_size
        loss = losses.mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop at a gradient that is not finite, on all devices at once, before it reaches a weight."""
        total = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        self.gradient_norm = total
        self.log("train/gradient_norm", total)
        if self.scaled or torch.isfinite(total):  # a scaler skips such steps by itself
            return
        size, sigma, losses = self.last
        broken = sigma[~torch.isfinite(losses)] if not torch.isfinite(losses).all() else sigma
        low, high = f"{broken.min():.4g}", f"{broken.max():.4g}"
        raise FloatingPointError(
            f"the gradient is not finite at step {self.global_step}, patch size {size}, "
            f"sigma {low if low == high else f'{low} to {high}'}; training stops here, checkpoints written before are good"
        )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm that is known already; Lightning's own clipping refuses fused optimisers."""
        if self.scaled or gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, self.gradient_norm)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss at the largest size, on patches that belong to the image: in training's mix of noise, and in bands of it."""
        size, bands = self.patch_sizes[-1], self.bands()
        drawn = [self.draw_validation(index, bands) for index in batch.index.tolist()]
        draws = Patches(*(torch.stack(values, 1).flatten(0, 1).to(self.device) for values in zip(*drawn, strict=True)))
        losses = self.losses(batch.image, size, draws).unflatten(0, (-1, len(drawn))).mean(1)
        common = {"sync_dist": True, "batch_size": len(drawn)}
        self.log("val/loss", losses[len(bands) :].mean(), prog_bar=True, **common)
        for (low, high), loss in zip(bands, losses[: len(bands)], strict=True):
            self.log(f"val/sigma_{low:g}-{high:g}", loss, **common)

    def bands(self) -> list[tuple[float, float]]:
        """The range of sigma by decades."""
        low, high = self.sigma_range
        inner = range(math.floor(math.log10(low)) + 1, math.ceil(math.log10(high)))
        return list(pairwise([low, *(10.0**k for k in inner), high]))

    def draw_validation(self, index: int, bands: Sequence[tuple[float, float]]) -> Patches:
        """An image's patches, always the same: one a band, with log sigma uniform in it, and eight as in training."""
        generator = seeded(self.seed, index, VALIDATION)
        draws = self.draw(self.patch_sizes[-1], len(bands) + 8, generator)
        low, high = torch.tensor(bands, dtype=torch.float64).log().unbind(1)
        share = torch.rand(len(bands), generator=generator, dtype=torch.float64)
        draws.sigma[: len(bands)] = (low + (high - low) * share).exp().float()
        return draws

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam; the learning rate rises with the patches seen and, if asked, falls with the steps done."""
        fused = not self.scaled and self.trainer.gradient_clip_algorithm != "value"
        optimizer: Optimizer = Adam(self.denoiser.parameters(), lr=self.lr, betas=(0.9, 0.999), fused=fused)
        total = self.trainer.max_steps

        def factor(step: int) -> float:
            rise = min(1.0, (self.patches_seen + 1) / max(self.warmup_patches, 1))
            return rise * (math.cos(math.pi / 2 * min(step / total, 1)) ** 2 if self.decay and total > 0 else 1.0)

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a solver has to know, so that a checkpoint serves as a prior; refuse weights that are not finite."""
        for name, value in checkpoint["state_dict"].items():
            if not torch.isfinite(value).all():
                raise FloatingPointError(f"weights of {name} are not finite at step {self.global_step}; nothing was written")
        settings = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})  # modules given as objects would be pickled as code
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {k: v for k, v in settings.items() if not isinstance(v, nn.Module)}
        checkpoint["patches_seen"] = self.patches_seen
        checkpoint["patch_model"] = self.patch_model().describe()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting, at this run's learning rate where it is another than the checkpoint's."""
        self.patches_seen = checkpoint["patches_seen"]
        for scheduler, optimizer in zip(checkpoint["lr_schedulers"], checkpoint["optimizer_states"], strict=True):
            if scheduler["base_lrs"] == [self.lr]:
                continue
            for group in optimizer["param_groups"]:
                group["lr"] *= self.lr / group["initial_lr"]
                group["initial_lr"] = self.lr
            scheduler["base_lrs"] = [self.lr]
