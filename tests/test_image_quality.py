"""Noise power spectra and edge responses equal what is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import ncx2

from padis_lightning import image_quality
from padis_lightning.errors import InputError

SPACING = 3.125


def white(rng, count, height, width):
    return torch.randn(count, height, width, generator=rng, dtype=torch.float64)


def blurred_disc(distance, radius, deviation):
    """A disc of height 1 under a Gaussian blur, so far from its middle: the chance that a Gaussian point falls into it."""
    return torch.from_numpy(ncx2.cdf(radius**2 / deviation**2, 2, distance**2 / deviation**2))


def of_disc(centre, deviation, radius=10.0, spacing=SPACING, height=40.0, ground=-7.0):
    row, column = np.mgrid[:48, :48]
    image = ground + height * blurred_disc(np.hypot(row - centre[0], column - centre[1]), radius, deviation)
    edge = image_quality.edge_spread(image, centre, radius * spacing, spacing)
    return edge, image_quality.transfer_function(edge, spacing)


def test_the_integral_of_a_noise_power_spectrum_is_the_variance(rng):
    """Parseval, exactly, whatever the object is and whatever the noise is like; without the object's own structure."""
    images = 30 * white(rng, 5, 12, 9).cumsum(1) + 1000 * torch.rand(12, 9, generator=rng)
    spectrum = image_quality.noise_power_spectrum(images, SPACING)
    cell = 1 / (12 * 9 * SPACING**2)
    assert float(spectrum.sum() * cell) == pytest.approx(float(images.var(0).mean()), rel=1e-9)
    assert torch.allclose(spectrum, image_quality.noise_power_spectrum(images + images[0], SPACING))


def test_white_noise_has_a_flat_spectrum_and_filtered_noise_that_of_its_filter(rng):
    """Within five deviations at every ring: a periodogram of n scans has a relative one of 1 over the root of n - 1."""
    count, height, width, deviation = 120, 32, 24, 20.0
    kernel = torch.zeros(height, width, dtype=torch.float64)
    kernel[0, 0], kernel[0, 1], kernel[3, 0], kernel[-1, -2] = 1.0, 0.7, 0.4, -0.3
    gain = torch.from_numpy(np.abs(np.fft.fft2(kernel.numpy())) ** 2)
    noise = deviation * white(rng, count, height, width)
    blurred = sum(kernel[i, j] * noise.roll((int(i), int(j)), (1, 2)) for i, j in kernel.nonzero())
    for images, factor in ((noise, torch.ones_like(gain)), (blurred, gain)):
        found = image_quality.noise_power_spectrum(images, SPACING)
        expected = factor * (deviation * SPACING) ** 2
        off = found / expected - 1
        assert off.abs().max() < 6 / math.sqrt(count - 1) and abs(float(off.mean())) < 5 / math.sqrt(
            (count - 1) * off.numel() / 2
        )
        rings, known = (image_quality.radial_mean(part, SPACING) for part in (found, expected))
        assert torch.equal(rings.at, known.at) and rings.at[-1] <= 0.5 / SPACING * (1 + 1e-9)
        assert torch.allclose(rings.value, known.value, rtol=0.25) and rings.value.mean() == pytest.approx(
            float(known.value.mean()), rel=0.05
        )


def test_noise_of_one_frequency_has_it_as_its_peak_and_its_mean(rng):
    """Waves along both axes with random phases: nothing of them is at other frequencies."""
    size, waves = 40, 6
    phase = 2 * math.pi * torch.rand(8, 2, 1, generator=rng, dtype=torch.float64)
    place = 2 * math.pi * waves / size * torch.arange(size)
    down, across = (torch.cos(place + phase[:, k]) for k in (0, 1))
    rings = image_quality.radial_mean(image_quality.noise_power_spectrum(down[:, :, None] + across[:, None], SPACING), SPACING)
    for found in (image_quality.peak_frequency(rings), image_quality.mean_frequency(rings)):
        assert found == pytest.approx(waves / size / SPACING, rel=0.02)


@pytest.mark.parametrize("deviation", [0.5, 0.7, 1.0, 1.6])
@pytest.mark.parametrize("centre", [(23.0, 24.0), (23.5, 23.5), (22.87, 24.31), (24.05, 22.4)])
def test_a_gaussian_blur_has_its_transfer_function_wherever_its_disc_lies(centre, deviation):
    """exp(-2 pi^2 s^2 f^2), up to what a bent edge differs from a straight one, which falls with the square of its radius."""
    edge, found = of_disc(centre, deviation)
    expected = torch.exp(-2 * (math.pi * deviation * SPACING * found.at).square())
    off = (found.value - expected).abs()
    assert float(off[found.at <= 0.5 / SPACING].max()) < 0.006 and float(off.max()) < 0.02
    half = math.sqrt(math.log(2) / 2) / (math.pi * deviation * SPACING)
    tenth = half * math.sqrt(math.log(10) / math.log(2))
    assert image_quality.frequency_at(found, 0.5) == pytest.approx(half, rel=0.025)
    assert image_quality.frequency_at(found, 0.1) == pytest.approx(tenth, rel=0.025)
    assert float(edge.value[0] - edge.value[-1]) == pytest.approx(40.0, rel=0.001)
    there = -7 + 40 * blurred_disc(10 + edge.at.numpy() / SPACING, 10.0, deviation)
    assert float((edge.value - there).abs().max()) < 0.3


def test_contrast_and_ground_have_no_part_in_a_transfer_function():
    plain, other = (of_disc((23.2, 23.9), 1.2, height=height, ground=ground)[1] for height, ground in ((1, 0), (-300, 50)))
    assert torch.allclose(plain.value, other.value, atol=1e-9)


def test_a_transfer_function_that_stays_above_a_level_has_no_frequency_there():
    flat = image_quality.Curve(torch.linspace(0, 1, 5), torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6]))
    assert math.isnan(image_quality.frequency_at(flat, 0.5))
    assert image_quality.frequency_at(flat, 0.75) == pytest.approx(0.625)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: image_quality.noise_power_spectrum(torch.rand(1, 8, 8)), "there is 1 scan; wanted at least 2"),
        (lambda: image_quality.noise_power_spectrum(torch.rand(2, 8, 8), 0.0), "spacing is 0; wanted a value above 0"),
        (lambda: image_quality.edge_spread(torch.rand(32, 32), (4.0, 16.0), 8.0), "wanted them inside"),
        (lambda: image_quality.edge_spread(torch.rand(32, 32), (16.0, 16.0), 0.6), "radius is 0.6 .* wanted a larger disc"),
    ],
)
def test_what_cannot_be_measured_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()
