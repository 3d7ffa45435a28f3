"""Adapt the prior to one measurement while it is solved."""

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from padis_lightning.data.notes import note
from padis_lightning.errors import InputError, require_above, require_at_least, require_between
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.loop import Loop
from padis_lightning.types import Batch, Reconstruction

if TYPE_CHECKING:
    from padis_lightning.solvers.base import Solver

ADAPT = 4  # purpose of an image's random stream
LEVELS = 1 / 30, 1 / 2  # that are learnt, in units of the root mean square of clean images
WARM_UP, CLIP = 5, 1.0  # steps until the learning rate is reached; largest norm of a gradient
ITERATIONS = 8  # of the proximal step, which is that of PnPADMM
HALVED = 4  # one step of so many learns the estimate at half its size
SHARE = 0.8  # of the share that held-out rows ask for; they are few, and what the operator gets wrong is in all rows


class Adaptation:
    r"""Refine a copy of the prior on the measurement that it solves, and mix what both find; the prior stays what it is.

    .. math:: \min_\theta \; E_{\sigma, z} \; w(\sigma) \, \|D_\theta(\hat x + \sigma z; \sigma) - t\|^2, \quad
        t = (1 - \mu) \, \mathrm{prox}_A(D_\theta(\hat x + \sigma z; \sigma)) + \mu \, \hat x, \quad \ln \sigma \sim U

    with EDM's weight w and no gradient through t: the denoised image shall be one that the measurement does not move, near the
    estimate :math:`\hat x`. One step of four has the estimate at half its size for both :math:`\hat x` and t. Some rows H of the
    measurement (of scans: views, of samples off the grid: coils) are held out from both the estimate and the proximal step. After
    each round the copy solves for the other rows, too, and :math:`\hat x` becomes the mixture of both estimates. In the end both
    solve for the whole measurement, and the same mixture of that is the result:

    .. math:: (1 - a) \, x_0 + a \, x_1, \quad a = 0.8 \, \mathrm{clip}_{[0, 1]} \frac{\langle A_H (x_1 - x_0), \; y_H - A_H x_0
        \rangle}{\|A_H (x_1 - x_0)\|^2}

    with :math:`x_0` of the prior and :math:`x_1` of its copy. The fraction is the share that explains best what was held out.
    Every image of a batch begins with the weights of the prior.

    Source: Hu et al., Test-time adaptation improves inverse problem solving with patch-based diffusion models, IEEE TCI 2025;
    Barbano et al., Steerable conditional diffusion for out-of-distribution adaptation in medical image reconstruction, IEEE TMI
    2025, for refining weights on the residual of a measurement; Yaman et al., Zero-shot self-supervised learning for MRI
    reconstruction, ICLR 2022, for the part that is held out; Glasner, Bagon and Irani, Super-resolution from a single image, ICCV
    2009, for patches that recur at half the size; Breiman, Stacked regressions, Machine Learning 1996, for the mixture.

    Args:
        steps: of Adam, each on the whole image at one level.
        rounds: in which they are taken; each ends with a solve that renews the estimate.
        lr: learning rate, which falls to 0 along a cosine.
        own: :math:`\mu`, share of the estimate in the target.
        held_out: one row of so many is held out.
        least: rows below which the prior stays as it is, and a line says so: too few are held out to tell what is better.
    """

    def __init__(
        self, steps: int = 60, rounds: int = 3, lr: float = 1e-3, own: float = 0.3, held_out: int = 5, least: int = 8
    ) -> None:
        require_at_least(1, steps=steps, rounds=rounds)
        require_above(0, lr=lr)
        require_between(0, 1, own=own)
        require_at_least(2, held_out=held_out, least=least)
        self.steps, self.rounds, self.lr, self.own, self.held_out, self.least = steps, rounds, lr, own, held_out, least

    def reconstruct(self, solver: Solver, batch: Batch) -> Reconstruction:
        """Solve for each image of a batch by a prior of its own."""
        solver = solver.for_batch(batch)
        batch = batch._replace(measurement=solver.measured(batch))
        solver.loop.begin(batch.index.tolist())  # what a batch keeps has a name; nothing is kept of these solves
        alone = (solver.replaced(solver.problem.of_image(k), solver.prior) for k in range(len(batch.index)))
        found = [self._one(one, _of_batch(batch, k)) for k, one in enumerate(alone)]
        return Reconstruction(
            estimate=torch.cat([one.estimate for one in found]),
            measurement=_joined([one.measurement for one in found]),
            residual=_joined([one.residual for one in found]),
            seconds=sum(one.seconds for one in found) / len(found),
            evaluations=max(one.evaluations for one in found),
            samples=_joined([one.samples for one in found]),
            failures=[reason for one in found for reason in one.failures or [None]],
        )

    def _one(self, solver: Solver, batch: Batch) -> Reconstruction:
        """Solve for one image: refine without what is held out, and mix what the prior and its copy find for all."""
        start = time.perf_counter()
        y, prior = solver.measured(batch), adaptable(solver)
        rows, together = range(y.shape[-2]), solver.operator.rows_together
        least = max(self.least, 2 * together)
        if len(rows) < least:
            note(f"the measurement has {len(rows)} rows; wanted {least} to adapt the prior, which stays as it is")
            return self._solve(solver, solver.problem, prior, batch, solver.samples, observed=True)
        count = len(rows) // together
        groups = [k for k in range(count) if k % self.held_out == self.held_out // 2] or [count // 2]
        held = [k for k in rows if k // together in groups]
        kept = [k for k in rows if k not in held]
        part, problem = batch._replace(measurement=y[..., kept, :], weights=None), solver.problem.of_rows(kept)
        counted = torch.ones_like(y) if batch.weights is None else (batch.weights > 0).expand_as(y).to(y)

        def left(x: Tensor) -> Tensor:
            return (counted * (y - solver.operator(x)))[..., held, :].double()

        plain = x = self._solve(solver, problem, prior, part).estimate
        generator = Generators.keyed(solver.seed, batch.index.tolist(), ADAPT)
        learner = _Learner(self, prior, problem, y[..., kept, :], generator)
        share, evaluations, rounds = 0.0, solver.evaluations + self.steps, min(self.rounds, self.steps)
        for k in range(rounds):
            steps = self.steps * (k + 1) // rounds - self.steps * k // rounds
            if not learner.learn(x, steps, solver.loop.fresh("adaptation")):
                share = 0.0
                break
            there = self._solve(solver, problem, learner.twin, part).estimate
            share = SHARE * _best_share(left(plain), left(there))
            x = torch.lerp(plain, there, share) if share else plain
            evaluations += solver.evaluations
        found = self._solve(solver, solver.problem, prior, batch, solver.samples, observed=not share)
        evaluations += found.evaluations
        if share:
            adapted = self._solve(solver, solver.problem, learner.twin, batch, solver.samples, observed=True)
            evaluations += adapted.evaluations
            found = _mixed(found, adapted, share, solver.problem) if bool(adapted.estimate.isfinite().all()) else found
        return found._replace(seconds=time.perf_counter() - start, evaluations=evaluations)

    def _solve(
        self, solver: Solver, problem: Problem, prior: Prior, batch: Batch, samples: int = 1, observed: bool = False
    ) -> Reconstruction:
        """Solve by this prior."""
        twin = solver.replaced(problem, prior)
        twin.loop, twin.samples = solver.loop.fresh(observed=observed), samples
        return twin.reconstruct_fitted(batch)


class _Learner:
    """Refines a copy of a prior, ``twin``, on one measurement and estimates of it, round by round."""

    def __init__(self, options: Adaptation, prior: Prior, problem: Problem, y: Tensor, generator: Generators) -> None:
        from padis_lightning.solvers.plug_and_play import PnPADMM  # a solver, which may have an adaptation itself

        self.options, self.y, self.generator = options, y, generator
        self.splitting = PnPADMM(prior, problem, iterations=ITERATIONS)
        self.noise = self.splitting.noise(y)
        self.twin = copy.deepcopy(prior)
        self.parameters = list(self.twin.parameters())
        self.optimizer = Adam(self.parameters, lr=options.lr, betas=(0.9, 0.99))
        self.schedule = LambdaLR(self.optimizer, self._factor)
        self.step = 0

    def learn(self, x: Tensor, steps: int, loop: Loop) -> bool:
        """Take so many steps with the estimate x ``(1, C, H, W)``; return whether the weights are finite."""
        self.twin.requires_grad_(True)
        for _ in loop(range(steps), {"x": x}, self.generator):
            self.step += 1
            loss = self._loss(_halved(x), alone=True) if self.step % HALVED == 0 else self._loss(x)
            self.optimizer.zero_grad()
            loss.backward()
            if not torch.isfinite(torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)):
                return False
            self.optimizer.step()
            self.schedule.step()
        self.twin.requires_grad_(False)
        return True

    def _loss(self, x: Tensor, alone: bool = False) -> Tensor:
        """Return the weighted error of one denoised image, whose target is x alone or has the data's share, too."""
        low, high = (level * self.twin.sigma_data for level in LEVELS)
        share = float(torch.rand((), generator=self.generator.generators[0], dtype=torch.float64))
        sigma = min(low * (high / low) ** share, self.twin.highest)
        with torch.enable_grad():
            denoised = self.twin.on_images(x + sigma * self.generator.normal(x), sigma, self.generator)
            target = x
            if not alone:
                penalty = self.splitting.penalty_at(sigma, self.noise)
                target = torch.lerp(self.splitting.data_step(denoised.detach(), self.y, penalty), x, self.options.own)
            return (1 / sigma**2 + 1 / self.twin.sigma_data**2) * (denoised - target).square().mean()

    def _factor(self, step: int) -> float:
        """Return the share of the learning rate at a step."""
        return min(1.0, (step + 1) / WARM_UP) * math.cos(math.pi / 2 * min(step / self.options.steps, 1)) ** 2


def _best_share(before: Tensor, after: Tensor) -> float:
    """Return the share of the second residual in the mixture of least norm, within [0, 1]; 0 where that says nothing."""
    moved = before - after
    share = float((moved * before).sum() / moved.square().sum())
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0


def _mixed(plain: Reconstruction, adapted: Reconstruction, share: float, problem: Problem) -> Reconstruction:
    """Return the mixture of two results, with its residual."""
    assert plain.measurement is not None
    estimate = torch.lerp(plain.estimate, adapted.estimate, share)
    samples = None
    if plain.samples is not None and adapted.samples is not None:
        samples = torch.lerp(plain.samples, adapted.samples, share)
    return plain._replace(estimate=estimate, samples=samples, residual=problem.residual(estimate, plain.measurement))


def _halved(x: Tensor) -> Tensor:
    """Return images at half their size, in the middle of zeros."""
    small = functional.avg_pool2d(x, 2)
    down, across = (n - m for n, m in zip(x.shape[-2:], small.shape[-2:], strict=True))
    return functional.pad(small, (across // 2, across - across // 2, down // 2, down - down // 2))


def adaptable(solver: Solver) -> Prior:
    """Return the prior of a solver.

    Raises:
        InputError: it has no weights, or denoises volumes; or the solver has no rows to hold out.
    """
    from padis_lightning.solvers.ancestral import Ancestral  # solvers, which may have an adaptation themselves
    from padis_lightning.solvers.denoising import DenoisingSolver

    prior = solver.prior
    if prior is None:
        raise InputError(f"{type(solver).__name__} has no prior; wanted a solver with one, or no adaptation")
    if prior.volumetric or not any(True for _ in prior.parameters()):
        kind = "denoises volumes" if prior.volumetric else "has no weights"
        raise InputError(f"{type(prior).__name__} {kind}; wanted a network of images to adapt, or no adaptation")
    if isinstance(solver, (Ancestral, DenoisingSolver)):
        raise InputError(f"{type(solver).__name__} holds no rows of a measurement out; wanted another solver, or no adaptation")
    return prior


def _of_batch(batch: Batch, k: int) -> Batch:
    """Return the k-th image of a batch as a batch."""
    tensors = (part if part is None else part[k : k + 1] for part in (batch.image, batch.measurement, batch.weights))
    return Batch(batch.index[k : k + 1], batch.name[k : k + 1], batch.group[k : k + 1], *tensors)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """Return the values of single images as those of a batch, where there are any."""
    return torch.cat([part for part in parts if part is not None]) if parts[0] is not None else None
