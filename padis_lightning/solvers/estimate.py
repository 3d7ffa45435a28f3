"""What a volume will take before it is solved: the time, from some of the work, and the memory."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from padis_lightning.linalg import conjugate_gradient
from padis_lightning.memory import Held, bytes_of, device_of, free_memory, on_device_of
from padis_lightning.operators.slices import TOGETHER, Slices
from padis_lightning.priors import PatchPrior, Prior, SlicePrior
from padis_lightning.random import Generators

if TYPE_CHECKING:
    from padis_lightning.solvers.base import Solver

MEASUREMENTS = 3  # arrays of the size of a measurement: itself, and in float64
ASIDE = 4  # arrays that a solver keeps during a proximal step
ITERATIONS = 2  # of conjugate gradients on which a product is timed

Memory = Counter[torch.device]


class Estimate(NamedTuple):
    """The time and the memory of a batch of volumes.

    Attributes:
        count: volumes, every sample for itself.
        evaluations: of the network, for each.
        evaluation: seconds of one.
        products: with the operator or its adjoint, for each.
        product: seconds of one.
        memory: bytes on each device, with the weights.
        weights: of these, what is there already.
    """

    count: int
    evaluations: int
    evaluation: float
    products: int
    product: float
    memory: Memory
    weights: Memory

    @property
    def seconds(self) -> float:
        """Of all volumes together."""
        return self.count * (self.evaluations * self.evaluation + self.products * self.product)

    def sentence(self, image_shape: tuple[int, ...]) -> str:
        """A line for the start of a run; where more is needed than there is, also how much there is."""
        what = f"a volume of {'x'.join(map(str, image_shape[1:]))}"
        if self.count > 1:
            what = f"{self.count} volumes of {'x'.join(map(str, image_shape[1:]))} at once"
        work = [
            f"{number} {name} of {_duration(seconds)}"
            for number, name, seconds in (
                (self.evaluations, "evaluations", self.evaluation),
                (self.products, "projections", self.product),
            )
            if number
        ]
        each = " each" if self.count > 1 else ""
        return f"{what}: about {_duration(self.seconds)} ({', '.join(work)}{each}), {', '.join(map(self._place, self.memory))}"

    def _place(self, device: torch.device) -> str:
        needed, free = self.memory[device], free_memory(device) + self.weights[device]
        short = f" of {free / 2**30:.2g} free" if needed > free else ""
        return f"{needed / 2**30:.2g} GiB{short} on {'the host' if device.type == 'cpu' else device}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def state_bytes(solver: Solver, count: int) -> float:
    """What a solve of ``count`` volumes holds at its peak beside the memory that the network and the operator work in."""
    volume, measurement = math.prod(solver.state_shape), math.prod(solver.operator.measurement_shape)
    return 4 * count * (solver.arrays * volume + MEASUREMENTS * measurement)


@torch.no_grad()
def estimate_of(solver: Solver, y: Tensor) -> Estimate:
    """Of the volumes of which ``y`` ``(B, ...)`` are the measurements, from some slices of each part of the work.

    Nothing that the solver draws from or decides by is touched.
    """
    count, here, prior = len(y), y.device, getattr(solver, "prior", None)
    evaluation = 0.0 if prior is None else solver.passes * _evaluation(prior, y)
    product, working = _product(solver, y) if solver.products else (0.0, Memory())
    network = Memory() if prior is None else _network(prior, count, here, solver.needs_gradients)
    held = state_bytes(solver, count)
    memory = (network + Memory({here: 0})) | working  # the larger of the two, device by device
    memory[here] += held
    if solver.products_in == "proximal steps" and not isinstance(solver.operator, Slices):
        during = count * (working[here] + 4 * ASIDE * math.prod(solver.state_shape))
        memory[here] = max(network[here] + held, during)
    weights = Memory(bytes_of(solver))
    return Estimate(count, solver.evaluations, evaluation, solver.products, product, memory + weights, weights)


def _clock(compute: Callable[[], object], device: torch.device | None) -> float:
    start = time.perf_counter()
    compute()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _evaluation(prior: Prior, y: Tensor) -> float:
    """Seconds of the denoiser on one canvas."""
    streams, canvas = Generators.keyed(0, [0]), y.new_full((1, *prior.canvas_shape), 0.5)
    warm, compute, share = None, lambda: prior(canvas, 1.0, streams), 1.0
    if isinstance(prior, SlicePrior):
        depth = canvas.shape[2]
        some = canvas[:, :, : max(TOGETHER, prior.least)]
        warm, share = lambda: prior(canvas[:, :, : prior.least], 1.0, streams), depth / some.shape[2]
        compute = lambda: prior(some, 1.0, streams)  # noqa: E731
    elif isinstance(prior, PatchPrior):
        compute, share = prior.some(canvas)
        warm = compute
    if warm is not None:
        warm()
    seconds = share * _clock(compute, device_of(prior))
    for part in prior.modules():
        if isinstance(part, PatchPrior):
            part.forget()
    return seconds


def _product(solver: Solver, y: Tensor) -> tuple[float, Memory]:
    """Seconds of a product of one volume, within iterations, and the memory that it works in."""
    operator, slices, share = solver.operator, 1, 1.0
    if isinstance(operator, Slices):
        slices, operator = min(TOGETHER, operator.depth), operator.operator
        share = solver.operator.depth / slices
    x, y = (y.new_full((slices, *shape), 0.5) for shape in (operator.image_shape, operator.measurement_shape))

    def proximal(x: Tensor, y: Tensor) -> Tensor:
        return operator.double_prox(x, y, 1.0, None, ITERATIONS)

    def iterations(x: Tensor, y: Tensor) -> Tensor:
        return conjugate_gradient(operator.normal, x, x, ITERATIONS)

    if solver.products_in == "proximal steps":
        number, timed, tracked = solver.proximal(ITERATIONS), proximal, proximal
    else:
        number, timed, tracked = 2 * (ITERATIONS + 1), iterations, lambda x, y: operator.normal(x)
    if solver.products_in == "float64":
        x, y = x.double(), y.double()
    if isinstance(solver.operator, Slices):
        timed, tracked = on_device_of(operator, timed), on_device_of(operator, tracked)
    with Held() as held:
        tracked(x, y)
    return share / number * _clock(lambda: timed(x, y), device_of(operator)), held.most


def _network(prior: Prior, count: int, here: torch.device, gradient: bool) -> Memory:
    """The memory that an evaluation works in."""
    memory = Memory({here: round(4 * count * prior.arrays * math.prod(prior.canvas_shape))})
    of, images = (prior.prior, min(TOGETHER, count * prior.image_shape[1])) if isinstance(prior, SlicePrior) else (prior, count)
    if isinstance(of, PatchPrior):
        there = device_of(of.denoiser) or here
        memory[there] += of.call_bytes(images, there, gradient)
        if of is not prior:
            memory[there] += round(4 * images * of.arrays * math.prod(of.canvas_shape))
        of.forget()
    return memory
