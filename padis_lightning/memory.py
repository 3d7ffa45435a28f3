"""How much memory there is, and on which device a module computes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn


def free_memory(device: torch.device | str = "cpu") -> int:
    """Return the bytes that may still be taken on a device; on the host a container's limit is included."""
    device = torch.device(device)
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    found = []
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found.append(next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")))
    except (OSError, StopIteration):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            found.append(int(limit.read()) - int(used.read()))
    except (OSError, ValueError):
        pass  # no container, or one without a limit
    return min(found)


def is_out_of_memory(error: BaseException) -> bool:
    """Check whether torch could not get the memory it asked for, on a device or on the host."""
    said = isinstance(error, RuntimeError) and re.search(
        r"out of memory|can't allocate memory|not enough memory", str(error), re.I
    )
    return isinstance(error, MemoryError) or bool(said)


def device_of(module: nn.Module) -> torch.device | None:
    """Return where the parameters and buffers of a module are; None where it has none and computes anywhere."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return None if first is None else first.device


def on_device_of(module: nn.Module, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return ``compute`` at the place of a module: tensors go there, and the result comes back to where the first of them was."""
    there = device_of(module)

    def computed(*parts: Tensor) -> Tensor:
        here = parts[0].device
        if there is None or there == here:
            return compute(*parts)
        return compute(*(part.to(there) for part in parts)).to(here)

    return computed
