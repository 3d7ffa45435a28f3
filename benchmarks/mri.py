"""Measure solvers on MRI: simulated heads by acceleration, or the points of real k-space that they were not given.

    python -m benchmarks.mri --output results/mri
    python -m benchmarks.mri --subset validation ...                              # to tune on
    python -m benchmarks.mri --kspace kspace.npy --output results/mri_measured

Simulated are 8 coils in a ring, every so many columns, and noise of 0.01, 1 % of the brightest pixels, by the operator that
reconstructs; scores are those of magnitudes. Of real k-space, whose truth nobody knows, half of the sampled points outside
of the calibrated centre are held out: the error is that of what the reconstruction says of them, over their root mean square.
Maps and noise are those of the points that are left. Weights of the classical methods are rows of their own: the best of them is
chosen by the very score, in their favour.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.plots import reconstructions
from benchmarks.solvers import measure
from padis_lightning.commands import explaining
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.sources.base import Item, collate
from padis_lightning.files import write_text
from padis_lightning.linalg import norm
from padis_lightning.mri import magnitude
from padis_lightning.mri.coils import calibration_sides
from padis_lightning.mri.masks import middle
from padis_lightning.noise import GaussianNoise
from padis_lightning.operators.mri import CartesianMRI, MeasuredMRI, SimulatedMRI
from padis_lightning.priors import PatchPrior
from padis_lightning.problem import Problem
from padis_lightning.solvers import Solver
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.dps import DPS
from padis_lightning.solvers.plug_and_play import PnPADMM
from padis_lightning.solvers.pseudo_inverse import PseudoInverse
from padis_lightning.solvers.tv import TotalVariation
from padis_lightning.solvers.wavelet import WaveletL1

COILS, NOISE = 8, GaussianNoise(0.01)
Make = Callable[[PatchPrior, Problem], Solver]
METHODS: dict[str, Make] = {
    "zero-filled": lambda p, a: PseudoInverse(a),
    **{f"CG-SENSE {n}": lambda p, a, n=n: PseudoInverse(a, exact=True, iterations=n) for n in (6, 12, 25)},
    **{f"L1-wavelet {w:g}": lambda p, a, w=w: WaveletL1(a, weight=w) for w in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)},
    **{f"TV {w:g}": lambda p, a, w=w: TotalVariation(a, weight=w) for w in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)},
    **{f"PnP-ADMM {steps}": lambda p, a, steps=steps: PnPADMM(p, a, steps=steps, sigma_max=0.5) for steps in (10, 20, 50)},
    "DDS 50": lambda p, a: DDS(p, a, steps=50, start="direct", sigma_max=0.5, sigma_min=0.004, eta=0.5),
    "DPS (PaDIS-MRI)": lambda p, a: DPS(p, a, steps=104, inner=1, zeta=1.8, sigma_max=10.0, sigma_min=0.002),
}
LINE = "{:<20}{:>24}{:>9}{:>13}{:>9}"


def heads(args: argparse.Namespace, size: int) -> list[Item]:
    """Return complex slices of the options' number, part and device."""
    data = ImageData(builtin="brains", size=size, count=args.count, subset=args.subset)
    data.setup("predict")
    part = data.predict_dataloader().dataset.items
    return [part[k]._replace(image=part[k].image.to(args.device)) for k in range(len(part))]


def operator(size: int, acceleration: float) -> SimulatedMRI:
    """Return the scan that is simulated."""
    return SimulatedMRI(size, COILS, acceleration=acceleration)


def simulated(args: argparse.Namespace, prior: PatchPrior) -> dict[str, Any]:
    """Return the scores of each solver, by acceleration."""
    items = heads(args, args.size)
    figures: dict[str, Any] = {}
    for acceleration in args.accelerations:
        problem = Problem(operator(args.size, acceleration), NOISE).to(args.device)
        print(f"\nacceleration {acceleration:g}, {len(items)} slices")
        print(LINE.format("method", "PSNR (dB)", "SSIM", "evaluations", "s/slice"))
        rows = figures[f"{acceleration:g}"] = {}
        for name in args.only:
            row = rows[name] = measure(METHODS[name](prior, problem).to(args.device), items, args.batch)
            quality = f"{row['psnr']:.2f} [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]"
            print(LINE.format(name, quality, f"{row['ssim']:.4f}", row["evaluations"], f"{row['seconds']:.2f}"), flush=True)
    return figures


def held_out(mask: Tensor, calibration: int, seed: int = 0) -> Tensor:
    """Return half of the sampled points ``(H, W)``, at random, none of them in the centre that maps are found in."""
    sides = calibration_sides(mask.numpy(), calibration)
    free = mask.clone()
    free[tuple(middle(n, side) for n, side in zip(mask.shape, sides, strict=True))] = False
    return free & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.5)


@torch.no_grad()
def measured(args: argparse.Namespace, prior: PatchPrior) -> dict[str, Any]:
    """Return the error of each solver on the points that it was not given; draw what it makes of all points."""
    data = ImageData(args.kspace)
    data.setup("predict")
    item = data.predict_dataloader().dataset.items[0]
    y = item.measurement
    scan = MeasuredMRI(tuple(y.shape[1:]), len(y) // 2)
    mask = (y != 0).any(0)
    kept_back = held_out(mask, scan.calibration)
    print(f"\n{item.name}: {tuple(y.shape)}, {int(mask.sum())} points, of which {int(kept_back.sum())} are held out")
    print(f"{'method':<20}{'error held out':>16}{'evaluations':>13}{'seconds':>9}")
    figures, pictures = {}, {}
    for name in args.only:
        solver = METHODS[name](prior, Problem(scan))
        pictures[name] = magnitude(solver.predict_step(collate([item])).estimate)[0, 0]
        half = collate([item._replace(measurement=torch.where(kept_back, 0, y))])
        found = solver.predict_step(half)
        maps = torch.view_as_complex(solver.for_batch(half).operator.maps)
        unseen = CartesianMRI(kept_back.numpy(), maps.numpy())
        error = norm(unseen(found.estimate) - y * kept_back) / norm(y[None] * kept_back)
        figures[name] = {"error": float(error), "evaluations": found.evaluations, "seconds": found.seconds}
        print(f"{name:<20}{float(error):>16.4f}{found.evaluations:>13}{found.seconds:>9.1f}", flush=True)
    reconstructions(pictures, args.output / "kspace.png")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="brains")
    parser.add_argument("--kspace", help="a file of measured k-space, whose first slice is taken (default: simulated heads)")
    parser.add_argument("--subset", default="all", choices=["all", "validation"], help="of the heads")
    parser.add_argument("--accelerations", type=float, nargs="+", default=[4.0, 8.0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS), help="these solvers (default: all)")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of the network")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("results/mri"))
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    prior = PatchPrior(args.prior, precision=args.precision).to(args.device)
    figures = measured(args, prior) if args.kspace else simulated(args, prior)
    write_text(args.output / "mri.json", json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    with explaining():
        main()
