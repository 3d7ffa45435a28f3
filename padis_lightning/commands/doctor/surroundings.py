"""What lies around: compiler, SLURM, W&B, disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from padis_lightning.commands.doctor.checks import Absent, Broken, Check
from padis_lightning.commands.doctor.devices import gibibytes
from padis_lightning.files import write_text
from padis_lightning.machine import has_wandb_account

SLURM = ("sbatch", "srun", "squeue")
PROBE = 1 << 20  # bytes that the output folder must take


def checks(output: Path) -> Iterator[Check]:
    """Compiler, SLURM, W&B, the disk here and the folder of the results."""
    yield Check("C++ compiler", _compiler, "")
    yield Check("SLURM", _slurm, "")
    yield Check("W&B", _wandb, "")
    yield Check("disk here", lambda: _space(Path.cwd()), "start from a folder that exists")
    yield Check("output", partial(_writable, output), "name a folder that can be written with --output")


def _compiler() -> str:
    """Compile what ``torch.compile`` needs: C++ with Python's headers, by the compiler that it would take."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    remedy = "apt-get install g++ python3-dev, for --model.compile_network and --prior.compile_network alone"
    if shutil.which(name) is None:
        raise Absent(f"there is no {name}", remedy)
    command = [name, "-x", "c++", "-fsyntax-only", f"-I{sysconfig.get_path('include')}", "-"]
    done = subprocess.run(command, input="#include <Python.h>\n", capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise Absent(f"{name} cannot compile against Python's headers", remedy)
    return f"{name} compiles against Python's headers"


def _slurm() -> str:
    found = [name for name in SLURM if shutil.which(name)]
    if not found:
        raise Absent(f"no {SLURM[0]}")
    job = os.environ.get("SLURM_JOB_ID")
    return ", ".join(found) + (f"; this is job {job}" if job else "")


def _wandb() -> str:
    if not has_wandb_account():
        raise Absent("no account; runs are logged offline", "wandb login")
    mode = os.environ.get("WANDB_MODE")
    return "an account" + (f"; WANDB_MODE is {mode}" if mode else "")


def _space(folder: Path) -> str:
    usage = shutil.disk_usage(folder)
    return f"{gibibytes(usage.free)} of {gibibytes(usage.total)} free in {folder}"


def _writable(output: Path) -> str:
    """Write a file as a run would, beside which nothing is left."""
    there = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".doctor-") as folder:
            write_text(Path(folder) / "probe", PROBE * "0")
    except OSError as error:
        raise Broken(f"{output} cannot be written: {error.strerror or error}") from None
    return f"{output} can be written; {_space(there)}"
