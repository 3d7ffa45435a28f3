"""The contract of all solvers: a predict loop around one method."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from tqdm.auto import tqdm

from padis_lightning.diffusion import geometric_sigmas, karras_sigmas
from padis_lightning.errors import InputError
from padis_lightning.linalg import norm, per_image
from padis_lightning.memory import free_memory
from padis_lightning.noise import GaussianNoise, Noise
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.crop import Crop
from padis_lightning.priors import Prior
from padis_lightning.random import Generators, seeded
from padis_lightning.solvers.estimate import estimate_of, state_bytes
from padis_lightning.solvers.kept_state import Unfinished
from padis_lightning.types import Batch, Reconstruction

MEASURE, SOLVE = 0, 1  # purposes of an image's random streams
WATCHED = 16  # steps between two looks at whether images are finite
SHARE = 0.5  # of a device's free memory that the state of a solve may take; the rest is for the network

log = logging.getLogger(__name__)


class Solver(LightningModule, ABC):
    r"""Reconstruct images from measurements :math:`y = A x + n`, by default with :math:`n \sim N(0, s^2 I)`.

    A subclass writes :meth:`solve`. Everything in it is per image: a batch is a set of independent problems.

    Args:
        operator: A.
        noise_std: s, in units of ``A x`` for x in [0, 1] (for measured data: of y over its range); simulated
            measurements carry it.
        noise: another noise than Gaussian of that deviation; simulated measurements carry it, and solvers weigh by it.
        oversampling: simulate measurements on a grid so many times finer than the one they are solved on, so that the
            model is not its own truth (1: the same operator, as in the paper).
        samples: reconstructions of each image, in one batch with streams of their own; the estimate is their mean.
        seed: with an image's index in the data set, the key of its random streams.
        state: where a solve keeps what is as large as its volumes: on the device, or on the host, from which slices travel to
            the network and the operator and back. By default volumes whose state would take more than half of the device's
            free memory are on the host.
    """

    def __init__(
        self,
        operator: LinearOperator,
        noise_std: float = 0.0,
        noise: Noise | None = None,
        oversampling: int = 1,
        samples: int = 1,
        seed: int = 0,
        state: Literal["auto", "device", "host"] = "auto",
    ) -> None:
        super().__init__()
        if not (noise_std >= 0 and math.isfinite(noise_std)):
            raise InputError(f"noise_std is {noise_std:g}; wanted at least 0")
        if noise is not None and noise_std > 0:
            raise InputError(f"noise_std is {noise_std:g} and noise is {type(noise).__name__}; wanted one of them")
        if oversampling < 1:
            raise InputError(f"oversampling is {oversampling}; wanted at least 1")
        if samples < 1:
            raise InputError(f"samples is {samples}; wanted at least 1")
        self.operator = operator
        self.samples = samples
        self.noise = GaussianNoise(noise_std) if noise is None else noise
        self.oversampling = oversampling
        self.simulator = operator.finer(oversampling) if oversampling > 1 else operator
        self.seed = seed
        self._on_host = {"auto": None, "device": False, "host": True}[state]
        #: called with the images ``(B, C, H, W)`` after every step
        self.observers: list[Callable[[Tensor], None]] = []
        #: where a long solve keeps its state, or None
        self.unfinished: Unfinished | None = None
        #: of the images of the last solve that are not finite, by their place in it: why
        self.diverged: dict[int, str] = {}
        #: is told, once, what volumes will take
        self.announce: Callable[[str], None] | None = None

    #: whether a step differentiates the prior, which inference mode forbids
    needs_gradients: bool = False
    #: float32 arrays of :attr:`state_shape` that a solve holds at most, beside what the network and the operator work in
    arrays: float = 10.0
    #: what the products with the operator belong to: tensors in float32 or float64, or proximal steps
    products_in: Literal["float32", "float64", "proximal steps"] = "float32"

    @property
    def evaluations(self) -> int:
        """Network evaluations of the whole image that one reconstruction takes."""
        return 0

    @property
    def passes(self) -> int:
        """Forward passes of the network that take as long as an evaluation with its derivatives, if it has any."""
        return 3 if self.needs_gradients else 1

    @property
    def products(self) -> int:
        """Products with the operator or its adjoint that one reconstruction takes, a plain reconstruction counted as one."""
        return 0

    def proximal(self, iterations: int) -> int:
        """The products of a proximal step."""
        return 2 if self.operator.closed_form else 2 * iterations + 3

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Of what a solve keeps."""
        return self.operator.image_shape

    @abstractmethod
    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Measurements ``(B, ...)`` to images ``(B, C, H, W)``, with one random stream an image."""

    def measure(self, image: Tensor, generator: Generators) -> Tensor:
        """Simulate the measurement of ``(B, C, H, W)``."""
        return self.operator.zero_unmeasured(self.noise.simulate(self.simulator(image), generator))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Leave the batch on the host where the solve shall keep its state there; everything of a solve is where its batch is."""
        if self._on_host is None:
            self._on_host = self._crowds(len(batch.index) * self.samples, device)
        return batch if self._on_host else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _crowds(self, count: int, device: torch.device) -> bool:
        """Whether the state of so many volumes leaves too little of a device's memory."""
        if len(self.operator.image_shape) != 4 or device.type == "cpu":
            return False
        needed, free = state_bytes(self, count), free_memory(device)
        if needed <= SHARE * free:
            return False
        log.warning(
            "padis_lightning: the state of a solve takes %.2g GiB, of %.2g GiB that are free on %s: it is kept on the host",
            needed / 2**30,
            free / 2**30,
            device,
        )
        return True

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Reconstruction:
        """Measure where no measurement is given, and solve; a trainer's half precision is the network's alone."""
        kind = self.device.type
        if torch.is_autocast_enabled(kind) and hasattr(self, "prior"):
            self.prior.precision = torch.get_autocast_dtype(kind)
        with torch.autocast(kind, enabled=False):
            return self.reconstruct(batch)

    def reconstruct(self, batch: Batch) -> Reconstruction:
        """Every sample of every image, with its residual."""
        indices = batch.index.tolist()
        y = batch.measurement
        if y is None:
            y = self.measure(batch.image, Generators.keyed(self.seed, indices, MEASURE))
        drawn, seconds = self.timed(y.repeat_interleave(self.samples, 0), indices)
        drawn = drawn.unflatten(0, (-1, self.samples))
        estimate = drawn.mean(1) if self.samples > 1 else drawn[:, 0]
        residual = norm(y - self.operator(estimate)) / norm(y).clamp_min(torch.finfo(y.dtype).tiny)
        kept = drawn if self.samples > 1 else None
        evaluations = self.samples * self.evaluations
        return Reconstruction(estimate, y, residual.flatten(), seconds, evaluations, kept, self.failures(drawn))

    def timed(self, y: Tensor, indices: list[int]) -> tuple[Tensor, float]:
        """Solve every sample of every image, and the wall-clock seconds an image; those that diverge are not finite."""
        if self.announce is not None and len(self.operator.image_shape) == 4:
            self.announce(estimate_of(self, y).sentence(self.operator.image_shape))
            self.announce = None
        start = time.perf_counter()
        purposes = [SOLVE + 2 * k for k in range(self.samples)]  # the first sample's stream is that of a run with one
        generator = Generators(seeded(self.seed, index, purpose) for index in indices for purpose in purposes)
        self.diverged = {}
        if self.unfinished is not None:
            self.unfinished.begin(indices)
        try:
            estimate = self.solve(y, generator)
        except FloatingPointError:
            if len(self.diverged) < len(y):
                raise
            estimate = y.new_full((len(y), *self.operator.image_shape), math.nan)
        if estimate.is_cuda:
            torch.cuda.synchronize(estimate.device)
        spent = self.unfinished.seconds if self.unfinished is not None else 0.0
        return estimate, (spent + time.perf_counter() - start) / len(indices)

    def failures(self, drawn: Tensor) -> list[str | None]:
        """Why images of ``(B, K, C, H, W)`` are no reconstructions; None for those that are."""
        finite = torch.isfinite(drawn.flatten(2).sum(2)).tolist()
        return [
            None if all(row) else self.diverged.get(i * self.samples + row.index(False), f"{type(self).__name__} is not finite")
            for i, row in enumerate(finite)
        ]

    def require_finite(self, x: Tensor, sigma: float) -> None:
        """Note whether every image is finite after a step; every :data:`WATCHED` steps, so that a GPU need not wait, look.

        Raises:
            FloatingPointError: no image is left, as :meth:`settle`.
        """
        self._watched.append((sigma, torch.isfinite(x.flatten(1).sum(1))))
        for observer in self.observers:
            observer(self.shown(x))
        if len(self._watched) == WATCHED:
            self.settle()

    def shown(self, x: Tensor) -> Tensor:
        """The images of a state."""
        return x

    def settle(self) -> None:
        """Note in ``diverged`` which images have diverged since the last look; the others go on.

        Raises:
            FloatingPointError: all of them have; with the solver, the first such step and its level.
        """
        levels, finite = zip(*self._watched, strict=True) if self._watched else ((), ())
        self._watched, first = [], self._settled + 1
        self._settled += len(levels)
        if not finite or bool((good := torch.stack(finite)).all()):
            return
        for row, steps in enumerate(good.T.tolist()):
            if row not in self.diverged and not all(steps):
                step = steps.index(False)
                self.diverged[row] = (
                    f"{type(self).__name__} diverged at step {first + step} of {self._total}, sigma {levels[step]:.3g}: "
                    "the image is not finite; wanted smaller steps or more noise"
                )
        if len(self.diverged) == len(good.T):
            raise FloatingPointError(next(iter(self.diverged.values())))

    def progress(self, steps: Sequence, state: dict[str, Tensor], generator: Generators) -> Iterator:
        """Iterate with a bar and the time left, when a trainer with progress bars runs this solver; at the end, look.

        A solve that was interrupted goes on behind the last step whose state was kept.

        Args:
            steps: what to iterate over.
            state: all that one step leaves to the next, by name; steps replace its values.
            generator: from which steps draw.
        """
        trainer = self._trainer
        visible = trainer is not None and trainer.progress_bar_callback is not None and trainer.is_global_zero
        done, self.diverged = (0, {}) if self.unfinished is None else self.unfinished.restore(state, generator)
        self._watched, self._settled, self._total = [], done, len(steps)
        bar = tqdm(steps[done:], type(self).__name__, len(steps), leave=False, disable=not visible, position=1, initial=done)
        for count, step in enumerate(bar, done + 1):
            yield step
            if self.unfinished is not None and self.unfinished.due and count < len(steps):
                self.settle()
                self.unfinished.keep(count, state, generator, self.diverged)
                self.unfinished.obey()
        self.settle()


