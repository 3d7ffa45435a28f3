"""(e) and (g): operators of CT, backend by backend, and volumes whose state is on the host."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import median

import torch

from benchmarks.gpu.runner import LATE, Context, Measurement, Row, skipped
from benchmarks.operators import measure
from benchmarks.timing import turns
from benchmarks.volumes import large_solver, step_of_large
from padis_lightning.ct import PROJECTORS, Geometry, choose
from padis_lightning.operators.ct import FanBeam, ParallelBeam

# (e)


def operator_rows(context: Context, name: str, geometry: Geometry, batch: int) -> Iterator[Row]:
    """Yield milliseconds an image of every backend that is here, and the default's time over each; name those that are not."""
    times = measure(geometry, batch, context.device, 1 if context.tiny else 7)
    default = choose(geometry).name
    for backend, kinds in times.items():
        for kind, seconds in kinds.items():
            ratios = [a / b for a, b in zip(times[default][kind], seconds, strict=True)]
            details = {"default": default, "default_over_it": median(ratios), "batch": batch}
            yield Row(f"{name}, batch {batch}, {backend}, {kind}", 1e3 * median(seconds), "ms/image", details)
    for backend, cls in PROJECTORS.items():
        if backend not in times:
            reason = cls.obstacle(geometry) if cls.version() else f"{backend} is not installed"
            yield skipped(f"{name}, batch {batch}, {backend}", reason)


def operator_measurements(context: Context) -> Iterator[Measurement]:
    """Yield each scan at each number of images."""
    size = 32 if context.tiny else 256
    scans = {"parallel 20": ParallelBeam(size, 20), "parallel 60": ParallelBeam(size, 60), "fan 60": FanBeam(size, 60)}
    for name, scan in scans.items():
        for batch in (1, 8, 32):
            yield f"{name}, batch {batch}", partial(operator_rows, context, name, scan.geometry, batch)


# (g)


def copies(context: Context, count: int) -> Iterator[Row]:
    """Yield the rate at which slices of a volume travel to the device, from memory as it is and from pinned memory."""
    ways = {"as it is": torch.ones(count)} | ({"pinned": torch.ones(count).pin_memory()} if context.device == "cuda" else {})
    for way, x in ways.items():
        seconds = median(turns({way: lambda x=x: x.to(context.device, copy=True)}, 5, context.device, context.deadline)[way])
        yield Row(f"host to device, {way}", x.nbytes / seconds / 1e9, "GB/s", {"bytes": x.nbytes, "seconds": seconds})


def volume_rows(context: Context) -> Iterator[Row]:
    """Yield seconds and peak memory of two steps on a volume, its state on the device and on the host.

    Transfers are not overlapped with computation: what they cost is the difference, which is the most that overlapping them
    could bring.
    """
    depth, size, steps = (3, 64, 2) if context.tiny else (64, 512, 2)
    solver = large_solver("ct_phantoms", depth, size, views=20, steps=steps).to(context.device)
    step_of_large(solver, context.device, context.device)  # warms up
    found = {}
    for state in dict.fromkeys((context.device, "cpu")):
        if found and context.left <= 0:
            yield skipped("state on the host", LATE)
            return
        seconds, most = step_of_large(solver, context.device, state)
        found[state] = seconds
        place = "host" if state == "cpu" else "device"
        details = {"steps": steps, "seconds": seconds, "peak_bytes": most}
        yield Row(f"{size}x{size}x{depth}, state on the {place}", seconds / steps, "s/step", details)
    if len(found) == 2:
        on_host, on_device = found["cpu"], found[context.device]
        details = {"host_seconds": on_host, "device_seconds": on_device}
        yield Row("share of a step that overlapped transfers could save at most", 1 - on_device / on_host, "share", details)


def volume_measurements(context: Context) -> Iterator[Measurement]:
    """Yield the rate of copies and the volume."""
    yield "copies", partial(copies, context, 2**16 if context.tiny else 32 * 512 * 512)
    yield "volume", partial(volume_rows, context)
