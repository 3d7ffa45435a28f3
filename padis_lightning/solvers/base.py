"""The contract of all solvers: a predict loop around one method."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from tqdm.auto import tqdm

from padis_lightning.diffusion import geometric_sigmas, karras_sigmas
from padis_lightning.errors import InputError
from padis_lightning.linalg import norm
from padis_lightning.noise import GaussianNoise, Noise
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.crop import Crop
from padis_lightning.priors import Prior
from padis_lightning.random import Generators
from padis_lightning.types import Batch, Reconstruction

MEASURE, SOLVE = 0, 1  # purposes of an image's random streams


class Solver(LightningModule, ABC):
    r"""Reconstruct images from measurements :math:`y = A x + n`, by default with :math:`n \sim N(0, s^2 I)`.

    A subclass writes :meth:`solve`. Everything in it is per image: a batch is a set of independent problems.

    Args:
        operator: A.
        noise_std: s, in units of ``A x`` for x in [0, 1] (for measured data: of y over its range); simulated
            measurements carry it.
        noise: another noise than Gaussian of that deviation; simulated measurements carry it, and solvers weigh by it.
        simulation: simulate measurements on a grid so many times finer than the one they are solved on, so that the
            model is not its own truth (1: the same operator, as in the paper).
        seed: with an image's index in the data set, the key of its random streams.
    """

    def __init__(
        self,
        operator: LinearOperator,
        noise_std: float = 0.0,
        noise: Noise | None = None,
        simulation: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (noise_std >= 0 and math.isfinite(noise_std)):
            raise InputError(f"noise_std is {noise_std:g}; wanted at least 0")
        if noise is not None and noise_std > 0:
            raise InputError(f"noise_std is {noise_std:g} and noise is {type(noise).__name__}; wanted one of them")
        if simulation < 1:
            raise InputError(f"simulation is {simulation}; wanted at least 1")
        self.operator = operator
        self.noise = GaussianNoise(noise_std) if noise is None else noise
        self.simulation = simulation
        self.simulator = operator.finer(simulation) if simulation > 1 else operator
        self.seed = seed

    #: whether a step differentiates the prior, which inference mode forbids
    needs_gradients: bool = False

    @property
    def evaluations(self) -> int:
        """Network evaluations of the whole image that one reconstruction takes."""
        return 0

    @abstractmethod
    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Measurements ``(B, ...)`` to images ``(B, C, H, W)``, with one random stream an image."""

    def measure(self, image: Tensor, generator: Generators) -> Tensor:
        """Simulate the measurement of ``(B, C, H, W)``."""
        return self.operator.observed(self.noise.simulate(self.simulator(image), generator))

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Reconstruction:
        """Measure where no measurement is given, and solve."""
        indices = batch.index.tolist()
        y = batch.measurement
        if y is None:
            y = self.measure(batch.image, Generators.keyed(self.seed, indices, MEASURE))
        estimate, seconds = self.timed(y, indices)
        residual = norm(y - self.operator(estimate)) / norm(y).clamp_min(torch.finfo(y.dtype).tiny)
        return Reconstruction(estimate, y, residual.flatten(), seconds, self.evaluations)

    def timed(self, y: Tensor, indices: list[int]) -> tuple[Tensor, float]:
        """Solve, and the wall-clock seconds an image."""
        start = time.perf_counter()
        estimate = self.solve(y, Generators.keyed(self.seed, indices, SOLVE))
        if estimate.is_cuda:
            torch.cuda.synchronize(estimate.device)
        return estimate, (time.perf_counter() - start) / len(indices)

    def progress(self, steps: Iterable, total: int) -> Iterable:
        """Iterate with a bar and the time left, when a trainer with progress bars runs this solver."""
        trainer = self._trainer
        visible = trainer is not None and trainer.progress_bar_callback is not None and trainer.is_global_zero
        return tqdm(steps, type(self).__name__, total, leave=False, disable=not visible, position=1)


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

    @abstractmethod
    def step(self, x: Tensor, y: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
        """A canvas ``(B, C, H, W)`` at noise level ``sigma`` to one at ``sigma_next``, which is 0 at last."""

    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Walk from ``sigma_max`` to 0 and crop."""
        x = self.sigmas[0] * generator.normal(y.new_empty(len(y), *self.prior.canvas_shape))
        if self.start == "direct":
            x = x + self.canvas_operator.right.adjoint(self.operator.direct(y).clamp(0, 1))
        for sigma, sigma_next in self.progress(pairwise(self.sigmas), len(self.sigmas) - 1):
            x = self.step(x, y, sigma, sigma_next, generator)
        return self.canvas_operator.right(x)
