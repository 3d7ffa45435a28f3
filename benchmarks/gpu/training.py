"""(d) and (f): what a training step costs, and what minutes of training bring."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer

from benchmarks import simulation
from benchmarks.gpu.contract import QUIET, convolutions
from benchmarks.gpu.runner import Context, Measurement, Row, skipped
from benchmarks.gpu.scores import no_compilation
from benchmarks.machine import resident
from benchmarks.solvers import METHODS, measure
from benchmarks.timing import synchronise, turns
from benchmarks.training.costs import patch_training, peak_on_gpu
from benchmarks.training.speed import step_times
from benchmarks.training.steps import PAPER, Setup, Step, Trainee
from padis_lightning.callbacks.ema import EMA
from padis_lightning.data.datamodule import ImageData
from padis_lightning.machine import fast_precision
from padis_lightning.networks import PatchNetwork
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import PatchPrior
from padis_lightning.training import PatchDiffusion

CONFIG = Path(__file__).parents[2] / "configs" / "ct256.yaml"
FULL = 0.40  # of the measured bfloat16 matrix rate, what training is to reach
LONGEST = 240.0  # seconds of training
SHORT = {"decay": True, "warmup_patches": 10_000, "compile_network": False}  # what a short run wants otherwise
TRIED = 20  # steps that say how many fit
METHODS_COMPARED = ("FBP", "TV", "PnP-ADMM 50")

# (d)


def _setup(context: Context, **options: bool) -> Setup:
    return Setup("DDPMpp", 8 if context.tiny else PAPER, context.device, **options)


def _step(context: Context) -> Step:
    return Step(16, 2) if context.tiny else Step(56, 128)


def step_rows(context: Context) -> Iterator[Row]:
    """Yield the patches a second of a training step of the paper's network, in each way."""
    setup, step, count = _setup(context), _step(context), 1 if context.tiny else 8
    side = 256 if context.tiny else 8192
    found = step_times(setup, step, count, side, compiles=False, until=time.perf_counter() + context.left / 3)
    for name, values in found["seconds"].items():
        if not name.startswith("product"):
            yield _step_row(context, step, name, median(values), found["flops"], found["first"][name])
    for name, values in found["ratios"].items():
        yield Row(f"a step, {name}", values["median"], "ratio", {key: values[key] for key in ("low", "high")})
    for name, reason in found["failed"].items():
        yield skipped(f"a step, {name}", reason)


def _step_row(context: Context, step: Step, name: str, seconds: float, operations: int, first: float) -> Row:
    details: dict[str, Any] = {"patches": step.n, "side": step.size, "seconds": seconds, "first_seconds": first}
    details |= {"tflops": operations / seconds / 1e12, "goal": FULL}
    details["share_of_bf16_rate"] = context.share_of_rate(operations, seconds)
    if context.device == "cuda" and name in ("float32", "bf16"):
        details["peak_bytes"] = peak_on_gpu(Trainee(_setup(context, bf16=name == "bf16")), step)
    return Row(f"a step, {name}", step.n / seconds, "patches/s", details)


def patch_rows(context: Context) -> Iterator[Row]:
    """Yield peak memory and time of a step on a whole image over those of a step on one patch."""
    setup = _setup(context, bf16=fast_precision(context.device) == "bf16-mixed")
    patches, images = ((16,), (32,)) if context.tiny else ((16, 32, 56, 64, 96), (256, 512))
    options = {"until": time.perf_counter() + context.left / 2}
    if context.device == "cpu":
        options["peak"] = lambda trainee, step: trainee(step) or resident("VmHWM")  # a process for each would take minutes
    found = patch_training(setup, patches, images, 2 if context.tiny else 8, 1 if context.tiny else 5, **options)
    for view, rows in found["whole image / patch"].items():
        for row in rows:
            name, (image, patch) = f"image of {row['image']} / patch of {row['patch']}, {view}", row["values"]
            yield _ratio(f"{name}: memory", row["memory"], {"image_bytes": image["bytes"], "patch_bytes": patch["bytes"]})
            yield _ratio(f"{name}: time", row["time"] and row["time"]["median"], row["time"] or {})
    for row in found["recomputed / kept"]:
        name = f"side of {row['size']}, activations computed again / kept"
        yield _ratio(f"{name}: memory", row["memory"], {})
        yield _ratio(f"{name}: time", row["time"] and row["time"]["median"], row["time"] or {})


def _ratio(name: str, value: float | None, details: dict[str, Any]) -> Row:
    return skipped(name, "out of memory, or lost in noise") if value is None else Row(name, value, "ratio", details)


def compiled_step(context: Context) -> Iterator[Row]:
    """Yield the patches a second of a compiled step."""
    setup, step = _setup(context, bf16=True, compiled=True), _step(context)
    trainee, start = Trainee(setup), time.perf_counter()
    trainee(step)
    synchronise(context.device)
    first = time.perf_counter() - start
    seconds = median(turns({0: partial(trainee, step)}, 8, context.device, context.deadline)[0])
    yield _step_row(context, step, "bf16, compiled", seconds, 3 * step.n * setup.build().operations(step.size), first)


