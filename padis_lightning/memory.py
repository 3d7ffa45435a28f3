"""How much memory there is, and how much a network takes."""

from __future__ import annotations

import copy
import os
import re
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Mode = TypeVar("Mode", bound=TorchDispatchMode)


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


def device_of(module: nn.Module) -> torch.device | None:
    """Where the parameters and buffers of a module are; None where it has none and computes anywhere."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return None if first is None else first.device


def on_device_of(module: nn.Module, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``compute`` where a module is: tensors go there, and the result comes back to where the first of them was."""
    there = device_of(module)

    def computed(*parts: Tensor) -> Tensor:
        here = parts[0].device
        if there is None or there == here:
            return compute(*parts)
        return compute(*(part.to(there) for part in parts)).to(here)

    return computed


def bytes_of(module: nn.Module) -> dict[torch.device, int]:
    """Bytes of parameters and buffers, by the device that they are on."""
    found: dict[torch.device, int] = {}
    for tensor in chain(module.parameters(), module.buffers()):
        found[tensor.device] = found.get(tensor.device, 0) + tensor.nbytes
    return found


class Held(TorchDispatchMode):
    """Counts the bytes of tensors that are made in its block, by device, while anything holds them.

    Attributes:
        now: of those that are held.
        most: the most that were held at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now: Counter[torch.device] = Counter()
        self.most: Counter[torch.device] = Counter()
        self._storages: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                self._take(tensor.untyped_storage(), tensor.device)
        return out

    def _take(self, storage: torch.UntypedStorage, device: torch.device) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def gone(_: weakref.ref) -> None:
            del self._storages[key]
            self.now[device] -= size

        self._storages[key] = weakref.ref(storage, gone)
        self.now[device] += size
        self.most[device] = max(self.most[device], self.now[device])


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


def _watched(mode: Mode, network: nn.Module, inputs: Sequence[Tensor]) -> Mode:
    """A mode that has seen one call of a network on tensors without values."""
    shadow, inputs = copy.deepcopy(network).to("meta"), [value.to("meta") for value in inputs]
    with torch.no_grad(), mode:
        shadow(*inputs)
    return mode


def bytes_held(network: nn.Module, *inputs: Tensor) -> int:
    """Bytes that one call of a network without gradients holds at most, its result included; nothing is computed for it."""
    return _watched(Held(), network, inputs).most.total()


def bytes_written(network: nn.Module, *inputs: Tensor) -> int:
    """Bytes of all that one call of a network computes, a bound of what it holds at once; nothing is computed for it."""
    return _watched(_Written(), network, inputs).bytes
