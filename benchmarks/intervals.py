"""Measure what share of the truth calibrated intervals hold, tissue by tissue, on patients that calibration did not see.

    python -m benchmarks.intervals --calibration ct_train.npz --test ct_test.npz --prior prior.safetensors

Calibration takes validation patients of the first file. The default draws nothing; of ``DDS`` with samples the deviation is used
too, and what intervals of the samples alone hold stands beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import simulation
from padis_lightning import metrics
from padis_lightning.commands import explaining
from padis_lightning.files import write_text
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import PatchPrior
from padis_lightning.problem import Problem
from padis_lightning.results.calibration import Calibration, count_errors
from padis_lightning.solvers import Solver
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.plug_and_play import PnPADMM

RANGES = {"lung": (-950, -500), "soft tissue": (-150, 150), "bone": (200, 5000)}  # HU inside the body
EDGE = 200.0  # HU a pixel


def tissues(truth: Tensor) -> dict[str, Tensor]:
    """Return the pixels of slices ``(B, 1, H, W)`` in HU that belong to each tissue, to its edges, and all of them."""
    inside = metrics.body(truth)
    slope = torch.stack(torch.gradient(truth, dim=(-2, -1))).square().sum(0).sqrt()
    parts = {name: inside & (truth >= low) & (truth <= high) for name, (low, high) in RANGES.items()}
    return {"all": torch.ones_like(inside), **parts, "edges": inside & (slope > EDGE)}


@torch.no_grad()
def solved(solver: Solver, data: list, batch: int) -> list[tuple[Tensor, Tensor | None, Tensor]]:
    """Return the estimate, the samples and the truth of each slice."""
    out = []
    for items in simulation.batches(data, batch):
        found = solver.predict_step(items)
        samples = found.samples if found.samples is not None else [None] * len(items.name)
        out += zip(found.estimate, samples, items.image, strict=True)
    return out


def shares(held: Tensor, where: dict[str, Tensor]) -> dict[str, float | None]:
    """Return the share of pixels that are held, of each tissue; None where it has no pixels."""
    return {name: float(held[part].float().mean()) if part.any() else None for name, part in where.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibration", help="images of which validation patients are taken (default: phantoms)")
    parser.add_argument("--test", help="images to test on (default: other phantoms)")
    parser.add_argument("--prior", default="ct_phantoms")
    parser.add_argument("--views", type=int, default=20)
    simulation.add_arguments(parser)
    parser.add_argument("--counts", type=int, nargs=2, default=[12, 8], help="slices of calibration and test")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of the network")
    parser.add_argument("--output", type=Path, default=Path("results/intervals.json"))
    args = parser.parse_args(arguments)
    prior = PatchPrior(args.prior, precision=args.precision)
    size, scale = prior.image_shape[-1], prior.normalisation.shown
    problem, crime = Problem(ParallelBeam(size, args.views), simulation.noise_of(args)), args.inverse_crime
    known = simulation.images(args.calibration, "validation", size, args.counts[0], "cpu", crime)
    test = simulation.images(args.test, "all" if args.test else "train", size, args.counts[1], "cpu", crime)
    known, test = (simulation.measured(items, problem.operator, problem.noise, crime) for items in (known, test))
    solvers = {
        "PnPADMM": PnPADMM(prior, problem, steps=args.steps),
        "DDS": DDS(prior, problem, steps=args.steps, sample=True, samples=args.samples),
    }
    rows: list[dict[str, Any]] = []
    for name, solver in solvers.items():
        counts = sum(count_errors(*one) for one in solved(solver, known, 4))
        calibration, results = Calibration(counts, {}), solved(solver, test, 4)
        estimate, truth = (torch.stack([one[k] for one in results]) for k in (0, 2))
        where = tissues(scale.restore(truth))
        half = torch.stack([calibration.half_width(*one[:2]) for one in results])
        rows.append({"intervals": f"{name}, calibrated", **shares((truth - estimate).abs() <= half, where)})
        if solver.samples > 1:
            samples = torch.stack([one[1] for one in results])
            reach = metrics.reach(samples)
            rows.append({"intervals": f"{name}, of the samples alone", **shares((truth - estimate).abs() <= reach, where)})
    print(f"{'90 % intervals':<34}" + "".join(f"{key:>13}" for key in list(rows[0])[1:]))
    for row in rows:
        held = ("-" if row[key] is None else f"{100 * row[key]:.1f} %" for key in list(row)[1:])
        print(f"{row['intervals']:<34}" + "".join(f"{share:>13}" for share in held))
    write_text(args.output, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    with explaining():
        main()
