"""Filtered back-projection reconstructs every scan of a slice: filters, weights of views and rays, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from padis_lightning.ct.cone import ConeGeometry
from padis_lightning.ct.geometry import Array, Geometry
from padis_lightning.ct.projectors import Projector

Filter = Literal["ram-lak", "shepp-logan", "cosine", "hamming", "hann"]

WINDOWS: dict[str, Callable[[Array], Array]] = {  # of the frequency as a share of the highest
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


def obstacle(geometry: Geometry | ConeGeometry) -> str | None:
    """Say why a scan has no such reconstruction; None where it has one."""
    low, high = geometry.edges
    return None if low < 0 < high else "the detector does not see the axis"


def margins(geometry: Geometry | ConeGeometry) -> tuple[int, int]:
    """Count the bins that lack on either side until the detector sees all of the image, and at most as many as it has.

    What is measured there is taken to be 0; what is filtered is not.
    """
    g = geometry.fan if isinstance(geometry, ConeGeometry) else geometry
    low, high = g.edges
    seen = math.asin(g.radius / g.source_distance) if g.source_distance else 0
    reach = g.reach * (seen if g.curved else math.tan(seen)) if g.fan else g.radius
    before, after = (math.ceil(lack / g.bin_spacing - 1e-6) for lack in (low + reach, reach - high))
    return min(max(0, before), g.bins), min(max(0, after), g.bins)


def towards_longer_side(geometry: Geometry | ConeGeometry) -> Array:
    r"""Return from -1 to 1, of the shape of its detector, how much more than its mirror image a bin of a shifted one counts.

    Every view sees both sides up to :math:`u_0`, where the shorter side ends. With U the end of the longer one,

    .. math:: \sin\Big(\frac{\pi}{2} \frac{|u| - u_0 + t}{t}\Big) \text{ for } |u| > u_0 - t, \quad t = \min(u_0, 2 (U - u_0))

    towards the longer side, and its negative towards the other; 0 in between, where both count alike. Of a detector that is
    shifted by a tenth of its width and more this is Wang's :math:`\sin(\pi u / 2 u_0)`.

    Source: Wang, X-ray micro-CT with a displaced detector array, Medical Physics 2002.
    """
    u, (low, high) = geometry.detector, geometry.edges
    short, long = sorted((-low, high))
    if long <= short:
        return np.zeros_like(u)
    width = min(short, 2 * (long - short))
    blend = np.sin(np.pi / 2 * np.clip((np.abs(u) - short + width) / width, 0, 1))
    return blend * np.sign(u) * (1 if high > -low else -1)


def redundancy(geometry: Geometry) -> Array:
    r"""Return weights of a fan's rays, ``(views, bins)``, that sum to 1 over all measurements of the same line.

    In a full turn each is a half, on a shifted detector :math:`(1 + b) / 2` with b from :func:`towards_longer_side`. Otherwise
    a line that is seen twice, from t after the start of the arc and from t' before its end, has the weights

    .. math:: \sin^2\!\Big(\frac{\pi}{2} \frac{t}{t + t'}\Big), \quad \cos^2\!\Big(\frac{\pi}{2} \frac{t}{t + t'}\Big)

    which are Parker's for an arc of :math:`\pi` and the fan's opening, and lines that are seen once have the weight 1.

    Source: Parker, Optimal short scan convolution reconstruction for fanbeam CT, Medical Physics 1982.
    """
    angles, gamma = np.asarray(geometry.angles), np.broadcast_to(geometry.gamma, geometry.shape)
    shares, whole = view_shares(angles, 2 * math.pi)
    if whole:
        return np.broadcast_to((1 + towards_longer_side(geometry)) / 2, geometry.shape)
    turns = np.sort(np.mod(angles, 2 * math.pi))
    first = turns[(np.argmax(np.diff(turns, append=turns[:1] + 2 * math.pi)) + 1) % len(turns)]
    half = shares.min() / 2
    after = (np.mod(angles - first + 1e-9, 2 * math.pi) - 1e-9)[:, None] + half  # since the start of the arc
    arc = after.max() + half
    before = arc - after
    opposite = math.pi - 2 * gamma  # where the same line is seen again: this much later ...
    later = arc - (after + opposite)  # ... with so much left, or
    earlier = after - (2 * math.pi - opposite)  # ... so much less than a turn earlier, so long after the start
    low, high = geometry.edges
    on_detector = (-geometry.detector >= low) & (-geometry.detector <= high)  # where that ray would end
    weight = np.ones(geometry.shape)
    early, late = on_detector & (later > 0), on_detector & (earlier > 0)
    weight = np.where(early, np.sin(np.pi / 2 * after / (after + np.where(early, later, 1))) ** 2, weight)
    return np.where(late, np.sin(np.pi / 2 * before / (before + np.where(late, earlier, 1))) ** 2, weight)


def parallel_shares(geometry: Geometry) -> Array:
    """Return the angle that each parallel ray stands for, ``(views, bins)``; rays that measure one line share it.

    Views of one line, half a turn apart, share what is theirs, and so does the longer side of a shifted detector, up to
    all of it: see :func:`towards_longer_side`. An arc of less than half a turn is scaled up to it.
    """
    angles = np.asarray(geometry.angles)
    shared, alone = (view_shares(angles, period)[0][:, None] for period in (math.pi, 2 * math.pi))
    return (shared + towards_longer_side(geometry) * (alone - shared)).clip(0) * math.pi / shared.sum()


class FilteredBackProjection(nn.Module):
    r"""Filtered back-projection weighs rays, filters, and spreads back.

    Parallel rays: the transposed matrix spreads a bin over :math:`h^2 / d` of pixel area (pixel side h, bin width d), which is
    divided out; beyond the detector each pixel takes what is at its place. A fan is weighted by :math:`\cos\gamma` and by
    :func:`redundancy`, and each pixel takes, view by view, what the detector has at its place, over the square of its distance
    to the source. Views weigh the angle to their neighbours. An arc that does not cover half a turn is scaled up to it, which
    keeps the mean of an object. A detector that reaches over the axis on one side only is enough for a full turn.

    Source: Kak and Slaney, Principles of computerized tomographic imaging, 1988, sections 3.3 and 3.4; Parker, 1982; Wang, 2002.

    Args:
        projector: its transpose serves parallel rays.
        window: on the ramp.

    Raises:
        InputError: there is no such window.
    """

    response: Tensor
    weights: Tensor

    def __init__(self, projector: Projector[Geometry], window: Filter = "ram-lak") -> None:
        super().__init__()
        g = self.geometry = projector.geometry
        self.projector = projector
        if g.source_distance:
            rays = redundancy(g) * np.cos(g.gamma) * (g.source_distance if g.curved else 1)
            weights = full_turn_weights(g)[:, None] * rays
            self.spacing = g.bin_spacing / g.reach * (1 if g.curved else g.source_distance)
        else:
            weights = np.broadcast_to(parallel_shares(g), g.shape)
            self.spacing = g.bin_spacing
        self.margins = margins(g)
        response = ramp_filter(g.bins + sum(self.margins), self.spacing, window, g.curved)
        self.register_buffer("response", torch.from_numpy(response), persistent=False)
        self.register_buffer("weights", torch.from_numpy(np.array(weights)), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        """Reconstruct, ``(B, views, bins) -> (B, H, W)``."""
        g = self.geometry
        weighted = nn.functional.pad(y * self.weights.to(y), self.margins)
        filtered = filter_rows(weighted, self.response).contiguous()
        if g.fan:
            return self._spread(filtered)
        own = slice(self.margins[0], self.margins[0] + g.bins)
        inside = g.bin_spacing / g.pixel_spacing**2 * self.projector.adjoint(filtered[..., own].contiguous())
        if not any(self.margins):
            return inside
        filtered[..., own] = 0
        return inside + self._spread(filtered)

    def _spread(self, filtered: Tensor) -> Tensor:
        """Sum over views what the detector has at a pixel's place; of a fan over the square of its distance to the source."""
        g = self.geometry
        pixels = (torch.arange(n, dtype=filtered.dtype, device=filtered.device) for n in g.size)
        down, across = ((line - axis) * g.pixel_spacing for line, axis in zip(pixels, g.axis_pixel, strict=True))
        x, up = across[None, :], -down[:, None]
        bins, axis_bins = filtered.shape[-1], np.broadcast_to(g.axis_bin + self.margins[0] + 1, len(g.angles))
        padded = nn.functional.pad(filtered, (1, 1))
        out = filtered.new_zeros(len(filtered), *g.size)
        shrink: Tensor | float
        for view, angle in enumerate(g.angles):
            cos, sin = math.cos(angle), math.sin(angle)
            across, depth = x * cos + up * sin, (g.source_distance or 0) + up * cos - x * sin
            if not g.source_distance:
                place, shrink = across, 1.0
            elif g.curved:
                place, shrink = torch.atan2(across, depth), 1 / (across.square() + depth.square())
            else:
                place, shrink = g.source_distance * across / depth, (g.source_distance / depth).square()
            place = (place / self.spacing + axis_bins[view]).clamp(0, bins + 1)
            low = place.floor().clamp_max(bins)
            share, low = place - low, low.long()
            row = padded[:, view]
            out += shrink * (row[:, low] * (1 - share) + row[:, low + 1] * share)
        return out
