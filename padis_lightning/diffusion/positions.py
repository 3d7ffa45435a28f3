"""What a network is told of where a patch lies. A new encoding is one class here: a subclass of Positions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from padis_lightning.errors import InputError
from padis_lightning.modules import Configured


class Positions(Configured, ABC):
    """From the coordinates of pixels to the position channels of a network.

    Attributes:
        channels: position channels.
    """

    channels: int

    @abstractmethod
    def forward(self, coordinates: Tensor) -> Tensor:
        """x and y in [-1, 1] over the canvas, ``(B, 2, P, P) -> (B, channels, P, P)``."""


class Coordinates(Positions):
    """The coordinates themselves.

    Source: Hu et al., PaDIS, NeurIPS 2024, section 3.2.
    """

    channels = 2

    def forward(self, coordinates: Tensor) -> Tensor:
        """Nothing changes."""
        return coordinates


class FourierFeatures(Positions):
    r"""Sines and cosines of the coordinates at octaves, the lowest one half a turn over the canvas.

    .. math:: \sin(2^k \pi u / 2), \; \cos(2^k \pi u / 2), \quad u \in \{x, y\}, \; k = 0 \dots K - 1

    Source: Tancik et al., Fourier features let networks learn high frequency functions, NeurIPS 2020, section 6
    (positional encoding).

    Args:
        octaves: K; there are 4 K channels.
    """

    def __init__(self, octaves: int = 4) -> None:
        super().__init__()
        if octaves < 1:
            raise InputError(f"octaves is {octaves}; wanted at least 1")
        self.channels = 4 * octaves
        self.register_buffer("frequencies", math.pi / 2 * 2.0 ** torch.arange(octaves), persistent=False)

    def forward(self, coordinates: Tensor) -> Tensor:
        """``(B, 2, P, P) -> (B, 4 octaves, P, P)``."""
        angles = (coordinates[:, :, None] * self.frequencies.to(coordinates)[:, None, None]).flatten(1, 2)
        return torch.cat([angles.sin(), angles.cos()], 1)


class LearnedMap(Positions):
    """A map over the canvas that is learned with the network, interpolated linearly between its nodes.

    Args:
        features: channels of the map.
        nodes: nodes of the map along a side.
    """

    def __init__(self, features: int = 4, nodes: int = 32) -> None:
        super().__init__()
        if features < 1 or nodes < 2:
            raise InputError(f"features is {features} and nodes {nodes}; wanted at least 1 and 2")
        self.channels = features
        self.map = nn.Parameter(torch.zeros(features, nodes, nodes))

    def forward(self, coordinates: Tensor) -> Tensor:
        """``(B, 2, P, P) -> (B, features, P, P)``."""
        places = coordinates.permute(0, 2, 3, 1)
        maps = self.map.to(coordinates.dtype).expand(len(coordinates), -1, -1, -1)
        return functional.grid_sample(maps, places, align_corners=True, padding_mode="border")


class NoPositions(Positions):
    """Nothing: patches of all places are one distribution."""

    channels = 0

    def forward(self, coordinates: Tensor) -> Tensor:
        """``(B, 2, P, P) -> (B, 0, P, P)``."""
        return coordinates[:, :0]
