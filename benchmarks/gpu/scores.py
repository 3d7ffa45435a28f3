"""(b) and (c): how fast whole images are denoised and reconstructed, against the published way."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.contract import convolutions, relative_error, stirred
from benchmarks.gpu.runner import LATE, Context, Measurement, Row, skipped
from benchmarks.paper.costs import untrained
from benchmarks.timing import synchronise, turns
from benchmarks.training.speed import product
from benchmarks.training.steps import PAPER, plain_denoised
from padis_lightning.diffusion import PatchModel
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import PatchPrior
from padis_lightning.random import Generators, seeded
from padis_lightning.solvers import Solver
from padis_lightning.solvers.dps import DPS
from padis_lightning.solvers.plug_and_play import PnPADMM

SIGMA, TURNS = 0.1, 10
BATCHES = (1, 4, 16)
TO_COMPILE = 40.0  # seconds that are left where a compilation begins, which nothing can stop
FASTER = 10.0  # times, what the score of one image is to be against the published way
Score = Callable[[Tensor, Generators], Tensor]


def paper_model(tiny: bool) -> PatchModel:
    """Return the paper's network and partition of 256x256 images with weights at random."""
    network = DDPMpp(base=8, multipliers=[1, 2], blocks=1) if tiny else DDPMpp(base=PAPER)
    return untrained(stirred(network), *((32, 16) if tiny else (256, 56)))


# (b)


@dataclass(frozen=True)
class Way:
    """A way to compute the score.

    Args:
        published: the network called with channels-first inputs; else by ``PatchPrior``.
        tf32: convolutions in TF32 where it is float32.
        precision: that of ``PatchPrior``.
        cast: weights and activations are bfloat16, rather than cast where autocast says so.
        channels_last: weights are channels-last.
        graph: the network is replayed as a CUDA graph.
        compiled: the network is compiled.
    """

    published: bool = False
    tf32: bool = True
    precision: str = "float32"
    cast: bool = False
    channels_last: bool = False
    graph: bool = False
    compiled: bool = False


PUBLISHED = "published, float32"
FAST = {"channels_last": True, "cast": True}
WAYS = {
    PUBLISHED: Way(published=True, tf32=False),
    "published, TF32": Way(published=True),
    "float32": Way(tf32=False),
    "TF32": Way(),
    "bfloat16": Way(precision="bfloat16"),
    "bfloat16, channels-last weights": Way(precision="bfloat16", channels_last=True),
    "bfloat16 throughout, channels-last": Way(**FAST),
    "bfloat16 throughout, channels-last, CUDA graph": Way(**FAST, graph=True),
    "bfloat16, channels-last weights, compiled": Way(precision="bfloat16", channels_last=True, compiled=True),
    "bfloat16 throughout, channels-last, compiled": Way(**FAST, compiled=True),
}


