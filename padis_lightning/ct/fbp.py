"""Filtered back-projection reconstructs every scan of a slice: filters, weights of views and rays, and the way back."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from padis_lightning.ct.cone import ConeGeometry
from padis_lightning.ct.geometry import Array, Geometry
from padis_lightning.ct.projectors import Projector

Filter = Literal["ram-lak", "shepp-logan", "cosine", "hamming", "hann"]

WINDOWS = {  # of the frequency as a share of the highest
    "ram-lak": np.ones_like,
    "shepp-logan": lambda f: np.sinc(f / 2),
    "cosine": lambda f: np.cos(np.pi * f / 2),
    "hamming": lambda f: 0.54 + 0.46 * np.cos(np.pi * f),
    "hann": lambda f: 0.5 + 0.5 * np.cos(np.pi * f),
}


def ramp_filter(bins: int, spacing: float, window: str = "ram-lak", curved: bool = False) -> Array:
    r"""Return the spectrum of the band-limited ramp from its samples in space, ``(length / 2 + 1,)``: this keeps the mean.

    .. math:: d \cdot h(0) = \frac{1}{4 d}, \quad d \cdot h(n d) = -\frac{1}{\pi^2 n^2 d} \text{ for odd } n

    For a curved detector, whose d is an angle, samples are multiplied by :math:`(n d / \sin n d)^2`.

    Source: Kak and Slaney, Principles of computerized tomographic imaging, 1988, equations 61 and 94.
    """
    length = 2 ** math.ceil(math.log2(2 * bins))
    n = np.fft.fftfreq(length, 1 / length)
    apart = np.where(n == 0, 1, n)
    kernel = np.where(n % 2 == 1, -1 / (np.pi * apart) ** 2, 0) / spacing
    kernel[0] = 1 / (4 * spacing)
    if curved:  # two bins are at most the whole fan apart; beyond, nothing is multiplied with the kernel
        used = np.abs(n) < bins
        kernel = np.where(used, kernel / np.sinc(np.where(used, n, 0) * spacing / np.pi) ** 2, 0)
    return np.fft.rfft(kernel).real * WINDOWS[window](np.linspace(0, 1, length // 2 + 1))


def filter_rows(y: Tensor, response: Tensor) -> Tensor:
    """Multiply the transform of each row of bins, padded with zeros, with ``response`` ``(length / 2 + 1,)``."""
    length = 2 * (len(response) - 1)
    return torch.fft.irfft(torch.fft.rfft(y, length) * response.to(y), length)[..., : y.shape[-1]]


def view_shares(angles: Array, period: float) -> tuple[Array, bool]:
    """Return the angle that each view stands for, half-way to its neighbours, and whether the views cover the ``period``.

    A gap of more than twice the median is a part that was not scanned. Views at the same angle share what is theirs.
    """
    turns = np.round(np.mod(angles, period) / period, 9) % 1
    places, which, count = np.unique(turns, return_inverse=True, return_counts=True)
    gaps = np.diff(places, append=places[:1] + 1)
    usual = np.median(gaps)
    whole = bool((gaps <= 2 * usual + 1e-9).all())
    gaps = np.where(gaps > 2 * usual + 1e-9, usual, gaps)
    shares = (gaps + np.roll(gaps, 1)) / 2
    return period * (shares / count)[which], whole


def full_turn_weights(geometry: Geometry | ConeGeometry) -> Array:
    """Return the angle of each view of rays from a point; those of less than half a turn are scaled up to it."""
    shares, _ = view_shares(np.asarray(geometry.angles), 2 * math.pi)
    return shares * math.pi / min(math.pi, shares.sum())


def redundancy(geometry: Geometry) -> Array:
    r"""Return weights of a fan's rays, ``(views, bins)``, that sum to 1 over all measurements of the same line.

    In a full turn each is a half. Otherwise a line that is seen twice, from t after the start of the arc and from t' before its
    end, has the weights

    .. math:: \sin^2\!\Big(\frac{\pi}{2} \frac{t}{t + t'}\Big), \quad \cos^2\!\Big(\frac{\pi}{2} \frac{t}{t + t'}\Big)

    which are Parker's for an arc of :math:`\pi` and the fan's opening, and lines that are seen once have the weight 1.

    Source: Parker, Optimal short scan convolution reconstruction for fanbeam CT, Medical Physics 1982.
    """
    angles = np.asarray(geometry.angles)
    shares, whole = view_shares(angles, 2 * math.pi)
    if whole:
        return np.full((len(angles), geometry.bins), 0.5)
    turns = np.sort(np.mod(angles, 2 * math.pi))
    first = turns[(np.argmax(np.diff(turns, append=turns[:1] + 2 * math.pi)) + 1) % len(turns)]
    half = shares.min() / 2
    after = (np.mod(angles - first + 1e-9, 2 * math.pi) - 1e-9)[:, None] + half  # since the start of the arc
    arc = after.max() + half
    before = arc - after
    opposite = math.pi - 2 * geometry.gamma[None]  # where the same line is seen again: this much later ...
    later = arc - (after + opposite)  # ... with so much left, or
    earlier = after - (2 * math.pi - opposite)  # ... so much less than a turn earlier, so long after the start
    weight = np.ones((len(angles), geometry.bins))
    early, late = later > 0, earlier > 0
    weight = np.where(early, np.sin(np.pi / 2 * after / (after + np.where(early, later, 1))) ** 2, weight)
    return np.where(late, np.sin(np.pi / 2 * before / (before + np.where(late, earlier, 1))) ** 2, weight)


class FilteredBackProjection(nn.Module):
    r"""Filtered back-projection weighs rays, filters, and spreads back.

    Parallel rays: the transposed matrix spreads a bin over :math:`h^2 / d` of pixel area (pixel side h, bin width d), which is
    divided out. A fan is weighted by :math:`\cos\gamma` and by :func:`redundancy`, and each pixel takes, view by view, what the
    detector has at its place, over the square of its distance to the source. Views weigh the angle to their neighbours. An arc
    that does not cover half a turn is scaled up to it, which keeps the mean of an object.

    Source: Kak and Slaney, Principles of computerized tomographic imaging, 1988, sections 3.3 and 3.4; Parker, 1982.

    Args:
        projector: its transpose serves parallel rays.
        window: on the ramp.

    Raises:
        InputError: there is no such window.
    """

    def __init__(self, projector: Projector, window: Filter = "ram-lak") -> None:
        super().__init__()
        g = self.geometry = projector.geometry
        self.projector = projector
        if g.fan:
            rays = redundancy(g) * np.cos(g.gamma) * (g.source_distance if g.curved else 1)
            weights = full_turn_weights(g)[:, None] * rays
            self.spacing = g.bin_spacing / g.reach * (1 if g.curved else g.source_distance)
        else:
            shares, _ = view_shares(np.asarray(g.angles), math.pi)
            weights = np.tile(shares * math.pi / shares.sum() * g.bin_spacing / g.pixel_spacing**2, (g.bins, 1)).T
            self.spacing = g.bin_spacing
        response = ramp_filter(g.bins, self.spacing, window, g.curved)
        self.register_buffer("response", torch.from_numpy(response), persistent=False)
        self.register_buffer("weights", torch.from_numpy(np.ascontiguousarray(weights)), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        """Reconstruct, ``(B, views, bins) -> (B, H, W)``."""
        filtered = filter_rows(y * self.weights.to(y), self.response).contiguous()
        return self._spread(filtered) if self.geometry.fan else self.projector.adjoint(filtered)

    def _spread(self, filtered: Tensor) -> Tensor:
        """Sum over views what the detector has at a pixel's place, over the square of the pixel's distance to the source."""
        g = self.geometry
        like = {"dtype": filtered.dtype, "device": filtered.device}
        down, across = ((torch.arange(n, **like) - (n - 1) / 2) * g.pixel_spacing for n in g.size)
        x, up = across[None, :], -down[:, None]
        padded = nn.functional.pad(filtered, (1, 1))
        out = filtered.new_zeros(len(filtered), *g.size)
        for view, angle in enumerate(g.angles):
            cos, sin = math.cos(angle), math.sin(angle)
            across, depth = x * cos + up * sin, g.source_distance + up * cos - x * sin
            if g.curved:
                place, shrink = torch.atan2(across, depth), 1 / (across.square() + depth.square())
            else:
                place, shrink = g.source_distance * across / depth, (g.source_distance / depth).square()
            place = (place / self.spacing + (g.bins + 1) / 2).clamp(0, g.bins + 1)
            low = place.floor().clamp_max(g.bins)
            share, low = place - low, low.long()
            row = padded[:, view]
            out += shrink * (row[:, low] * (1 - share) + row[:, low + 1] * share)
        return out
