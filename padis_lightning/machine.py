"""What this machine computes in, and what its user's accounts allow."""

from __future__ import annotations

import netrc
import os

import torch

from padis_lightning.errors import InputError


def choose_accelerator(accelerator: str, devices: object) -> str:
    """Return the accelerator to use: where it is to be found out, a GPU that has sparse matrices and float64, else the processor.

    Raises:
        InputError: more processes are wanted than the processor serves.
    """
    if accelerator == "auto" and not torch.cuda.is_available():
        accelerator = "cpu"
    most = max(os.cpu_count() or 1, 4)
    if accelerator == "cpu" and str(devices).isdecimal() and int(str(devices)) > most:
        raise InputError(f"trainer.devices is {devices}; wanted at most {most} on this machine's processor")
    return accelerator


def has_bfloat16(accelerator: str) -> bool:
    """Return whether the device computes in bfloat16 rather than imitating it; without a GPU the processor is asked."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def fast_precision(accelerator: str, volumetric: bool = False) -> str:
    """Return the precision to train in: mixed bfloat16 where the device computes in it, else float32.

    A processor has no fast convolutions of volumes in bfloat16.
    """
    slow = volumetric and accelerator == "cpu"
    return "bf16-mixed" if has_bfloat16(accelerator) and not slow else "32-true"


def has_wandb_account() -> bool:
    """Return whether a key of W&B is in the environment or in the user's ``.netrc``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False
