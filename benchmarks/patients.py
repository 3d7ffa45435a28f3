"""Compare a prior of patches with one of whole images, by how many patients they were trained on.

    python -m benchmarks.patients --train ct_train.npz --test ct_test.npz [--minutes 8] [--patients 36 10 3]

Both priors have the same network, training time and solvers. Steps are counted rather than seconds: the time of a step is
measured first, the two in turn, so that another job beside the training decides nothing. What is there already is not trained
again. A tenth of the patients of the training file is never trained on; settings were chosen on those (``--subset validation``).
Measurements are those of :mod:`benchmarks.simulation`.
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

from benchmarks import simulation
from benchmarks.solvers import METHODS, measure
from padis_lightning.files import write_text
from padis_lightning.metrics import interval
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import PatchPrior, RandomTiling

KINDS = {"patches": "ct.yaml", "whole images": "ct_whole.yaml"}
#: what is compared: the prior, and the tiles across that its patches are joined to (None: as trained)
VARIANTS = {"patches": ("patches", None), "larger tiles": ("patches", 1), "whole images": ("whole images", None)}
SOLVERS = ("PnP-ADMM 50", "DDS 50", "DDS (as published)")
QUIET = ("--trainer.enable_progress_bar", "false", "--samples.count", "0", "--trainer.val_check_interval", "1000000")


def fit(config: str, data: str, patients: int, steps: int, output: Path) -> None:
    """Train a prior by the command line."""
    keys = {"data.path": data, "data.training_groups": patients, "trainer.max_steps": steps, "output": output}
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    subprocess.run([sys.executable, "-m", "padis_lightning", "fit", "--config", config, *words, *QUIET], check=True)


def step_seconds(data: str, output: Path, steps: int = 100, turns: int = 3) -> dict[str, float]:
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


def plan(data: str, minutes: float, output: Path) -> dict[str, int]:
    """Return, and keep in a file, the training steps of each kind that take so many minutes on this machine when it is idle."""
    path = output / "plan.json"
    if not path.exists():
        seconds = step_seconds(data, output)
        steps = {kind: int(60 * minutes / value) for kind, value in seconds.items()}
        write_text(path, json.dumps({"minutes": minutes, "seconds": seconds, "steps": steps}, indent=1) + "\n")
    return json.loads(path.read_text())["steps"]


def compare(rows: dict[str, Any]) -> str:
    """Return the gain of patches over whole images, dB, with its interval over patients."""
    patch, image = rows["patches"], rows["whole images"]
    gains = [a - b for a, b in zip(patch["each"], image["each"], strict=True)]
    low, high = interval(gains, patch["groups"])
    return f"{sum(gains) / len(gains):+.2f} [{low:+.2f}, {high:+.2f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True, help="slices by patient, to train on")
    parser.add_argument("--test", required=True, help="slices of other patients")
    parser.add_argument("--subset", default="all", choices=["all", "validation"])
    parser.add_argument("--patients", type=int, nargs="+", default=[36, 10, 3])
    parser.add_argument("--minutes", type=float, default=8.0, help="of training, each prior")
    parser.add_argument("--views", type=int, nargs="+", default=[20, 8])
    parser.add_argument("--count", type=int, default=19)
    parser.add_argument("--batch", type=int, default=8)
    simulation.add_arguments(parser)
    parser.add_argument("--solvers", nargs="+", default=SOLVERS, choices=list(METHODS))
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of the network")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("results/patients"))
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    steps, noise = plan(args.train, args.minutes, args.output), simulation.noise_of(args)
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
    for views in args.views:
        print(f"\n{views} views, {simulation.said(args)}; training of {args.minutes:g} minutes: {steps}")
        print(f"{'patients':>8}  {'solver':<20}" + "".join(f"{name:>14}" for name in VARIANTS) + f"{'gain (dB)':>24}")
        for patients in args.patients:
            for name in args.solvers:
                rows = {}
                for variant, (kind, tiles) in VARIANTS.items():
                    prior = PatchPrior(str(priors[patients, kind]), RandomTiling(tiles), precision=args.precision).to(args.device)
                    size, crime = prior.image_shape[-1], args.inverse_crime
                    operator = ParallelBeam(size, views).to(args.device)
                    images = simulation.images(args.test, args.subset, size, args.count, args.device, crime)
                    data = simulation.measured(images, operator, noise, crime)
                    rows[variant] = measure(METHODS[name](prior, operator, {"noise": noise}).to(args.device), data, args.batch)
                figures[f"{views} views, {patients} patients, {name}"] = rows
                values = "".join(f"{rows[variant]['psnr']:>14.2f}" for variant in VARIANTS)
                print(f"{patients:>8}  {name:<20}{values}{compare(rows):>24}", flush=True)
                write_text(args.output / "patients.json", json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