def step_measurements(context: Context) -> Iterator[Measurement]:
    """Yield the paper's step, patches against whole images, and the compiled step, which takes a minute to begin with."""
    yield "steps", partial(_restored, step_rows, context)
    yield "patches and whole images", partial(_restored, patch_rows, context)
    reason, name = no_compilation(context), "a step, bf16, compiled"
    yield name, partial(iter, [skipped(name, reason)]) if reason else partial(_restored, compiled_step, context)


def _restored(measure: Callable[[Context], Iterator[Row]], context: Context) -> Iterator[Row]:
    """Measure, and leave convolutions in TF32 where they were so before; steps set that for themselves."""
    with convolutions(torch.backends.cudnn.allow_tf32):
        yield from measure(context)


# (f)


class Experiment:
    """``ct256.yaml`` for as long as there is time, at a learning rate that rises soon and falls to 0, and what that is worth.

    Args:
        context: where, on which data, and until when.
    """

    def __init__(self, context: Context) -> None:
        config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        self.context, self.trainer, self.ema = context, config["trainer"], config["ema"]
        self.model, data = config["model"]["init_args"] | SHORT, config["data"]["init_args"]
        self.network = self.model.pop("network")
        if context.tiny:
            self.network["init_args"] |= {"base": 8, "multipliers": [1, 2], "blocks": 1}
            self.model |= {"patch_sizes": [8, 16, 32], "patches": 2}
            data |= {"size": 64, "batch_size": 2, "num_workers": 0}
        self.size, self.prior = data["size"], context.output / "prior.safetensors"
        self.data = ImageData(self.path("ct_train.npz"), generated=8 if context.tiny else 200, **data)

    def path(self, name: str) -> str | None:
        """Return the path of a file of the data, None for phantoms."""
        return None if self.context.data is None else str(self.context.data / name)

    def train(self, steps: int, seconds: float = LONGEST) -> tuple[PatchDiffusion, float]:
        """Train so many steps, or so long; return the module, its weights averaged, and the seconds that it took."""
        torch.manual_seed(0)
        task = PatchDiffusion(PatchNetwork.build(self.network["class_path"], self.network["init_args"]), **self.model)
        options = {key: self.trainer[key] for key in ("gradient_clip_val", "benchmark")} | QUIET
        options |= {"accelerator": self.context.device, "precision": fast_precision(self.context.device)}
        limits = {"max_steps": steps, "max_time": {"seconds": max(1, int(seconds))}}
        start = time.perf_counter()
        Trainer(callbacks=[EMA(**self.ema)], **limits, **options).fit(task, self.data)
        return task, time.perf_counter() - start

    def trained(self) -> Iterator[Row]:
        """Train, and keep the prior; how many steps fit is found out by a few of them."""
        until = time.perf_counter() + min(LONGEST, 0.85 * self.context.left)
        few = 1 if self.context.tiny else TRIED
        self.train(few)  # warms up
        (_, short), (_, long) = self.train(few), self.train(3 * few)
        step = (long - short) / (2 * few) if long > short else long / (3 * few)
        left = until - time.perf_counter()
        steps = 3 if self.context.tiny else max(1, int(0.95 * left / step))
        task, seconds = self.train(steps, left)
        task.patch_model().save(self.prior, half=True)
        details = {"steps": task.trainer.global_step, "of": steps, "seconds": seconds, "patches": task.patches_seen}
        yield Row("training of ct256.yaml", task.patches_seen / seconds, "patches/s", details | {"data": task.source})
        yield Row("training of ct256.yaml, last loss", float(task.last[2].mean()), "", {"steps": task.trainer.global_step})

    def compared(self) -> Iterator[Row]:
        """Reconstruct slices of other patients from 20 views by the prior and by total variation."""
        prior = PatchPrior(str(self.prior), precision="bfloat16").to(self.context.device)
        count = 2 if self.context.tiny else 16
        data = simulation.images(self.path("ct_test.npz"), "all", self.size, count, self.context.device, crime=True)
        operator, found = ParallelBeam(self.size, 20).to(self.context.device), {}
        for name in METHODS_COMPARED:
            found[name] = measure(METHODS[name](prior, operator, {}).to(self.context.device), data, count)
            details = {key: found[name][key] for key in ("interval", "ssim", "evaluations", "seconds")}
            details |= {"slices": len(data), "patients": len(set(found[name]["groups"]))}
            yield Row(f"20 views of {self.size}x{self.size}, {name}", found[name]["psnr"], "dB", details)
        gain = found["PnP-ADMM 50"]["psnr"] - found["TV"]["psnr"]
        yield Row("gain of the prior over TV", gain, "dB", {"data": self.data.source})


def prior_measurements(context: Context) -> Iterator[Measurement]:
    """Yield the training and what its prior is worth."""
    experiment = Experiment(context)
    yield "training of ct256.yaml", experiment.trained
    yield "20 views", experiment.compared
