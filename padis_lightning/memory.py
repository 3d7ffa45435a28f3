"""How much memory there is, and how much a network takes."""

from __future__ import annotations

import copy
import os
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that may still be taken on a device; on the host a container's limit is included."""
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
    """Whether torch could not get the memory it asked for, on a device or on the host."""
    said = isinstance(error, RuntimeError) and re.search(
        r"out of memory|can't allocate memory|not enough memory", str(error), re.I
    )
    return isinstance(error, MemoryError) or bool(said)


class _Written(TorchDispatchMode):
    """Counts the bytes of all new tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        out = func(*args, **(kwargs or {}))
        if not any(value.alias_info for value in func._schema.returns):
            self.bytes += sum(t.nbytes for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, Tensor))
        return out


def bytes_written(network: nn.Module, *inputs: Tensor) -> int:
    """Bytes of all that one call of a network computes, a bound of what it holds at once; nothing is computed for it."""
    shadow, inputs = copy.deepcopy(network).to("meta"), [value.to("meta") for value in inputs]
    with torch.no_grad(), _Written() as written:
        shadow(*inputs)
    return written.bytes
