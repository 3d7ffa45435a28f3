"""EDM's preconditioned denoiser on patches with positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from padis_lightning.errors import InputError


class Denoiser(nn.Module):
    r"""Estimate a clean patch from a noisy one and its position.

    .. math:: D(x; \sigma) = c_{skip} x + c_{out} F(c_{in} x, \tfrac{1}{4} \ln \sigma, \text{position})

    The position channels carry no noise and are not scaled by :math:`c_{in}`.

    Source: Karras et al., EDM, NeurIPS 2022, table 1 and equation 7; Hu et al., PaDIS, NeurIPS 2024, section 3.2.

    Args:
        network: F, from ``(B, C + 2, P, P)`` and ``(B,)`` to ``(B, C, P, P)``.
        sigma_data: root mean square of the clean images.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__()
        if not sigma_data > 0:
            raise InputError(f"sigma_data is {sigma_data:g}; wanted a value above 0")
        self.network = network
        self.sigma_data = sigma_data

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``c_skip, c_out, c_in`` for sigma of any shape."""
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), 1 / total.sqrt()

    def forward(self, x: Tensor, sigma: Tensor, position: Tensor) -> Tensor:
        """``(B, C, P, P), (B,), (B, 2, P, P) -> (B, C, P, P)``: the posterior mean of the clean patch."""
        level = sigma.to(x.dtype)[:, None, None, None]
        c_skip, c_out, c_in = self.scalings(level)
        inputs = torch.cat([c_in * x, position.to(x.dtype)], 1).contiguous(memory_format=torch.channels_last)
        output = self.network(inputs, sigma.to(x.dtype).log() / 4)
        return c_skip * x + c_out * output.to(x.dtype)

    def loss(self, clean: Tensor, sigma: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        r"""EDM's weighted denoising loss, the mean over pixels of each patch, ``(B,)``.

        .. math:: \frac{\sigma^2 + \sigma_{data}^2}{(\sigma \sigma_{data})^2} \, \|D(x_0 + \sigma z; \sigma) - x_0\|^2 / n
        """
        level = sigma[:, None, None, None]
        denoised = self(clean + level * noise, sigma, position)
        weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        return weight * (denoised - clean).square().flatten(1).mean(1)
