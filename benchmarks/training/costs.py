"""Part 1: peak memory and time of training on patches and on whole images."""

from __future__ import annotations

import math
import multiprocessing
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict
from statistics import median
from typing import Any

import torch

from benchmarks.machine import resident
from benchmarks.timing import ratio, turns
from benchmarks.training.steps import Setup, Step, Trainee


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
