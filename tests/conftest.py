"""Shared problems, small enough for seconds and odd on purpose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from padis_lightning.data.notes import note
from padis_lightning.diffusion import Denoiser, PatchModel, padding
from padis_lightning.networks.unet import UNet
from padis_lightning.random import seeded
from padis_lightning.types import Normalisation


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that processes which share the files end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def lines_are_said_anew():
    """What one test was told is told again to the next."""
    note.cache_clear()


@pytest.fixture
def rng() -> torch.Generator:
    return seeded(1234)


def random_network(seed: int = 0, channels: int = 1, positions: int = 2, multipliers: Sequence[int] = (1, 2)) -> UNet:
    """A small network with nothing at zero, so that every path matters."""
    generator = seeded(seed)
    network = UNet(channels=channels, base=8, multipliers=multipliers, blocks=1, fold=2, positions=positions)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.3 * noise + (1.0 if name.endswith("weight") else 0.0))  # of norms: about 1
    return network


def small_model() -> PatchModel:
    """Return a patch model of 20x20 images with 8x8 patches: two grids of 3x3, padding 4."""
    shape = (1, 20, 20)
    denoiser = Denoiser(random_network(), sigma_data=0.3)
    return PatchModel(denoiser, shape, [4, 8], padding(shape[1:], 8), Normalisation(0.0, 1.0))


@pytest.fixture
def model() -> PatchModel:
    return small_model()


def write_images(path):
    """Write a file of 12 smooth 16x16 images of 4 patients, stored as 0 .. 2000 with an HU window."""
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    shifts = np.random.default_rng(0).uniform(-0.4, 0.4, (12, 2))
    blobs = np.stack([np.exp(-4 * ((x - a) ** 2 + (y - b) ** 2)) for a, b in shifts])
    patients = np.repeat(["a", "b", "c", "d"], 3)
    np.savez(path, images=(blobs * 2000).astype(np.uint16), patient=patients, hu_window=np.array([-1000, 1000]))
    return path


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images.npz")
