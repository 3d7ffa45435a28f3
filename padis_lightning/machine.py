"""What this machine computes in, and what its user's accounts allow."""

from __future__ import annotations

import configparser
import netrc
import os
import ssl
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

import torch

from padis_lightning.errors import InputError, one_line

PATIENCE = 10.0  # seconds that a server has to answer


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


def in_bfloat16(precision: object) -> bool:
    """Return whether a trainer of this precision computes in bfloat16, mixed or throughout."""
    return str(precision).startswith("bf16")


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


def wandb_server() -> str:
    """Return the address of W&B's server, from the environment or the user's settings."""
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(folder / "settings", encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        pass  # wandb says so itself
    kept = settings.get("default", "base_url", fallback="https://api.wandb.ai")
    return os.environ.get("WANDB_BASE_URL") or kept


def why_unreachable(address: str) -> str | None:
    """Return why a server does not answer, by way of the proxies of the environment; None where it does, whatever it says."""
    reasons = [f"no answer in {PATIENCE:g} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(address, timeout=PATIENCE).close()  # noqa: S310 - the user's own setting
        except urllib.error.HTTPError:
            pass
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            if not isinstance(reason, ssl.SSLError):  # others may know the certificate
                reasons[0] = one_line(reason)
                return
        reasons.clear()

    thread = threading.Thread(target=ask, daemon=True)  # looking up a name has no limit of its own
    thread.start()
    thread.join(PATIENCE)
    return reasons[0] if reasons else None
