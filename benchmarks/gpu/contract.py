"""(a) Compare what a device computes with what the processor computes in float32, within tolerances that are stated."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from benchmarks.gpu.runner import FAILED, MEASURED, Context, Measurement, Row
from benchmarks.paper.costs import untrained
from padis_lightning.data.datamodule import ImageData
from padis_lightning.diffusion import PatchModel
from padis_lightning.networks import PatchNetwork
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.blur import GaussianBlur, UniformBlur
from padis_lightning.operators.cone import ConeBeam
from padis_lightning.operators.ct import FanBeam, ParallelBeam
from padis_lightning.operators.inpainting import RandomInpainting
from padis_lightning.operators.slices import Slices
from padis_lightning.operators.super_resolution import BicubicDownsampling
from padis_lightning.priors import FixedTiling, OverlapTiling, PatchPrior, RandomTiling, Tiling
from padis_lightning.random import Generators, seeded
from padis_lightning.solvers import Solver
from padis_lightning.solvers.dps import DPS
from padis_lightning.solvers.plug_and_play import PnPADMM
from padis_lightning.training import PatchDiffusion
from padis_lightning.training.patches import Patches

#: largest relative error, the norm of the difference over that of what the processor has: of operators, of one evaluation of a
#: prior and of a few steps of a solver, and of the loss and the gradient of a training step, by the precision of the network; a
#: processor's bfloat16 makes 0.009, 0.003 and 0.001, and TF32 has three bits more
TOLERANCES = {
    "operator": {"float32": 1e-5},
    "denoised": {"float32": 3e-5, "TF32": 4e-3, "bfloat16": 3e-2},
    "solved": {"float32": 1e-3, "TF32": 4e-3, "bfloat16": 2e-2},
    "trained": {"float32": 1e-4, "TF32": 2e-3, "bfloat16": 1e-2},
}
#: what a trainer gets that only trains
QUIET = {"devices": 1, "limit_val_batches": 0, "num_sanity_val_steps": 0, "use_distributed_sampler": False, "logger": False}
QUIET |= {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
#: what computes values by name
Values = Callable[[], dict[str, Tensor]]

OPERATORS: dict[str, Callable[[], LinearOperator]] = {
    "ParallelBeam": lambda: ParallelBeam(64, 20),
    "FanBeam": lambda: FanBeam(64, 30),
    "ConeBeam": lambda: ConeBeam(8, 4),
    "UniformBlur": lambda: UniformBlur((1, 64, 64), 9),
    "GaussianBlur, mirrored": lambda: GaussianBlur((1, 63, 64), 1.5, 9, "reflect"),
    "BicubicDownsampling": lambda: BicubicDownsampling((1, 64, 64), 4),
    "RandomInpainting": lambda: RandomInpainting((1, 64, 64)),
    "Slices": lambda: Slices(ParallelBeam(32, 8), 5),
}
TILINGS: dict[str, Tiling] = {"random": RandomTiling(), "fixed": FixedTiling(), "overlapping": OverlapTiling(8, blend=True)}


@contextmanager
def convolutions(tf32: bool) -> Iterator[None]:
    """Let convolutions on GPUs round their inputs to TF32 within the block, or not; it is torch's default that they do."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over that of what was expected, in float64."""
    expected = expected.detach().cpu().double()
    return float((found.detach().cpu().double() - expected).norm() / expected.norm())


def compared(name: str, kind: str, expected: Values, found: Values, precision: str = "float32") -> Iterator[Row]:
    """Yield the relative error of each value that was found; more than the tolerance, or NaN, has failed."""
    most = TOLERANCES[kind][precision]
    with convolutions(precision == "TF32"):
        wanted, seen = expected(), found()
    for key, value in wanted.items():
        error = relative_error(seen[key], value)
        status = MEASURED if error <= most else f"{FAILED}: the relative error is {error:.3g}; wanted at most {most:g}"
        yield Row(f"{name}, {key}, {precision}", error, "relative error", {"at_most": most}, status)


def stirred(network: PatchNetwork) -> PatchNetwork:
    """Return a network whose weights all matter: fresh ones begin with layers near zero, which would hide an error."""
    generator = seeded(0)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else parameter + 0.1 * noise)
    return network


def images(count: int, *shape: int) -> Tensor:
    """Return random images on the processor, the same in every call."""
    return torch.rand(count, *shape, generator=seeded(1))


