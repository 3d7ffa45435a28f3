"""Measure what training costs: patches against whole images, the fast step against a plain one, and both against matrix products.

    python -m benchmarks.training [--device auto|cpu|cuda] [--quick] [--output results/benchmarks] [--base N] [--turns N]

Alternatives are timed in turn (A B C A B C ...) and compared within a turn, so that a machine whose speed drifts does not
decide; tables show medians and, in brackets, the lowest and highest ratio. Writes ``training.json`` and ``training_cost.png``.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from benchmarks.plots import FULL, NO_GPU, plot, show
from padis_lightning.diffusion import Denoiser
from padis_lightning.files import write_text
from padis_lightning.machine import fast_precision
from padis_lightning.networks import PatchNetwork
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.networks.unet import UNet
from padis_lightning.random import seeded
from padis_lightning.training import PatchDiffusion

PAPER = 128  # base channels of the paper's network


@dataclass(frozen=True)
class Setup:
    """A network and how it is trained; ``plain`` means eager, channels-first and with an optimiser left at its defaults."""

    network: str
    base: int
    device: str
    bf16: bool = False
    compiled: bool = False
    plain: bool = False
    tf32: bool = False

    def build(self) -> PatchNetwork:
        """Return the network, initialised."""
        torch.manual_seed(0)
        return {"UNet": UNet, "DDPMpp": DDPMpp}[self.network](base=self.base)


@dataclass(frozen=True)
class Step:
    """What a step trains on: n patches of ``size``, or whole images of that size, which are then their only patch."""

    size: int
    n: int = 1
    recompute: bool = False


def plain_denoised(denoiser: Denoiser, noisy: Tensor, sigma: Tensor, position: Tensor) -> Tensor:
    """Denoise patches of levels ``(n, 1, 1, 1)`` with the network called with channels-first inputs, as it was published."""
    c_skip, c_out, c_in = denoiser.scalings(sigma)
    inputs = torch.cat([c_in * noisy, position], 1).contiguous()
    assert inputs.stride(1) == inputs[0, 0].numel()
    return c_skip * noisy + c_out * denoiser.network(inputs, sigma.flatten().log() / 4)


class Trainee:
    """A network in training, one step a call."""

    def __init__(self, setup: Setup) -> None:
        self.setup, network = setup, setup.build()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's, of networks among hyperparameters
            self.task = PatchDiffusion(network, patch_sizes=[network.divisor]).to(setup.device)
        self.task.pad = 0, 0
        network.to(memory_format=torch.contiguous_format if setup.plain else torch.channels_last)
        self.optimizer = Adam(network.parameters(), lr=1e-6, **({} if setup.plain else {"fused": True}))
        self.generator = seeded(0, device=torch.device(setup.device))
        if setup.compiled:
            network.compile(dynamic=False)

    def __call__(self, step: Step) -> None:
        """Do a step: draw, cut, forward, backward, a look at the gradients, Adam; old gradients live through the forward pass."""
        if self.setup.device == "cuda":
            torch.backends.cudnn.allow_tf32 = self.setup.tf32
        self.task.denoiser.network.recompute = step.recompute
        side = max(step.size, 64)
        images = torch.rand(min(step.n, 4), 1, side, side, device=self.setup.device)
        self.task.image_shape = tuple(images.shape[1:])
        draws = self.task.draw_patches(step.size, step.n, self.generator)
        with torch.autocast(self.setup.device, torch.bfloat16, enabled=self.setup.bf16):
            if self.setup.plain:
                clean, position = self.task.cut(images, draws.corners, step.size)
                loss = self.plain_loss(clean, draws.sigma[:, None, None, None], draws.noise, position)
            else:
                loss = self.task.losses(images, step.size, draws).mean()
        self.optimizer.zero_grad()
        loss.backward()
        if not torch.isfinite(torch.nn.utils.get_total_norm([p.grad for p in self.task.parameters() if p.grad is not None])):
            raise FloatingPointError(f"the gradient of {step} is not finite")
        self.optimizer.step()

    def plain_loss(self, clean: Tensor, sigma: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        """Return EDM's loss, with the network called with channels-first inputs."""
        denoiser = self.task.denoiser
        denoised = plain_denoised(denoiser, clean + sigma * noise, sigma, position)
        return ((denoised - clean) / denoiser.scalings(sigma)[1]).square().mean()

    def free(self) -> None:
        """Let go of what a step that failed has left."""
        self.optimizer.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def turns(cases: dict[Any, Callable[[], object]], count: int, device: str, until: float = math.inf) -> dict[Any, list[float]]:
    """Return the seconds of every case in each turn, after one turn to warm up.

    Args:
        cases: what is timed, by name.
        count: most turns.
        device: where they compute.
        until: the time of ``time.perf_counter`` after which no turn begins but the first one that is timed.
    """
    seconds: dict[Any, list[float]] = {key: [] for key in cases}
    for turn in range(count + 1):
        if turn > 1 and time.perf_counter() >= until:
            break
        for key, run in cases.items():
            synchronise(device)
            start = time.perf_counter()
            run()
            synchronise(device)
            if turn:
                seconds[key].append(time.perf_counter() - start)
    return seconds


def ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Return median and range of a / b, turn by turn."""
    pairs = [x / y for x, y in zip(a, b, strict=True)]
    return {"median": median(pairs), "low": min(pairs), "high": max(pairs)}


# Memory


def resident(field: str) -> int:
    """Return the bytes of this process's memory, now (VmRSS) or at most (VmHWM; unlike ru_maxrss it forgets the parent's)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[field].split()[0])


def worker(setup: Setup, step: Step) -> int:
    """Return the peak of two steps in this fresh process beyond its libraries; it may not take memory that others use."""
    import resource

    warnings.simplefilter("ignore")
    with open("/proc/meminfo") as lines:
        available = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    resource.setrlimit(resource.RLIMIT_DATA, (int(0.9 * available),) * 2)
    Trainee(Setup("UNet", 8, "cpu", setup.bf16))(Step(8))  # loads what libraries load late
    before = resident("VmRSS")
    trainee = Trainee(setup)
    trainee(step), trainee(step)
    return resident("VmHWM") - before


def peak_on_cpu(trainee: Trainee, step: Step) -> int | None:
    """Return the peak of a process of its own, as no process can forget its peak; None where it ran out of memory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["padis_lightning.cli", "padis_lightning.training.patch_diffusion"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(worker, trainee.setup, step).result()
        except (BrokenProcessPool, MemoryError):
            return None
        except RuntimeError as error:
            if "allocate memory" not in str(error):
                raise
            return None


def peak_on_gpu(trainee: Trainee, step: Step) -> int | None:
    """Return the most that torch has allocated in a step, weights and Adam's state included; None where it ran out of memory."""
    found = None
    with suppress(torch.OutOfMemoryError):
        trainee(step)
        torch.cuda.reset_peak_memory_stats()
        trainee(step)
        found = torch.cuda.max_memory_allocated()
    trainee.free()
    return found


#: what measures the most bytes that a step takes; None where it ran out of memory
Peak = Callable[[Trainee, Step], int | None]


