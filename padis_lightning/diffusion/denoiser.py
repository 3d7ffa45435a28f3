"""Define EDM's preconditioned denoiser on patches with positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from padis_lightning.diffusion.positions import Coordinates, Positions
from padis_lightning.errors import InputError, require_above, require_between
from padis_lightning.linalg import per_image
from padis_lightning.networks import PatchNetwork


class Denoiser(nn.Module):
    r"""A denoiser: it estimates a clean patch from a noisy one and its position.

    .. math:: D(x; \sigma) = c_{skip} x + c_{out} F(c_{in} x, \tfrac{1}{4} \ln \sigma, \text{position})

    A bias-free F is given :math:`x / \sigma`, not :math:`c_{in} x`, and its noise, 1, in place of the logarithm or beside it.
    The position channels carry no noise and are not scaled by :math:`c_{in}`. With ``context`` F is also given the noisy whole
    image, averaged down to the patch's sides and scaled by :math:`c_{in}`. Published networks may have been trained on
    other values than 0 to 1; with ``span`` = (low, high) the equation holds for :math:`low + (high - low) x` and
    :math:`(high - low) \sigma`, while images go in and out in [0, 1].

    Source: Karras et al., EDM, NeurIPS 2022, table 1 and equation 7; Hu et al., PaDIS, NeurIPS 2024, section 3.2.

    Args:
        network: F, from ``(B, C + K, P, P)`` and ``(B,)`` to ``(B, C, P, P)``; with context from ``(B, C + K + C, P, P)``.
        sigma_data: root mean square of the clean images, in the units of the network.
        positions: from coordinates to K position channels (default: the coordinates themselves, one an axis of the network).
        span: the network's values of 0 and 1.
        context: whether the network sees the whole image, too.
        loss_power: power of EDM's weight in the loss; half of it lets levels count by the part that they improve.
    """

    def __init__(
        self,
        network: PatchNetwork,
        sigma_data: float = 0.5,
        positions: Positions | None = None,
        span: tuple[float, float] = (0.0, 1.0),
        context: bool = False,
        loss_power: float = 1.0,
    ) -> None:
        super().__init__()
        require_above(0, sigma_data=sigma_data)
        require_between(0, 1, loss_power=loss_power)
        if not span[1] > span[0]:
            raise InputError(f"span is {tuple(span)}; wanted the lower value first")
        positions = positions or Coordinates(network.axes)
        wanted = positions.channels + context * network.channels
        if network.positions != wanted:
            known = f"{type(positions).__name__}{' and the context' if context else ''}"
            raise InputError(f"the network's positions is {network.positions}; wanted {wanted}, the channels of {known}")
        self.network, self.positions, self.context, self.loss_power = network, positions, context, loss_power
        self.sigma_data, self.span = sigma_data, (float(span[0]), float(span[1]))

    @property
    def gain(self) -> float:
        """Return the units of the network in one unit of the image."""
        return self.span[1] - self.span[0]

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``c_skip, c_out, c_in`` for sigma of any shape, in the units of the network."""
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), 1 / total.sqrt()

    def forward(self, x: Tensor, sigma: Tensor, position: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the posterior mean of the clean patch at its coordinates, ``(B, C, P, P), (B,), (B, 2, P, P) -> (B, C, P, P)``.

        Patches of volumes are ``(B, C, P, P, P)`` and their coordinates ``(B, 3, P, P, P)``. A context is of the shape of
        ``x``, the means over boxes of the noisy whole image (:func:`padis_lightning.diffusion.context_of`).
        """
        x, sigma = self.span[0] + self.gain * x, self.gain * sigma
        level = per_image(sigma.to(x.dtype), x)
        c_skip, c_out, c_in = self.scalings(level)
        if self.network.scaled_noise:
            c_in = 1 / level
        told = self.network.level is not None or not self.network.scaled_noise
        label = sigma.to(x.dtype).log() / 4 if told else torch.ones_like(sigma, dtype=x.dtype)
        channels = [c_in * x, self.positions(position.to(x.dtype))]
        if context is not None:
            channels.append(c_in * (self.span[0] + self.gain * context))
        layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        inputs = torch.cat(channels, 1).contiguous(memory_format=layout)
        output = self.network(inputs, label)
        return (c_skip * x + c_out * output.to(x.dtype) - self.span[0]) / self.gain

    def loss(self, clean: Tensor, sigma: Tensor, noise: Tensor, position: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Return EDM's weighted denoising loss, the mean over pixels of each patch, ``(B,)``.

        .. math:: \left(\frac{\sigma^2 + \sigma_{data}^2}{(\sigma \sigma_{data})^2}\right)^p \,
            \|D(x_0 + \sigma z; \sigma) - x_0\|^2 / n
        """
        denoised = self(clean + per_image(sigma, clean) * noise, sigma, position, context)
        weight = ((self.gain * sigma) ** 2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        return weight**self.loss_power * (denoised - clean).square().flatten(1).mean(1)
