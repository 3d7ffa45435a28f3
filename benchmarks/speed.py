"""How fast, as ratios of one run: the whole-image score against the bare network, the CT operator against ASTRA.

Run with ``make benchmark``. Alternatives are timed in turn (A B A B ...) and compared pair by pair, so that a machine whose
speed drifts does not decide; medians are printed with the range of the ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import PatchPrior
from padis_lightning.random import Generators, seeded


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one run."""
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
    print(f"{name:<58}{mine:>9.2f} ms{other:>9.2f} ms{ratio:>8.3f} [{ratios[1]:.3f}, {ratios[-2]:.3f}]   {goal}")


@torch.inference_mode()
def score_against_network(batch: int = 4) -> None:
    """The score of whole images with fresh random tilings, against the network alone on tiles cut beforehand."""
    prior = PatchPrior("ct_phantoms")
    x = torch.rand(batch, *prior.canvas_shape, generator=seeded(0))
    generator = Generators.keyed(0, range(batch))
    tiles = prior.tiling.draw(prior.image_shape[1:], prior.pad, prior.patch, generator)
    patches, positions = tiles.split(x), tiles.split(prior.positions.expand(batch, -1, -1, -1))
    levels = torch.full((len(patches),), 0.1)
    chunks = list(zip(*(part.split(prior.chunk_size) for part in (patches, levels, positions)), strict=True))

    def bare() -> list[torch.Tensor]:
        return [prior.denoiser(*chunk) for chunk in chunks]

    name = f"score of {batch} images of 128x128 / bare network"
    compare(name, lambda: prior.score(x, 0.1, generator), bare, "goal: at most 1.1")


def astra_projector(operator: ParallelBeam, x: np.ndarray, y: np.ndarray) -> tuple[Callable, Callable] | None:
    """ASTRA's CPU projector with the same weights, one image a call as it wants; None where it is not installed."""
    try:
        import astra
    except ImportError:
        return None
    g = operator.geometry
    half = g.size * g.pixel_spacing / 2
    volume = astra.create_vol_geom(g.size, g.size, -half, half, -half, half)
    scan = astra.create_proj_geom("parallel", g.bin_spacing, g.bins, np.array(g.angles))
    projector = astra.create_projector("linear", scan, volume)
    sinograms, images = np.empty_like(y), np.empty_like(x)

    def forward() -> np.ndarray:
        for image, out in zip(x, sinograms, strict=True):
            astra.projector.direct_FP(projector, image, out=out)
        return sinograms

    def adjoint() -> np.ndarray:
        for sinogram, out in zip(y, images, strict=True):
            astra.projector.direct_BP(projector, sinogram, out=out)
        return images

    return forward, adjoint


@torch.inference_mode()
def operator_against_astra(batch: int = 8) -> None:
    """Forward and adjoint of a batch at 256x256 and 20 views."""
    operator = ParallelBeam(256, 20)
    x = torch.rand(batch, *operator.image_shape, generator=seeded(0))
    y = operator(x)
    pair = astra_projector(operator, x[:, 0].numpy(), y[:, 0].numpy())
    if pair is None:
        print("ASTRA is not installed (pip install astra-toolbox): its comparison is left out")
        return
    theirs = pair[0]()
    gap = np.linalg.norm(theirs - y[:, 0].numpy()) / np.linalg.norm(theirs)
    print(f"forward projections differ from ASTRA's by {gap:.1e}")
    goal = "goal: at most 0.25"
    compare(f"CT forward, batch of {batch}, 256x256, 20 views / ASTRA", lambda: operator(x), pair[0], goal)
    compare(f"CT adjoint, batch of {batch}, 256x256, 20 views / ASTRA", lambda: operator.adjoint(y), pair[1], goal)


def main() -> None:
    """Print the table."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'ours / alternative':<58}{'ours':>12}{'theirs':>12}{'ratio':>8} [second lowest, second highest]")
    score_against_network()
    operator_against_astra()


if __name__ == "__main__":
    main()
