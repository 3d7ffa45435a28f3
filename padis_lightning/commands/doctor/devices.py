"""What computes: the processor and the GPUs, each tried."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from padis_lightning.commands.doctor.checks import Absent, Broken, Check
from padis_lightning.machine import has_bfloat16
from padis_lightning.memory import free_memory
from padis_lightning.random import seeded

DRIVER = "update NVIDIA's driver, or install a torch for an older CUDA (pytorch.org/get-started/locally)"


def usable() -> list[str]:
    """The devices that things are tried on."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def checks() -> Iterator[Check]:
    """The processor, and each GPU or the reason why there is none."""
    yield Check("processor", _processor, "")
    yield Check("memory", lambda: f"{gibibytes(free_memory())} free", "")
    if torch.cuda.is_available():
        driver = next(iter(_nvidia_smi()), "of an unknown version").split(",")[0]
        for k in range(torch.cuda.device_count()):
            yield Check(f"GPU {k}", partial(_gpu, k, driver), DRIVER)
    else:
        yield Check("GPU", _no_gpu, DRIVER)


def gibibytes(count: float) -> str:
    """Bytes for reading."""
    return f"{count / 2**30:.1f} GiB"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    model = found.group(1) if found else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    native = "computes" if has_bfloat16("cpu") else "does not compute"
    return f"{model}; torch takes {torch.get_num_threads()} of {cores} cores; {native} in bfloat16"


def _gpu(index: int, driver: str) -> str:
    device = torch.device("cuda", index)
    found = torch.cuda.get_device_properties(device)
    factor = torch.randn(256, 256, generator=seeded(index))
    wanted = factor @ factor
    gap = float((torch.matmul(factor.to(device), factor.to(device)).cpu() - wanted).norm() / wanted.norm())
    if not gap < 1e-2:  # TF32, where it is on, is at 1e-3
        raise Broken(f"{found.name}: a product of matrices is off by {gap:.1e} of its norm; wanted below 1e-2")
    with torch.cuda.device(device):
        native = "computes" if has_bfloat16("cuda") else "does not compute"
    return (
        f"{found.name}, {gibibytes(found.total_memory)}, {gibibytes(free_memory(device))} free, "
        f"capability {found.major}.{found.minor}, driver {driver}, CUDA {torch.version.cuda}; {native} in bfloat16"
    )


def _no_gpu() -> str:
    seen, built = _nvidia_smi(), torch.version.cuda
    if seen and built is None:
        text = f"{seen[0]} is there, but torch {torch.__version__} is a build without CUDA"
        raise Absent(text, "install one with it (pytorch.org/get-started/locally)")
    if seen:
        raise Broken(f"{seen[0]} is there, but torch {torch.__version__} with CUDA {built} cannot use it")
    if torch.backends.mps.is_available():
        raise Absent("Apple's is not used, it has neither sparse matrices nor float64; the processor computes")
    raise Absent("none; the processor computes")


def _nvidia_smi() -> list[str]:
    """``driver, name`` of each GPU that NVIDIA's driver sees; none where it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        asked = [program, "--query-gpu=driver_version,name", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()