class DiffusionSolver(Solver):
    r"""A solver that walks down noise levels with a prior on the padded canvas.

    Starts from :math:`x \sim N(x_s, \sigma_{max}^2 I)`; a subclass writes :meth:`step`. It sees canvases and an operator on
    canvases, :math:`A` after the crop, so its equations read as in its paper.

    Args:
        prior: denoiser of whole images.
        operator: A.
        steps: noise levels.
        sigma_max: first level.
        sigma_min: last level before 0.
        schedule: spacing of the levels.
        start: :math:`x_s`, 0 (``noise``) or the operator's plain reconstruction (``direct``), from which fewer levels suffice.
        options: those of :class:`Solver`.
    """

    def __init__(
        self,
        prior: Prior,
        operator: LinearOperator,
        steps: int = 100,
        sigma_max: float = 1.0,
        sigma_min: float = 0.002,
        schedule: Literal["geometric", "karras"] = "geometric",
        start: Literal["noise", "direct"] = "noise",
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        super().__init__(operator, **options)
        prior.resize(operator.image_shape)
        self.prior = prior
        self.canvas_operator = operator @ Crop(prior.image_shape, prior.pad)
        levels = {"geometric": geometric_sigmas, "karras": karras_sigmas}[schedule](sigma_max, sigma_min, steps)
        self.sigmas, self.start = (*levels.tolist(), 0.0), start

    @property
    def evaluations(self) -> int:
        """One a level."""
        return len(self.sigmas) - 1

    @property
    def products(self) -> int:
        """A proximal step a level, of solvers that take them."""
        return (len(self.sigmas) - 1) * self.proximal(self.iterations) if self.products_in == "proximal steps" else 0

    @property
    def state_shape(self) -> tuple[int, ...]:
        """That of the canvas."""
        return self.prior.canvas_shape

    def fit(self, v: Tensor, y: Tensor, variance: float, iterations: int) -> Tensor:
        r"""The mean of a Gaussian image :math:`N(v, r^2 I)` given y, as a proximal step.

        .. math:: \arg\min_u \frac{\|A u - y\|_P^2}{s^2} + \frac{\|u - v\|^2}{r^2}

        In float64: near the end the residual is a difference of nearly equal numbers, and float32 would make results
        depend on the batch size in the fourth digit. It costs a twentieth of a step.

        Args:
            v: canvases ``(B, C, H, W)``.
            y: ``(B, ...)``.
            variance: :math:`r^2`.
            iterations: conjugate-gradient steps, where there is no closed form.
        """
        noise, precision = self.noise.data_term(y.double())
        return self.canvas_operator.double_prox(v, y, per_image(noise, v) / variance, precision, iterations)

    def draw(self, v: Tensor, y: Tensor, variance: float, iterations: int, generator: Generators) -> Tensor:
        """A draw of what :meth:`fit` is the mean of: the same step after ``v`` and ``y`` were perturbed by their variances.

        Source: Papandreou and Yuille, Gaussian sampling by local perturbations, NeurIPS 2010.
        """
        v = v + math.sqrt(variance) * generator.normal(v)
        y = y + self.noise.variance(y).sqrt() * generator.normal(y)
        return self.fit(v, y, variance, iterations)

    def variance(self, sigma: float) -> float:
        r""":math:`r^2 = \sigma^2 \sigma_{data}^2 / (\sigma^2 + \sigma_{data}^2)`, that of a Gaussian image given x."""
        return 1 / (1 / sigma**2 + 1 / self.prior.sigma_data**2)

    @staticmethod
    def ancestral(x: Tensor, x_0: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        r"""From ``x`` at ``sigma`` and its estimate to ``sigma_next``, part of the noise drawn afresh; the estimate at 0.

        .. math:: x_0 + \kappa (x - x_0) + \sigma' \sqrt{1 - \kappa} \, z, \quad \kappa = \sigma'^2 / \sigma^2
        """
        if sigma_next == 0:
            return x_0
        kept = (sigma_next / sigma) ** 2
        return x_0 + kept * (x - x_0) + sigma_next * math.sqrt(1 - kept) * generator.normal(x)

    def shown(self, x: Tensor) -> Tensor:
        """The image inside of a canvas."""
        return self.canvas_operator.right(x)

    @abstractmethod
    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """A canvas ``(B, C, H, W)`` at noise level ``sigma`` to one at ``sigma_next``, which is 0 at last."""

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Walk from ``sigma_max`` to 0 and crop."""
        x = self.sigmas[0] * generator.normal(y.new_empty(len(y), *self.prior.canvas_shape))
        if self.start == "direct":
            x = x + self.canvas_operator.right.adjoint(self.operator.approximate_inverse(y).clamp(0, 1))
        state = {"x": x}
        for sigma, sigma_next in self.progress(list(pairwise(self.sigmas)), state, generator):
            state["x"] = self.step(state["x"], y, sigma, sigma_next, generator)
            self.require_finite(state["x"], sigma)
        return self.canvas_operator.right(state["x"])
