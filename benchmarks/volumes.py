"""Compare priors of volumes from few views: slices on their own, held together by total variation, in groups, and in cubes.

    python -m benchmarks.volumes --data ct_test.npz --slices prior.safetensors --groups groups/prior.safetensors --cubes ...
    python -m benchmarks.volumes --data ct_train.npz --subset validation ...      # to tune on

Without ``--data`` it takes built-in phantoms, without ``--slices`` the bundled prior; methods without their prior are left
out. Every method sees the same measurements, which are those of :mod:`benchmarks.simulation`. What stands in ``volumes.json``
already is not measured again. ``consistency`` is how much neighbouring slices differ over how much they do in truth (1 is
right). Gains are in PSNR over slice by slice, with 95 % bootstrap intervals over patients. Then the peak memory against the
number of slices, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks import simulation
from benchmarks.machine import resident
from benchmarks.plots import memory_of_slices
from benchmarks.solvers import direct, few_views
from padis_lightning import metrics
from padis_lightning.commands import explaining
from padis_lightning.diffusion import PatchModel, padding
from padis_lightning.files import write_text
from padis_lightning.operators import slices as slicewise
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.operators.slices import Slices
from padis_lightning.priors import GroupPrior, PatchPrior, Prior, SlicePrior
from padis_lightning.priors import slices as of_slices
from padis_lightning.problem import Problem
from padis_lightning.random import seeded
from padis_lightning.solvers import Solver
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.plug_and_play import PnPADMM
from padis_lightning.solvers.plug_and_play_slices import PnPSlices
from padis_lightning.solvers.pseudo_inverse import PseudoInverse
from padis_lightning.solvers.tv import TotalVariation

EVALUATIONS = 50
#: weights with many and with few views
TV = {False: 2e-5, True: 8e-5}
#: of total variation across slices in the prior, over sigma; chosen on patients the prior was not trained on: docs/volumes.md
IN_PRIOR = 0.1
#: of the noise that ``DDS`` draws for neighbouring slices, see docs/volumes.md
CORRELATION = 0.9
Make = Callable[[dict[str, PatchPrior], Problem, dict[str, Any]], Solver]


def _prior(priors: dict[str, PatchPrior], kind: str, slice_tv: float) -> Prior:
    model = priors[kind]
    return model if kind == "cubes" else {"slices": SlicePrior, "groups": GroupPrior}[kind](model, slice_tv=slice_tv)


def plain(kind: str, slice_tv: float = 0.0) -> Make:
    """Return ``PnPADMM`` with a prior of one kind, which smooths across slices."""
    return lambda priors, problem, given: PnPADMM(_prior(priors, kind, slice_tv), problem, **{"steps": EVALUATIONS} | given)


def in_data(kind: str) -> Make:
    """Return the same with total variation across slices in the data step."""
    return lambda priors, problem, given: PnPSlices(_prior(priors, kind, 0.0), problem, **{"steps": EVALUATIONS} | given)


def fresh_noise(slice_correlation: float) -> Make:
    """Return ``DDS`` with a prior of slices and fresh noise of so much correlation between neighbouring slices."""
    own = {"slice_correlation": slice_correlation}
    return lambda priors, problem, given: DDS(
        _prior(priors, "slices", 0.0), problem, **direct(problem.operator, EVALUATIONS) | own | given
    )


#: the kind of prior that a method needs, and how it is made
METHODS: dict[str, tuple[str | None, Make]] = {
    "FBP": (None, lambda priors, problem, given: PseudoInverse(problem)),
    "TV along three axes": (None, lambda priors, problem, given: TotalVariation(problem, weight=TV[few_views(problem.operator)])),
    "slice by slice": ("slices", plain("slices")),
    "slices, TV in the data step": ("slices", in_data("slices")),
    "slices, TV in the prior": ("slices", plain("slices", IN_PRIOR)),
    "slices, DDS": ("slices", fresh_noise(0.0)),
    "slices, DDS, correlated": ("slices", fresh_noise(CORRELATION)),
    "groups of three": ("groups", plain("groups")),
    "groups, TV in the prior": ("groups", plain("groups", IN_PRIOR)),
    "cubes": ("cubes", plain("cubes")),
}


@torch.no_grad()
def measure(solver: Solver, items: Sequence) -> dict[str, Any]:
    """Return the scores of one method, volume by volume."""
    rows: dict[str, list[float]] = {}
    for item in simulation.batches(items, 1):
        found = solver.predict_step(item)
        estimate, truth = found.estimate, item.image
        row = {"psnr": metrics.psnr(estimate, truth), "consistency": metrics.consistency(estimate, truth)}
        row |= {f"ssim_{plane}": metrics.plane_ssim(estimate, truth, plane) for plane in metrics.PLANES}
        row |= {"residual": found.residual, "seconds": torch.tensor(found.seconds / truth.shape[2])}
        for key, value in row.items():
            rows.setdefault(key, []).append(float(value))
    return {key: fmean(values) for key, values in rows.items()} | {"each": rows["psnr"], "evaluations": solver.evaluations}


def gained(row: dict[str, Any], over: dict[str, Any] | None, patients: Sequence[str]) -> str:
    """Return the mean gain in PSNR and its interval over patients, in words; nothing where the other is not known."""
    if over is None or row is over:
        return ""
    gains = [a - b for a, b in zip(row["each"], over["each"], strict=True)]
    low, high = metrics.interval(gains, patients)
    return f"   {fmean(gains):+.2f} [{low:+.2f}, {high:+.2f}]"


def peak(args: argparse.Namespace, depth: int, steps: int = 2) -> int:
    """Return the bytes that a volume of so many slices took at most, on the device, and of a processor the whole process."""
    operator = Slices(ParallelBeam(args.size, args.views[0]), depth)
    solver = plain("slices", IN_PRIOR)({"slices": PatchPrior(args.slices)}, Problem(operator), {}).to(args.device)
    if args.at_once:
        slicewise.SLICES_AT_ONCE = of_slices.SLICES_AT_ONCE = depth
        solver.prior.prior.chunk_size = sys.maxsize
    solver.steps = steps
    y = torch.rand(1, *operator.measurement_shape, device=args.device)
    with torch.no_grad():
        solver.solve_in_time(y, [0])
    return torch.cuda.max_memory_allocated() if args.device == "cuda" else resident("VmHWM")


def memory(arguments: Sequence[str], depths: Sequence[int], known: dict[str, int]) -> dict[str, int]:
    """Return the peak of each number of slices, each in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.volumes", *arguments, "--peak"]
    missing = [depth for depth in depths if str(depth) not in known]
    runs = {depth: subprocess.run([*command, str(depth)], capture_output=True, text=True, check=True) for depth in missing}
    return known | {str(depth): int(run.stdout.split()[-1]) for depth, run in runs.items()}


