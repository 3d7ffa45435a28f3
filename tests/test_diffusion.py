"""EDM's preconditioning and loss by hand; spacing of noise levels."""

from __future__ import annotations

import pytest
import torch

from padis_lightning.diffusion import Denoiser, coordinates, geometric_sigmas, karras_sigmas
from padis_lightning.errors import InputError

from .conftest import random_network


def test_loss_is_the_formula(rng):
    denoiser = Denoiser(random_network(), sigma_data=0.4).double()
    clean, noise = torch.randn(2, 3, 1, 8, 8, generator=rng, dtype=torch.float64)
    sigma = torch.tensor([0.02, 0.5, 7.0], dtype=torch.float64)
    position = coordinates(8, 8).double().expand(3, -1, -1, -1)
    loss = denoiser.loss(clean, sigma, noise, position)
    for k, s in enumerate(sigma.tolist()):
        noisy = clean[k : k + 1] + s * noise[k : k + 1]
        scaled = torch.cat([noisy / (s**2 + 0.4**2) ** 0.5, position[:1]], 1)
        output = denoiser.network(scaled, torch.tensor([s], dtype=torch.float64).log() / 4)
        target = (clean[k] - 0.4**2 / (s**2 + 0.4**2) * noisy[0]) / (s * 0.4 / (s**2 + 0.4**2) ** 0.5)
        torch.testing.assert_close(loss[k], (output[0] - target).square().mean(), rtol=1e-9, atol=0)


def test_preconditioning_keeps_unit_variance_and_the_image_at_no_noise():
    denoiser = Denoiser(random_network(), sigma_data=0.4)
    sigma = torch.logspace(-4, 3, 50, dtype=torch.float64)
    c_skip, c_out, c_in = denoiser.scalings(sigma)
    torch.testing.assert_close(c_in * (sigma**2 + 0.16).sqrt(), torch.ones_like(sigma))
    # The network's target has unit variance: E|x0 - c_skip x|^2 = c_out^2.
    torch.testing.assert_close((1 - c_skip) ** 2 * 0.16 + c_skip**2 * sigma**2, c_out**2)
    assert c_skip[0] > 1 - 1e-6 and c_out[0] < 1e-3


def test_noise_labels_matter(rng):
    network = random_network()
    x = torch.randn(1, 3, 8, 8, generator=rng)
    a, b = (network(x, torch.tensor([c])) for c in (-0.5, 0.5))
    assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("schedule", [geometric_sigmas, karras_sigmas])
def test_levels_fall_from_end_to_end(schedule):
    levels = schedule(10.0, 0.002, 100)
    assert levels[0] == pytest.approx(10) and levels[-1] == pytest.approx(0.002)
    assert (levels.diff() < 0).all() and len(schedule(1.0, 0.1, 1)) == 1


def test_geometric_levels_have_one_ratio_and_karras_is_linear_in_the_root():
    ratio = geometric_sigmas(10.0, 0.002, 30)
    assert (ratio[1:] / ratio[:-1]).std() < 1e-12
    assert karras_sigmas(10.0, 0.002, 30).pow(1 / 7).diff().std() < 1e-12


def test_impossible_levels_are_refused():
    with pytest.raises(InputError, match="sigma_max is 0.1 and sigma_min 1"):
        geometric_sigmas(0.1, 1.0, 10)
    with pytest.raises(InputError, match="steps is 0"):
        geometric_sigmas(1.0, 0.1, 0)
