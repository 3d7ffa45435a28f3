"""Measure our prior in deepinv's algorithms and in ours, on the same measurements: one table of PSNR and seconds.

    python -m benchmarks.interop [--count 6]

It needs deepinv (docs/python.md says how to install it). The photographs are those that come with scikit-image, at 256x256.
``DPIR`` is the same algorithm in both, from the same start; ``DiffPIR`` has other levels and another share of fresh noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import deepinv
import torch
from torch import Tensor

import padis_lightning as pl
from padis_lightning.api import load_prior
from padis_lightning.data.generators import photographs
from padis_lightning.interop.deepinv import Denoiser, Physics

NOISE = 0.02
OPERATORS = {
    "blur": lambda: pl.GaussianBlur((3, 256, 256), 1.5),
    "4x smaller": lambda: pl.AveragePooling((3, 256, 256), factor=4),
}


def algorithms(operator: pl.LinearOperator, prior: pl.Prior) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return what turns a measurement into an image, by its name."""
    physics = Physics(operator, noise_model=deepinv.physics.GaussianNoise(NOISE))

    def ours(solver: str, steps: int) -> Callable[[Tensor], Tensor]:
        return lambda y: pl.reconstruct(y, operator, prior, solver, noise_std=NOISE, steps=steps).image

    def dpir(y: Tensor) -> Tensor:
        start = operator.approximate_inverse(y).clamp(0, 1)
        return deepinv.optim.DPIR(sigma=NOISE, denoiser=Denoiser(prior))(y, physics, init=start)

    def diffpir(y: Tensor) -> Tensor:
        settings = {"sigma": NOISE, "max_iter": 20, "verbose": False}
        return deepinv.sampling.DiffPIR(Denoiser(prior), deepinv.optim.L2(), **settings)(y, physics, seed=1)

    return {
        "DPIR, ours": ours("DPIR", 8),
        "DPIR, deepinv's": dpir,
        "DiffPIR, ours": ours("DiffPIR", 20),
        "DiffPIR, deepinv's": diffpir,
    }


def main() -> None:
    """Print a row for each task and algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=6, help="photographs")
    count = parser.parse_args().count
    images, prior = photographs(256), load_prior("photographs")
    print("| task | algorithm | PSNR in dB | seconds an image |\n|---|---|---|---|")
    for task, make in OPERATORS.items():
        operator = make()
        for name, solve in algorithms(operator, prior).items():
            scores, began = [], time.perf_counter()
            for k in range(count):
                truth = images[k].image[None]
                with torch.no_grad():
                    error = solve(pl.simulate(truth, operator, NOISE, seed=k)) - truth
                scores.append(float(-10 * error.square().mean().log10()))
            seconds = (time.perf_counter() - began) / count
            print(f"| {task} | {name} | {sum(scores) / count:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
