"""Noise models say how measurements are simulated, and how far each of them can be trusted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from padis_lightning.errors import InputError, require_above, require_at_least, require_between
from padis_lightning.linalg import per_image
from padis_lightning.random import Generators

UNCOUNTED = 1e8  # variance of entries that do not count, in mean squares of a measurement
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

    def of_image(self, k: int) -> Noise:
        """Return the noise of the k-th measurement of those that it was estimated from or counts in."""
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


class EstimatedNoise(Noise):
    r"""Gaussian noise of measured data has a deviation that nobody named, :math:`\mathrm{var}(y_i) = s^2 / w_i`.

    Args:
        deviation: s of each measurement, ``(B, 1, ...)``, as :func:`padis_lightning.noise_estimation.estimate_deviation` has it.
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

    def of_image(self, k: int) -> EstimatedNoise:
        """Return its noise, with its weights."""
        return EstimatedNoise(self.deviation[k : k + 1], self.weights[k : k + 1])

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

    def of_image(self, k: int) -> CountedNoise:
        """Return its noise, as far as it counts."""
        return CountedNoise(self.noise, self.counted[k : k + 1])

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


def _mean(values: Tensor) -> Tensor:
    """Return the mean of each image, ``(B, ...) -> (B, 1, ...)``."""
    return per_image(values.flatten(1).mean(1), values)
