"""The trials of ``doctor``: what depends on the machine, each made to do a small piece of its work."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.utils import collect_env

from padis_lightning.commands.doctor import Absent, Broken, Check
from padis_lightning.ct import PROJECTORS, Geometry, Projector
from padis_lightning.diffusion.model import BUNDLED
from padis_lightning.machine import has_bfloat16
from padis_lightning.memory import free_memory
from padis_lightning.priors import PatchPrior
from padis_lightning.random import Generators, seeded

ROUNDING = 1e-5  # of an exact adjoint in single precision
APPROXIMATION = 1e-2  # of one that is said to be approximate: pixel by pixel it is at 1e-3, half a bin off at 1e-2
LIKENESS = 0.1  # of another backend's sinogram to the matrix's: its weights may differ, its geometry may not
NOISE, GREY = 0.1, 0.5
CUDA = "update NVIDIA's driver, or install a torch for its CUDA (pytorch.org/get-started/locally)"
INSTALL = {"astra": "pip install 'padis_lightning[astra]'", "torch_radon": "conda install -c conda-forge carterbox-torch-radon"}
SLICES, SIDE, VIEWS = 4, 128, 20


def machine() -> Iterator[Check]:
    """Yield checks of the processor with its system, and each GPU or the reason why there is none."""
    yield Check("processor", _processor)
    if not torch.cuda.is_available():
        yield Check("GPU", _no_gpu, CUDA)
    for k in range(torch.cuda.device_count()):
        yield Check(f"GPU {k}", partial(_gpu, k), CUDA)


def projectors() -> Iterator[Check]:
    """Yield a check of every backend of CT on every device that it takes."""
    sinograms: dict[str, Tensor] = {}
    for name in PROJECTORS:
        for device in _devices() if name == "sparse" else _devices()[-1:]:
            again = f"install the library of {name} again, or uninstall it"
            yield Check(f"CT {name} ({device})", partial(_backend, name, device, sinograms), again)


def priors() -> Iterator[Check]:
    """Yield a check of every bundled prior on every device."""
    again = "install the package again, in a checkout git checkout padis_lightning/assets"
    for path in sorted(BUNDLED.glob("*.safetensors")):
        for device in _devices():
            yield Check(f"prior {path.stem} ({device})", partial(_prior, path.stem, device), again)


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _describe(device: str) -> str:
    native = "computes" if has_bfloat16(device) else "does not compute"
    return f"{free_memory(device) / 2**30:.1f} GiB free; {native} in bfloat16"


def _processor() -> str:
    described = dict(line.split(":", 1) for line in collect_env.get_cpu_info(collect_env.run).splitlines() if ":" in line)
    model = described.get("Model name", platform.machine()).strip()
    compiler = collect_env.get_gcc_version(collect_env.run) or "none, which --model.compile_network alone needs"
    system = f"Python {platform.python_version()} on {collect_env.get_os(collect_env.run)}, C++ compiler {compiler}"
    return f"{model}; torch takes {torch.get_num_threads()} threads; {_describe('cpu')}; {system}"


def _gpu(index: int) -> str:
    """Return what a GPU is; a product of matrices must be the processor's."""
    device = f"cuda:{index}"
    factor = torch.randn(256, 256, generator=seeded(index))
    wanted = factor @ factor
    gap = float((torch.matmul(factor.to(device), factor.to(device)).cpu() - wanted).norm() / wanted.norm())
    if not gap < 1e-2:  # TF32, where it is on, is at 1e-3
        raise Broken(f"a product of matrices is off by {gap:.1e} of its norm; wanted below 1e-2")
    with torch.cuda.device(device):
        described = _describe(device)
    driver = collect_env.get_nvidia_driver_version(collect_env.run)
    return f"{torch.cuda.get_device_name(device)}, driver {driver}, CUDA {torch.version.cuda}; {described}"


def _no_gpu() -> str:
    seen = collect_env.get_gpu_info(collect_env.run)
    if not seen:
        raise Absent("none; the processor computes")
    text = f"{seen.splitlines()[0]} is there, but torch {torch.__version__} cannot use it"
    if torch.version.cuda is None:
        raise Absent(f"{text}: it is a build without CUDA", CUDA)
    raise Broken(text)


def _backend(name: str, device: str, sinograms: dict[str, Tensor]) -> str:
    """Check ``<Ax, y> = <x, A'y>``, and that the sinogram is like that of the sparse matrix on the host."""
    angles = tuple((k + 0.5) * math.pi / VIEWS for k in range(VIEWS))
    cls, scan = PROJECTORS[name], Geometry((SIDE, SIDE), angles, 2 * SIDE, 40 / SIDE, 40 / SIDE)
    if cls.version() is None:
        raise Absent("not installed, and never needed", INSTALL.get(name, ""))
    if obstacle := cls.obstacle(scan):
        raise Absent(f"{name} {cls.version()}: {obstacle}")
    projector = cls(scan).to(device)
    sinogram, error = _try(projector, device)
    matrix = sinograms.setdefault("sparse", sinogram)  # which comes first
    allowed = ROUNDING if projector.exact_adjoint else APPROXIMATION
    if not error < allowed:
        raise Broken(f"{projector.describe()}: <Ax, y> and <x, A'y> differ by {error:.1e}; wanted below {allowed:.0e}")
    gap = float((sinogram - matrix).norm() / matrix.norm())
    if not gap < LIKENESS:
        raise Broken(f"{projector.describe()}: its sinogram is {gap:.1e} from the sparse matrix's; wanted below {LIKENESS}")
    return f"{projector.describe()}; <Ax, y> = <x, A'y> within {error:.0e}; sinogram {gap:.0e} from the sparse matrix's"


def _try(projector: Projector, device: str) -> tuple[Tensor, float]:
    """Return the sinogram of random squares, which no symmetry maps to themselves, and the error of the adjoint with noise."""
    generator = seeded(0)
    squares = torch.randn(SLICES, SIDE // 8, SIDE // 8, generator=generator)
    x = squares.repeat_interleave(8, -1).repeat_interleave(8, -2).to(device)
    ax = projector.project(x)
    y = ax + ax.std() * torch.randn(ax.shape, generator=generator).to(ax)
    ax, x, aty, y = (part.double().cpu() for part in (ax, x, projector.backproject(y), y))
    return ax, abs(float((ax * y).sum() - (x * aty).sum())) / float(ax.norm() * y.norm())


def _prior(name: str, device: str) -> str:
    """Denoise an even grey image; less than half of the noise may stay."""
    prior, generators = PatchPrior(name).to(device), Generators.keyed(0, range(1))
    clean = torch.full((1, *prior.image_shape), GREY, device=device)
    start = time.perf_counter()
    with torch.no_grad():
        denoised = prior.on_images(clean + NOISE * generators.normal(clean), NOISE, generators).cpu()
    seconds = time.perf_counter() - start
    left = float((denoised - GREY).square().mean().sqrt()) / NOISE
    if not left < 0.5:  # NaN, too
        raise Broken(f"an even grey image with noise comes out with {left:.2g} of the noise; wanted below 0.5")
    pixels = "x".join(map(str, prior.image_shape[1:]))
    return f"loads and denoises {pixels} pixels in {1000 * seconds:.0f} ms; {left:.2f} of the noise stays"
