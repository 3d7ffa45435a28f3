"""Optimise a denoiser by Adam, and stop before a value that is not finite is kept."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR


class AdamModule(LightningModule):
    """A module whose parameters are trained by Adam at a learning rate that follows the patches seen.

    It raises a FloatingPointError where a gradient or a weight is not finite; the checkpoints written before stay.
    """

    lr: float
    warmup_patches: int
    decay: bool
    patches_seen: int = 0  #: of all devices
    last: tuple[int, Tensor, Tensor]  #: patch size, noise levels and losses of the last step, for messages

    @property
    def scaled(self) -> bool:
        """Return whether losses are scaled to keep half-precision gradients from vanishing."""
        return self.trainer.precision == "16-mixed"

    def configure_optimizers(self) -> dict[str, Any]:
        """Return Adam with a learning rate that rises with the patches seen and, if asked, falls with the steps done."""
        fused = not self.scaled and self.trainer.gradient_clip_algorithm != "value"
        optimizer: Optimizer = Adam(self.parameters(), lr=self.lr, betas=(0.9, 0.999), fused=fused)
        total = self.trainer.max_steps

        def factor(step: int) -> float:
            rise = min(1.0, (self.patches_seen + 1) / max(self.warmup_patches, 1))
            return rise * (math.cos(math.pi / 2 * min(step / total, 1)) ** 2 if self.decay and total > 0 else 1.0)

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

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
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by the norm that is known already; Lightning's own clipping refuses fused optimisers."""
        if self.scaled or gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, self.gradient_norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the count of patches; refuse weights that are not finite."""
        for name, value in checkpoint["state_dict"].items():
            if not torch.isfinite(value).all():
                raise FloatingPointError(f"weights of {name} are not finite at step {self.global_step}; nothing was written")
        checkpoint["patches_seen"] = self.patches_seen

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
