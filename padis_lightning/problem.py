"""An inverse problem: what is measured, by which operator, with which noise, and how that is simulated."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from padis_lightning.errors import require_at_least
from padis_lightning.linalg import norm, per_image
from padis_lightning.noise import CountedNoise, EstimatedNoise, GaussianNoise, Noise
from padis_lightning.noise_estimation import estimate_deviation, seems_white
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.crop import Crop
from padis_lightning.operators.whitening import Whitening
from padis_lightning.random import Generators
from padis_lightning.types import Batch

log = logging.getLogger(__name__)

FAR_OFF, NOTICED = 1.5, 0.5  # ratio of named to estimated noise, and percent of a measurement, from which on it is said

NOT_WHITE = "the noise does not look white (is it of JPEG, of a camera or resized?), so that the estimate is uncertain"


class Problem(nn.Module):
    r"""Measurements :math:`y = A x + n` of images x; solvers, baselines and results share one.

    Everything in it is per image: a batch is a set of independent problems.

    Args:
        operator: A.
        noise: n, which simulated measurements carry and solvers weigh by (default: simulated measurements have none, and
            that of measured ones is estimated).
        oversampling: measurements are simulated on a grid so many times finer than the one of A, so that the model is not
            its own truth (1: by A itself, as in the paper).

    Attributes:
        noise_is_named: whether the noise was named.
        is_measured: whether it is of a measurement that was given, rather than simulated here.
    """

    def __init__(self, operator: LinearOperator, noise: Noise | None = None, oversampling: int = 1) -> None:
        super().__init__()
        require_at_least(1, oversampling=oversampling)
        self.operator, self.noise, self.oversampling = operator, noise or GaussianNoise(), oversampling
        self.noise_is_named, self.is_measured = noise is not None, False
        self.simulator = operator.finer(oversampling) if oversampling > 1 else operator
        # shapes and measurement of the last batch, and its problem: solver and baselines ask in turn
        self._fitted: tuple[object, Tensor | None, Problem] = (None, None, self)

    def for_batch(self, batch: Batch) -> Problem:
        """Return the problem of a batch: this one where it fits, else one with the operator for these shapes and its noise."""
        shapes = tuple(None if part is None else tuple(part.shape[1:]) for part in (batch.measurement, batch.image))
        y = None if batch.weights is None else batch.measurement
        known, kept, problem = self._fitted
        if known != shapes or not _same(kept, y):
            problem = self._for_shapes(*shapes)
            if y is not None:
                problem = problem._with(problem.operator.calibrated(y))
            problem = problem._for_weights(batch.weights, y)
            self._fitted = shapes, y, problem
        return problem

    def _for_shapes(self, measurement: tuple[int, ...] | None, image: tuple[int, ...] | None) -> Problem:
        operator = self.operator if measurement is None else self.operator.for_measurement(measurement)
        operator = operator if image is None else operator.for_image_shape(image)
        return self._with(operator)

    def _with(self, operator: LinearOperator) -> Problem:
        """Return the same problem of another operator."""
        return self if operator is self.operator else self._replaced(operator, self.noise)

    def of_rows(self, kept: Sequence[int]) -> Problem:
        """Return the problem of these rows of a measurement alone, by its last axis but one; of a scan these are views."""
        return self._replaced(self.operator.of_rows(kept), self.noise.of_rows(kept))

    def of_image(self, k: int) -> Problem:
        """Return the problem of the k-th measurement of the batch that it fits."""
        return self._replaced(self.operator, self.noise.of_image(k))

    def _for_weights(self, weights: Tensor | None, y: Tensor | None) -> Problem:
        """Weigh what was measured; its noise is estimated where nobody names it, and held against what is named."""
        if weights is None or y is None:
            return self
        comparable = isinstance(self.noise, GaussianNoise) and not self.noise.relative
        if not self.noise_is_named or comparable:
            measured = self.operator.zero_unmeasured(weights.expand_as(y))
            deviation = estimate_deviation(y.double(), self.operator.noise_orders, self.operator.noisy(measured))
            self._say_noise(y, deviation, measured)
        copies = self.operator.copies(y)
        if not self.noise_is_named:
            noise: Noise = EstimatedNoise(deviation * copies.sqrt().to(deviation), measured)
        else:
            counted = (weights > 0) / copies
            noise = self.noise if bool((counted == 1).all()) else CountedNoise(self.noise, counted)
        problem = self._replaced(self.operator, noise)
        problem.is_measured = True
        return problem

    def _say_noise(self, y: Tensor, deviation: Tensor, measured: Tensor) -> None:
        """Say how much noise was estimated, or that the deviation that is named is far from it."""
        named = self.noise.std if isinstance(self.noise, GaussianNoise) else 0.0
        pictured = self.operator.noise_orders == LinearOperator.noise_orders
        unit = "" if not pictured else " (of pictures: in stored values from 0 to 1, sRGB, not linear light)"
        white = seems_white(y.double(), measured) if pictured and y.ndim == 4 and not self.noise_is_named else [True] * len(y)
        for found, one, known, plain in zip(deviation.flatten().tolist(), y, measured > 0, white, strict=True):
            share = 100 * found / max(float(one[known].double().square().mean().sqrt()), torch.finfo(y.dtype).tiny)
            if not self.noise_is_named and found == 0:
                said = "padis_lightning: no noise is seen in the measurement, which is taken as exact; --model.noise_std names it"
                log.warning(said)
            elif not self.noise_is_named:
                said = "padis_lightning: noise of %.3g estimated, %.2g %% of the measurement%s; --model.noise_std names another"
                log.warning(said, found, share, unit)
                if not plain:
                    log.warning("padis_lightning: %s; --model.noise_std names its level", NOT_WHITE)
            elif max(named, found) > FAR_OFF * min(named, found) and share > NOTICED:
                said = "padis_lightning: noise of %.3g is named and %.3g seen%s; --model.noise_std null has it estimated"
                log.warning(said, named, found, unit)

    def _replaced(self, operator: LinearOperator, noise: Noise) -> Problem:
        """Return a problem of the same kind, which simulates by the same grid."""
        problem = Problem(operator, noise, self.oversampling if operator is not self.operator else 1)
        problem.noise_is_named, problem.is_measured = self.noise_is_named, self.is_measured
        return problem

    def on_canvas(self, pad: tuple[int, ...]) -> Problem:
        """Return the same problem for images with ``pad`` zeros around them, by the operator after a crop."""
        return Problem(self.operator @ Crop(self.operator.image_shape, pad), self.noise)

    def measure(self, image: Tensor, generator: Generators) -> Tensor:
        """Simulate the measurement of ``(B, C, H, W)``, noise included: ``(B, ...)``."""
        return self.operator.zero_unmeasured(self.noise.simulate(self.simulator(image), generator))

    @property
    def noise_is_estimated(self) -> bool:
        """Tell whether the noise is that of a measurement, which nobody named."""
        return isinstance(self.noise, EstimatedNoise)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Return :math:`\|y - A x\| / \|y\|` of each image, ``(B,)``; of a measurement of zeros the root mean square of A x."""
        length, left = norm(y), norm(y - self.operator(x))
        return (left / length.where(length > 0, math.sqrt(y[0].numel()))).flatten()

    def data_term(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        r"""Return what weighs the data term :math:`\|A u - y\|_P^2 / s^2`: :math:`s^2` ``(B, 1, ...)``, and P or None for I."""
        return self.noise.data_term(y)

    def proximal_step(self, v: Tensor, y: Tensor, weight: float | Tensor, iterations: int, share: Tensor | None = None) -> Tensor:
        r"""Return the image near ``v`` that explains ``y``.

        .. math:: \arg\min_u \|A u - y\|_P^2 + w \|u - v\|^2

        It is computed in float64: near the end the residual is a difference of nearly equal numbers, and float32 would make
        results depend on the batch size in the fourth digit. That costs a twentieth of a step.

        Args:
            v: ``(B, C, H, W)``.
            y: ``(B, ...)``.
            weight: w, a number or ``(B, 1, 1, 1)``.
            iterations: conjugate-gradient steps, where there is no closed form.
            share: of a scan, how much of what is wrong is what pixels cannot show, ``(B, 1, 1, 1)``; P becomes that of
                :class:`Whitening`.
        """
        operator, y, precision = self._whitened(y.double(), share)
        return operator.prox(v, y, weight, precision, iterations=iterations, double=True)

    def _whitened(self, y: Tensor, share: Tensor | None) -> tuple[LinearOperator, Tensor, Tensor | None]:
        """Return A, y and P of the data term; whitened by a share, which leaves no P."""
        _, precision = self.data_term(y)
        if share is None:
            return self.operator, y, precision
        whitening = Whitening(y.shape[1:], share, precision)
        return whitening @ self.operator, whitening(y), None

    def posterior_mean(self, v: Tensor, y: Tensor, variance: float, iterations: int) -> Tensor:
        r"""Return the mean of a Gaussian image :math:`N(v, r^2 I)` given ``y``.

        .. math:: \arg\min_u \frac{\|A u - y\|_P^2}{s^2} + \frac{\|u - v\|^2}{r^2}

        Args:
            v: ``(B, C, H, W)``.
            y: ``(B, ...)``.
            variance: :math:`r^2`.
            iterations: conjugate-gradient steps, where there is no closed form.
        """
        noise, precision = self.data_term(y.double())
        return self.operator.prox(v, y, per_image(noise, v) / variance, precision, iterations=iterations, double=True)

    def posterior_sample(self, v: Tensor, y: Tensor, variance: float, iterations: int, generator: Generators) -> Tensor:
        """Draw from the distribution that :meth:`posterior_mean` is the mean of.

        It is the mean for ``v`` and ``y`` that were perturbed by noise of their variances.

        Source: Papandreou and Yuille, Gaussian sampling by local perturbations, NeurIPS 2010.
        """
        v = v + math.sqrt(variance) * generator.normal(v)
        y = y + self.noise.variance(y).sqrt() * generator.correlated(0).normal(y)
        return self.posterior_mean(v, y, variance, iterations)

    def normal_equations(self, y: Tensor, share: Tensor | None = None) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        r"""Return the map :math:`u \mapsto A^T P A u / \|A\|^2` and the image :math:`A^T P y / \|A\|^2`.

        Args:
            y: ``(B, ...)``.
            share: as that of :meth:`proximal_step`.
        """
        operator, y, precision = self._whitened(y, share)
        square = self.operator.norm_squared

        def normal(u: Tensor) -> Tensor:
            found = operator.normal(u) if precision is None else operator.adjoint(precision * operator(u))
            return found / square

        return normal, operator.adjoint(y if precision is None else precision * y) / square


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    """Tell whether two measurements are the same numbers on the same device."""
    if a is None or b is None or a is b:
        return a is b
    return a.device == b.device and torch.equal(a, b)
