"""Encode where a patch lies for a network. To add an encoding, write a subclass of Positions here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from padis_lightning.errors import InputError, require_at_least
from padis_lightning.registry import Configured


class Positions(Configured, ABC):
    """A map from the coordinates of pixels to the position channels of a network.

    Attributes:
        channels: position channels.
        axes: coordinates that it takes: 2 of images, 3 of volumes, or what a network of groups of slices takes.
    """

    channels: int
    axes: int = 2

    @abstractmethod
    def forward(self, coordinates: Tensor) -> Tensor:
        """Map x and y in [-1, 1] over the canvas, ``(B, axes, P, P) -> (B, channels, P, P)``; volumes have a further axis."""


def _checked(axes: int) -> int:
    if axes not in (2, 3):
        raise InputError(f"axes is {axes}; wanted 2, or 3 for volumes and groups of slices")
    return axes


class Coordinates(Positions):
    """An encoding that returns the coordinates themselves.

    Source: Hu et al., PaDIS, NeurIPS 2024, section 3.2.

    Args:
        axes: how many there are: 2 of images, 3 of volumes and of groups of slices.
    """

    def __init__(self, axes: int = 2) -> None:
        super().__init__()
        self.channels = self.axes = _checked(axes)

    def forward(self, coordinates: Tensor) -> Tensor:
        """Return the coordinates."""
        return coordinates


class FourierFeatures(Positions):
    r"""An encoding by sines and cosines of the coordinates at octaves, the lowest one half a turn over the canvas.

    .. math:: \sin(2^k \pi u / 2), \; \cos(2^k \pi u / 2), \quad u \in \{x, y\}, \; k = 0 \dots K - 1

    Source: Tancik et al., Fourier features let networks learn high frequency functions, NeurIPS 2020, section 6
    (positional encoding).

    Args:
        octaves: K; there are 2 K channels a coordinate.
        axes: coordinates.
    """

    frequencies: Tensor

    def __init__(self, octaves: int = 4, axes: int = 2) -> None:
        super().__init__()
        require_at_least(1, octaves=octaves)
        self.axes = _checked(axes)
        self.channels = 2 * axes * octaves
        self.register_buffer("frequencies", math.pi / 2 * 2.0 ** torch.arange(octaves), persistent=False)

    def forward(self, coordinates: Tensor) -> Tensor:
        """Map ``(B, axes, P, P) -> (B, 2 axes octaves, P, P)``."""
        octaves = self.frequencies.to(coordinates).reshape(-1, *[1] * (coordinates.ndim - 2))
        angles = (coordinates[:, :, None] * octaves).flatten(1, 2)
        return torch.cat([angles.sin(), angles.cos()], 1)


class LearnedMap(Positions):
    """A map over the canvas that is learned with the network, interpolated linearly between its nodes.

    Args:
        features: channels of the map.
        nodes: nodes of the map along a side.
        axes: 2, or 3 for volumes.
    """

    def __init__(self, features: int = 4, nodes: int = 32, axes: int = 2) -> None:
        super().__init__()
        require_at_least(1, features=features)
        require_at_least(2, nodes=nodes)
        self.channels, self.axes = features, _checked(axes)
        self.map = nn.Parameter(torch.zeros(features, *[nodes] * axes))

    def forward(self, coordinates: Tensor) -> Tensor:
        """Map ``(B, 2, P, P) -> (B, features, P, P)``."""
        places = coordinates.movedim(1, -1)
        maps = self.map.to(coordinates.dtype).expand(len(coordinates), *self.map.shape)
        return functional.grid_sample(maps, places, align_corners=True, padding_mode="border")


class NoPositions(Positions):
    """An encoding of no channels: patches of all places are one distribution."""

    channels = 0

    def forward(self, coordinates: Tensor) -> Tensor:
        """Return no channels, ``(B, 2, P, P) -> (B, 0, P, P)``."""
        return coordinates[:, :0]
