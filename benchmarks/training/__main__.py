"""Measure what training costs: patches against whole images, the fast step against a plain one, and both against matrix products.

    python -m benchmarks.training [--device auto|cpu|cuda] [--quick] [--output results/benchmarks] [--base N] [--turns N]

Alternatives are timed in turn (A B C A B C ...) and compared within a turn, so that a machine whose speed drifts does not
decide; tables show medians and, in brackets, the lowest and highest ratio. Writes ``training.json`` and ``training_cost.png``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.plots import NO_GPU, plot, show
from benchmarks.training.costs import patch_training
from benchmarks.training.speed import step_times, workloads
from benchmarks.training.steps import PAPER, Setup
from padis_lightning.commands import explaining
from padis_lightning.files import write_text
from padis_lightning.machine import fast_precision


def measure(device: str, quick: bool, base: int | None, count: int | None) -> dict[str, Any]:
    """Measure all parts."""
    gpu, count = device == "cuda" and not quick, count or (2 if quick else 15 if device == "cuda" else 5)
    base = base or (8 if quick else PAPER if device == "cuda" else 32)
    setup = Setup("DDPMpp", base, device, bf16=fast_precision(device) == "bf16-mixed")
    patches, images = ((16,), (64,)) if quick else ((16, 32, 56, 64, 96), (256, 512))
    figures = {"machine": machine(device), "memory": patch_training(setup, patches, images, 8 if gpu else 2, count)}
    side = 256 if quick else 8192 if gpu else 2048
    works = [(Setup(name, width, device), step) for name, width, step in workloads(device, quick)]
    return figures | {"speed": [step_times(*work, count, side, compiles=not quick) for work in works]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, write the files."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="everything tiny, in seconds: figures mean nothing")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--base", type=int, help="base channels of the network of part 1 (default: 128 on a GPU, 32 on a CPU)")
    parser.add_argument("--turns", type=int, help="how often each alternative is timed (default: 15 on a GPU, 5 on a CPU)")
    options = parser.parse_args(arguments)
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: {NO_GPU}")
    figures = measure(device, options.quick, options.base, options.turns)
    show(figures)
    write_text(options.output / "training.json", json.dumps(figures, indent=1) + "\n")
    plot(figures["memory"], options.output / "training_cost.png")


if __name__ == "__main__":
    with explaining():
        main()
