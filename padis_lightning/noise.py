"""Noise models say how measurements are simulated, and how far each of them can be trusted."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from padis_lightning.errors import InputError, require_above, require_at_least, require_between
from padis_lightning.linalg import per_image
from padis_lightning.random import Generators

UNCOUNTED = 1e8  # variance of entries that do not count, in mean squares of a measurement
BLOCK, QUIET = 16, 0.2  # side of blocks, and share of them in which there is next to nothing but noise
QUIETER = 0.928  # the deviation that is seen in them of white noise of 1: in a fifth of blocks chance has less than that
COLOURLESS = 8.0  # times more is seen in brightness than in colours where noise is not white, as that of JPEG; of white noise 5
SEEN, CORRELATED = 4 / 255, 1.6  # deviation, and ratio between scales, from which on noise does not look white
MIDDLE = 512  # pixels along a side of what is looked at for that
SPARSE = 0.02  # of the pixels, that have all their neighbours; where fewer do, rows and columns are looked at one by one
FEWEST = 32  # differences from which a deviation is estimated
MOST = 1e15  # counts of which torch draws as many as it should, and whose squares single precision holds


class Noise(ABC):
    """Noise of a measurement ``(B, ...)`` is independent from entry to entry."""

    @abstractmethod
    def simulate(self, y: Tensor, generator: Generators) -> Tensor:
        """Return a noisy copy of the clean measurement ``y``, with one random stream an image."""

    @abstractmethod
    def variance(self, y: Tensor) -> Tensor:
        """Estimate the variance of every entry from the noisy ``y``: ``(B, ...)``, or ``(B, 1, ...)`` where all have the same."""

    def describe(self) -> dict[str, Any]:
        """Return its name and its numbers, for a summary."""
        return {"name": type(self).__name__, **vars(self)}

    def of_rows(self, kept: Sequence[int]) -> Noise:
        """Return the noise of these rows of a measurement, by its last axis but one."""
        return self

    def data_term(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        r"""Return what a data term :math:`\|A u - y\|_P^2 / s^2` needs.

        Returns:
            :math:`s^2` ``(B, 1, ...)``, the harmonic mean of the variances, and P of mean 1, or None where P = I.
        """
        variance = self.variance(y)
        if variance[0].numel() == 1:
            return variance, None
        least = per_image(variance.flatten(1).amin(1), y)
        precision = (least / variance).nan_to_num(1.0)  # where the least is 0, only what is exact counts
        mean = _mean(precision)
        return least / mean, precision / mean


class GaussianNoise(Noise):
    r"""Gaussian noise has one deviation, :math:`y = A x + n, n \sim N(0, s^2 I)`.

    Args:
        std: s, in ``units``; 0 for none.
        units: ``normalised``, those of ``A x`` for x in [0, 1]; ``8-bit``, where 255 is 1; or ``relative``, a share of the
            root mean square of each clean measurement.
    """

    def __init__(self, std: float = 0.0, units: Literal["normalised", "8-bit", "relative"] = "normalised") -> None:
        require_at_least(0, std=std)
        require_between(0, MOST, std=std)
        self.std = std / 255 if units == "8-bit" else std
        self.relative = units == "relative"

    def _deviation(self, square: Tensor) -> Tensor:
        """Return the deviation from the mean square of each clean measurement, ``(B, 1, ...)``."""
        return self.std * square.sqrt() if self.relative else torch.full_like(square, self.std)

    def simulate(self, y: Tensor, generator: Generators) -> Tensor:
        """Return ``y + s z`` with normal z."""
        if self.std == 0:
            return y
        return y + self._deviation(_mean(y.square())) * generator.normal(y)

    def variance(self, y: Tensor) -> Tensor:
        """Return ``s**2``, ``(B, 1, ...)``; relative noise takes its own part in the mean square off."""
        square = _mean(y.square())
        return self._deviation(square / (1 + self.std**2) if self.relative else square).square()


class PoissonNoise(Noise):
    r"""A CT detector hands over the logarithm of photon counts with electronic noise.

    .. math::
        c &\sim \mathrm{Poisson}(I_0 \, e^{-\mu \, (A x)}) + N(0, \sigma_e^2), \quad
        y = -\frac{1}{\mu} \ln \frac{\max(c, 1)}{I_0} \\
        \mathrm{var}(y) &\approx \frac{c + \sigma_e^2}{\mu^2 c^2}

    Source: Thibault, Bouman, Sauer and Hsieh, A recursive filter for noise reduction in statistical iterative tomographic
    imaging, SPIE 2006; Leuschner et al., LoDoPaB-CT, Scientific Data 2021 (4096 photons a bin).

    Args:
        photons: :math:`I_0`, counts of a bin that nothing shades.
        electronic: :math:`\sigma_e`, in counts.
        attenuation: :math:`\mu`, attenuation per unit of length where an image is 1. The default scan is 40 units wide: a
            chest, in centimetres; a prior of [-1000, 1000] HU is 1 at twice the attenuation of water, 0.4 per centimetre.
    """

    def __init__(self, photons: float = 1e5, electronic: float = 0.0, attenuation: float = 0.4) -> None:
        require_above(0, photons=photons, attenuation=attenuation)
        require_at_least(0, electronic=electronic)
        require_between(0, MOST, photons=photons, electronic=electronic, attenuation=attenuation)
        self.photons, self.electronic, self.attenuation = float(photons), float(electronic), float(attenuation)

    def counts(self, y: Tensor) -> Tensor:
        r"""Return the expected counts :math:`I_0 e^{-\mu y}`."""
        return self.photons * torch.exp(-self.attenuation * y)

    def simulate(self, y: Tensor, generator: Generators) -> Tensor:
        """Draw counts, add electronic noise and take the logarithm."""
        counts = generator.poisson(self.counts(y.double()))
        if self.electronic > 0:
            counts = counts + self.electronic * generator.normal(counts)
        return (-(counts.clamp_min(1) / self.photons).log() / self.attenuation).to(y.dtype)

    def variance(self, y: Tensor) -> Tensor:
        """Return the variance of every entry of ``y`` ``(B, ...)``, from its own count."""
        counts = self.counts(y).clamp_min(1)
        return (counts + self.electronic**2) / (self.attenuation * counts).square()


def estimate_deviation(y: Tensor, orders: tuple[int, ...], weights: Tensor) -> Tensor:
    r"""Estimate the deviation of white noise of each measurement ``(B, ...)`` from its finest scale: ``(B, 1, ...)``.

    .. math:: \hat s = \frac{Q_{1/4}(|\Delta \sqrt w y|)}{\|\Delta\| \, \Phi^{-1}(5/8)}

    The differences :math:`\Delta` keep the finest scale only, where noise is and objects hardly are; the lower quartile of
    their lengths Q leaves out what edges add. What is exactly 0 is padding or was clipped, what is at the highest value may be
    saturated, and neither counts. It is 0 where too few neighbours count.

    Pictures have texture at the finest scale, which their channels share, and noise, which they do not: of a picture in colours
    it is the least estimate of the principal components of the channels' differences. Of a grey picture, and where brightness
    has far more than colours, as after JPEG, it is that of the brightness, in quiet blocks where these have less. Where too few
    pixels have all neighbours, as where most are missing, those of one row or column do.

    Source: Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, Biometrika 1994, with the median; Hall, Kay and
    Titterington, Asymptotically optimal difference-based estimation of variance, Biometrika 1990.

    Args:
        y: ``(B, ...)``.
        orders: of the differences along the last axes; along the bins of a sinogram alone, along both axes of a picture.
        weights: w, relative, that broadcast with ``y``; entries of weight 0 do not count.
    """
    of_one = _of_picture if len(orders) == 2 else lambda *one: _of_all(*_finest(*one))
    return per_image(torch.stack([of_one(*one, orders) for one in zip(y, weights.to(y).expand_as(y), strict=True)]), y)


def seems_white(y: Tensor, weights: Tensor) -> list[bool]:
    """Tell of each picture ``(B, C, H, W)`` in colours whether its noise may be white, by its middle; of grey ones nothing tells.

    White noise is as much in brightness as in colours, and half as much in means over 2x2 pixels.
    """
    rows, columns = (slice(max(0, (length - MIDDLE) // 2), (length + MIDDLE) // 2) for length in y.shape[-2:])
    middles = (part[..., rows, columns] for part in (y, weights.to(y).expand_as(y)))
    return [_seems_white(*one) for one in zip(*middles, strict=True)]


def _seems_white(y: Tensor, weights: Tensor) -> bool:
    brightness, colour = _parts(*_finest(y, weights, (2, 2)))
    if colour is None:
        return True
    _, coarse = _parts(*_finest(avg_pool2d(y, 2), -max_pool2d(-weights, 2), (2, 2)))
    fine = float(colour)
    grown = coarse is not None and 2 * float(coarse) > max(CORRELATED * fine, SEEN)
    return not grown and float(brightness) <= max(COLOURLESS * fine, SEEN)


def _finest(y: Tensor, weights: Tensor, orders: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the differences of one measurement, of which noise of 1 has a deviation of 1, and which of them count."""
    if any(length <= order for length, order in zip(reversed(y.shape), reversed(orders), strict=False)):
        return y[..., :0], weights[..., :0] > 0
    highest = y.where(weights > 0, -math.inf).amax()
    differences, counted, gain = weights.sqrt() * y, (weights > 0) & (y != 0) & (y < highest), 1.0
    for axis, order in enumerate(reversed(orders), 1):
        differences = differences.diff(n=order, dim=-axis)
        counted = counted.unfold(-axis, order + 1, 1).all(-1)
        gain *= math.comb(2 * order, order)
    return differences / math.sqrt(gain), counted


