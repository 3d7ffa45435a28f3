"""How benchmarks simulate CT: without an inverse crime, or as the paper does.

What simulates a measurement must not know what reconstructs it: the same pixels, rays and exact data would make results look
better than they are. So the slices of a benchmark have twice the pixels along a side, which are what is measured: by another
matrix, with two rays a bin, and with noise. The truth is the mean over the pixels that are reconstructed. Files without so many
pixels have squares of equal ones. With ``--inverse-crime`` the operator that reconstructs also simulates, without noise.

    python -m benchmarks.simulation --data ct_train.npz --subset train --count 72 --output measured.npz

writes such measurements with the truth beside them: ``predict`` reads and scores them, ``fit`` trains on the truth.

Source: Kaipio and Somersalo, Statistical inverse problems: discretization, model reduction and inverse crimes, Journal of
Computational and Applied Mathematics 2007.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from padis_lightning.commands import explaining
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.sources.base import Item, collate, resize
from padis_lightning.files import whole
from padis_lightning.noise import GaussianNoise
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.operators.finer_scan import FinerScan
from padis_lightning.operators.slices import Slices
from padis_lightning.random import Generators
from padis_lightning.solvers.base import MEASURE
from padis_lightning.types import Batch

FINER = 2  #: pixels and rays for one
NOISE = 0.005  #: share of the measurement's root mean square


def add_arguments(parser: argparse.ArgumentParser, noise: bool = True) -> None:
    """Add the flags of a simulation; without ``noise`` the benchmark names it."""
    said = "simulate by the operator that reconstructs, as the paper does"
    parser.add_argument("--inverse-crime", action="store_true", help=f"{said}{', without noise' * noise}")
    if noise:
        named = f"share of the measurement's root mean square (default: {NOISE:g}, with --inverse-crime 0)"
        parser.add_argument("--noise", type=float, help=named)


def noise_of(args: argparse.Namespace) -> GaussianNoise:
    """Return the noise of the flags."""
    share = args.noise if args.noise is not None else 0.0 if args.inverse_crime else NOISE
    return GaussianNoise(share, "relative")


def said(args: argparse.Namespace) -> str:
    """Return how measurements are simulated, in words."""
    way = "by the operator that reconstructs" if args.inverse_crime else "on a finer grid"
    return f"simulated {way} with {100 * noise_of(args).std:g} % noise"


def images(path: str | None, subset: str, size: int, count: int, device: str, crime: bool, **options: int | bool) -> list[Item]:
    """Return slices or volumes to measure on, evenly spread over patients.

    Args:
        path: of a file or a folder, or None for phantoms.
        subset: of the file.
        size: side of what is reconstructed.
        count: how many.
        device: where they shall be.
        crime: they have ``size`` pixels along a side, else :data:`FINER` times as many where the file has them.
        options: those of ``ImageData``.
    """
    finest = size if crime else FINER * size
    source = ImageData(path, size=None if path else finest, count=count, subset=subset, **options)
    source.setup("predict")
    part = source.predict_dataloader().dataset.items
    items = (part[k] for k in range(len(part)))
    return [item._replace(image=_brought(item.image, finest, size).to(device)) for item in items]


def _brought(image: Tensor, finest: int, size: int) -> Tensor:
    """Return an image or volume with ``finest`` pixels along a side where it has as many, else with ``size``."""
    slices = image.flatten(0, -3)[:, None]
    brought = resize(slices, finest if image.shape[-1] >= finest else size)
    return brought.reshape(*image.shape[:-2], *brought.shape[-2:])


def measured(items: Sequence[Item], operator: LinearOperator, noise: GaussianNoise, crime: bool) -> list[Item]:
    """Return items with their truth and what is measured of them; with the crime as they are, for solvers to measure.

    Args:
        items: of :func:`images`.
        operator: a scan of slices, or of volumes slice by slice.
        noise: of the measurement.
        crime: whether the operator that reconstructs also simulates.
    """
    if crime or not items:
        return list(items)
    size = operator.image_shape[-1]
    coarse = items[0].image.shape[-1] == size
    scan, depth = (operator.operator, operator.depth) if isinstance(operator, Slices) else (operator, None)
    fine: LinearOperator = FinerScan(scan, FINER, coarse)
    fine = fine if depth is None else Slices(fine, depth)
    out = []
    for item in items:
        y = noise.simulate(fine(item.image[None]), Generators.keyed(0, [item.index], MEASURE))
        out.append(item._replace(image=_brought(item.image, size, size), measurement=y[0]))
    return out


def batches(items: Sequence[Item], size: int) -> Iterator[Batch]:
    """Yield batches of so many items."""
    for first in range(0, len(items), size):
        yield collate(items[first : first + size])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write measured slices and their truth."""
    parser = argparse.ArgumentParser(description="Write simulated measurements of slices, which predict reads.")
    parser.add_argument("--data", help="images (default: phantoms)")
    parser.add_argument("--subset", default="all", choices=["all", "train", "validation"])
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--views", type=int, default=20)
    parser.add_argument("--noise", type=float, default=NOISE, help="share of the measurement's root mean square")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(arguments)
    operator = ParallelBeam(args.size, args.views)
    items = images(args.data, args.subset, args.size, args.count, "cpu", False)
    found = collate(measured(items, operator, GaussianNoise(args.noise, "relative"), False))
    assert found.image is not None and found.measurement is not None
    arrays = {"images": found.image[:, 0].numpy(), "y": found.measurement[:, 0].numpy(), "patient": np.array(found.group)}
    scan = {key: value for key, value in operator.geometry.describe().items() if value is not None}
    with whole(args.output) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, range=[0.0, 1.0], **arrays, **scan)
    print(f"{len(items)} slices of {len({*found.group})} patients are in {args.output}")


if __name__ == "__main__":
    with explaining():
        main()