def large_solver(slices: str, depth: int, size: int, views: int, steps: int = 1) -> PnPADMM:
    """Return a solver of volumes of any size, with two iterations a step; weights may have been trained on another size."""
    model = PatchModel.load(slices)
    model = replace(model, image_shape=(1, size, size), pad=padding((size, size), max(model.patch_sizes)))
    operator = Slices(ParallelBeam(size, views), depth)
    return PnPADMM(SlicePrior(PatchPrior(model), slice_tv=IN_PRIOR), operator, steps=steps, iterations=2)


@torch.no_grad()
def step_of_large(solver: PnPADMM, device: str, state: str) -> tuple[float, int]:
    """Return seconds of a solve that keeps its state on a device, and the most bytes it took beside what was loaded before."""
    y = torch.rand(1, *solver.operator.measurement_shape, generator=seeded(0)).to(state)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = 0 if device == "cuda" else resident("VmRSS")
    _, seconds = solver.solve_in_time(y, [0])
    return seconds, torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM") - before


def large(args: argparse.Namespace, depth: int, size: int) -> None:
    """Print what one step on a volume takes."""
    solver = large_solver(args.slices, depth, size, args.views[0]).to(args.device)
    seconds, most = step_of_large(solver, args.device, args.device)
    print(f"{seconds:.0f} s, {most / 2**30:.2f} GiB beside what was loaded before")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables; write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="slices with patients and heights, or series (default: phantoms)")
    parser.add_argument("--subset", default="all", choices=["all", "train", "validation"])
    parser.add_argument("--slices", default="ct_phantoms", help="prior of slices")
    parser.add_argument("--groups", help="prior of groups of three, by ct_groups.yaml")
    parser.add_argument("--cubes", help="prior of three-dimensional patches, by ct_cubes.yaml")
    parser.add_argument("--views", type=int, nargs="+", default=[20, 8])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--count", type=int, default=4)
    simulation.add_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=list(METHODS), help="these methods (default: all)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the solvers with priors, to tune")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of the network")
    parser.add_argument("--depths", type=int, nargs="*", default=[8, 16, 32, 64, 128], help="to measure memory with")
    parser.add_argument("--peak", type=int, help="only print the peak memory of a volume of so many slices")
    parser.add_argument("--large", type=int, nargs=2, metavar=("DEPTH", "SIZE"), help="only one step on a volume so large")
    parser.add_argument("--at-once", action="store_true", help="for --peak: all slices at once")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("results/volumes"))
    args = parser.parse_args(arguments)
    if args.peak:
        print(peak(args, args.peak))
        return
    if args.large:
        large(args, *args.large)
        return
    paths = {kind: path for kind in ("slices", "groups", "cubes") if (path := getattr(args, kind))}
    given = {key: json.loads(value) for key, _, value in (word.partition("=") for word in args.set)}
    crime, noise = args.inverse_crime, simulation.noise_of(args)
    keys = "data", "subset", "size", "depth", "count", "set", "precision", "inverse_crime"
    settings = {key: str(getattr(args, key)) for key in keys} | {"noise": str(noise.std)}
    path = args.output / "volumes.json"
    figures = json.loads(path.read_text()) if path.exists() else {"settings": settings, "priors": {}, "scores": {}, "memory": {}}
    if figures["settings"] != settings or paths | figures["priors"] != figures["priors"] | paths:
        known = figures["settings"] | figures["priors"]
        parser.error(f"{path} was measured with {known}; wanted {settings | paths}, or another --output")
    figures["priors"] |= paths
    priors = {kind: PatchPrior(prior, precision=args.precision) for kind, prior in paths.items()}
    how = {"volumes": True, "depth": args.depth}
    images = simulation.images(args.data, args.subset, args.size, args.count, args.device, crime, **how)
    for views in args.views:
        rows = figures["scores"].setdefault(str(views), {})
        operator = Slices(ParallelBeam(args.size, views), args.depth).to(args.device)
        items = simulation.measured(images, operator, noise, crime)
        of = f"{len(items)} volumes of {args.depth} slices of {len({item.group for item in items})} patients"
        print(f"\n{views} views, {of}, {simulation.said(args)}")
        print(f"{'method':<29}{'PSNR (dB)':>10}{'consistency':>13}{'SSIM axial, coronal, sagittal':>32}{'s/slice':>9}   gain")
        for name in args.only or METHODS:
            kind, make = METHODS[name]
            if kind is not None and kind not in priors:
                continue
            if name not in rows:
                rows[name] = measure(make(priors, Problem(operator, noise), given).to(args.device), items)
                write_text(path, json.dumps(figures, indent=1) + "\n")
            row = rows[name]
            gain = gained(row, rows.get("slice by slice"), [item.group for item in items])
            similar = "".join(f"{row[f'ssim_{plane}']:>10.4f}" for plane in metrics.PLANES)
            print(f"{name:<29}{row['psnr']:>10.2f}{row['consistency']:>13.3f}  {similar}{row['seconds']:>9.2f}{gain}", flush=True)
    if args.depths:
        words = ["--slices", args.slices, "--size", str(args.size), "--views", str(args.views[0]), "--device", args.device]
        for way, flag in (("in turn", []), ("at once", ["--at-once"])):
            found = figures["memory"][way] = memory([*words, *flag], args.depths, figures["memory"].get(way, {}))
            write_text(path, json.dumps(figures, indent=1) + "\n")
            print(f"\npeak memory (GiB), slices {way}: " + ", ".join(f"{k}: {v / 2**30:.3f}" for k, v in found.items()))
        memory_of_slices(figures["memory"], args.size, path.with_name("memory.png"))


if __name__ == "__main__":
    with explaining():
        main()
