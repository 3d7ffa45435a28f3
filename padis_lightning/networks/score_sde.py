"""Bring weights of score_sde's DDPM++ and NCSN++, and the settings that they were trained with, to what EDM calls them."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import require_among
from padis_lightning.networks.ddpmpp import DDPMpp, FilteredConv

#: by equation: DDPM++ of images from -1 to 1, which is NCSN++ without filters, smaller images and Fourier features; NCSN++ of
#: images from 0 to 1, which it scales itself
KNOWN: dict[str, dict[str, dict[str, Any]]] = {
    "vpsde": {
        "model": {"fir": False, "progressive_input": "none", "embedding_type": "positional", "scale_by_sigma": False},
        "data": {"centered": True},
        "training": {},
    },
    "vesde": {
        "model": {"fir": True, "fir_kernel": [1, 3, 3, 1], "progressive_input": "residual", "embedding_type": "fourier",
                  "scale_by_sigma": True},
        "data": {"centered": False},
        "training": {"continuous": True},
    },
}  # fmt: skip
ALWAYS = {"name": "ncsnpp", "resblock_type": "biggan", "progressive": "none", "skip_rescale": True, "conditional": True,
          "nonlinearity": "swish"}  # fmt: skip
BLOCK = {
    "GroupNorm_0": "norm0", "Conv_0": "conv0", "Dense_0": "affine", "GroupNorm_1": "norm1", "Conv_1": "conv1", "Conv_2": "skip",
}  # fmt: skip
FREQUENCIES = "all_modules.0.W"
ATTENTION = {"GroupNorm_0": "norm2", "NIN_0": "q", "NIN_1": "k", "NIN_2": "v", "NIN_3": "proj"}


def convert(settings: dict[str, Any], state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Return the arguments of :class:`DDPMpp`, the settings of its schedule as diffusers has them, and its weights.

    Source: Song et al., Score-based generative modeling through SDEs, ICLR 2021, appendices B, C and H.

    Raises:
        InputError: a setting has a value that is not known here.
    """
    equation = settings["training"]["sde"]
    require_among(list(KNOWN), sde=equation)
    for section, values in (("model", ALWAYS), *KNOWN[equation].items()):
        for name, value in values.items():
            require_among([value], **{name: settings[section][name]})
    model, data = settings["model"], settings["data"]
    arguments = {
        "channels": data["num_channels"],
        "positions": 0,
        "base": model["nf"],
        "multipliers": model["ch_mult"],
        "blocks": model["num_res_blocks"],
        "resolution": data["image_size"],
        "attention_resolutions": model["attn_resolutions"],
    }
    if equation == "vesde":
        arguments["ncsnpp"] = True
        schedule = {"_class_name": "vesde", "sigma_max": model["sigma_max"]}
        return arguments, schedule, _rename(_places(arguments), state)
    low, high, count = model["beta_min"], model["beta_max"], model["num_scales"]
    if settings["training"]["continuous"]:
        schedule = {"_class_name": "ScoreSdeVpScheduler", "beta_min": low, "beta_max": high}
    else:
        ends = {"beta_start": low / count, "beta_end": high / count}
        schedule = {"beta_schedule": "linear", "num_train_timesteps": count, **ends}
    return arguments, schedule, _rename(_places(arguments), state)


def averaged(state: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """Return the averaged weights, which training keeps without names in the order of the others, where these are beside.

    The frequencies of Fourier features are not trained, and so have no averages.
    """
    if not (isinstance(state, dict) and {"model", "ema"} <= state.keys()):
        return state
    fixed = {name: value for name, value in state["model"].items() if name.endswith((FREQUENCIES, "sigmas"))}
    names = [name for name in state["model"] if name not in fixed]
    return fixed | dict(zip(names, state["ema"]["shadow_params"], strict=True))


def _places(arguments: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """Return what each of ``all_modules`` is called here, and its parts; attention is part of the block before it."""
    with torch.device("meta"):
        network = DDPMpp(**arguments)
    places: list[tuple[str, dict[str, str]]] = [("frequencies", {})] if arguments.get("ncsnpp") else []
    places += [("map_layer0", {}), ("map_layer1", {})]
    for side in ("enc", "dec"):
        for name, part in getattr(network, side).items():
            is_block = hasattr(part, "attention")
            places += [(f"{side}.{name}", BLOCK if is_block else {"Conv2d_0": ""} if isinstance(part, FilteredConv) else {})]
            places += [(f"{side}.{name}", ATTENTION)] if is_block and part.attention else []
    return places


def _rename(places: list[tuple[str, dict[str, str]]], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by the names that they have here; layers of attention become convolutions, queries, keys and values one."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        match = re.fullmatch(r"all_modules\.(\d{1,4})\.(?:(\w+)\.)?(weight|bias|W|b)", name)
        if match is None or int(match[1]) >= len(places):
            found |= {} if name == "sigmas" else {name: value}
            continue
        place, parts = places[int(match[1])]
        if place == "frequencies":
            found[place] = value
            continue
        kind = {"W": "weight", "b": "bias"}.get(match[3], match[3])
        value = value.T[..., None, None] if match[3] == "W" else value
        found[".".join(part for part in (place, parts.get(match[2], match[2]), kind) if part)] = value
    for place in [name.removesuffix(".q.weight") for name in found if name.endswith(".q.weight")]:
        for kind in ("weight", "bias"):
            found[f"{place}.qkv.{kind}"] = torch.stack([found.pop(f"{place}.{part}.{kind}") for part in "qkv"], 1).flatten(0, 1)
    return found
