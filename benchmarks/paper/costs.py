"""Measure seconds and memory of one evaluation of the whole image: patches by chunk and batch, and whole images."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import Any

import torch
import yaml

from benchmarks.machine import resident
from benchmarks.paper.scales import SCALES
from padis_lightning.diffusion import Denoiser, PatchModel, padding
from padis_lightning.networks.base import PatchNetwork
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.networks.unet import UNet
from padis_lightning.priors import PatchPrior
from padis_lightning.random import Generators
from padis_lightning.types import Normalisation

TURNS = 3


@dataclass(frozen=True)
class Case:
    """A case is one evaluation.

    Args:
        size: side of the image.
        patch: side of a patch; that of the image for a model of whole images.
        chunk: most patches in one call.
        batch: images.
        gradient: with the derivative that DPS takes.
    """

    size: int
    patch: int
    chunk: int
    batch: int = 1
    gradient: bool = False


def network(values: dict[str, str]) -> PatchNetwork:
    """Return an untrained network of the scale's kind."""
    named = yaml.safe_load(values["NETWORK"])
    return {"DDPMpp": DDPMpp, "UNet": UNet}[named["class_path"]](**named["init_args"])


def untrained(net: PatchNetwork, size: int, patch: int) -> PatchModel:
    """Return a model of square images with the weights that a network has; of whole images where a patch is as large."""
    pad = (0, 0) if patch == size else padding((size, size), patch)
    return PatchModel(Denoiser(net, 0.3), (1, size, size), [patch], pad, Normalisation(0.0, 1.0))


def evaluate(case: Case, values: dict[str, str]) -> dict[str, Any]:
    """Measure seconds an image, the least of a few turns, and bytes beyond what the weights and the libraries take."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prior = PatchPrior(untrained(network(values), case.size, case.patch), chunk_size=case.chunk).to(device)
    x = torch.zeros(case.batch, *prior.canvas_shape, device=device)
    generator, seconds = Generators.keyed(0, range(case.batch)), []
    before = torch.cuda.memory_allocated() if device == "cuda" else resident("VmRSS")
    for _ in range(TURNS):
        start = time.perf_counter()
        if case.gradient:
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(prior(leaf, 0.1, generator).sum(), leaf)
        else:
            with torch.no_grad():
                prior(x, 0.1, generator)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / case.batch)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")
    return {"seconds": min(seconds), "bytes": max(0, peak - before)}


def _worker(case: Case, values: dict[str, str]) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    evaluate(Case(16, 8, 1, gradient=case.gradient), SCALES["test"])  # loads what libraries load late
    return evaluate(case, values)


def cases(values: dict[str, str]) -> list[Case]:
    """Return sizes, chunks and batches, each beside the whole image."""
    size, patch = int(values["SIZE"]), yaml.safe_load(values["PATCH_SIZES"])[-1]
    sizes = [size, 2 * size, 4 * size]
    found = [Case(n, p, 64, gradient=gradient) for n in sizes for gradient in (False, True) for p in (patch, n)]
    found += [Case(sizes[1], patch, chunk, gradient=gradient) for chunk in (1, 4, 16) for gradient in (False, True)]
    return found + [Case(size, p, 64, batch) for batch in (4, 16) for p in (patch, size)]


def study(values: dict[str, str]) -> list[dict[str, Any]]:
    """Measure every case in a process of its own, as no process can forget its peak; None for one that ran out of memory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.paper.costs"])
    found = []
    for case in cases(values):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                measured = pool.submit(_worker, case, values).result()
            except (BrokenProcessPool, MemoryError, torch.OutOfMemoryError):
                measured = {"seconds": None, "bytes": None}
        found.append(asdict(case) | measured)
    return found
