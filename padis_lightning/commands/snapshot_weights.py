"""Weights and constants of a network, read out of the records of a snapshot."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.pickles import Record, printable

PRECONDITIONED = ("EDMPrecond", "Patch_EDMPrecond")
DEEPEST = 32  # modules within modules
CONSTANTS = {  # attributes that leave no trace in the weights
    "skip_scale": (math.sqrt(0.5),),
    "eps": (1e-6,),
    "num_heads": (0, 1),
    "max_positions": (10000,),
    "endpoint": (True,),
}


def find_network(snapshot: object, file: Path) -> Record:
    """Return the averaged network of a snapshot, or else the one that was trained.

    Raises:
        InputError: there is none, or it is not preconditioned as EDM's.
    """
    if not isinstance(snapshot, dict):
        kind = snapshot.name if isinstance(snapshot, Record) else type(snapshot).__name__
        raise InputError(f"{file} holds a {kind}; wanted a dictionary with a network under 'ema' or 'net'")
    found = [snapshot[key] for key in ("ema", "net") if isinstance(snapshot.get(key), Record)]
    if not found:
        keys = ", ".join(sorted(printable(key) for key in snapshot if isinstance(key, str))[:8]) or "none"
        raise InputError(f"{file} has the keys {keys}; wanted a network under 'ema' or 'net'")
    if found[0].name not in PRECONDITIONED:
        raise InputError(f"{file} holds a network of the class {found[0].name}; wanted {' or '.join(PRECONDITIONED)}")
    return found[0]


def children(module: Record, key: str) -> dict[str, Record]:
    """Return the entries of a module's ``_modules``, ``_parameters`` or ``_buffers``, those that are None left out.

    Raises:
        InputError: these are no such entries.
    """
    entries = module.state.get(key) or {}
    if not isinstance(entries, dict):
        raise InputError(f"{key} of {module.name} is a {type(entries).__name__}; wanted a dictionary")
    for name, child in entries.items():
        if not isinstance(name, str) or not re.fullmatch(r"\w{1,100}", name):
            raise InputError(f"{key} of {module.name} has the name '{printable(str(name))}'; wanted letters, digits and _")
        if child is not None and not (isinstance(child, Record) and (child.tensor is None) == (key == "_modules")):
            wanted = "module" if key == "_modules" else "tensor"
            raise InputError(f"{key} of {module.name} has a {type(child).__name__} as {name}; wanted a {wanted}")
    return {name: child for name, child in entries.items() if child is not None}


def walk(network: Record) -> list[tuple[str, Record]]:
    """Return a module and all within it, with the prefixes of their names.

    Raises:
        InputError: one is met twice, so that there may be no end to them.
    """
    found, seen = [("", network)], set[int]()
    for prefix, module in found:  # which grows
        parts = {id(module), *(id(module.state.get(key)) for key in ("_modules", "_parameters", "_buffers"))} - {id(None)}
        if seen & parts or prefix.count(".") > DEEPEST:
            raise InputError(f"the network has the module {prefix[-200:]} twice; wanted DDPM++, a tree of modules")
        seen |= parts
        found += [(f"{prefix}{name}.", child) for name, child in children(module, "_modules").items()]
    return found


def read_state(network: Record) -> dict[str, Tensor]:
    """Return parameters and stored buffers under the names that ``nn.Module.state_dict`` gives them.

    Raises:
        InputError: the network is no tree of modules, or computes with other constants than DDPM++, as far as it says.
    """
    state: dict[str, Tensor] = {}
    for prefix, module in walk(network):
        skipped = module.state.get("_non_persistent_buffers_set") or ()
        skipped = skipped.arguments[0] if isinstance(skipped, Record) else skipped  # a set of an old protocol
        kept = children(module, "_parameters") | children(module, "_buffers")
        state |= {prefix + k: v.tensor for k, v in kept.items() if k not in skipped and v.tensor is not None}
        for key, wanted in CONSTANTS.items():
            value = read_number(module.state, key, wanted[0])
            if not any(math.isclose(value, each, rel_tol=1e-4) for each in wanted):
                raise InputError(f"the network's {prefix}{key} is {value:g}; wanted {wanted[-1]:g}, as in DDPM++")
    return state


def read_number(attributes: Any, key: str, default: float) -> float:  # noqa: ANN401 - whatever the file holds
    """Return an attribute that has to be a number, or what it is where it is not given."""
    value = attributes.get(key, default) if isinstance(attributes, dict) else default
    if not isinstance(value, (bool, int, float)) or abs(value) > 1e9:
        raise InputError(f"the network's {key} is a {type(value).__name__}; wanted a number up to 1e9")
    return float(value)
