"""FFDNet, a denoiser of 2018 whose published weights people compare with."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from padis_lightning.errors import InputError

HIGHEST = 75 / 255  #: noise up to which the published weights were trained
NORMALISED = r"intermediate_dncnn\.itermediate_dncnn\.(\d{1,3})\."  # names of the weights that have batch normalisation
FOLD = 2


class FFDNet(nn.Module):
    r"""Convolutions with rectifiers on folded pixels beside a map of the noise.

    .. math:: D(x; \sigma) = \mathrm{unfold}(C_n \circ \cdots \circ C_1 [\mathrm{fold}(x), \sigma]),

    or x minus that, where the weights were trained to find the noise. The names of its parameters are those of the authors'
    weights.

    Source: Zhang, Zuo and Zhang, FFDNet: toward a fast and flexible solution for CNN-based image denoising, IEEE TIP 2018.

    Args:
        channels: image channels.
        width: channels of the layers; the authors take 96 for colour and 64 for grey.
        layers: convolutions; the authors take 12 for colour and 15 for grey.
        residual: the layers find the noise rather than the image.
    """

    divisor = FOLD

    def __init__(self, channels: int = 3, width: int = 96, layers: int = 12, residual: bool = False) -> None:
        super().__init__()
        self.channels, self.residual = channels, residual
        folded = channels * FOLD**2
        widths = [folded + 1, *[width] * (layers - 1), folded]
        parts = [
            part
            for before, after in zip(widths, widths[1:], strict=False)
            for part in (nn.Conv2d(before, after, 3, padding=1), nn.ReLU())
        ]
        self.model = nn.Sequential(*parts[:-1])

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise ``(B, C, H, W)`` of even sides with deviations ``(B,)`` in the units of x."""
        folded = functional.pixel_unshuffle(x, FOLD)
        noise = sigma.to(x).reshape(-1, 1, 1, 1).expand(len(x), 1, *folded.shape[2:])
        found = functional.pixel_shuffle(self.model(torch.cat([folded, noise], 1)), FOLD)
        return x - found if self.residual else found


def build_ffdnet(state: dict[str, Tensor]) -> FFDNet:
    """Return a network with published weights: the authors', or those of Tassano et al., which have batch normalisation.

    Source of the second: Tassano, Delon and Veit, An analysis and implementation of the FFDNet image denoising method, IPOL
    2019. They find the noise, and have the map of the noise first, a channel of it for each of the image.

    Raises:
        InputError: the names or the shapes are another network's.
    """
    residual = any(re.match(NORMALISED, name) for name in state)
    state = _without_normalisation(state) if residual else state
    first = state.get("model.0.weight", torch.empty(0))
    width, inputs = (first.shape[0], first.shape[1]) if first.ndim == 4 else (0, 0)
    with torch.device("meta"):  # without memory, until it is known that it is as large as the file
        wanted = FFDNet(max(1, (inputs - 1) // FOLD**2), width, len(state) // 2, residual) if width else None
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    if wanted is None or shapes != {name: tuple(value.shape) for name, value in wanted.state_dict().items()}:
        raise InputError(f"the network's model.0.weight is {tuple(first.shape)} and not followed by layers of FFDNet")
    network = FFDNet(wanted.channels, width, len(state) // 2, residual)
    network.load_state_dict(state)
    return network


def _without_normalisation(state: dict[str, Tensor]) -> dict[str, Tensor]:
    r"""Return weights under the authors' names, in which the convolutions do what a normalisation after them did.

    .. math:: \gamma \frac{W x - \mu}{\sqrt{v + \epsilon}} + \beta, \quad \epsilon = 10^{-5}
    """
    parts: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if (match := re.match(NORMALISED, name)) and not name.endswith("num_batches_tracked"):
            parts.setdefault(int(match[1]), {})[name[match.end() :]] = value.double()
    convolutions = [place for place in sorted(parts) if "running_var" not in parts[place]]
    out: dict[str, Tensor] = {}
    for layer, place in enumerate(convolutions):
        kernel, after = parts[place]["weight"], parts.get(place + 1, {})
        if layer == 0:
            images = kernel.shape[1] // (FOLD**2 + 1)
            kernel = torch.cat([kernel[:, images:], kernel[:, :images].sum(1, keepdim=True)], 1)
        bias = kernel.new_zeros(len(kernel))
        if after:
            scale = after["weight"] / (after["running_var"] + 1e-5).sqrt()
            kernel, bias = kernel * scale.reshape(-1, 1, 1, 1), after["bias"] - scale * after["running_mean"]
        out |= {f"model.{2 * layer}.weight": kernel.float(), f"model.{2 * layer}.bias": bias.float()}
    return out
