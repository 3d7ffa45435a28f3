"""Measure noise and resolution on phantoms: noise power spectra, and task transfer functions at several contrasts.

    python -m benchmarks.resolution [--prior prior.safetensors] [--views 20] [--noise 0.005] [--output results/resolution]

An ellipse of water in air is scanned again and again with fresh noise, without and with a disc of each contrast. Line integrals
are those of the ellipses in closed form, eight rays a bin: nothing of the simulation is on a grid. Total variation has the weight
with the best PSNR, of six, on phantoms of chests with the same scan and noise. :mod:`padis_lightning.image_quality` defines the
figures.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import simulation
from benchmarks.plots import noise_and_resolution
from benchmarks.settings import WEIGHTS
from benchmarks.solvers import METHODS, measure
from padis_lightning import image_quality
from padis_lightning.commands import explaining
from padis_lightning.ct import Geometry
from padis_lightning.files import write_text
from padis_lightning.noise import GaussianNoise
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import PatchPrior
from padis_lightning.random import Generators
from padis_lightning.solvers import Solver
from padis_lightning.solvers.base import MEASURE
from padis_lightning.solvers.tv import TotalVariation
from padis_lightning.types import Batch

SHOWN = ("FBP", "TV", "PnP-ADMM 50", "DDS 50")
RAYS = 8  #: of a bin
MM = 10.0  #: in a unit of length of the default scan, which is 40 wide: a chest
REGION = 48  #: pixels along a side of the middle, in which noise is measured
LEVELS = (0.5, 0.1)


@dataclass(frozen=True)
class Ellipse:
    """Adds a value inside an ellipse with axes along x and y; lengths are those of the scan, y points up.

    Args:
        value: what it adds to an image from 0 to 1.
        axes: half axes a and b.
        centre: x and y.
    """

    value: float
    axes: tuple[float, float]
    centre: tuple[float, float] = (0.0, 0.0)

    def projections(self, geometry: Geometry) -> Tensor:
        r"""Return line integrals, the mean over the width of a bin, ``(views, bins)``.

        .. math:: 2 v a b \sqrt{(s^2 - t^2)_+} \, / \, s^2, \quad s^2 = a^2 \cos^2\theta + b^2 \sin^2\theta

        for a ray that passes the ellipse's centre in the distance t. Source: Kak and Slaney, 1988, section 3.1.
        """
        fine = replace(geometry, bins=RAYS * geometry.bins, bin_spacing=geometry.bin_spacing / RAYS)
        theta, offset = (torch.from_numpy(part.copy()) for part in fine.rays())
        (a, b), (x, y) = self.axes, self.centre
        square = (a * theta.cos()).square() + (b * theta.sin()).square()
        away = offset - x * theta.cos() - y * theta.sin()
        chords = 2 * self.value * a * b * (square - away.square()).clamp_min(0).sqrt() / square
        return chords.unflatten(-1, (-1, RAYS)).mean(-1)


BODY = Ellipse(0.5, (15.0, 11.0))  #: water
PLACE, RADIUS = (-5.9, 1.3), 3.0  #: of the disc


def scans(operator: ParallelBeam, contrast: float, noise: GaussianNoise, count: int) -> Batch:
    """Return noisy scans of the body, with a disc of a ``contrast`` in [0, 1] where it is not 0."""
    parts = [BODY, Ellipse(contrast, (RADIUS, RADIUS), PLACE)]
    clean = sum(part.projections(operator.geometry) for part in parts).float().expand(count, 1, -1, -1)
    y = noise.simulate(clean, Generators.keyed(round(1e6 * contrast), range(count), MEASURE))
    names = [f"scan {k}" for k in range(count)]
    return Batch(torch.arange(count), names, names, measurement=y)


def disc(geometry: Geometry) -> tuple[tuple[float, float], float, float]:
    """Return where the disc lies, row and column, its radius and the side of a pixel, mm."""
    h, (height, width) = geometry.pixel_spacing, geometry.size
    return ((height - 1) / 2 - PLACE[1] / h, PLACE[0] / h + (width - 1) / 2), MM * RADIUS, MM * h


@torch.no_grad()
def evaluate(solver: Solver, noise: GaussianNoise, contrasts: Sequence[float], count: int, width: float) -> dict[str, Any]:
    """Return the figures and curves of one method.

    Args:
        solver: with its scan.
        noise: of a scan.
        contrasts: of discs, HU.
        count: scans of each.
        width: of the range of images, HU.
    """
    operator = solver.operator
    centre, radius, pixel = disc(operator.geometry)
    first = [(n - REGION) // 2 for n in operator.image_shape[1:]]
    plain = width * solver.predict_step(scans(operator, 0.0, noise, count)).estimate[:, 0]
    region = plain[:, first[0] : first[0] + REGION, first[1] : first[1] + REGION]
    spectrum = image_quality.noise_power_spectrum(region, pixel)
    ring = image_quality.radial_mean(spectrum, pixel)
    found: dict[str, Any] = {"noise": math.sqrt(float(spectrum.mean()) / pixel**2)}
    found |= {"peak": image_quality.peak_frequency(ring), "mean": image_quality.mean_frequency(ring)}
    found |= {"spectrum": [part.tolist() for part in ring], "edges": {}}
    for contrast in contrasts:
        image = width * solver.predict_step(scans(operator, contrast / width, noise, count)).estimate[:, 0].mean(0)
        edge = image_quality.edge_spread(image, centre, radius, pixel)
        curve = image_quality.transfer_function(edge, pixel)
        row = {f"f{100 * level:.0f}": image_quality.frequency_at(curve, level) for level in LEVELS}
        row |= {"contrast": float(edge.value[0] - edge.value[-1]), "curve": [part.tolist() for part in curve]}
        found["edges"][f"{contrast:g}"] = row | {"edge": [part.tolist() for part in edge]}
    return found


def best_weight(operator: ParallelBeam, noise: GaussianNoise, count: int = 4) -> float:
    """Return the weight of total variation that serves chests best."""
    images = simulation.images(None, "all", operator.image_shape[-1], count, "cpu", crime=False)
    data = simulation.measured(images, operator, noise, crime=False)
    return max(WEIGHTS, key=lambda weight: measure(TotalVariation(operator, weight, noise=noise), data, count)["psnr"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; write the figures and their picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="ct_phantoms")
    parser.add_argument("--views", type=int, default=20)
    parser.add_argument("--noise", type=float, default=simulation.NOISE, help="share of the measurement's root mean square")
    parser.add_argument("--contrasts", type=float, nargs="+", default=[50, 200, 800], help="of discs against water, HU")
    parser.add_argument("--count", type=int, default=16, help="scans of each phantom")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=SHOWN, help="these methods")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of the network")
    parser.add_argument("--output", type=Path, default=Path("results/resolution"))
    args = parser.parse_args(arguments)
    prior = PatchPrior(args.prior, precision=args.precision)
    lower, upper = prior.normalisation.shown.window or (-1000, 1000)
    operator, noise = ParallelBeam(prior.image_shape[-1], args.views), GaussianNoise(args.noise, "relative")
    print(f"{args.views} views, {100 * args.noise:g} % noise, {args.count} scans of each phantom; frequencies per mm")
    edges = "".join(f"{f'{contrast:g} HU: f50':>14}{'f10':>7}{'left':>7}" for contrast in args.contrasts)
    print(f"{'method':<16}{'noise (HU)':>11}{'peak':>8}{'mean':>8}{edges}")
    figures: dict[str, Any] = {"views": args.views, "noise": args.noise, "count": args.count, "methods": {}}
    for name in args.only:
        solver = METHODS[name](prior, operator, {"noise": noise})
        if isinstance(solver, TotalVariation):
            solver.weight = figures["weight"] = best_weight(operator, noise)
        row = figures["methods"][name] = evaluate(solver, noise, args.contrasts, args.count, upper - lower)
        edges = "".join(
            f"{part['f50']:>14.3f}{part['f10']:>7.3f}{part['contrast'] / float(contrast):>7.2f}"
            for contrast, part in row["edges"].items()
        )
        print(f"{name:<16}{row['noise']:>11.2f}{row['peak']:>8.3f}{row['mean']:>8.3f}{edges}", flush=True)
        write_text(args.output / "resolution.json", json.dumps(figures, indent=1) + "\n")
    noise_and_resolution(figures["methods"], args.output / "resolution.png")


if __name__ == "__main__":
    with explaining():
        main()
