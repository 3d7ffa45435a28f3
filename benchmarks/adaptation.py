"""Measure what adapting the prior to each measurement brings: one table over views and noise.

    python -m benchmarks.adaptation --data ct_test.npz --own prior.safetensors
    python -m benchmarks.adaptation --data ct_train.npz --subset validation ...      # to tune on

Each slice is reconstructed by ``PnPADMM`` with the prior, with the prior adapted to the slice's own measurement, and with
``--own``, a prior of images like these. Gains are over the prior as it is, slice by slice. Measurements are those of
:mod:`benchmarks.simulation`. What stands in ``adaptation.json`` already is not measured again, slice by slice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import simulation
from benchmarks.solvers import measure
from padis_lightning.commands import explaining
from padis_lightning.files import write_text
from padis_lightning.metrics import interval
from padis_lightning.noise import GaussianNoise
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import PatchPrior
from padis_lightning.problem import Problem
from padis_lightning.solvers.adaptation import Adaptation
from padis_lightning.solvers.plug_and_play import PnPADMM


def row_of(each: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean PSNR of slices, their gain over the plain ones with its interval and its least, and seconds."""
    gains = [here["psnr"] - there["psnr"] for here, there in zip(each, plain, strict=True)]
    mean = {key: sum(slice_[key] for slice_ in each) / len(each) for key in ("psnr", "ssim", "seconds")}
    groups = [slice_["groups"][0] for slice_ in each]
    return {**mean, "gain": sum(gains) / len(gains), "interval": interval(gains, groups), "least": min(gains)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, a row a prior, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="images (default: phantoms)")
    parser.add_argument("--subset", default="all", choices=["all", "train", "validation"])
    parser.add_argument("--prior", default="ct_phantoms")
    parser.add_argument("--own", help="a prior of images like these, to compare")
    parser.add_argument("--views", type=int, nargs="+", default=[20, 8])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.01], help="shares of the root mean square")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60, help="of the adaptation")
    simulation.add_arguments(parser, noise=False)
    parser.add_argument("--output", type=Path, default=Path("results/adaptation"))
    args = parser.parse_args(arguments)
    prior, adaptation = PatchPrior(args.prior), Adaptation(args.steps)
    kinds: dict[str, tuple[PatchPrior, Adaptation | None]] = {"plain": (prior, None), "adapted": (prior, adaptation)}
    if args.own:
        kinds["own"] = (PatchPrior(args.own), None)
    images = simulation.images(args.data, args.subset, prior.image_shape[-1], args.count, "cpu", args.inverse_crime)
    path = args.output / "adaptation.json"
    settings = {key: value for key, value in vars(args).items() if key not in ("output", "views", "noise")}
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"settings": settings}
    if figures["settings"] != settings:
        parser.error(f"{path} was measured with {figures['settings']}; wanted {settings}, or another --output")
    heads = f"{'PSNR (dB)':>10}{'SSIM':>8}{'gain (dB)':>22}{'least':>7}{'s/image':>9}"
    print(f"{'views':>5}{'noise':>7}  {'prior':<9}{heads}", flush=True)
    for views in args.views:
        for noise in args.noise:
            problem = Problem(ParallelBeam(prior.image_shape[-1], views), GaussianNoise(noise, "relative"))
            data = simulation.measured(images, problem.operator, problem.noise, args.inverse_crime)
            found: dict[str, list] = figures.setdefault(f"{views} views, {100 * noise:g} % noise", {})
            for kind, (denoiser, option) in kinds.items():
                each = found.setdefault(kind, [])
                for item in data[len(each) :]:
                    each.append(measure(PnPADMM(denoiser, problem, steps=args.evaluations, adaptation=option), [item], 1))
                    write_text(path, json.dumps(figures, indent=1) + "\n")
                row = row_of(each, found["plain"])
                gain = f"{row['gain']:+.2f} [{row['interval'][0]:+.2f}, {row['interval'][1]:+.2f}]"
                print(
                    f"{views:>5}{noise:>7g}  {kind:<9}{row['psnr']:>10.2f}{row['ssim']:>8.3f}{gain:>22}{row['least']:>+7.2f}"
                    f"{row['seconds']:>9.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    with explaining():
        main()
