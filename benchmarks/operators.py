"""Time each CT backend: an image forward and adjoint at several batch sizes, and the default against the others.

Run with ``python -m benchmarks.operators`` (part of ``make benchmark``). Every backend that is installed takes part (ASTRA:
``pip install astra-toolbox``), and deepinv's ``Tomography`` where deepinv is. The cone beam, which ASTRA computes on GPUs alone,
is held against the sparse matrix of a fan beam that scans slice by slice. Alternatives are timed in turn and compared pair by
pair; medians are printed, with the range of the ratios.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.speed import seconds
from padis_lightning.commands import explaining
from padis_lightning.ct import CONE_PROJECTORS, PROJECTORS, ConeGeometry, Geometry, choose
from padis_lightning.ct.sparse import matrix_bytes
from padis_lightning.files import write_text
from padis_lightning.operators.cone import ConeBeam
from padis_lightning.operators.ct import FanBeam, ParallelBeam
from padis_lightning.random import seeded

Pair = tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]


def deepinv_tomography(geometry: Geometry) -> Pair | None:
    """Return deepinv's projector, by rotation, and its adjoint by differentiation; None where deepinv is not installed."""
    try:
        from deepinv.physics import Tomography
    except ImportError:
        return None
    if geometry.fan or geometry.size[0] != geometry.size[1]:
        return None
    angles = torch.rad2deg(torch.tensor(geometry.angles))
    physics = Tomography(angles=angles, img_width=geometry.size[0], circle=False, normalize=False)
    return (lambda x: physics(x[:, None])), physics.A_adjoint


def fan_by_slice(geometry: ConeGeometry, device: str) -> Pair:
    """Return the fan beam of every slice by one sparse matrix, which knows no cone."""
    matrix = choose(geometry.fan, "sparse").to(device)
    return lambda x: matrix.project(x.flatten(0, 1)), matrix.backproject


def candidates(geometry: Geometry | ConeGeometry, device: str) -> dict[str, Pair]:
    """Return projection and back-projection of each backend that is here."""
    cone = isinstance(geometry, ConeGeometry)
    found = {"fan by slice": fan_by_slice(geometry, device)} if cone else {}
    for name, cls in (CONE_PROJECTORS if cone else PROJECTORS).items():
        if cls.version() and cls.obstacle(geometry) is None:
            projector = choose(geometry, name).to(device)
            found[name] = (projector.project, projector.backproject)
    other = None if cone else deepinv_tomography(geometry)
    return found | ({"deepinv": other} if other else {})


@torch.inference_mode()
def measure(geometry: Geometry | ConeGeometry, batch: int, device: str, count: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds an image of each backend, forward and adjoint, in rounds that take each once."""
    x = torch.rand(batch, *geometry.size, generator=seeded(0)).to(device)
    pairs = candidates(geometry, device)
    data = {name: forward(x) for name, (forward, _) in pairs.items()}
    times = {name: {"forward": [], "adjoint": []} for name in pairs}

    def run(compute: Callable[[torch.Tensor], torch.Tensor], value: torch.Tensor) -> None:
        compute(value)
        if device == "cuda":
            torch.cuda.synchronize()

    for turn in range(count + 1):
        for name, (forward, adjoint) in pairs.items():
            for kind, compute, value in (("forward", forward, x), ("adjoint", adjoint, data[name])):
                taken = seconds(lambda compute=compute, value=value: run(compute, value)) / batch
                if turn:  # the first round warms up
                    times[name][kind].append(taken)
    return times


def table(
    name: str, geometry: Geometry | ConeGeometry, batches: list[int], device: str, count: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Print a scan's lines and return its figures."""
    size = "x".join(map(str, geometry.size))
    views, *detector = geometry.shape
    print(f"\n{name}, {size}, {views} views of {' x '.join(map(str, detector))} bins, on the {device}")
    if not isinstance(geometry, ConeGeometry):
        print(f"the matrix and its transpose take {matrix_bytes(geometry) / 2**20:.0f} MiB")
    print(f"{'batch':>5} {'backend':<12}{'forward ms':>12}{'adjoint ms':>12}   default's time over it: forward, adjoint [range]")
    default, figures = choose(geometry).name, {}
    for batch in batches:
        times = measure(geometry, batch, device, count)
        figures[str(batch)] = {}
        for other, kinds in times.items():
            row = {kind: 1e3 * statistics.median(values) for kind, values in kinds.items()}
            text = []
            for kind, values in kinds.items():
                ratios = sorted(a / b for a, b in zip(times[default][kind], values, strict=True))
                row[f"{kind}_ratio"] = statistics.median(ratios)
                text.append(f"{row[f'{kind}_ratio']:.3f} [{ratios[0]:.3f}, {ratios[-1]:.3f}]")
            figures[str(batch)][other] = row
            mark = "default" if other == default else "  ".join(text)
            print(f"{batch:>5} {other:<12}{row['forward']:>12.2f}{row['adjoint']:>12.2f}   {mark}")
    return figures


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--count", type=int, default=7, help="timed rounds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="write the figures as JSON, too")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; milliseconds an image, medians of {args.count} rounds")
    print("goals at batch 8: at most 0.25 of ASTRA's CPU time, 0.1 of deepinv's; on a GPU at most 1.5 of the fastest")
    scans = {
        "parallel 20": ParallelBeam(args.size, 20),
        "parallel 60": ParallelBeam(args.size, 60),
        "fan 60": FanBeam(args.size, 60),
    }
    figures = {name: table(name, scan.geometry, args.batches, args.device, args.count) for name, scan in scans.items()}
    cone = ConeBeam(args.size // 4, 60).geometry
    figures["cone 60"] = table("cone 60", cone, args.batches[:1], args.device, args.count)
    work = math.prod(cone.size) * len(cone.angles)
    for name, row in figures["cone 60"][str(args.batches[0])].items():
        rates = (f"{work / (1e3 * row[kind]):.3g}" for kind in ("forward", "adjoint"))
        print(f"million voxels times views a second, {name}: {', '.join(rates)}")
    if args.output:
        write_text(args.output, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    with explaining():
        main()
