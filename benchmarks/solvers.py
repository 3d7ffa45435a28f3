"""Measure how good each solver is for how many network evaluations: one table and one plot, on the same slices and measurements.

    python -m benchmarks.solvers --data ct_test.npz --prior prior.safetensors --output results/solvers
    python -m benchmarks.solvers --data ct_train.npz --subset validation ...      # to tune on

Without ``--data`` it takes built-in phantoms and the bundled prior. Every solver sees the same measurements, which are those of
:mod:`benchmarks.simulation`. What stands in ``solvers.json`` already is not measured again. Intervals are 95 % bootstrap
intervals over patients.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import simulation
from benchmarks.plots import quality_against_evaluations
from padis_lightning import metrics
from padis_lightning.commands import explaining
from padis_lightning.files import write_text
from padis_lightning.mri import magnitude
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import OverlapTiling, PatchPrior, RandomTiling, Tiling
from padis_lightning.solvers import Solver
from padis_lightning.solvers.daps import DAPS
from padis_lightning.solvers.ddnm import DDNM
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.diffpir import DiffPIR
from padis_lightning.solvers.dps import DPS
from padis_lightning.solvers.langevin import Langevin
from padis_lightning.solvers.mmps import MMPS
from padis_lightning.solvers.plug_and_play import RED, PnPADMM
from padis_lightning.solvers.pnp_dm import PnPDM
from padis_lightning.solvers.predictor_corrector import PredictorCorrector
from padis_lightning.solvers.pseudo_inverse import PseudoInverse
from padis_lightning.solvers.red_diff import REDDiff
from padis_lightning.solvers.tv import TotalVariation

LEVELS = {"sigma_max": 1.0, "sigma_min": 0.002}
Make = Callable[[PatchPrior, ParallelBeam, dict[str, Any]], Solver]


def few_views(operator: LinearOperator) -> bool:
    """Say whether what was chosen at 8 views serves better than what was chosen at 20, of slices or volumes."""
    return operator.measurement_shape[-2] < 14


def total_variation(_: PatchPrior, operator: ParallelBeam, options: dict[str, Any]) -> TotalVariation:
    """Return total variation with the best weight on validation slices: a larger one with few views, or with noise."""
    noisy = "noise" in options and options["noise"].std > 0
    return TotalVariation(operator, weight=8e-5 if noisy or few_views(operator) else 2e-5, **options)


def direct(operator: LinearOperator, steps: int) -> dict[str, Any]:
    """Return the options of ``DDS`` from filtered back-projection with little noise put back."""
    levels = {"sigma_max": 0.2, "sigma_min": 0.004} if few_views(operator) else {"sigma_max": 0.1, "sigma_min": 0.003}
    return {"steps": steps, "start": "direct", "iterations": 20, "eta": 0.5} | levels


def from_fbp(steps: int, tiles: int | None = None) -> Make:
    """Return ``DDS`` from filtered back-projection, with patches as trained or ``tiles`` a side."""

    def make(prior: PatchPrior, operator: ParallelBeam, options: dict[str, Any]) -> Solver:
        prior = _tiled(prior, RandomTiling(tiles)) if tiles else prior
        return DDS(prior, operator, **direct(operator, steps), **options)

    return make


METHODS: dict[str, Make] = {
    "FBP": lambda p, a, o: PseudoInverse(a, **o),
    "least squares": lambda p, a, o: PseudoInverse(a, exact=True, **o),
    "TV": total_variation,
    **{f"PnP-ADMM {steps}": lambda p, a, o, steps=steps: PnPADMM(p, a, steps=steps, **o) for steps in (5, 10, 20, 50, 100, 200)},
    "PnP-ADMM, one level": lambda p, a, o: PnPADMM(
        p, a, sigma_max=0.05, sigma_min=0.05, penalty=0.05, relaxation=1, noise_weight=0.25, **o
    ),
    "RED": lambda p, a, o: RED(p, a, sigma_max=0.02, sigma_min=0.02, penalty=0.003, **o),
    "DDS 20": from_fbp(20),
    "DDS 50": from_fbp(50),
    "DDS 50, larger tiles": from_fbp(50, 2),
    "DDS (as published)": lambda p, a, o: DDS(p, a, steps=100, **LEVELS, **o),
    "DDNM": lambda p, a, o: DDNM(p, a, steps=100, **LEVELS, **o),
    "DiffPIR": lambda p, a, o: DiffPIR(p, a, steps=100, **LEVELS, **o),
    "DAPS": lambda p, a, o: DAPS(p, a, steps=50, ode_steps=2, **LEVELS, **o),
    "PnP-DM": lambda p, a, o: PnPDM(p, a, steps=25, prior_steps=4, **LEVELS, **o),
    "MMPS": lambda p, a, o: MMPS(p, a, steps=25, iterations=2, **LEVELS, **o),
    "RED-diff": lambda p, a, o: REDDiff(p, a, steps=100, **LEVELS, **o),
    "predictor-corrector": lambda p, a, o: PredictorCorrector(p, a, steps=50, **LEVELS, **o),
    "Langevin": lambda p, a, o: Langevin(p, a, steps=30, inner=10, **LEVELS, **o),
    "DDS, patches averaged": lambda p, a, o: DDS(_tiled(p, OverlapTiling(24)), a, steps=30, **LEVELS, **o),
    "DDS, patches stitched": lambda p, a, o: DDS(_tiled(p, OverlapTiling(8)), a, steps=100, **LEVELS, **o),
    "VE-DDNM (PaDIS)": lambda p, a, o: DDNM(p, a, steps=30, paper=True, sigma_max=10.0, sigma_min=0.002, **o),
    "DPS": lambda p, a, o: DPS(p, a, steps=100, inner=3, zeta=1.8, **LEVELS, **o),
    "DPS (PaDIS)": lambda p, a, o: DPS(p, a, steps=100, inner=10, zeta=1.8, sigma_max=10.0, sigma_min=0.002, **o),
}


def _tiled(prior: PatchPrior, tiling: Tiling) -> PatchPrior:
    """Return the same network with another tiling."""
    other = copy.copy(prior)
    other.tiling = tiling
    return other


@torch.no_grad()
def measure(solver: Solver, data: list, batch: int) -> dict[str, Any]:
    """Return the scores of one solver, of complex images those of their magnitudes."""
    rows: dict[str, list[float]] = {"psnr": [], "ssim": [], "residual": []}
    groups, seconds, evaluations = [], 0.0, 0
    for items in simulation.batches(data, batch):
        found = solver.predict_step(items)
        seen, truth = magnitude(found.estimate), magnitude(items.image)
        rows["psnr"] += metrics.psnr(seen, truth).tolist()
        rows["ssim"] += metrics.ssim(seen, truth).tolist()
        rows["residual"] += found.residual.tolist()
        groups += items.group
        seconds += found.seconds * len(items.group)
        evaluations = found.evaluations
    out: dict[str, Any] = {key: sum(values) / len(values) for key, values in rows.items()}
    out |= {"interval": metrics.interval(rows["psnr"], groups), "seconds": seconds / len(data), "evaluations": evaluations}
    return out | {"each": rows["psnr"], "groups": groups}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables; write them with the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="images (default: phantoms)")
    parser.add_argument("--subset", default="all", choices=["all", "train", "validation"])
    parser.add_argument("--prior", default="ct_phantoms")
    parser.add_argument("--views", type=int, nargs="+", default=[20, 8])
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    simulation.add_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=list(METHODS), help="these solvers (default: all)")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of the network")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("results/solvers"))
    args = parser.parse_args(arguments)
    prior = PatchPrior(args.prior, precision=args.precision).to(args.device)
    images = simulation.images(args.data, args.subset, prior.image_shape[-1], args.count, args.device, args.inverse_crime)
    noise = simulation.noise_of(args)
    settings = {key: getattr(args, key) for key in ("data", "subset", "prior", "count", "precision", "inverse_crime")}
    settings |= {"noise": noise.std}
    path = args.output / "solvers.json"
    kept = json.loads(path.read_text()) if path.exists() else {"settings": settings}
    if kept["settings"] != settings:
        parser.error(f"{path} was measured with {kept['settings']}; wanted {settings}, or another --output")
    figures: dict[str, Any] = kept
    for views in args.views:
        operator = ParallelBeam(prior.image_shape[-1], views).to(args.device)
        data = simulation.measured(images, operator, noise, args.inverse_crime)
        print(f"\n{views} views, {len(data)} slices of {len({item.group for item in data})} patients, {simulation.said(args)}")
        print(f"{'method':<24}{'PSNR (dB)':>24}{'SSIM':>8}{'residual':>10}{'evaluations':>13}{'s/image':>9}")
        rows = figures.setdefault(str(views), {})
        for name in args.only or METHODS:
            if name not in rows:
                solver = METHODS[name](prior, operator, {"noise": noise}).to(args.device)
                rows[name] = measure(solver, data, args.batch)
                write_text(path, json.dumps(figures, indent=1) + "\n")
            row = rows[name]
            quality = f"{row['psnr']:.2f} [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]"
            print(
                f"{name:<24}{quality:>24}{row['ssim']:>8.4f}{row['residual']:>10.1e}{row['evaluations']:>13}{row['seconds']:>9.2f}",
                flush=True,
            )
    quality_against_evaluations({key: rows for key, rows in figures.items() if key != "settings"}, args.output / "solvers.png")


if __name__ == "__main__":
    with explaining():
        main()
