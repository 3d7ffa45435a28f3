"""Parts 2 to 4: the fast step against a plain one, compiled against eager, and both against matrix products."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from statistics import median
from typing import Any

import torch

from benchmarks.plots import FULL
from benchmarks.timing import ratio, synchronise, turns
from benchmarks.training.steps import PAPER, Setup, Step, Trainee
from padis_lightning.machine import fast_precision


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
