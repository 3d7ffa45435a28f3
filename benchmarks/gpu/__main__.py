"""Measure on a GPU, in a few minutes, whatever has to be measured on one; the most telling parts come first.

    python -m benchmarks.gpu --minutes 9 --out DIR [--data FOLDER]
    python -m benchmarks.gpu --minutes 2 --out DIR --device cpu --tiny      # try all of it without a GPU

Writes ``rows.jsonl``, a line for each figure as soon as it is known, ``table.md`` after each part, and the prior that part (f)
trains. A part that fails is a row that says why; the rest goes on, and the exit code is 1. With ``--only`` the rows of other
parts that DIR has are kept.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu import contract, scans, scores, training
from benchmarks.gpu.runner import Context, Part, run
from benchmarks.plots import NO_GPU
from padis_lightning.commands import explaining

PARTS = (
    Part("a", "the numerical contract: this device against the processor", 5, contract.measurements),
    Part("b", "scores of whole images", 19, scores.score_measurements),
    Part("c", "reconstructions", 7, scores.solver_measurements),
    Part("d", "training steps", 14, training.step_measurements),
    Part("e", "operators of CT", 3, scans.operator_measurements),
    Part("f", "minutes of training, then CT of 20 views", 47, training.prior_measurements),
    Part("g", "volumes", 5, scans.volume_measurements),
)
FILES = "ct_train.npz", "ct_test.npz"


def go_on(args: argparse.Namespace, parts: Sequence[Part], minutes: float) -> None:
    """Measure the rest in a process of its own, as this one's device no longer answers."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--minutes", f"{minutes:.3f}", "--out", str(args.out)]
    command += ["--device", args.device, "--only", *(part.letter for part in parts), *(["--tiny"] if args.tiny else [])]
    subprocess.run(command + (["--data", str(args.data)] if args.data else []))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit code: 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together (default: 9)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="everything small: figures mean nothing")
    parser.add_argument("--data", type=Path, help=f"folder with {' and '.join(FILES)} (default: phantoms)")
    parser.add_argument("--only", nargs="+", choices=[part.letter for part in PARTS], help="these parts (default: all)")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: {NO_GPU}")
    if not args.minutes > 0:
        parser.error(f"--minutes is {args.minutes:g}; wanted a value above 0")
    if args.data and not all((args.data / name).is_file() for name in FILES):
        parser.error(f"--data is {args.data}; wanted a folder with {' and '.join(FILES)}")
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    start, parts = time.monotonic(), [part for part in PARTS if args.only is None or part.letter in args.only]
    parts = [part._replace(share=1) for part in parts] if args.tiny else parts
    good, rest = run(parts, Context(args.device, args.tiny, args.data, args.out), args.minutes)
    if rest:
        go_on(args, rest, max(0.01, args.minutes - (time.monotonic() - start) / 60))
    return 0 if good else 1


if __name__ == "__main__":
    with explaining():
        sys.exit(main())
