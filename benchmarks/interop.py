"""Measure our prior in deepinv's algorithms and in ours, on the same measurements: one table of PSNR and seconds.

    python -m benchmarks.interop [--count 6] [--size 256]

It needs deepinv (docs/python.md says how to install it). The photographs are those that come with scikit-image.
``DPIR`` is the same algorithm in both, from the same start. ``DiffPIR`` has what each takes by default, other levels and another
share of fresh noise, and then the same settings and the same draws in both, and a prior that keeps to the range of images. So has
``DPS``, by ancestral sampling.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from unittest.mock import patch

import deepinv
import torch
from torch import Tensor

import padis_lightning as pl
from padis_lightning.commands import explaining
from padis_lightning.data.generators import photographs
from padis_lightning.interop.deepinv import Denoiser, Physics
from padis_lightning.loading import load_prior
from padis_lightning.solvers.base import SOLVE

NOISE = 0.02
OPERATORS = {
    "blur": lambda size: pl.GaussianBlur((3, size, size), 1.5),
    "4x smaller": lambda size: pl.AveragePooling((3, size, size), factor=4),
}


Algorithm = Callable[[Tensor], Tensor]


def algorithms(operator: pl.LinearOperator) -> dict[str, Algorithm]:
    """Return what turns a measurement into an image, by its name."""
    physics = Physics(operator, noise_model=deepinv.physics.GaussianNoise(NOISE))
    prior, bounded = load_prior("photographs"), load_prior("photographs")
    bounded.register_forward_hook(lambda module, inputs, found: found.clamp(0, 1))  # as deepinv's DiffPIR does
    denoiser = Denoiser(bounded)
    theirs = deepinv.sampling.DiffPIR(denoiser, deepinv.optim.L2(), sigma=NOISE, max_iter=20)
    steps = (theirs.sigmas[theirs.seq[:-1].long()] / 2).tolist()  # of images from -1 to 1; the last is not denoised
    sampler = deepinv.sampling.DPS(denoiser, num_steps=51, guidance="annealed", weight=1 / operator.norm_squared)
    levels = [float(sampler.sde.sigma_t(t)) / 2 for t in sampler.solver.timesteps[:-1]]

    def ours(solver: str, prior: pl.Prior = prior, **options: object) -> Algorithm:
        return lambda y: pl.reconstruct(y, operator, prior, solver, noise_std=NOISE, **options).image

    def dpir(y: Tensor) -> Tensor:
        start = operator.approximate_inverse(y).clamp(0, 1)
        return deepinv.optim.DPIR(sigma=NOISE, denoiser=Denoiser(prior))(y, physics, init=start)

    def default(y: Tensor) -> Tensor:
        model = deepinv.sampling.DiffPIR(Denoiser(prior), deepinv.optim.L2(), sigma=NOISE, max_iter=20)
        return model(y, physics, seed=1)

    def with_our_draws(solve: Callable[[Tensor, Tensor], Tensor]) -> Algorithm:
        """Let deepinv draw the noise that ours draws, the start and then one a step."""

        def solved(y: Tensor) -> Tensor:
            draws = pl.Generators.keyed(0, [0], SOLVE)
            denoiser.streams = draws.generators
            with patch.object(torch, "randn_like", lambda x: draws.normal(x.float()).to(x)):
                return solve(y, torch.zeros(1, *operator.image_shape))

        return solved

    def dps(y: Tensor, zeros: Tensor) -> Tensor:
        start = 2 * levels[0] * torch.randn_like(zeros) - 1
        with patch.object(sampler.solver, "randn_like", torch.randn_like):
            return sampler(y, physics, x_init=sampler.sde.scale_t(1.0) * start).float()

    return {
        "DPIR, ours": ours("DPIR", steps=8),
        "DPIR, deepinv's": dpir,
        "DiffPIR, ours": ours("DiffPIR", steps=20),
        "DiffPIR, deepinv's": default,
        "DiffPIR with deepinv's settings, ours": ours("DiffPIR", bounded, sigmas=steps, confidence=3.5, zeta=0.1, clip=False),
        "DiffPIR with deepinv's settings, deepinv's": with_our_draws(lambda y, x: theirs(y, physics, x_init=x)),
        "DPS with deepinv's settings, ours": ours("DPS", bounded, sigmas=levels, inner=0, zeta=1.0),
        "DPS with deepinv's settings, deepinv's": with_our_draws(dps),
    }


def main() -> None:
    """Print a row for each task and algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=6, help="photographs")
    parser.add_argument("--size", type=int, default=256, help="side of a photograph")
    arguments = parser.parse_args()
    count, size = arguments.count, arguments.size
    images = photographs(size)
    print("| task | algorithm | PSNR in dB | seconds an image |\n|---|---|---|---|")
    for task, make in OPERATORS.items():
        operator = make(size)
        for name, solve in algorithms(operator).items():
            scores, began = [], time.perf_counter()
            for k in range(count):
                truth = images[k].image[None]
                with torch.no_grad():
                    error = solve(pl.simulate(truth, operator, NOISE, seed=k)) - truth
                scores.append(float(-10 * error.square().mean().log10()))
            seconds = (time.perf_counter() - began) / count
            print(f"| {task} | {name} | {sum(scores) / count:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    with explaining():
        main()
