"""The parts of this package that depend on the machine, each made to do a small piece of its work."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from padis_lightning.commands.doctor.checks import Absent, Broken, Check
from padis_lightning.commands.doctor.devices import usable
from padis_lightning.commands.doctor.libraries import extras, install
from padis_lightning.ct import PROJECTORS, Geometry, Projector
from padis_lightning.diffusion.model import BUNDLED
from padis_lightning.priors import PatchPrior
from padis_lightning.random import Generators, seeded

ROUNDING = 1e-5  # of an exact adjoint in single precision
APPROXIMATION = 1e-2  # of one that is said to be approximate: pixel by pixel it is at 1e-3, half a bin off at 1e-2
LIKENESS = 0.1  # of another backend's sinogram to the matrix's: its weights may differ, its geometry may not
NOISE, GREY = 0.1, 0.5
INSTALL = {"torch_radon": "conda install -c conda-forge carterbox-torch-radon"}  # it is not on PyPI
SLICES, SIDE, VIEWS = 4, 128, 20


@dataclass(frozen=True)
class _Trial:
    """A sinogram on the host, the error of the adjoint and the seconds of a projection and its adjoint."""

    sinogram: Tensor
    error: float
    seconds: float


def checks() -> Iterator[Check]:
    """Every backend of CT on every device that it takes, and every bundled prior on every device."""
    done: dict[str, _Trial] = {}
    for name in PROJECTORS:
        again = f"install the library of {name} again, or uninstall it"
        for device in usable() if name == "sparse" else usable()[-1:]:
            yield Check(f"CT {name} ({device})", partial(_backend, name, device, done), again)
    again = "install the package again, in a checkout git checkout padis_lightning/assets"
    for path in sorted(BUNDLED.glob("*.safetensors")):
        for device in usable():
            yield Check(f"prior {path.stem} ({device})", partial(_prior, path.stem, device), again)


def _backend(name: str, device: str, done: dict[str, _Trial]) -> str:
    """Law: ``<Ax, y> = <x, A'y>``; likeness: a sinogram as the sparse matrix on the host gives it."""
    cls, scan = PROJECTORS[name], _scan()
    if cls.version() is None:
        raise Absent("not installed, and never needed", install(name) if name in extras() else INSTALL.get(name, ""))
    obstacle = cls.obstacle(scan)
    if obstacle:
        raise Absent(f"{name} {cls.version()}: {obstacle}")
    projector = cls(scan).to(device)
    trial = done[f"{name} {device}"] = _try(projector, device)
    allowed = ROUNDING if projector.exact_adjoint else APPROXIMATION
    if not trial.error < allowed:
        raise Broken(f"{projector.describe()}: <Ax, y> and <x, A'y> differ by {trial.error:.1e}; wanted below {allowed:.0e}")
    text = f"{projector.describe()}; <Ax, y> = <x, A'y> within {trial.error:.0e}; {1000 * trial.seconds:.1f} ms"
    matrix = done.get("sparse cpu", trial)
    if matrix is trial:
        return text
    gap = float((trial.sinogram - matrix.sinogram).norm() / matrix.sinogram.norm())
    if not gap < LIKENESS:
        raise Broken(f"{projector.describe()}: its sinogram is {gap:.1e} from the sparse matrix's; wanted below {LIKENESS}")
    return f"{text}, {trial.seconds / matrix.seconds:.2g} times the matrix's on the processor; {gap:.0e} from its sinogram"


def _scan() -> Geometry:
    """Of ``ct20.yaml``."""
    angles = tuple((k + 0.5) * math.pi / VIEWS for k in range(VIEWS))
    return Geometry((SIDE, SIDE), angles, 2 * SIDE, 40 / SIDE, 40 / SIDE)


def _try(projector: Projector, device: str) -> _Trial:
    """With slices of random squares, which no symmetry maps to themselves, and noisy sinograms of them."""
    generator = seeded(0)
    squares = torch.randn(SLICES, SIDE // 8, SIDE // 8, generator=generator)
    x = squares.repeat_interleave(8, -1).repeat_interleave(8, -2).to(device)
    ax = projector.project(x)
    noise = torch.randn(ax.shape, generator=generator).to(ax)
    y = ax + noise * ax.std()
    aty, seconds = projector.backproject(y), math.inf
    for _ in range(3):
        start = time.perf_counter()
        projector.backproject(projector.project(x)).sum().item()  # waits for the device
        seconds = min(seconds, time.perf_counter() - start)
    ax, x, aty, y = (part.double().cpu() for part in (ax, x, aty, y))
    error = abs(float((ax * y).sum() - (x * aty).sum())) / float(ax.norm() * y.norm())
    return _Trial(ax, error, seconds)


def _prior(name: str, device: str) -> str:
    """An even grey image must come out of noise with less than half of it."""
    prior = PatchPrior(name).to(device)
    generators = Generators.keyed(0, range(1))
    like = torch.empty(1, *prior.canvas_shape, device=device)
    inside = (..., *(slice(pad, side - pad) for pad, side in zip(prior.pad, like.shape[2:], strict=True)))
    clean = torch.zeros_like(like)
    clean[inside] = GREY
    start = time.perf_counter()
    with torch.no_grad():
        denoised = prior(clean + NOISE * generators.normal(like), NOISE, generators)[inside].cpu()
    seconds = time.perf_counter() - start
    left = float((denoised - GREY).square().mean().sqrt()) / NOISE
    if not left < 0.5:  # NaN, too
        raise Broken(f"an even grey image with noise comes out with {left:.2g} of the noise; wanted below 0.5")
    pixels = "x".join(map(str, prior.image_shape[1:]))
    return f"loads and denoises {pixels} pixels in {1000 * seconds:.0f} ms; {left:.2f} of the noise stays"
