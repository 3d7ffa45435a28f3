"""Draw whole images from a patch prior, and measure whether tile borders show in them.

    python -m benchmarks.samples [--prior FILE] [--count 16] [--steps 200] [--output results/samples]

Prints the mean gradient across tile borders over that inside tiles (1: no seam) for random partitions and for a fixed one, and
leaves a sheet of pictures of each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from padis_lightning.commands import explaining
from padis_lightning.machine import has_bfloat16
from padis_lightning.priors import FixedTiling, PatchPrior, RandomTiling
from padis_lightning.priors.tiling import GridTiles, Tiling
from padis_lightning.random import Generators
from padis_lightning.results.pictures import save_picture, sheet
from padis_lightning.solvers.ancestral import Ancestral


def seam(images: Tensor, borders: Sequence[tuple[Sequence[int], Sequence[int]]], reach: int = 6) -> float:
    """Return the mean gradient across tile borders over that inside tiles, up to ``reach`` pixels from a border; 1 without seams.

    Args:
        images: ``(B, C, H, W)``.
        borders: for each image, the rows and the columns at which a tile begins inside the image.
        reach: pixels on either side that are compared with.
    """
    across, inside = [], []
    for image, places in zip(images, borders, strict=True):
        for axis, firsts in zip((1, 2), places, strict=True):
            steps = image.diff(dim=axis).abs().mean(dim=(0, 3 - axis)).tolist()  # steps[k]: between k and k + 1
            for first in firsts:
                across.append(steps[first - 1])
                near = [first - 1 + k for k in range(-reach, reach + 1) if abs(k) > 1]
                inside += [steps[k] for k in near if 0 <= k < len(steps)]
    return float(np.mean(across) / np.mean(inside))


class Recorded(Tiling):
    """Tile as another tiling does, and remember the borders of every partition."""

    def __init__(self, tiling: Tiling) -> None:
        self.tiling, self.borders = tiling, []

    def partition(self, size: tuple[int, int], pad: tuple[int, int], patch: int, generator: Generators) -> GridTiles:
        """Draw a partition and remember its borders."""
        tiles = self.tiling.partition(size, pad, patch, generator)
        self.borders.append(tiles.borders)
        return tiles


@torch.no_grad()
def draw(prior: str, tiling: Tiling, count: int, steps: int) -> tuple[Tensor, list[float]]:
    """Return images ``(count, C, H, W)``, and their seams at the borders of the partition of every step."""
    recorded = Recorded(tiling)
    solver = Ancestral(PatchPrior(prior, recorded), steps=steps, sigma_max=10.0, sigma_min=0.005)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.autocast(device, torch.bfloat16, enabled=has_bfloat16(device)):
        images = solver.solve(torch.empty(count, 0), Generators.keyed(0, range(count)))
    return images, [seam(images, borders) for borders in recorded.borders]


def main() -> None:
    """Print the table, write the sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="ct_phantoms")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("results/samples"))
    options = parser.parse_args()
    print(f"{'partition':<14}{'all steps':>11}{'last ten':>11}{'least':>9}{'most':>9}   ({options.count} images)")
    for tiling in (RandomTiling(), FixedTiling()):
        images, seams = draw(options.prior, tiling, options.count, options.steps)
        save_picture(options.output / f"{type(tiling).__name__}.png", sheet(images))
        mean, last = sum(seams) / len(seams), sum(seams[-10:]) / 10
        print(f"{type(tiling).__name__:<14}{mean:>11.3f}{last:>11.3f}{min(seams):>9.3f}{max(seams):>9.3f}")


if __name__ == "__main__":
    with explaining():
        main()
