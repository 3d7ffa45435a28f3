"""Make priors of network snapshots of EDM, Patch-Diffusion and PaDIS.

Architecture and sizes are read off the names and shapes of the weights; no code in the file is run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from padis_lightning import __version__
from padis_lightning.commands.snapshot_weights import children, find_network, read_number, read_state
from padis_lightning.commands.stand_ins import SnapshotReader
from padis_lightning.diffusion import Coordinates, Denoiser, NoPositions, PatchModel
from padis_lightning.errors import InputError, require_at_least
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.networks.ddpmpp_weights import build_network
from padis_lightning.pickles import read
from padis_lightning.types import Normalisation


def complete_settings(
    network: DDPMpp,
    image_size: int | None = None,
    patch_sizes: Sequence[int] | None = None,
    pad: int | None = None,
    span: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Check what of a prior is not in its weights, and fill in what is not given from the network's resolution.

    Args:
        network: the network.
        image_size: side of the images (default: the network's resolution).
        patch_sizes: sides of the training patches (default, without positions only: the image's).
        pad: zeros on every side (default: half of what image and resolution differ by).
        span: the network's values of 0 and 1 (default: -1 and 1; with positions and padding, as in PaDIS, 0 and 1).

    Returns:
        The arguments by name, patch sizes from the smallest to the largest.

    Raises:
        InputError: the values do not fit each other or the network.
    """
    resolution = network.plain_config["resolution"]
    image_size = resolution if image_size is None else image_size
    border = max(resolution - image_size, 0)
    if pad is None and border % 2:
        raise InputError(f"image_size is {image_size} and the network's resolution {resolution}; wanted --pad, {border} is odd")
    pad = border // 2 if pad is None else pad
    require_at_least(1, image_size=image_size)
    require_at_least(0, pad=pad)
    if patch_sizes is None and network.positions:
        raise InputError("patch_sizes is missing; wanted those of the training, a network with positions does not tell them")
    sizes, most = [image_size] if patch_sizes is None else sorted(set(patch_sizes)), image_size + 2 * pad
    for size in sizes or [0]:
        if size < 1 or size % network.divisor or size > most:
            wanted = f"a multiple of {network.divisor} up to {most}, the image with its padding"
            raise InputError(f"patch size {size} does not fit; wanted {wanted}")
    if span is None:
        span = (0.0, 1.0) if network.positions and resolution > image_size else (-1.0, 1.0)
    if not -math.inf < span[0] < span[1] < math.inf:
        raise InputError(f"span is {list(span)}; wanted two values, the lower first")
    return {"image_size": image_size, "patch_sizes": sizes, "pad": pad, "span": tuple(span)}


def load(file: Path, **options: Any) -> PatchModel:  # noqa: ANN401 - those of complete_settings
    """Return a prior from a network snapshot.

    Args:
        file: the snapshot.
        **options: those of :func:`complete_settings`.

    Raises:
        InputError: the file, its network or the options cannot be used.
    """
    outer = find_network(read(file, SnapshotReader), file)
    inner = children(outer, "_modules").get("model")
    if inner is None:
        raise InputError(f"{file} holds a network without a module 'model'; wanted one of EDM, Patch-Diffusion or PaDIS")
    dropout = read_number(inner.state.get("_init_kwargs"), "dropout", 0.0)
    sigma_data = read_number(outer.state, "sigma_data", 0.5)
    network = build_network(read_state(inner), dropout)
    settings = complete_settings(network, **options)
    positions = Coordinates() if network.positions else NoPositions()
    return PatchModel(
        denoiser=Denoiser(network.eval(), sigma_data, positions, settings["span"]),
        image_shape=(network.channels, settings["image_size"], settings["image_size"]),
        patch_sizes=settings["patch_sizes"],
        pad=(settings["pad"], settings["pad"]),
        normalisation=Normalisation(0.0, 1.0),
        training={"source": file.name, "class": outer.name, "padis_lightning": __version__},
    )


def describe(model: PatchModel, assumed: Sequence[str]) -> str:
    """Return what was read, what was taken, and what of it was assumed."""
    network, (low, high) = model.denoiser.network, model.denoiser.span
    million = sum(p.numel() for p in network.parameters()) / 1e6
    return (
        f"{model.training['class']} of {million:.2f} million weights, channels {network.channels}, "
        f"positions {'yes' if network.positions else 'no'}, resolution {network.plain_config['resolution']}; "
        f"image_size {model.image_shape[-1]}, patch_sizes {' '.join(map(str, model.patch_sizes))}, pad {model.pad[0]}, "
        f"span {low:g} {high:g} ({'assumed ' + ', '.join(assumed) if assumed else 'nothing assumed'})"
    )
