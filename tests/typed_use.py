"""What type checkers see of ``import padis_lightning as pl``: ``make lint`` checks it, tests run it and check it on the wheel.

A line with ``type: ignore`` is wrong on purpose. Where the checker does not say so, the comment itself is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import padis_lightning as pl


def functions(array: NDArray[np.float64], tensor: Tensor) -> None:
    """Arrays come back as arrays, tensors as tensors."""
    scan = pl.ParallelBeam(size=64, views=8)
    assert_type(pl.simulate(array, scan), NDArray[Any])
    assert_type(pl.simulate(tensor, scan, noise_std=0.01), Tensor)
    found = pl.reconstruct(pl.simulate(array, scan), scan, solver="PseudoInverse", noise_std=0)
    assert_type(found, pl.Result[NDArray[Any]])
    assert_type(found.image, NDArray[Any])
    assert_type(found.samples, NDArray[Any] | None)
    assert_type(found.residual, float | list[float])
    assert_type(found.range, tuple[float, float])
    other = pl.reconstruct(pl.simulate(tensor, scan), scan, "objects", pl.DDS, 0.01, range=(0, 1), steps=2)
    assert_type(other, pl.Result[Tensor])
    assert_type(other.image, Tensor)
    assert_type(pl.denoise(np.zeros((64, 64)), 0.1, "objects"), NDArray[Any])
    assert_type(pl.denoise(torch.zeros(64, 64), None, pl.load_prior("objects")), Tensor)


def parts(image: Tensor) -> None:
    """Operators, priors and solvers are of their classes, and what they return has a type."""
    blur = pl.Blur((1, 16, 16), kernel=np.ones((3, 3)) / 9)
    both = pl.AveragePooling((1, 16, 16), factor=2) @ blur
    assert_type(both, pl.Composition)
    assert_type(both(image), Tensor)
    assert_type(both.adjoint(both(image)), Tensor)
    assert_type(both.prox(image, both(image), 0.1), Tensor)
    assert_type(pl.Problem(both, pl.PoissonNoise(1e4)).measure(image, pl.Generators.keyed(0, [0])), Tensor)
    prior = pl.GaussianPrior((1, 16, 16))
    assert_type(prior.for_shape((1, 8, 8)), pl.GaussianPrior)
    assert_type(prior.score(image, 0.1, pl.Generators.keyed(0, [0])), Tensor)
    assert_type(pl.PatchPrior.from_pretrained(Path("objects")), pl.PatchPrior)
    solver = pl.DDS(prior, both, steps=2, noise_std=0.01)
    assert_type(solver.prior, pl.Prior)
    assert_type(solver.solve(both(image), pl.Generators.keyed(0, [0])), Tensor)
    scan = pl.Geometry(size=(8, 8), angles=(0.0, 1.0), bins=12, pixel_spacing=1.0, bin_spacing=1.0)
    assert_type(scan.finer(2), pl.Geometry)
    assert_type(pl.Geometry.read(scan.describe()), pl.Geometry)
    assert_type(pl.__version__, str)


def mistakes(array: NDArray[np.float64]) -> None:
    """Is never run."""
    scan = pl.ParallelBeam(size=16, views=8)
    pl.reconstruct("scan.h5", scan)  # type: ignore[type-var]
    pl.reconstruct(array, "scan")  # type: ignore[arg-type]
    pl.reconstruct(array, scan, noise_std="0.1")  # type: ignore[arg-type]
    pl.reconstruct(array, scan, solver=pl.PatchPrior)  # type: ignore[arg-type]
    print(pl.reconstruct(array, scan).picture)  # type: ignore[attr-defined]
    pl.simulate(array, scan, noise=0.1)  # type: ignore[call-arg]
    pl.denoise(array)  # type: ignore[call-arg]
    pl.GaussianBlur((1, 16, 16), border="mirror")  # type: ignore[arg-type]
    pl.DDS(scan, scan)  # type: ignore[arg-type]
    print(pl.nothing)  # type: ignore[attr-defined]
