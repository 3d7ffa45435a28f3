"""Measure what settings that follow from a scan lose against settings tuned for it: one table over views, arcs and noise.

    python -m benchmarks.settings --data ct_train.npz --subset validation --prior prior.safetensors

Each row is a scan. Total variation takes the best of six weights, the default what follows from the scan. The tuned solver takes
the best first level, then the best last one, then the best penalty, of a few each, on the same slices. Measurements are those of
:mod:`benchmarks.simulation`, with the noise of the row.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import simulation
from benchmarks.solvers import measure
from padis_lightning.commands import explaining
from padis_lightning.files import write_text
from padis_lightning.noise import GaussianNoise
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import PatchPrior
from padis_lightning.problem import Problem
from padis_lightning.solvers.plug_and_play import PnPADMM
from padis_lightning.solvers.tv import TotalVariation

#: views, degrees that they cover, and noise as a share of the measurement's root mean square
SCANS = [
    (8, 180, 0.0), (8, 180, 0.02), (20, 180, 0.0), (20, 180, 0.005), (20, 180, 0.02), (20, 180, 0.05),
    (60, 180, 0.0), (60, 180, 0.02), (180, 180, 0.0), (180, 180, 0.05), (60, 120, 0.0), (45, 90, 0.01),
]  # fmt: skip
WEIGHTS = [5e-7, 2e-6, 1e-5, 4e-5, 1.6e-4, 6.4e-4]
TRIED = {"sigma_max": [0.08, 0.15, 0.3, 0.45, 0.7], "sigma_min": [0.005, 0.01, 0.02, 0.04], "penalty": [0.001, 0.003, 0.01]}


def tuned(score: Any) -> tuple[float, dict[str, float]]:  # noqa: ANN401 - a function of settings
    """Return the best score of settings that are chosen one after the other, and the settings."""
    best: dict[str, float] = {"sigma_max": 0.08, "sigma_min": 0.01}
    top = -math.inf
    for key, values in TRIED.items():
        scores = {value: score(**{**best, key: value}) for value in values}
        best[key] = max(scores, key=scores.__getitem__)
        top = max(top, scores[best[key]])
    return top, best


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, a row a scan, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="images (default: phantoms)")
    parser.add_argument("--subset", default="all", choices=["all", "train", "validation"])
    parser.add_argument("--prior", default="ct_phantoms")
    parser.add_argument("--count", type=int, default=6)
    simulation.add_arguments(parser, noise=False)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of the network")
    rows = range(len(SCANS))
    parser.add_argument("--scans", type=int, nargs="+", choices=rows, default=rows, help="numbers of the rows")
    parser.add_argument("--output", type=Path, default=Path("results/settings.json"))
    args = parser.parse_args(arguments)
    prior = PatchPrior(args.prior, precision=args.precision)
    crime = args.inverse_crime
    images = simulation.images(args.data, args.subset, prior.image_shape[-1], args.count, "cpu", crime)
    print(f"{'views':>6}{'arc':>5}{'noise':>8}{'TV (dB)':>9}{'default':>9}{'tuned':>9}{'loss':>7}  tuned settings", flush=True)
    found: list[dict[str, Any]] = []
    for views, arc, noise in (SCANS[k] for k in args.scans):
        operator = ParallelBeam(prior.image_shape[-1], views, arc=math.radians(arc))
        problem = Problem(operator, GaussianNoise(noise, "relative"))
        data = simulation.measured(images, operator, problem.noise, crime)
        tv = max(measure(TotalVariation(problem, weight), data, len(data))["psnr"] for weight in WEIGHTS)

        def score(problem: Problem = problem, data: list = data, **settings: float) -> float:
            return measure(PnPADMM(prior, problem, steps=args.evaluations, **settings), data, len(data))["psnr"]

        default, (top, settings) = score(), tuned(score)
        found.append({"views": views, "arc": arc, "noise": noise, "tv": tv, "default": default, "tuned": top, **settings})
        said = ", ".join(f"{key} {value:g}" for key, value in settings.items())
        print(f"{views:>6}{arc:>5}{noise:>8g}{tv:>9.2f}{default:>9.2f}{top:>9.2f}{top - default:>+7.2f}  {said}", flush=True)
        write_text(args.output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    with explaining():
        main()
