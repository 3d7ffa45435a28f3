"""Noise and resolution as CT physics measures them on phantoms: noise power spectra and task transfer functions.

Filtered back-projection has one resolution and one texture of noise. A reconstruction by a prior has others for each contrast,
object and dose, so that both are measured on the task itself: noise in repeated scans of an object, resolution at the edge of a
disc of the contrast that matters. Lengths are in any unit and frequencies are in cycles per unit; values are in HU.

Source: Samei et al., Performance evaluation of computed tomography systems: summary of AAPM Task Group 233, Medical Physics 2019;
ICRU Report 87, Radiation dose and image-quality assessment in computed tomography, 2012.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from padis_lightning.errors import InputError, require_above

WIDTH = 0.25  #: of the bins of an edge, in pixels
REACH = 0.75  #: how far an edge is looked at on either side, in radii of its disc
STEPS = 128  #: from frequency 0 to twice that of Nyquist, which narrow bins resolve


class Curve(NamedTuple):
    """Holds the values of a function of one number.

    Attributes:
        at: frequencies, or distances from an edge, ``(n,)``, rising.
        value: ``(n,)``.
    """

    at: Tensor
    value: Tensor


def noise_power_spectrum(images: Tensor, spacing: float = 1.0) -> Tensor:
    r"""Return the noise power spectrum of scans of the same object, ``(n, H, W) -> (H, W)``, in HU^2 times a squared length.

    .. math:: \mathrm{NPS}(u, v) = \frac{h^2}{H W} \, \frac{1}{n - 1} \sum_{k = 1}^n |\mathrm{DFT}(x_k - \bar x)(u, v)|^2

    The mean over the scans is taken off: what every scan has, structure or artefact, is no noise. The integral over all
    frequencies, which lie as those of ``torch.fft.fft2``, is the variance of a pixel, the mean over the pixels.

    Args:
        images: a region of each scan, in HU.
        spacing: h, the side of a pixel.

    Raises:
        InputError: there are fewer than two scans.
    """
    require_above(0, spacing=spacing)
    if len(images) < 2:
        raise InputError(f"there is {len(images)} scan; wanted at least 2, whose mean is taken off")
    noise = images.double() - images.double().mean(0)
    return spacing**2 / noise[0].numel() / (len(images) - 1) * torch.fft.fft2(noise).abs().square().sum(0)


def radial_mean(spectrum: Tensor, spacing: float = 1.0) -> Curve:
    r"""Return the mean of a spectrum ``(H, W)`` over rings of frequencies up to that of Nyquist, without frequency 0.

    Rings are as wide as one step of the discrete frequencies along the longer side; each lies at the mean of its frequencies.
    """
    require_above(0, spacing=spacing)
    down, across = (torch.fft.fftfreq(n, spacing, dtype=torch.float64, device=spectrum.device) for n in spectrum.shape)
    frequency = torch.hypot(down[:, None], across)
    side = max(spectrum.shape)
    ring = (frequency * side * spacing).round().long()
    inside = frequency <= 0.5 / spacing * (1 + 1e-9)
    count = torch.bincount(ring[inside])[1:]
    at, value = (torch.bincount(ring[inside], part[inside])[1:] / count for part in (frequency, spectrum.double()))
    return Curve(at, value)


def peak_frequency(spectrum: Curve) -> float:
    """Return the frequency at which a radial spectrum is largest."""
    return float(spectrum.at[spectrum.value.argmax()])


def mean_frequency(spectrum: Curve) -> float:
    r"""Return the mean frequency of a radial spectrum, :math:`\int f \, \mathrm{NPS}(f) \, df / \int \mathrm{NPS}(f) \, df`.

    It falls where noise is blotchy.
    """
    return float((spectrum.at * spectrum.value).sum() / spectrum.value.sum())


def edge_spread(image: Tensor, centre: tuple[float, float], radius: float, spacing: float = 1.0) -> Curve:
    r"""Return the edge spread function of a disc: the mean of ``(H, W)`` against the distance t from the disc's edge.

    .. math:: E(t) = \mathrm{mean} \, \{ x_i : | \, |r_i - c| - R - t \, | \le b / 2 \}

    over pixels i at :math:`r_i`. Their distances differ by much less than a pixel, so bins are narrow, :math:`b = h / 4`.
    Between the mean distances of bins the function is interpolated (monotone cubic).

    Args:
        image: the mean of scans of a disc on an even ground, or one of them.
        centre: c, row and column of the disc's middle, counted from 0 at the centres of pixels, with fractions.
        radius: R.
        spacing: h, the side of a pixel.

    Raises:
        InputError: few pixels lie at the edge of so small a disc, or its surroundings reach out of the image.
    """
    require_above(0, radius=radius, spacing=spacing)
    rows, columns = (torch.arange(n, dtype=torch.float64, device=image.device) for n in image.shape)
    distance = spacing * torch.hypot(rows[:, None] - centre[0], columns - centre[1]) - radius
    half = int(REACH * radius / (WIDTH * spacing))
    reach = (radius + (half + 0.5) * WIDTH * spacing) / spacing
    if any(not reach <= place <= n - 1 - reach for place, n in zip(centre, image.shape, strict=True)):
        raise InputError(
            f"the disc's surroundings reach {reach:.3g} pixels from {centre}; wanted them inside {tuple(image.shape)}"
        )
    nearest = (distance / (WIDTH * spacing)).round().long() + half
    inside = (nearest >= 0) & (nearest <= 2 * half)
    count, *sums = (
        torch.bincount(nearest[inside], part[inside], 2 * half + 1)
        for part in (torch.ones_like(distance), distance, image.double())
    )
    at, value = ((total / count)[count > 0] for total in sums)
    if half < 2 or float(at.diff().max()) > spacing:
        raise InputError(f"radius is {radius:g} with pixels of {spacing:g}; wanted a larger disc: few pixels lie at its edge")
    places = WIDTH * spacing * np.arange(-half, half + 1)
    even = PchipInterpolator(at.cpu().numpy(), value.cpu().numpy())(places.clip(float(at[0]), float(at[-1])))
    return Curve(*(torch.from_numpy(part).to(image.device) for part in (places, even)))


def transfer_function(edge: Curve, spacing: float = 1.0) -> Curve:
    r"""Return the task transfer function of an edge, up to frequency 1 / h; of a linear system it is the MTF.

    .. math:: T(f) = \frac{|\sum_k L_k \, e^{-2 \pi i f t_k}|}{|\sum_k L_k| \; \mathrm{sinc}^2(b f)}, \quad L_k = E_{k + 1} - E_k

    The line spread function L is the derivative of the edge. A bin's width b blurs twice, in the mean over a bin and in the
    difference of two, and both are taken off: what is left is the blur of the image, the detector and the pixels included.

    Source: Richard et al., Towards task-based assessment of CT performance: system and object MTF across different
    reconstruction algorithms, Medical Physics 2012.

    Args:
        edge: of :func:`edge_spread`.
        spacing: h, the side of a pixel.
    """
    require_above(0, spacing=spacing)
    width = float(edge.at[1] - edge.at[0])
    line, at = edge.value.diff(), (edge.at[1:] + edge.at[:-1]) / 2
    frequency = torch.linspace(0, 1 / spacing, STEPS + 1, dtype=torch.float64, device=at.device)
    waves = torch.exp(-2j * math.pi * frequency[:, None] * at)
    value = (waves * line).sum(1).abs() / line.sum().abs()
    return Curve(frequency, value / torch.sinc(width * frequency).square())


def frequency_at(transfer: Curve, level: float) -> float:
    """Return the first frequency at which a transfer function falls to ``level``, such as 0.5 or 0.1; NaN where it does not."""
    below = torch.nonzero(transfer.value <= level)
    if len(below) == 0 or int(below[0]) == 0:
        return math.nan
    k = int(below[0])
    (a, b), (high, low) = (part[k - 1 : k + 1].tolist() for part in transfer)
    return a + (b - a) * (high - level) / (high - low)
