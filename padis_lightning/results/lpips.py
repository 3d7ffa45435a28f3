"""LPIPS: how unlike pictures look to people, by the features of a network that knows photographs."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torchmetrics
from torch import Tensor, nn

from padis_lightning.errors import InputError
from padis_lightning.pickles import require_plain_checkpoint

LEARNED = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "alex.pth"  # the authors' file
WANTED = "AlexNet's published weights, alexnet-owt-7be5be79.pth"


def alexnet() -> nn.Sequential:
    """Return AlexNet's convolutions up to the last ReLU, with fresh weights and the numbering of the published ones.

    Source: Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014.
    """
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


class LPIPS(nn.Module):
    r"""Learned perceptual distance of pictures: 0 for the same, less is more alike.

    .. math:: d = \sum_l \frac{1}{H_l W_l} \sum_{h, w} w_l^\top (\hat\phi_l - \hat\phi'_l)^2

    with the features after each of five ReLUs, of unit length at each pixel. The scaling of the input is the authors'.

    Source: Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, CVPR 2018, eq. 1.

    Args:
        trunk: the network whose ReLUs give the features.
        weights: one ``(1, C, 1, 1)`` for each ReLU.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: nn.Sequential, weights: list[Tensor]) -> None:
        super().__init__()
        self.trunk, self.weights = trunk.eval().requires_grad_(False), nn.ParameterList(weights).requires_grad_(False)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the features of ``(B, 1 or 3, H, W)`` in [0, 1], clipped to it; grey is taken as three equal channels."""
        x, out = (2 * images.clamp(0, 1) - 1 - self.shift) / self.scale, []
        for layer in self.trunk:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                out.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return out

    @torch.no_grad()
    def forward(self, estimate: Tensor, truth: Tensor) -> Tensor:
        """Return the distance of each pair, ``(B,)``; NaN with a side below 31, of which the network leaves nothing."""
        if min(truth.shape[2:]) < 31:
            return torch.full((len(truth),), math.nan, device=truth.device)
        pairs = zip(self.weights, self.features(estimate), self.features(truth), strict=True)
        return sum((w * (a - b).square()).sum(1).mean((1, 2)) for w, a, b in pairs)


def read_lpips(file: Path) -> LPIPS:
    """Return LPIPS with a file of AlexNet's weights, and the learned ones that come with torchmetrics.

    Raises:
        InputError: there is no such file, or it holds other weights.
    """
    if not file.is_file():
        raise InputError(f"results.lpips names {str(file)!r}, where there is no file; wanted {WANTED}")
    require_plain_checkpoint(file, WANTED)
    trunk = alexnet()
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        trunk.load_state_dict({name: state[f"features.{name}"] for name in trunk.state_dict()})
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise InputError(f"{file} does not hold AlexNet ({type(error).__name__}); wanted {WANTED}") from error
    learned = torch.load(LEARNED, map_location="cpu", weights_only=True)
    return LPIPS(trunk, [learned[f"lin{k}.model.1.weight"] for k in range(5)])
