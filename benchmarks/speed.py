"""Measure speed as ratios of one run: the whole-image score against the bare network, and what the guard of a solver costs.

Run with ``make benchmark``. Alternatives are timed in turn (A B A B ...) and compared pair by pair, so that a machine whose
speed drifts does not decide; medians are printed with the range of the ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from padis_lightning.commands import explaining
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import PatchPrior
from padis_lightning.priors.patch import CHUNK
from padis_lightning.random import Generators, seeded
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.loop import WATCHED


def seconds(run: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], goal: str, pairs: int = 15) -> None:
    """Time both in turn and print a line with the median of the pairwise ratios."""
    ours(), theirs()
    rows = [(seconds(ours), seconds(theirs)) for _ in range(pairs)]
    ratios = sorted(a / b for a, b in rows)
    mine, other = (1e3 * statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(ratios)
    print(f"{name:<58}{mine:>9.2f} ms{other:>9.2f} ms{ratio:>9.3g} [{ratios[1]:.3g}, {ratios[-2]:.3g}]   {goal}")


@torch.inference_mode()
def score_against_network(batch: int = 4) -> None:
    """Time the score of whole images with fresh random tilings against the network alone on tiles cut beforehand."""
    prior = PatchPrior("ct_phantoms")
    x = torch.rand(batch, *prior.canvas_shape, generator=seeded(0))
    generator = Generators.keyed(0, range(batch))
    tiles = prior.tiling.partition(prior.image_shape[1:], prior.pad, prior.sides, generator)
    patches, positions = tiles.split(x), tiles.split(prior.positions.expand(batch, -1, -1, -1))
    levels = torch.full((len(patches),), 0.1)
    chunks = list(zip(*(part.split(CHUNK) for part in (patches, levels, positions)), strict=True))

    def bare() -> list[torch.Tensor]:
        return [prior.denoiser(*chunk) for chunk in chunks]

    name = f"score of {batch} images of 128x128 / bare network"
    compare(name, lambda: prior.score(x, 0.1, generator), bare, "goal: at most 1.1")


@torch.inference_mode()
def guard_against_step(batch: int = 4) -> None:
    """Time a look whether every image is finite after a step against the step."""
    solver = DDS(PatchPrior("ct_phantoms"), ParallelBeam(128, 20), steps=WATCHED)
    generator, y = Generators.keyed(0, range(batch)), torch.rand(batch, 1, 20, 256, generator=seeded(0))
    x = torch.rand(batch, *solver.prior.canvas_shape, generator=seeded(1))

    def guard() -> None:
        for _ in solver.loop(range(WATCHED), {"x": x}, generator):
            pass

    def steps() -> None:
        for _ in range(WATCHED):
            solver.step(x, y, 0.1, 0.08, generator)

    compare(f"{WATCHED} looks at {batch} images / {WATCHED} steps of DDS", guard, steps, "goal: at most 0.01", pairs=5)


def main() -> None:
    """Print the table."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'ours / alternative':<58}{'ours':>12}{'theirs':>12}{'ratio':>9} [second lowest, second highest]")
    score_against_network()
    guard_against_step()


if __name__ == "__main__":
    with explaining():
        main()
