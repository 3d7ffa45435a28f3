"""The machine that figures depend on, and the memory that a process takes of it."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


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


def resident(field: str) -> int:
    """Return the bytes of this process's memory, now (VmRSS) or at most (VmHWM; unlike ru_maxrss it forgets the parent's)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[field].split()[0])