def costs(
    setup: Setup, steps: Sequence[Step], count: int, until: float = math.inf, peak: Peak | None = None
) -> dict[Step, dict[str, Any]]:
    """Return peak memory and seconds of every kind of step; those that ran out of memory are not timed."""
    trainee = Trainee(setup)
    peak = peak or (peak_on_gpu if setup.device == "cuda" else peak_on_cpu)
    peaks = {step: peak(trainee, step) for step in steps}
    fitting = {step: lambda step=step: trainee(step) for step in steps if peaks[step] is not None}
    seconds = turns(fitting, count, setup.device, until)
    return {step: {"bytes": peaks[step], "seconds": seconds.get(step)} for step in steps}


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Return memory and time of a and b and their ratios; None where one ran out of memory or is lost in noise."""
    known = all(side[name] for side in (a, b) for name in ("bytes", "seconds"))
    memory = a["bytes"] / b["bytes"] if a["bytes"] and b["bytes"] else None
    return {"values": [a, b], "memory": memory, "time": ratio(a["seconds"], b["seconds"]) if known else None}


def added(found: dict[Step, dict[str, Any]], size: int) -> dict[str, Any]:
    """Return the bytes and seconds that a further sample adds, from one to the most that fit; None where noise hides it."""
    fitting = {step.n: row for step, row in found.items() if step.size == size and not step.recompute and row["bytes"]}
    one, most = fitting.get(1), fitting.get(max(fitting, default=1))
    if one is most:
        return {"bytes": None, "seconds": None}
    rest = max(fitting) - 1
    memory, seconds = most["bytes"] - one["bytes"], median(most["seconds"]) - median(one["seconds"])
    return {"bytes": memory / rest if memory > 0 else None, "seconds": [seconds / rest] if seconds > 0 else None}


def patch_training(
    setup: Setup,
    patches: Sequence[int],
    images: Sequence[int],
    n: int,
    count: int,
    **options: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Measure part 1: peak memory and time of training on patches and on whole images; each whole image over each patch.

    The options are those of :func:`costs`.
    """
    patches = [size for size in patches if size % setup.build().divisor == 0]
    counts = {size: {1, n, max(n, images[0] ** 2 // size**2)} for size in patches} | {size: {1, 2, n} for size in images}
    steps = [Step(size, k) for size, numbers in counts.items() for k in sorted(numbers)]
    repeated = patches[min(2, len(patches) - 1)], images[-1]
    found = costs(setup, steps + [Step(size, 1, recompute=True) for size in repeated], count, **options)
    pairs = [(image, patch) for image in images for patch in patches]
    views = {
        "one sample a step": lambda size: found[Step(size)],
        f"{n} samples a step": lambda size: found[Step(size, n)],
        "a further sample": lambda size: added(found, size),
    }
    return {
        "setup": asdict(setup),
        "steps": [asdict(step) | row for step, row in found.items()],
        "whole image / patch": {
            view: [
                {"image": image, "patch": patch, "pixels": (image / patch) ** 2} | compare(value(image), value(patch))
                for image, patch in pairs
            ]
            for view, value in views.items()
        },
        "recomputed / kept": [
            {"size": size} | compare(found[Step(size, 1, recompute=True)], found[Step(size)]) for size in repeated
        ],
    }


# Time


def product(side: int, device: str, dtype: torch.dtype) -> Callable[[], object]:
    """Compute three products of random matrices; zeros or ones would draw less power and run faster on a GPU."""
    a = torch.randn(side, side, device=device).to(dtype)
    return lambda: [torch.mm(a, a) for _ in range(3)]


def step_times(base: Setup, step: Step, count: int, side: int, compiles: bool, until: float = math.inf) -> dict[str, Any]:
    """Measure parts 2 to 4: seconds of a step in each variant and of matrix products, all in turn."""
    fast = fast_precision(base.device) == "bf16-mixed"
    options = {"float32": {}, "plain": {"plain": True}}
    options |= {"plain, TF32 convolutions": {"plain": True, "tf32": True}} if base.device == "cuda" else {}
    options |= {"bf16": {"bf16": True}} if fast else {}
    options |= {"compiled": {"bf16": fast, "compiled": True}} if compiles else {}
    cases, first, failed = {}, {}, {}
    for name, choice in options.items():
        trainee = Trainee(Setup(**asdict(base) | choice))
        start = time.perf_counter()
        try:
            trainee(step)
            synchronise(base.device)
        except torch.OutOfMemoryError:
            failed[name] = FULL
        except Exception as error:
            if name != "compiled":
                raise
            failed[name] = f"cannot compile: {str(error).strip().splitlines()[0]}"
        else:
            first[name], cases[name] = time.perf_counter() - start, lambda trainee=trainee: trainee(step)
    rates = {"float32": torch.float32} | ({"bf16": torch.bfloat16} if fast else {})
    for name, dtype in rates.items():
        cases[f"product {name}"] = product(side, base.device, dtype)
    seconds = turns(cases, count, base.device, until)
    eager, work = "bf16" if fast else "float32", 3 * step.n * base.build().operations(step.size)
    ours = min((name for name in (eager, "compiled") if name in seconds), key=lambda name: median(seconds[name]), default=None)
    wanted = {"bf16 / float32": ("bf16", "float32"), "compiled / eager": ("compiled", eager)}
    wanted |= {f"{name} / ours": (name, ours) for name in ("plain", "plain, TF32 convolutions")}
    ratios = {name: ratio(*(seconds[k] for k in pair)) for name, pair in wanted.items() if set(pair) <= set(seconds)}
    share = {
        name: {
            rate: ratio([work / t for t in seconds[name]], [6 * side**3 / t for t in seconds[f"product {rate}"]])
            for rate in rates
        }
        for name in ("float32", "bf16", "compiled")
        if name in seconds
    }
    setup = {"setup": asdict(base), "step": asdict(step), "flops": work, "ours": ours, "eager": eager, "failed": failed}
    return setup | {"seconds": seconds, "first": first, "ratios": ratios, "share": share, "product_flops": 6 * side**3}


def workloads(device: str, quick: bool) -> list[tuple[str, int, Step]]:
    """Return network, base channels and step that parts 2 to 4 measure on a device."""
    if quick:
        return [("UNet", 8, Step(16, 2))]
    if device == "cuda":
        return [("DDPMpp", PAPER, Step(56, 128))]
    return [("UNet", 64, Step(48, 8)), ("DDPMpp", PAPER, Step(56, 4))]


def machine(device: str) -> dict[str, Any]:
    """Return what figures depend on."""
    cpu = platform.processor()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    memory = "torch.cuda.max_memory_allocated" if device == "cuda" else "peak VmHWM of a fresh process beyond its libraries"
    found = {"device": device, "cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}
    return found | {"torch": torch.__version__, "system": platform.platform(), "memory_measured": memory}


def measure(device: str, quick: bool, base: int | None, count: int | None) -> dict[str, Any]:
    """Measure all parts."""
    gpu, count = device == "cuda" and not quick, count or (2 if quick else 15 if device == "cuda" else 5)
    base = base or (8 if quick else PAPER if device == "cuda" else 32)
    setup = Setup("DDPMpp", base, device, bf16=fast_precision(device) == "bf16-mixed")
    patches, images = ((16,), (64,)) if quick else ((16, 32, 56, 64, 96), (256, 512))
    figures = {"machine": machine(device), "memory": patch_training(setup, patches, images, 8 if gpu else 2, count)}
    side = 256 if quick else 8192 if gpu else 2048
    works = [(Setup(name, width, device), step) for name, width, step in workloads(device, quick)]
    return figures | {"speed": [step_times(*work, count, side, compiles=not quick) for work in works]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="everything tiny, in seconds: figures mean nothing")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--base", type=int, help="base channels of the network of part 1 (default: 128 on a GPU, 32 on a CPU)")
    parser.add_argument("--turns", type=int, help="how often each alternative is timed (default: 15 on a GPU, 5 on a CPU)")
    options = parser.parse_args(arguments)
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: {NO_GPU}")
    figures = measure(device, options.quick, options.base, options.turns)
    show(figures)
    write_text(options.output / "training.json", json.dumps(figures, indent=1) + "\n")
    plot(figures["memory"], options.output / "training_cost.png")


if __name__ == "__main__":
    main()
