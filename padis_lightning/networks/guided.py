"""Bring weights of guided-diffusion, and the flags that they were trained with, to what diffusers calls them."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from padis_lightning.errors import require_among, require_at_least, require_between
from padis_lightning.networks.unet2d import DOWN, UP

FACTORS = {256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4"}  # of channels, by the side of images, where none are named
FLAGS: dict[str, Any] = {  # with their values where none are named
    "image_size": 64, "num_channels": 128, "num_res_blocks": 2, "num_head_channels": -1, "attention_resolutions": "16,8",
    "channel_mult": "", "use_scale_shift_norm": True, "resblock_updown": False, "use_new_attention_order": False,
    "learn_sigma": False, "diffusion_steps": 1000, "noise_schedule": "linear", "class_cond": False, "predict_xstart": False,
    "rescale_timesteps": False, "in_channels": 3,
}  # fmt: skip
PARTS = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2", "out.0": "conv_norm_out",
    "out.2": "conv_out", "input_blocks.0.0": "conv_in", "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0", "middle_block.2": "mid_block.resnets.1", "in_layers.0": "norm1",
    "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2", "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut", "norm": "group_norm", "proj_out": "to_out.0", "op": "conv",
}  # fmt: skip
KNOWN = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(map(re.escape, PARTS))})(?=\.)")


def convert(flags: dict[str, Any], state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Return the settings of a network and of its schedule, and its weights, as diffusers has them.

    Source: Dhariwal and Nichol, Diffusion models beat GANs on image synthesis, NeurIPS 2021.

    Raises:
        InputError: a flag has a value that is not known here.
    """
    flags = FLAGS | flags
    for name in ("class_cond", "predict_xstart", "rescale_timesteps"):
        require_among([False], **{name: flags[name]})
    require_at_least(1, num_head_channels=flags["num_head_channels"])
    require_among(("linear", "cosine"), noise_schedule=flags["noise_schedule"])
    size, steps, channels = flags["image_size"], flags["diffusion_steps"], flags["in_channels"]
    require_between(21, 1e5, diffusion_steps=steps)
    factors = [int(part) for part in (flags["channel_mult"] or FACTORS[size]).split(",")]
    attending = {size // int(part) for part in flags["attention_resolutions"].split(",")}
    resampling = bool(flags["resblock_updown"])
    kinds = [1 if 2**level in attending else 2 * resampling for level in range(len(factors))]
    network = {
        "in_channels": channels,
        "out_channels": channels * (1 + bool(flags["learn_sigma"])),
        "block_out_channels": [factor * flags["num_channels"] for factor in factors],
        "layers_per_block": flags["num_res_blocks"],
        "down_block_types": [DOWN[kind] for kind in kinds],
        "up_block_types": [UP[kind] for kind in reversed(kinds)],
        "downsample_type": "resnet" if resampling else "conv",
        "upsample_type": "resnet" if resampling else "conv",
        "attention_head_dim": flags["num_head_channels"],
        "attn_norm_num_groups": 32,
        "resnet_time_scale_shift": "scale_shift" if flags["use_scale_shift_norm"] else "default",
    }
    kind = "squaredcos_cap_v2" if flags["noise_schedule"] == "cosine" else "linear"
    schedule = {"beta_schedule": kind, "num_train_timesteps": steps, "beta_start": 0.1 / steps, "beta_end": 20 / steps}
    renamed = {_rename(name, flags["num_res_blocks"]): value for name, value in state.items()}
    split: dict[str, Tensor] = {}
    for name, value in renamed.items():
        split |= _split(name, value, flags) if ".attentions." in name else {name: value}
    return network, schedule, split


def _rename(name: str, blocks: int) -> str:
    """Return a name of diffusers: of the blocks in a row each level has some, and what changes the resolution."""
    name = KNOWN.sub(lambda match: PARTS[match[0]], name)
    match = re.match(r"(in|out)put_blocks\.(\d{1,3})\.([012])\.(.*)", name)
    if match is None:
        return name
    up, rest = match[1] == "out", match[4]
    level, block = divmod(int(match[2]) - (not up), blocks + 1)
    stage = f"{'up' if up else 'down'}_blocks.{level}"
    if match[3] == "0" and (up or block < blocks):
        return f"{stage}.resnets.{block}.{rest}"
    if rest.startswith(("group_norm", "qkv", "to_out")):
        return f"{stage}.attentions.{block}.{rest}"
    return f"{stage}.{'up' if up else 'down'}samplers.0.{rest}"


def _split(name: str, value: Tensor, flags: dict[str, Any]) -> dict[str, Tensor]:
    """Return layers of attention without the axis of a convolution; queries, keys and values are one layer in these weights."""
    value = value.squeeze(-1) if value.ndim == 3 else value
    if ".qkv." not in name:
        return {name: value}
    order = (3, -1, flags["num_head_channels"]) if flags["use_new_attention_order"] else (-1, 3, flags["num_head_channels"])
    parts = value.reshape(*order, *value.shape[1:]).unbind(order.index(3))
    return {name.replace("qkv", to): part.flatten(0, 1) for to, part in zip(("to_q", "to_k", "to_v"), parts, strict=True)}
