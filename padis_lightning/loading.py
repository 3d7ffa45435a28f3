"""Load a prior by what a user calls it: a name, a file or a folder, an address of the Hub, or a denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from padis_lightning import hub, priors
from padis_lightning.diffusion.model import NAME
from padis_lightning.errors import InputError
from padis_lightning.messages.configs import CONFIGS, read_config
from padis_lightning.networks.diffusers import FILES, find_model
from padis_lightning.priors import DenoiserPrior, PatchPrior, Prior


def load_prior(prior: nn.Module | str | Path) -> Prior:
    """Return the prior of a name, as the configs have it, of a file or a folder, here or on the Hub, or around a denoiser.

    Raises:
        InputError: there is no such prior.
    """
    if not isinstance(prior, (nn.Module, str, Path)):
        raise InputError(f"the prior is {prior!r:.60}; wanted a name, a file or a folder, or a module")
    if isinstance(prior, nn.Module) or _is_model(prior):
        return DenoiserPrior(prior if isinstance(prior, nn.Module) else str(prior))
    config = CONFIGS / "prior" / f"{prior}.yaml"
    return _build(read_config(config)) if config.is_file() else PatchPrior.from_pretrained(prior)


def _is_model(prior: str | Path) -> bool:
    """Return whether a folder, here or on the Hub, has a diffusion model and no prior of ours."""
    if hub.is_address(prior) and hub.Address.read(str(prior)).file != NAME:
        return False
    folder = hub.fetch_folder(str(prior), [NAME, *FILES]) if hub.is_address(prior) else Path(prior)
    return find_model(folder) is not None and not (folder / NAME).is_file()


def _build(described: dict[str, Any]) -> Any:  # noqa: ANN401 - of the class that is named
    """Build what a config of this package names."""
    options = {k: _build(v) if isinstance(v, dict) else v for k, v in described.get("init_args", {}).items()}
    return getattr(priors, described["class_path"])(**options)