class Graphed:
    """A function of tensors that is replayed as a CUDA graph, one for each shape; its result is overwritten by the next call."""

    def __init__(self, compute: Callable[..., Tensor]) -> None:
        self.compute, self.kept = compute, {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        if inputs[0].shape not in self.kept:
            self.kept[inputs[0].shape] = self._capture([value.clone() for value in inputs])
        graph, held, output = self.kept[inputs[0].shape]
        for place, value in zip(held, inputs, strict=True):
            place.copy_(value)
        graph.replay()
        return output

    def _capture(self, held: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their kernels and take their memory
                self.compute(*held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.compute(*held)
        return graph, held, output


def _cast(network: nn.Module) -> Callable[..., Tensor]:
    """Bring a network into bfloat16; return its forward pass of inputs that are cast."""
    forward = network.bfloat16().forward
    return lambda x, noise: forward(x.bfloat16(), noise.bfloat16())


def score_by(way: Way, model: PatchModel, device: str) -> Score:
    """Return what computes the score of canvases, ``(B, C, H, W)`` with a stream an image, in one way."""
    prior = PatchPrior(copy.deepcopy(model), precision=way.precision).to(device)
    network = prior.denoiser.network.to(memory_format=torch.channels_last if way.channels_last else torch.contiguous_format)
    if way.cast:
        network.forward = _cast(network)
    if way.graph:
        network.forward = Graphed(network.forward)
    if way.compiled:
        network.compile(dynamic=False)
    return partial(published_score, prior) if way.published else lambda x, generator: prior.score(x, SIGMA, generator)


def published_score(prior: PatchPrior, x: Tensor, generator: Generators) -> Tensor:
    """Compute the score with the network called as it was published."""
    tiles, (patches, levels, positions) = prior._cut(x, SIGMA, generator, None)
    denoised = plain_denoised(prior.denoiser, patches, levels[:, None, None, None], positions)
    return (tiles.join(denoised) - x) / SIGMA**2


@dataclass
class Scores:
    """Scores are timed one way after the other; what the published way gives is what others are compared with.

    Args:
        context: where.
    """

    context: Context
    model: PatchModel = field(init=False)
    expected: dict[int, Tensor] = field(default_factory=dict)
    rates: dict[tuple[str, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = paper_model(self.context.tiny)
        count = math.prod(
            (n + m) // self.model.patch_sizes[-1] for n, m in zip(self.model.image_shape[1:], self.model.pad, strict=True)
        )
        self.operations = count * self.model.denoiser.network.operations(self.model.patch_sizes[-1])

    @torch.inference_mode()
    def timed(self, name: str) -> Iterator[Row]:
        """Yield the images a second of a way, batch by batch."""
        way, device = WAYS[name], self.context.device
        score = score_by(way, self.model, device)
        with convolutions(way.tf32):
            for batch in (1, 2) if self.context.tiny else BATCHES:
                late = self.context.left <= 0
                yield skipped(f"{name}, batch {batch}", LATE) if late else self._row(name, batch, score)

    def _row(self, name: str, batch: int, score: Score) -> Row:
        device, (channels, *sides) = self.context.device, self.model.image_shape
        canvas = [n + 2 * m for n, m in zip(sides, self.model.pad, strict=True)]
        x = torch.rand(batch, channels, *canvas, generator=seeded(0)).to(device)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        found = score(x, Generators.keyed(0, range(batch))).float()
        synchronise(device)
        first = time.perf_counter() - start
        expected = self.expected.setdefault(batch, found)
        generator = Generators.keyed(1, range(batch))
        run = {name: lambda: score(x, generator)}
        seconds = median(turns(run, 1 if self.context.tiny else TURNS, device, self.context.deadline)[name])
        rate = self.rates[name, batch] = batch / seconds
        details: dict[str, Any] = {"evaluations": batch, "seconds": seconds, "first_seconds": first}
        details["tflops"] = batch * self.operations / seconds / 1e12
        details["share_of_bf16_rate"] = self.context.share_of_rate(batch * self.operations, seconds)
        details["times_published"] = rate / self.rates[PUBLISHED, batch] if (PUBLISHED, batch) in self.rates else None
        details["difference_from_published"] = relative_error(found, expected) if name != PUBLISHED else None
        details["peak_bytes"] = torch.cuda.max_memory_allocated() if device == "cuda" else None
        return Row(f"{name}, batch {batch}", rate, "images/s", details)

    def summary(self) -> Iterator[Row]:
        """Yield how many times as fast as the published way the fastest is for one image, and which it is."""
        rates = {name: rate for (name, batch), rate in self.rates.items() if batch == 1}
        best = max(rates, key=rates.get)
        yield Row("fastest / published, batch 1", rates[best] / rates[PUBLISHED], "times", {"way": best, "goal": FASTER})


def matrix_rate(context: Context) -> Iterator[Row]:
    """Measure the rate of matrix products in bfloat16, which shares are of, and in float32."""
    side = 8192 if context.device == "cuda" and not context.tiny else 256
    for dtype in (torch.bfloat16, torch.float32):
        run = {"product": product(side, context.device, dtype)}
        seconds = median(turns(run, 5, context.device, context.deadline)["product"])
        rate = 6 * side**3 / seconds
        if dtype == torch.bfloat16:
            context.product_rate = rate
        name = f"matrix products of {side}x{side}, {str(dtype).removeprefix('torch.')}"
        yield Row(name, rate / 1e12, "TFLOP/s", {"operations": 6 * side**3, "seconds": seconds})


def no_compilation(context: Context) -> str | None:
    """Return why nothing is compiled now, or None."""
    if context.tiny:
        return "a tiny network is not compiled, which takes a minute"
    return f"{context.left:.0f} s were left; wanted {TO_COMPILE:g}" if context.left < TO_COMPILE else None


def score_measurements(context: Context) -> Iterator[Measurement]:
    """Yield each way, those that take minutes to begin with last."""
    yield "matrix products", partial(matrix_rate, context)
    scores = Scores(context)
    for name, way in WAYS.items():
        graph = "there are no CUDA graphs on a processor" if way.graph and context.device == "cpu" else None
        reason = graph or (no_compilation(context) if way.compiled else None)
        yield name, partial(iter, [skipped(name, reason)]) if reason else partial(scores.timed, name)
    yield "fastest / published", scores.summary


# (c)


class OutOfTimeError(Exception):
    """A solve has used its time."""


class Watch:
    """An observer of a solver's loop that counts steps and stops at a time.

    Args:
        until: by ``time.perf_counter``.
    """

    def __init__(self, until: float) -> None:
        self.until, self.steps, self.start = until, 0, time.perf_counter()

    def __call__(self, x: Tensor) -> None:
        synchronise(x.device.type)
        self.steps, self.seconds = self.steps + 1, time.perf_counter() - self.start
        if not torch.isfinite(x).all():
            raise FloatingPointError("the image is not finite; a time of it means nothing")
        if time.perf_counter() >= self.until:
            raise OutOfTimeError


@torch.no_grad()
def reconstruction(
    context: Context, name: str, make: Callable[[PatchPrior, ParallelBeam], Solver], precision: str
) -> Iterator[Row]:
    """Yield the seconds of one image; what does not fit the time follows from the steps that do."""
    prior = PatchPrior(paper_model(context.tiny), precision="bfloat16" if precision == "bfloat16" else "float32").to(
        context.device
    )
    operator = ParallelBeam(prior.image_shape[-1], 20).to(context.device)
    solver = make(prior, operator).to(context.device)
    y = operator(torch.full((1, *prior.image_shape), 0.5, device=context.device))
    with convolutions(precision == "TF32"):
        prior(torch.zeros(1, *prior.canvas_shape, device=context.device), SIGMA, Generators.keyed(0, [0]))  # warms up
        synchronise(context.device)
        watch = Watch(time.perf_counter() + 0.6 * context.left)
        solver.loop.observers.append(watch)
        try:
            solver.solve_in_time(y, [0])
        except OutOfTimeError:
            pass
    done = watch.steps * getattr(solver, "inner", 1)
    seconds = watch.seconds / done * solver.evaluations
    details = {"evaluations": solver.evaluations, "evaluations_done": done, "seconds_done": watch.seconds}
    yield Row(f"{name}, {solver.evaluations} evaluations, {precision}", seconds, "s/image", details)


def solver_measurements(context: Context) -> Iterator[Measurement]:
    """Yield the default and the paper's solver with the paper's network."""
    levels = 1 if context.tiny else 100
    solvers = {
        "PnPADMM": lambda prior, operator: PnPADMM(prior, operator, steps=3 if context.tiny else 50),
        "DPS": lambda prior, operator: DPS(prior, operator, steps=levels, inner=10, sigma_max=10.0),
    }
    for precision in ("bfloat16", "float32", "TF32") if context.device == "cuda" else ("bfloat16", "float32"):
        for name, make in solvers.items():
            yield f"{name}, {precision}", partial(reconstruction, context, name, make, precision)
