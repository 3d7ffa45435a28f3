"""Adapt the prior to one measurement while it is solved."""

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from padis_lightning.data.notes import note
from padis_lightning.errors import InputError, require_above, require_at_least, require_between
from padis_lightning.linalg import norm
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.loop import Loop
from padis_lightning.types import Batch, Reconstruction

if TYPE_CHECKING:
    from padis_lightning.solvers.base import Solver

ADAPT = 4  # purpose of an image's random stream
LEVELS = 1 / 30, 1.0  # that are learnt, in units of the root mean square of clean images
WARM_UP, CLIP = 5, 1.0  # steps until the learning rate is reached; largest norm of a gradient
ITERATIONS = 8  # of the proximal step, which is that of PnPADMM


class Adaptation:
    r"""Refine a copy of the prior on the measurement that it solves, and solve again; the prior stays what it is.

    .. math:: \min_\theta \; E_{\sigma, z} \; w(\sigma) \, \|D_\theta(\hat x + \sigma z; \sigma) - t\|^2, \quad
        t = (1 - \mu) \, \mathrm{prox}_A(D_\theta(\hat x + \sigma z; \sigma)) + \mu \, \hat x, \quad \ln \sigma \sim U

    with EDM's weight w and no gradient through t: the denoised image shall be one that the measurement does not move, near the
    estimate :math:`\hat x`. Some rows of the measurement (of scans: views) are held out from both the estimate and the proximal
    step. The copy then solves for the same rows as :math:`\hat x`; if it explains what was held out better, it solves for the
    whole measurement, else the prior does. Every image of a batch begins with the weights of the prior.

    Source: Hu et al., Test-time adaptation improves inverse problem solving with patch-based diffusion models, IEEE TCI 2025;
    Barbano et al., Steerable conditional diffusion for out-of-distribution adaptation in medical image reconstruction, IEEE TMI
    2025, for refining weights on the residual of a measurement; Yaman et al., Zero-shot self-supervised learning for MRI
    reconstruction, ICLR 2022, for the part that is held out.

    Args:
        steps: of Adam, each on the whole image at one level.
        lr: learning rate, which falls to 0 along a cosine.
        own: :math:`\mu`, share of the estimate in the target.
        held_out: one row of so many is held out.
        least: rows below which the prior stays as it is, and a line says so: too few are held out to tell what is better.
    """

    def __init__(self, steps: int = 40, lr: float = 1e-3, own: float = 0.6, held_out: int = 5, least: int = 12) -> None:
        require_at_least(1, steps=steps)
        require_above(0, lr=lr)
        require_between(0, 1, own=own)
        require_at_least(2, held_out=held_out, least=least)
        self.steps, self.lr, self.own, self.held_out, self.least = steps, lr, own, held_out, least

    def reconstruct(self, solver: Solver, batch: Batch) -> Reconstruction:
        """Solve for each image of a batch by a prior of its own."""
        if batch.measurement is None:
            batch = batch._replace(measurement=solver.for_batch(batch).measured(batch))
        solver.loop.begin(batch.index.tolist())  # what a batch keeps has a name; nothing is kept of these solves
        found = [self._one(solver, _of_batch(batch, k)) for k in range(len(batch.index))]
        return Reconstruction(
            estimate=torch.cat([one.estimate for one in found]),
            measurement=_joined([one.measurement for one in found]),
            residual=_joined([one.residual for one in found]),
            seconds=sum(one.seconds for one in found) / len(found),
            evaluations=found[0].evaluations,
            samples=_joined([one.samples for one in found]),
            failures=[reason for one in found for reason in one.failures or [None]],
        )

    def _one(self, solver: Solver, batch: Batch) -> Reconstruction:
        """Solve for one image: by the prior without what is held out, by its copy, and by the better one for all."""
        start, solver = time.perf_counter(), solver.for_batch(batch)
        y, prior = solver.measured(batch), adaptable(solver)
        rows = range(y.shape[-2])
        if len(rows) < self.least:
            note(f"the measurement has {len(rows)} rows; wanted {self.least} to adapt the prior, which stays as it is")
            return self._solve(solver, solver.problem, prior, batch, last=True)
        held = [k for k in rows if k % self.held_out == self.held_out // 2] or [len(rows) // 2]
        kept = [k for k in rows if k not in held]
        part = batch._replace(measurement=y[..., kept, :], weights=None)
        problem = solver.problem.of_rows(kept)
        plain = self._solve(solver, problem, prior, part).estimate
        generator = Generators.keyed(solver.seed, batch.index.tolist(), ADAPT)
        learnt = self.refined(prior, problem, plain, y[..., kept, :], generator, solver.loop.fresh("adaptation"))
        if learnt is not None:
            there = self._solve(solver, problem, learnt, part).estimate
            counted = torch.ones_like(y) if batch.weights is None else (batch.weights > 0).expand_as(y).to(y)
            before, after = (float(norm((counted * (solver.operator(x) - y))[..., held, :])) for x in (plain, there))
            prior = learnt if after < before else prior
        found = self._solve(solver, solver.problem, prior, batch, last=True)
        evaluations = found.evaluations + 2 * solver.evaluations + self.steps
        return found._replace(seconds=time.perf_counter() - start, evaluations=evaluations)

    def _solve(self, solver: Solver, problem: Problem, prior: Prior, batch: Batch, last: bool = False) -> Reconstruction:
        """Solve by this prior; what is asked of the solver's result is asked of the last one."""
        twin = solver.replaced(problem, prior)
        twin.loop = solver.loop.fresh(observed=last)
        twin.samples = solver.samples if last else 1
        return twin.reconstruct_fitted(batch)

    def refined(self, prior: Prior, problem: Problem, x: Tensor, y: Tensor, generator: Generators, loop: Loop) -> Prior | None:
        """Return a copy of the prior that was refined on one measurement and its estimate; None where that diverged."""
        from padis_lightning.solvers.plug_and_play import PnPADMM  # a solver, which may have an adaptation itself

        splitting = PnPADMM(prior, problem, iterations=ITERATIONS)
        noise = splitting.noise(y)
        twin = copy.deepcopy(prior)
        parameters = [parameter.requires_grad_(True) for parameter in twin.parameters()]
        optimizer = Adam(parameters, lr=self.lr, betas=(0.9, 0.99))
        schedule = LambdaLR(optimizer, self._factor)
        low, high = (level * prior.sigma_data for level in LEVELS)
        stream = generator.generators[0]
        for _ in loop(range(self.steps), {"x": x}, generator):
            share = float(torch.rand((), generator=stream, dtype=torch.float64))
            sigma = min(low * (high / low) ** share, prior.highest)
            with torch.enable_grad():
                denoised = twin.on_images(x + sigma * generator.normal(x), sigma, generator)
            fitted = splitting.data_step(denoised.detach(), y, splitting.penalty_at(sigma, noise))
            target = torch.lerp(fitted, x, self.own)
            with torch.enable_grad():
                loss = (1 / sigma**2 + 1 / prior.sigma_data**2) * (denoised - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if not torch.isfinite(torch.nn.utils.clip_grad_norm_(parameters, CLIP)):
                return None
            optimizer.step()
            schedule.step()
        return twin.requires_grad_(False)

    def _factor(self, step: int) -> float:
        return min(1.0, (step + 1) / WARM_UP) * math.cos(math.pi / 2 * min(step / self.steps, 1)) ** 2


def adaptable(solver: Solver) -> Prior:
    """Return the prior of a solver.

    Raises:
        InputError: it has no weights, or denoises volumes.
    """
    prior = solver.prior
    if prior is None:
        raise InputError(f"{type(solver).__name__} has no prior; wanted a solver with one, or no adaptation")
    if prior.volumetric or not any(True for _ in prior.parameters()):
        kind = "denoises volumes" if prior.volumetric else "has no weights"
        raise InputError(f"{type(prior).__name__} {kind}; wanted a network of images to adapt, or no adaptation")
    return prior


def _of_batch(batch: Batch, k: int) -> Batch:
    """Return the k-th image of a batch as a batch."""
    tensors = (part if part is None else part[k : k + 1] for part in (batch.image, batch.measurement, batch.weights))
    return Batch(batch.index[k : k + 1], batch.name[k : k + 1], batch.group[k : k + 1], *tensors)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """Return the values of single images as those of a batch, where there are any."""
    return torch.cat([part for part in parts if part is not None]) if parts[0] is not None else None
