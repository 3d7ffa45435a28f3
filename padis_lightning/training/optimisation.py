"""Optimise a denoiser, and stop before a value that is not finite is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from padis_lightning.errors import InputError
from padis_lightning.machine import in_bfloat16


class Muon(Optimizer):
    r"""Move kernels by their momentum with all singular values brought near 1, which takes fewer steps than Adam.

    .. math:: M \leftarrow \beta M + (1 - \beta) G, \quad W \leftarrow (1 - \eta \lambda) W - \eta \max(1, m / n)^{1/2} \,
        \mathrm{NS}_5((1 - \beta) G + \beta M)

    A kernel counts as a matrix of m outputs and n inputs; :math:`NS_5` is five steps of a Newton-Schulz iteration of fifth order.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024, algorithm 2; Liu et al., Muon is
    scalable for LLM training, 2025, equation 3, for the decay, without which kernels grow until training diverges.

    Args:
        parameters: kernels, of at least two axes.
        lr: :math:`\eta`.
        momentum: :math:`\beta`.
        weight_decay: :math:`\lambda`; singular values stay below about its inverse.
        half: iterate in bfloat16.
    """

    COEFFICIENTS = 3.4445, -4.7750, 2.0315

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.2, half: bool = False
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = torch.bfloat16 if half else torch.float32
        if min(p.ndim for group in self.param_groups for p in group["params"]) < 2:
            raise InputError("the network has biases or norms; wanted kernels alone for Muon, as DRUNet has them, or Adam")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch overloads it
        """Move every kernel that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["momentum"] = torch.zeros_like(kernel)
                mean = state["momentum"].lerp_(kernel.grad, 1 - group["momentum"])
                direction = self._orthogonal(kernel.grad.lerp(mean, group["momentum"]).flatten(1))
                stretch = max(1.0, direction.shape[0] / direction.shape[1]) ** 0.5
                kernel.mul_(1 - group["lr"] * group["weight_decay"])
                kernel.sub_(direction.reshape(kernel.shape), alpha=group["lr"] * stretch)
        return loss

    def _orthogonal(self, matrix: Tensor) -> Tensor:
        """Bring the singular values of a matrix near 1."""
        high = matrix.shape[0] > matrix.shape[1]
        x = matrix.T if high else matrix
        x = (x / (x.norm() + 1e-12)).to(self.dtype)
        a, b, c = self.COEFFICIENTS
        for _ in range(5):
            squared = x @ x.T
            x = a * x + (b * squared + c * squared @ squared) @ x
        return (x.T if high else x).to(matrix.dtype)


class OptimisedModule(LightningModule):
    """A module whose parameters are trained by Adam or Muon at a learning rate that follows the patches seen.

    It raises a FloatingPointError where a gradient or a weight is not finite; the checkpoints written before stay.
    """

    lr: float
    warmup_patches: int
    decay: bool
    optimizer: Literal["Adam", "Muon"] = "Adam"
    patches_seen: int = 0  #: of all devices
    last: tuple[int, Tensor, Tensor]  #: patch size, noise levels and losses of the last step, for messages

    @property
    def scaled(self) -> bool:
        """Return whether losses are scaled to keep half-precision gradients from vanishing."""
        return self.trainer.precision == "16-mixed"

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimiser with a learning rate that rises with the patches seen and, if asked, falls with the steps done."""
        fused = not self.scaled and self.trainer.gradient_clip_algorithm != "value"
        if self.optimizer == "Muon":
            optimizer: Optimizer = Muon(self.parameters(), self.lr, half=in_bfloat16(self.trainer.precision))
        else:
            optimizer = Adam(self.parameters(), lr=self.lr, betas=(0.9, 0.999), fused=fused)
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
