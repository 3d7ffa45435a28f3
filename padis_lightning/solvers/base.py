"""The contract of all solvers: a predict loop around one method."""

from __future__ import annotations

import copy
import logging
import math
import time
from abc import ABC, abstractmethod
from typing import Literal, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from padis_lightning.errors import InputError, require_at_least
from padis_lightning.memory import free_memory
from padis_lightning.noise import GaussianNoise, Noise
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.priors.base import evaluations_shown, network_precision
from padis_lightning.priors.distance import Reference, denoising_errors
from padis_lightning.problem import Problem
from padis_lightning.random import Generators, seeded
from padis_lightning.solvers.adaptation import Adaptation
from padis_lightning.solvers.loop import Loop
from padis_lightning.types import Batch, Reconstruction

MEASURE, SOLVE, DISTANCE = 0, 1, 2  # purposes of an image's random streams; samples take 3, 5, ..., the adaptation 4
SHARE = 0.5  # of a device's free memory that the state of a solve may take; the rest is for the network
ARRAYS = 20  # float32 arrays of the size of its volumes that a solve holds at most

log = logging.getLogger(__name__)


class Solver(LightningModule, ABC):
    r"""Reconstruct images from measurements :math:`y = A x + n`, by default with :math:`n \sim N(0, s^2 I)`.

    A subclass writes :meth:`solve`. Everything in it is per image: a batch is a set of independent problems.

    Args:
        problem: what was measured, or its operator A alone, which the next three arguments complete.
        noise_std: s, in units of ``A x`` for x in [0, 1] (for measured data: of y over its range); simulated
            measurements carry it (default: simulated ones have none, and that of measured ones is estimated).
        noise: another noise than Gaussian of that deviation; simulated measurements carry it, and solvers weigh by it.
        oversampling: simulate measurements on a grid so many times finer than the one they are solved on, so that the
            model is not its own truth (1: the same operator, as in the paper).
        samples: reconstructions of each image, in one batch with streams of their own; the estimate is their mean.
        seed: with an image's index in the data set, the key of its random streams.
        state: where a solve keeps what is as large as its volumes: on the device, or on the host, from which slices travel to
            the network and the operator and back. By default volumes whose state would take more than half of the device's
            free memory are on the host.
        adaptation: of the prior to each measurement, for images unlike those that it was trained on (default: none).
    """

    #: whether a step differentiates the prior, which inference mode forbids
    needs_gradients: bool = False

    def __init__(
        self,
        problem: Problem | LinearOperator,
        noise_std: float | None = None,
        noise: Noise | None = None,
        oversampling: int = 1,
        samples: int = 1,
        seed: int = 0,
        state: Literal["auto", "device", "host"] = "auto",
        adaptation: Adaptation | None = None,
    ) -> None:
        super().__init__()
        require_at_least(0, noise_std=noise_std or 0, seed=seed)
        require_at_least(1, samples=samples, oversampling=oversampling)
        if noise is not None and noise_std is not None:
            raise InputError(f"noise_std is {noise_std:g} and noise is {type(noise).__name__}; wanted one of them")
        if not isinstance(problem, Problem):
            noise = GaussianNoise(noise_std) if noise_std is not None else noise
            problem = Problem(problem, noise, oversampling)
        elif noise is not None or noise_std is not None or oversampling > 1:
            raise InputError("noise or oversampling is given beside a problem; wanted it in the problem alone")
        self.problem, self.samples, self.seed, self.adaptation = problem, samples, seed, adaptation
        self.needs_gradients = self.needs_gradients or adaptation is not None
        self.prior: Prior | None = None
        self.loop = Loop(type(self).__name__)
        self._on_host = {"auto": None, "device": False, "host": True}[state]

    @property
    def operator(self) -> LinearOperator:
        """Return A."""
        return self.problem.operator

    @property
    def evaluations(self) -> int:
        """Return the network evaluations of the whole image that one reconstruction takes."""
        return 0

    def for_batch(self, batch: Batch) -> Solver:
        """Return the solver of a batch: this one where it fits, else a copy for its shapes that shares all else.

        Raises:
            InputError: operator or prior serve one shape only.
        """
        problem = self.problem.for_batch(batch)
        return self if problem is self.problem else self.replaced(problem, self.prior)

    def replaced(self, problem: Problem, prior: Prior | None) -> Self:
        """Return the solver of another problem, by another prior, that shares all else."""
        twin = copy.copy(self)
        twin._modules = self._modules.copy()
        twin.problem, twin.prior = problem, prior
        twin.lay_out()
        return twin

    def lay_out(self) -> None:
        """Set what follows from the problem: the prior of its images' shape."""
        if self.prior is not None:
            self.prior = self.prior.for_shape(self.operator.image_shape)

    @abstractmethod
    def solve(self, y: Tensor, generator: Generators) -> Tensor:
        """Turn measurements ``(B, ...)`` into images ``(B, C, H, W)``, with one random stream an image."""

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Leave the batch on the host where the solve shall keep its state there; everything of a solve is where its batch is."""
        if self._on_host is None:
            self._on_host = self._exceeds_memory(len(batch.index) * self.samples, device)
        return batch if self._on_host else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _exceeds_memory(self, count: int, device: torch.device) -> bool:
        """Check whether the state of so many volumes leaves too little of a device's memory."""
        if not self.operator.volumetric or device.type == "cpu":
            return False
        needed, free = 4 * ARRAYS * count * math.prod(self.operator.image_shape), free_memory(device)
        if needed > SHARE * free:
            log.warning(
                "padis_lightning: a solve keeps up to %.2g GiB, %.2g GiB are free on %s: its state stays on the host",
                needed / 2**30,
                free / 2**30,
                device,
            )
        return needed > SHARE * free

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Reconstruction:
        """Measure where no measurement is given, and solve; a trainer's half precision is the network's alone."""
        kind = self.device.type
        half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        with torch.autocast(kind, enabled=False), network_precision(half), evaluations_shown(self.loop.visible):
            return self.reconstruct(batch)

    def reconstruct(self, batch: Batch) -> Reconstruction:
        """Solve for every sample of every image by the solver that fits, and return them with their residual."""
        if self.adaptation is not None:
            return self.adaptation.reconstruct(self, batch)
        return self.for_batch(batch).reconstruct_fitted(batch)

    def measured(self, batch: Batch) -> Tensor:
        """Return the measurement of a batch that fits, simulated where there is none."""
        y = batch.measurement
        if y is None:
            assert batch.image is not None
            y = self.problem.measure(batch.image, Generators.keyed(self.seed, batch.index.tolist(), MEASURE))
        return self.operator.zero_unmeasured(y)

    def reconstruct_fitted(self, batch: Batch) -> Reconstruction:
        """Do so by this solver, which fits, with its prior as it is."""
        indices, y = batch.index.tolist(), self.measured(batch)
        drawn, seconds = self.solve_in_time(y.repeat_interleave(self.samples, 0), indices)
        drawn = drawn.unflatten(0, (-1, self.samples))
        estimate = drawn.mean(1) if self.samples > 1 else drawn[:, 0]
        kept = drawn if self.samples > 1 else None
        evaluations = self.samples * self.evaluations
        residual = self.problem.residual(estimate, y)
        return Reconstruction(estimate, y, residual, seconds, evaluations, kept, self.failures(drawn))

    def solve_in_time(self, y: Tensor, indices: list[int]) -> tuple[Tensor, float]:
        """Solve for every sample of every image; return the images, not finite where they diverged, and seconds an image."""
        start = time.perf_counter()
        purposes = [SOLVE + 2 * k for k in range(self.samples)]  # the first sample's stream is that of a run with one
        generator = Generators(seeded(self.seed, index, purpose) for index in indices for purpose in purposes)
        self.loop.begin(indices)
        try:
            estimate = self.solve(y, generator)
        except FloatingPointError:
            if len(self.loop.diverged) < len(y):
                raise
            estimate = y.new_full((len(y), *self.operator.image_shape), math.nan)
        if estimate.is_cuda:
            torch.cuda.synchronize(estimate.device)
        return estimate, (self.loop.seconds + time.perf_counter() - start) / len(indices)

    @property
    def reference(self) -> Reference | None:
        """Return what images the prior knows, or None where it does not say."""
        return getattr(self.prior, "reference", None)

    def distance(self, estimate: Tensor, batch: Batch) -> Tensor | None:
        """Return how far each estimate of a batch lies from what the prior knows, ``(B,)``, by three evaluations.

        None of volumes, and where the prior does not say what it knows of images of this size.
        """
        fitted = self.for_batch(batch)
        if fitted.prior is None or fitted.reference is None or estimate.ndim == 5:
            return None
        generator = Generators.keyed(self.seed, batch.index.tolist(), DISTANCE)
        with torch.no_grad():
            return fitted.reference.distance(denoising_errors(fitted.prior, estimate, generator))

    def failures(self, drawn: Tensor) -> list[str | None]:
        """Say for each image of ``(B, K, C, H, W)`` why it is no reconstruction; None for those that are."""
        finite = torch.isfinite(drawn.flatten(2).sum(2)).tolist()
        other = f"{type(self).__name__} is not finite"
        return [
            None if all(row) else self.loop.diverged.get(i * self.samples + row.index(False), other)
            for i, row in enumerate(finite)
        ]
