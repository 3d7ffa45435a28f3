"""Read the sizes of a DDPM++ off the names and shapes of published weights."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.networks.ddpmpp import DDPMpp


def _kernel(state: dict[str, Tensor], name: str) -> torch.Size:
    """Return the shape of a convolution's kernel."""
    if name not in state or state[name].ndim != 4:
        seen = "x".join(map(str, state[name].shape)) if name in state else "missing"
        raise InputError(f"the network's {name} is {seen}; wanted the kernel of a convolution, as in DDPM++")
    return state[name].shape


def architecture(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of :class:`DDPMpp` that give a network with these names and shapes.

    Raises:
        InputError: the names or the shapes are another network's.
    """
    parts = {(int(m[1]), m[2]) for name in state if (m := re.match(r"enc\.([0-9]{1,5})x\1_([a-z]+[0-9]*)\.", name))}
    sides = sorted({side for side, _ in parts}, reverse=True)
    if not sides:
        raise InputError(f"the network has {next(iter(state), 'no weights')} and no level enc.NxN; wanted DDPM++")
    top = f"{sides[0]}x{sides[0]}"
    base, inputs = _kernel(state, f"enc.{top}_conv.weight")[:2]
    channels = _kernel(state, f"dec.{top}_aux_conv.weight")[0]
    widths = [_kernel(state, f"enc.{side}x{side}_block0.conv0.weight")[0] for side in sides]
    if inputs - channels not in (0, 2):
        raise InputError(f"the network takes {inputs} channels and gives {channels}; wanted as many, or 2 more for positions")
    if base < 4 or any(width % base for width in widths):
        raise InputError(f"the network's levels have {widths} channels; wanted multiples of its first {base}, at least 4")
    return {
        "channels": channels,
        "positions": inputs - channels,
        "base": base,
        "multipliers": [width // base for width in widths],
        "blocks": sum(side == sides[0] and part.startswith("block") for side, part in parts),
        "resolution": sides[0],
        "attention_resolutions": [side for side in sides if f"enc.{side}x{side}_block0.qkv.weight" in state],
    }


def build_network(state: dict[str, Tensor], dropout: float = 0.0) -> DDPMpp:
    """Return a network with these weights.

    Raises:
        InputError: they are not those of a DDPM++.
    """
    mean = torch.full((1, 1, 2, 2), 0.25)
    for name, value in state.items():
        if name.endswith("resample_filter") and not (value.shape == mean.shape and torch.equal(value.float(), mean)):
            raise InputError(f"the network's {name} is {value.flatten()[:16].tolist()}; wanted the mean of 2x2 pixels")
    config = {**architecture(state), "dropout": dropout}
    kept = {k: v for k, v in state.items() if not k.endswith("resample_filter") and k != "map_augment.weight"}
    try:
        with torch.device("meta"):  # without memory, until it is known that it is as large as the file
            wanted = DDPMpp(**config).state_dict()
    except ValueError as error:
        raise InputError(f"the network has {config['base']} channels ({error}); wanted a multiple of its groups") from error
    if other := next((name for name in [*wanted, *kept] if name not in kept or name not in wanted), None):
        verb = "has" if other in kept else "lacks"
        raise InputError(f"the network {verb} {other}; wanted the weights of DDPM++ without class labels")
    for name, value in kept.items():
        if value.shape != wanted[name].shape or not value.is_floating_point():
            seen = f"{value.dtype} {tuple(value.shape)}"
            raise InputError(f"the network's {name} is {seen}; wanted floats {tuple(wanted[name].shape)}")
    network = DDPMpp(**config)
    network.load_state_dict(kept)
    return network
