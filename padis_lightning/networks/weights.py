"""Read the weights of a network out of a file, without running anything of it, and hold their shapes against a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from padis_lightning.errors import InputError
from padis_lightning.networks.score_sde import averaged
from padis_lightning.pickles import CheckpointReader, Record, Refused, require_few, require_plain_checkpoint

Network = TypeVar("Network", bound=nn.Module)
WANTED = "published weights of FFDNet or DRUNet, or a folder of diffusers' UNet2DModel"


class _OldReader(CheckpointReader):
    """A reader of the format that torch wrote before 2020; it sums up what storages say that they hold."""

    known = {**CheckpointReader.known, "torch._utils._rebuild_tensor": lambda *arguments: Record("tensor", arguments)}
    claimed = 0

    def persistent_load(self, pid: Any) -> object:  # noqa: ANN401 - whatever the file holds
        self.claimed += abs(pid[4])
        return pid


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return tensors of floats by name; a file of torch's is looked through before torch reads it.

    Raises:
        InputError: the file is damaged, or holds anything else.
    """
    try:
        state = load_file(file) if file.suffix == ".safetensors" else averaged(_read_checked(file))
    except InputError:
        raise
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise InputError(f"{file} cannot be read ({type(error).__name__}); wanted {WANTED}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) and isinstance(k, str) for k, v in state.items()):
        raise InputError(f"{file} holds other things than tensors by name; wanted {WANTED}")
    return {name: value.float() for name, value in state.items()}


def _read_checked(file: Path) -> object:
    with file.open("rb") as handle:
        old = handle.read(4) != b"PK\3\4"
    _require_plain_old(file) if old else require_plain_checkpoint(file, WANTED)
    return torch.load(file, map_location="cpu", weights_only=True)


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


def fill(build: Callable[[], Network], state: dict[str, Tensor]) -> Network:
    """Return the network that ``build`` makes with these weights; nothing takes memory before all shapes are the same.

    Raises:
        InputError: with the first weight that is missing, is none of the network's, or has another shape.
    """
    with torch.device("meta"):
        network = build()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if other := next((name for name in {**wanted, **shapes} if shapes.get(name) != wanted.get(name)), None):
        seen, fitting = (found.get(other, "missing") for found in (shapes, wanted))
        raise InputError(f"{other} is {seen} and would be {fitting} in {type(network).__name__}")
    network = build()
    network.load_state_dict(state)
    return network
