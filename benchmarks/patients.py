"""Compare a prior of patches with one of whole images, by how many patients they were trained on.

    python -m benchmarks.patients --train ct_train.npz --test ct_test.npz [--minutes 8] [--patients 36 10 3]
    python -m benchmarks.patients --mri [--minutes 8] [--patients 40 10 3] --solvers "PnP-ADMM 50"      # built-in heads

Both priors have the same network, training time and solvers. Steps are counted rather than seconds: the time of a step is
measured first, the two in turn, so that another job beside the training decides nothing. What is there already is not trained
again. A tenth of the patients of the training file is never trained on; settings were chosen on those (``--subset validation``).
Measurements of CT are those of :mod:`benchmarks.simulation`, those of MRI are :mod:`benchmarks.mri`'s.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import mri, simulation
from benchmarks.solvers import METHODS, measure
from padis_lightning.commands import explaining
from padis_lightning.data.sources.base import Item
from padis_lightning.files import write_text
from padis_lightning.metrics import interval
from padis_lightning.noise import GaussianNoise
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import PatchPrior, RandomTiling

KINDS = {"patches": "ct.yaml", "whole images": "ct_whole.yaml"}
#: what is compared: the prior, and the tiles across that its patches are joined to (None: as trained)
VARIANTS = {"patches": ("patches", None), "larger tiles": ("patches", 1), "whole images": ("whole images", None)}
SOLVERS = ("PnP-ADMM 50", "DDS 50", "DDS (as published)")
HEADS = ("--data.builtin", "brains", "--model.network.channels", "2", "--model.sigma_data", "0.25")
QUIET = ("--trainer.enable_progress_bar", "false", "--samples.count", "0", "--trainer.val_check_interval", "1000000")


def fit(config: str, data: str | None, patients: int, steps: int, output: Path) -> None:
    """Train a prior by the command line, on patients of a file or on built-in heads, each a patient."""
    few = {"data.path": data, "data.training_groups": patients} if data else {"data.generated": patients}
    keys = few | {"trainer.max_steps": steps, "output": output}
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    words = words if data else [*HEADS, *words]
    subprocess.run([sys.executable, "-m", "padis_lightning", "fit", "--config", config, *words, *QUIET], check=True)


def step_seconds(data: str | None, output: Path, steps: int = 100, turns: int = 3) -> dict[str, float]:
    """Return the seconds of a training step, both kinds in turn: the median of a long run less a short one."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(turns):
        for kind, config in KINDS.items():
            seconds = []
            for count in (20, 20 + steps):
                start = time.perf_counter()
                fit(config, data, 3, count, output / f"timing/{kind[0]}{turn}-{count}")
                seconds.append(time.perf_counter() - start)
            found[kind].append((seconds[1] - seconds[0]) / steps)
    return {kind: median(values) for kind, values in found.items()}


def plan(data: str | None, minutes: float, output: Path) -> dict[str, int]:
    """Return, and keep in a file, the training steps of each kind that take so many minutes on this machine when it is idle."""
    path = output / "plan.json"
    if not path.exists():
        seconds = step_seconds(data, output)
        steps = {kind: int(60 * minutes / value) for kind, value in seconds.items()}
        write_text(path, json.dumps({"minutes": minutes, "seconds": seconds, "steps": steps}, indent=1) + "\n")
    return json.loads(path.read_text())["steps"]


def task(args: argparse.Namespace, size: int, amount: float) -> tuple[LinearOperator, list[Item], GaussianNoise]:
    """Return the operator of so many views, or of an acceleration, what is measured, and the noise."""
    if args.mri:
        return mri.operator(size, amount).to(args.device), mri.heads(args, size), mri.NOISE
    operator = ParallelBeam(size, int(amount)).to(args.device)
    images = simulation.images(args.test, args.subset, size, args.count, args.device, args.inverse_crime)
    noise = simulation.noise_of(args)
    return operator, simulation.measured(images, operator, noise, args.inverse_crime), noise


def compare(rows: dict[str, Any]) -> str:
    """Return the gain of patches over whole images, dB, with its interval over patients."""
    patch, image = rows["patches"], rows["whole images"]
    gains = [a - b for a, b in zip(patch["each"], image["each"], strict=True)]
    low, high = interval(gains, patch["groups"])
    return f"{sum(gains) / len(gains):+.2f} [{low:+.2f}, {high:+.2f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", help="slices by patient, to train on")
    parser.add_argument("--test", help="slices of other patients")
    parser.add_argument("--mri", action="store_true", help="complex heads, which are built in, in place of slices of CT")
    parser.add_argument("--subset", default="all", choices=["all", "validation"])
    parser.add_argument("--patients", type=int, nargs="+", default=[36, 10, 3])
    parser.add_argument("--minutes", type=float, default=8.0, help="of training, each prior")
    parser.add_argument("--views", type=int, nargs="+", default=[20, 8], help="of CT")
    parser.add_argument("--accelerations", type=float, nargs="+", default=[8.0], help="of MRI")
    parser.add_argument("--count", type=int, default=19)
    parser.add_argument("--batch", type=int, default=8)
    simulation.add_arguments(parser)
    parser.add_argument("--solvers", nargs="+", default=SOLVERS, choices=list(METHODS))
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of the network")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("results/patients"))
    args = parser.parse_args(arguments)
    if not (args.mri or (args.train and args.test)):
        parser.error("--train or --test is missing; wanted both files, or --mri")
    args.output.mkdir(parents=True, exist_ok=True)
    steps = plan(args.train, args.minutes, args.output)
    priors: dict[tuple[int, str], Path] = {}
    for patients in args.patients:
        for kind, config in KINDS.items():
            folder = args.output / f"{kind.split()[0]}-{patients}"
            priors[patients, kind] = folder / "prior.safetensors"
            if not priors[patients, kind].exists():
                fit(config, args.train, patients, steps[kind], folder)
    if args.train_only:
        return
    figures: dict[str, Any] = {"steps": steps}
    for amount in args.accelerations if args.mri else args.views:
        title = f"acceleration {amount:g}" if args.mri else f"{amount} views, {simulation.said(args)}"
        print(f"\n{title}; training of {args.minutes:g} minutes: {steps}")
        print(f"{'patients':>8}  {'solver':<20}" + "".join(f"{name:>14}" for name in VARIANTS) + f"{'gain (dB)':>24}")
        for patients in args.patients:
            for name in args.solvers:
                rows = {}
                for variant, (kind, tiles) in VARIANTS.items():
                    prior = PatchPrior(str(priors[patients, kind]), RandomTiling(tiles), precision=args.precision).to(args.device)
                    operator, data, noise = task(args, prior.image_shape[-1], amount)
                    rows[variant] = measure(METHODS[name](prior, operator, {"noise": noise}).to(args.device), data, args.batch)
                figures[f"{title.split(',')[0]}, {patients} patients, {name}"] = rows
                values = "".join(f"{rows[variant]['psnr']:>14.2f}" for variant in VARIANTS)
                print(f"{patients:>8}  {name:<20}{values}{compare(rows):>24}", flush=True)
                write_text(args.output / "patients.json", json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    with explaining():
        main()
