"""Networks in training, one step a call: as this package trains them, and as they were published."""

from __future__ import annotations

import gc
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam

from padis_lightning.diffusion import Denoiser
from padis_lightning.networks import PatchNetwork
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.networks.unet import UNet
from padis_lightning.random import seeded
from padis_lightning.training import PatchDiffusion

PAPER = 128  # base channels of the paper's network


@dataclass(frozen=True)
class Setup:
    """A network and how it is trained; ``plain`` means eager, channels-first and with an optimiser left at its defaults."""

    network: str
    base: int
    device: str
    bf16: bool = False
    compiled: bool = False
    plain: bool = False
    tf32: bool = False

    def build(self) -> PatchNetwork:
        """Return the network, initialised."""
        torch.manual_seed(0)
        return {"UNet": UNet, "DDPMpp": DDPMpp}[self.network](base=self.base)


@dataclass(frozen=True)
class Step:
    """What a step trains on: n patches of ``size``, or whole images of that size, which are then their only patch."""

    size: int
    n: int = 1
    recompute: bool = False


def plain_denoised(denoiser: Denoiser, noisy: Tensor, sigma: Tensor, position: Tensor) -> Tensor:
    """Denoise patches of levels ``(n, 1, 1, 1)`` with the network called with channels-first inputs, as it was published."""
    c_skip, c_out, c_in = denoiser.scalings(sigma)
    inputs = torch.cat([c_in * noisy, position], 1).contiguous()
    assert inputs.stride(1) == inputs[0, 0].numel()
    return c_skip * noisy + c_out * denoiser.network(inputs, sigma.flatten().log() / 4)


class Trainee:
    """A network in training, one step a call."""

    def __init__(self, setup: Setup) -> None:
        self.setup, network = setup, setup.build()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's, of networks among hyperparameters
            self.task = PatchDiffusion(network, patch_sizes=[network.divisor]).to(setup.device)
        self.task.pad = 0, 0
        network.to(memory_format=torch.contiguous_format if setup.plain else torch.channels_last)
        self.optimizer = Adam(network.parameters(), lr=1e-6, **({} if setup.plain else {"fused": True}))
        self.generator = seeded(0, device=torch.device(setup.device))
        if setup.compiled:
            network.compile(dynamic=False)

    def __call__(self, step: Step) -> None:
        """Do a step: draw, cut, forward, backward, a look at the gradients, Adam; old gradients live through the forward pass."""
        if self.setup.device == "cuda":
            torch.backends.cudnn.allow_tf32 = self.setup.tf32
        self.task.denoiser.network.recompute = step.recompute
        side = max(step.size, 64)
        images = torch.rand(min(step.n, 4), 1, side, side, device=self.setup.device)
        self.task.image_shape = tuple(images.shape[1:])
        draws = self.task.draw_patches(step.size, step.n, self.generator)
        with torch.autocast(self.setup.device, torch.bfloat16, enabled=self.setup.bf16):
            if self.setup.plain:
                clean, position = self.task.cut(images, draws.corners, step.size)
                loss = self.plain_loss(clean, draws.sigma[:, None, None, None], draws.noise, position)
            else:
                loss = self.task.losses(images, step.size, draws).mean()
        self.optimizer.zero_grad()
        loss.backward()
        if not torch.isfinite(torch.nn.utils.get_total_norm([p.grad for p in self.task.parameters() if p.grad is not None])):
            raise FloatingPointError(f"the gradient of {step} is not finite")
        self.optimizer.step()

    def plain_loss(self, clean: Tensor, sigma: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        """Return EDM's loss, with the network called with channels-first inputs."""
        denoiser = self.task.denoiser
        denoised = plain_denoised(denoiser, clean + sigma * noise, sigma, position)
        return ((denoised - clean) / denoiser.scalings(sigma)[1]).square().mean()

    def free(self) -> None:
        """Let go of what a step that failed has left."""
        self.optimizer.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
