"""What this machine and its user's accounts allow."""

from __future__ import annotations

import netrc
import os

import torch


def has_bfloat16(accelerator: str) -> bool:
    """Whether the device computes in bfloat16 rather than imitating it; without a GPU the processor is asked."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def has_wandb_account() -> bool:
    """Whether a key of W&B is in the environment or in the user's ``.netrc``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False