def operated(make: Callable[[], LinearOperator], device: str, precision: str) -> dict[str, Tensor]:
    """Measure images, and go back from a measurement."""
    operator = make().to(device)
    x, y = images(3, *operator.image_shape).to(device), images(3, *operator.measurement_shape).to(device)
    return {"forward": operator(x), "adjoint": operator.adjoint(y), "approximate inverse": operator.approximate_inverse(y)}


def _prior(model: str | PatchModel, device: str, precision: str, tiling: Tiling | None = None) -> PatchPrior:
    model = model if isinstance(model, str) else copy.deepcopy(model)
    return PatchPrior(model, tiling, precision="bfloat16" if precision == "bfloat16" else "float32").to(device)


@torch.no_grad()
def denoised(model: str | PatchModel, tiling: Tiling, device: str, precision: str) -> dict[str, Tensor]:
    """Denoise images patch by patch."""
    prior = _prior(model, device, precision, tiling)
    noisy = images(2, *prior.image_shape)
    return {"denoised": prior.on_images(noisy.to(device), 0.3, Generators.keyed(0, range(2)))}


@torch.no_grad()
def solved(make: Callable[[PatchPrior, LinearOperator], Solver], device: str, precision: str) -> dict[str, Tensor]:
    """Reconstruct an image from 20 views by a few steps of a solver."""
    operator = ParallelBeam(128, 20)
    y = operator(images(1, *operator.image_shape).cumsum(3) / 128)
    solver = make(_prior("ct_phantoms", device, precision), operator).to(device)
    return {"reconstruction": solver.solve_in_time(y.to(device), [0])[0]}


SOLVERS: dict[str, Callable[[PatchPrior, LinearOperator], Solver]] = {
    "PnPADMM": lambda prior, operator: PnPADMM(prior, operator, steps=4),
    "DPS": lambda prior, operator: DPS(prior, operator, steps=3, inner=2),
}


def _task() -> PatchDiffusion:
    torch.manual_seed(0)
    return PatchDiffusion(stirred(DDPMpp(base=32, multipliers=[1, 2], blocks=1, dropout=0.0)), patch_sizes=[16, 32], patches=8)


def trained(device: str, precision: str) -> dict[str, Tensor]:
    """Do the forward and the backward pass of a training step."""
    task = _task()
    task.lay_out((1, 64, 64))
    draws = task.draw_patches(32, 8, seeded(0))
    task.to(device)
    with torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext():
        loss = task.losses(images(4, 1, 64, 64).to(device), 32, Patches(*(values.to(device) for values in draws))).mean()
    loss.backward()
    gradients = [parameter.grad for parameter in task.parameters()]
    return {"loss": loss, "gradient norm": torch.nn.utils.get_total_norm(gradients)}


def fitted(device: str, strategy: str) -> dict[str, Tensor]:
    """Train two steps as ``fit`` does, and return what the second one saw."""
    task, data = _task(), ImageData(size=64, batch_size=4, generated=4)
    Trainer(accelerator=device, strategy=strategy, max_steps=2, **QUIET).fit(task, data)
    return {"loss": task.last[2].mean(), "gradient norm": task.gradient_norm}


def measurements(context: Context) -> Iterator[Measurement]:
    """Yield every comparison, with the processor but for the last, which is with the same device without processes."""
    device, processor = context.device, {}

    def measurement(name: str, kind: str, compute: Callable[[str, str], dict[str, Tensor]], precision: str) -> Measurement:
        expected = processor.setdefault(name, cache(partial(compute, "cpu", "float32")))
        found = partial(compute, device, precision)
        return f"{name}, {precision}", partial(compared, name, kind, expected, found, precision)

    for name, make in OPERATORS.items():
        yield measurement(name, "operator", partial(operated, make), "float32")
    paper = untrained(stirred(DDPMpp(base=32, multipliers=[1, 2], blocks=1)), 64, 32)
    for precision in ("float32", "TF32", "bfloat16") if device == "cuda" else ("float32", "bfloat16"):
        for name, tiling in TILINGS.items():
            yield measurement(f"UNet, {name} tiling", "denoised", partial(denoised, "ct_phantoms", tiling), precision)
        yield measurement("DDPMpp, random tiling", "denoised", partial(denoised, paper, RandomTiling()), precision)
        for name, make in SOLVERS.items():
            yield measurement(name, "solved", partial(solved, make), precision)
        yield measurement("training step", "trained", trained, precision)
    name = f"two steps of fit, DDP over {'NCCL' if device == 'cuda' else 'Gloo'}"
    yield name, partial(compared, name, "trained", partial(fitted, device, "auto"), partial(fitted, device, "ddp"))