def _of_all(differences: Tensor, counted: Tensor) -> Tensor:
    """Return the deviation by the quartile of those differences that count."""
    return _quartile(differences.abs()[counted]) / NormalDist().inv_cdf(5 / 8)


def _of_picture(y: Tensor, weights: Tensor, orders: tuple[int, ...]) -> Tensor:
    """Return the deviation of a picture ``(C, H, W)``, by its colours or its brightness."""
    differences, counted = _finest(y, weights, orders)
    if orders[0] and int(counted.all(0).sum()) < SPARSE * y[0].numel():
        rows, columns = (_of_picture(part, w, (0, orders[1])) for part, w in ((y, weights), (y.mT, weights.mT)))
        return (rows * columns).sqrt()
    brightness, colour = _parts(differences, counted)
    return brightness if colour is None or brightness > COLOURLESS * colour else colour


def _parts(differences: Tensor, counted: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the deviations in the brightness and in the colours of a picture, None of one that is grey or where few count."""
    if bool((differences == differences[:1]).all()):
        differences, counted = differences[:1], counted[:1]
    brightness = torch.minimum(_of_all(differences, counted), _of_blocks(differences, counted))
    values = differences[:, counted.all(0)]
    if len(values) == 1 or values.shape[1] < FEWEST:
        return brightness, None
    principal = torch.linalg.eigh(values @ values.T)[1].T @ values
    return brightness, torch.stack([_quartile(part) for part in principal.abs()]).amin() / NormalDist().inv_cdf(5 / 8)


def _of_blocks(differences: Tensor, counted: Tensor) -> Tensor:
    """Return the deviation by the mean squares of blocks, of which few have less; infinite where there are few blocks."""
    height, width = (length // BLOCK * BLOCK for length in differences.shape[-2:])
    if not height * width:
        return differences.new_full((), math.inf)

    def blocks(values: Tensor) -> Tensor:
        return values[..., :height, :width].unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK)).transpose(-2, -3).flatten(-2)

    counts = blocks(counted.to(differences)).sum(-1)
    squares = (blocks(differences.square() * counted).sum(-1) / counts.clamp_min(1))[counts >= BLOCK**2 / 2]
    if len(squares) < FEWEST:
        return differences.new_full((), math.inf)
    return squares.kthvalue(max(1, round(QUIET * len(squares)))).values.sqrt() / QUIETER


class EstimatedNoise(Noise):
    r"""Gaussian noise of measured data has a deviation that nobody named, :math:`\mathrm{var}(y_i) = s^2 / w_i`.

    Args:
        deviation: s of each measurement, ``(B, 1, ...)``, as :func:`estimate_deviation` has it.
        weights: w, relative, that broadcast with measurements ``(B, ...)``; entries of weight 0 do not count.
    """

    def __init__(self, deviation: Tensor, weights: Tensor) -> None:
        self.deviation, self.weights, self.even = deviation, weights, bool((weights == 1).all())

    def describe(self) -> dict[str, Any]:
        """Return its name; its deviation is another for each measurement."""
        return {"name": type(self).__name__}

    def simulate(self, y: Tensor, generator: Generators) -> Tensor:
        """Refuse to simulate: what was measured has its noise already."""
        raise InputError("noise of measured data was asked for more of it; wanted a named noise to simulate")

    def of_rows(self, kept: Sequence[int]) -> EstimatedNoise:
        """Return the noise of the rows, with their weights."""
        return EstimatedNoise(self.deviation, _rows(self.weights, kept))

    def variance(self, y: Tensor) -> Tensor:
        """Return ``s**2 / w``, ``(B, ...)``, or ``(B, 1, ...)`` where all weights are 1."""
        square, weights = _for_samples(self.deviation, y).square(), _for_samples(self.weights, y)
        return square if self.even else _where_counted(square / weights, weights > 0, y)

    def data_term(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return ``s**2`` and P of mean 1 over the entries that count, which is known even where s is 0."""
        square = _for_samples(self.deviation, y).square()
        if self.even:
            return square, None
        weights = _for_samples(self.weights, y).expand_as(y)
        mean = _mean(weights) / _mean((weights > 0).to(y))
        return square / mean, weights / mean


class CountedNoise(Noise):
    """A named noise where only some entries of the measurement count, or each of them as a part of one.

    Args:
        noise: the noise.
        counted: how far entries count, from 0 to 1; broadcasts with measurements ``(B, ...)``.
    """

    def __init__(self, noise: Noise, counted: Tensor) -> None:
        self.noise, self.counted = noise, counted

    def describe(self) -> dict[str, Any]:
        """Return the noise's name and numbers."""
        return self.noise.describe()

    def simulate(self, y: Tensor, generator: Generators) -> Tensor:
        """Simulate the noise."""
        return self.noise.simulate(y, generator)

    def of_rows(self, kept: Sequence[int]) -> CountedNoise:
        """Return the noise of the rows, as far as they count."""
        return CountedNoise(self.noise.of_rows(kept), _rows(self.counted, kept))

    def variance(self, y: Tensor) -> Tensor:
        """Return the noise's variance over what an entry counts, ``(B, ...)``."""
        counted = _for_samples(self.counted, y)
        return _where_counted(self.noise.variance(y) / counted, counted > 0, y)


def _rows(values: Tensor, kept: Sequence[int]) -> Tensor:
    """Return the rows of what broadcasts with a measurement ``(B, ...)``."""
    return values if values.shape[-2] == 1 else values[..., list(kept), :]


def _for_samples(values: Tensor, y: Tensor) -> Tensor:
    """Return what is known of each measurement for ``y``, in which each of them may be there several times in a row."""
    return values.to(y).repeat_interleave(len(y) // len(values), 0) if len(values) != len(y) else values.to(y)


def _where_counted(variance: Tensor, counted: Tensor, y: Tensor) -> Tensor:
    """Return the variance of every entry; of those that do not count one in which ``y`` drowns."""
    return torch.where(counted, variance, UNCOUNTED * _mean(y.square()))


def _quartile(values: Tensor) -> Tensor:
    """Return the lower quartile of ``(n,)``, 0 of fewer than :data:`FEWEST`."""
    count = len(values)
    return values.kthvalue(max(1, count // 4)).values if count >= FEWEST else values.new_zeros(())


def _mean(values: Tensor) -> Tensor:
    """Return the mean of each image, ``(B, ...) -> (B, 1, ...)``."""
    return per_image(values.flatten(1).mean(1), values)
