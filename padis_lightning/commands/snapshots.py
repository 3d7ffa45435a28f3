"""Turn network snapshots of EDM, Patch-Diffusion and PaDIS into prior files.

Architecture and sizes are read off the names and shapes of the weights; no code in the file is run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padis_lightning import __version__
from padis_lightning.commands.arguments import Parser
from padis_lightning.commands.pickles import read
from padis_lightning.commands.snapshot_weights import check_constants, children, collect, find_network, to_number
from padis_lightning.commands.stand_ins import SnapshotReader
from padis_lightning.diffusion import Coordinates, Denoiser, NoPositions, PatchModel
from padis_lightning.errors import InputError, require_at_least
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.networks.ddpmpp_weights import build_network
from padis_lightning.types import Normalisation


@dataclass
class Settings:
    """What of a prior is not in its weights.

    Args:
        image_size: side of the images.
        patch_sizes: sides of the training patches, smallest first.
        pad: zeros on every side.
        span: the network's values of 0 and 1.
        assumed: names of what was not given.
    """

    image_size: int
    patch_sizes: list[int]
    pad: int
    span: tuple[float, float]
    assumed: list[str]


def complete_settings(
    network: DDPMpp,
    image_size: int | None = None,
    patch_sizes: Sequence[int] | None = None,
    pad: int | None = None,
    span: Sequence[float] | None = None,
) -> Settings:
    """Check what is given and fill in the rest from the network's resolution.

    Args:
        network: the network.
        image_size: side of the images (default: the network's resolution).
        patch_sizes: sides of the training patches (default, without positions only: the image's).
        pad: zeros on every side (default: half of what image and resolution differ by).
        span: the network's values of 0 and 1 (default: -1 and 1; with positions and padding, as in PaDIS, 0 and 1).

    Raises:
        InputError: the values do not fit each other or the network.
    """
    given = {"image_size": image_size, "patch_sizes": patch_sizes, "pad": pad, "span": span}
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
    if len(span) != 2 or not -math.inf < span[0] < span[1] < math.inf:
        raise InputError(f"span is {list(span)}; wanted two values, the lower first")
    return Settings(image_size, sizes, pad, (span[0], span[1]), [name for name, value in given.items() if value is None])


def load(file: Path, **options: Any) -> tuple[PatchModel, Settings]:  # noqa: ANN401 - those of complete_settings
    """Return a prior from a network snapshot, and the settings that it was given.

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
    arguments = inner.state.get("_init_kwargs")
    dropout = to_number("dropout", arguments.get("dropout", 0.0) if isinstance(arguments, dict) else 0.0)
    sigma_data = to_number("sigma_data", outer.state.get("sigma_data", 0.5))
    network = build_network(collect(inner), dropout)
    check_constants(inner)
    settings = complete_settings(network, **options)
    model = PatchModel(
        denoiser=Denoiser(network.eval(), sigma_data, Coordinates() if network.positions else NoPositions(), settings.span),
        image_shape=(network.channels, settings.image_size, settings.image_size),
        patch_sizes=settings.patch_sizes,
        pad=(settings.pad, settings.pad),
        normalisation=Normalisation(0.0, 1.0),
        training={"source": file.name, "class": outer.name, "padis_lightning": __version__},
    )
    return model, settings


def _numbers(words: Sequence[str] | None, option: str, kind: type) -> list[Any] | None:
    """Read numbers, written ``16 32`` or ``[16, 32]``."""
    if words is None:
        return None
    text = " ".join(words)
    try:
        return [kind(word) for word in re.sub(r"[\[\],]", " ", text).split()]
    except ValueError as error:
        raise InputError(f"{option} is {text!r}; wanted numbers such as 16 32") from error


def _parser() -> Parser:
    parser = Parser(
        prog="python -m padis_lightning import",
        description="Turn a network snapshot of EDM, Patch-Diffusion or PaDIS into a prior. No code in the snapshot is run.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", type=Path, help="network-snapshot-*.pkl")
    add("--output", type=Path, required=True, help="file for the prior, .safetensors")
    add("--image_size", type=int, help="side of the images (default: the network's resolution)")
    add("--patch_sizes", nargs="+", metavar="N", help="sides of the training patches; may be left out only without positions")
    add("--pad", type=int, help="zeros on every side (default: half of what image and resolution differ by)")
    values = "the network's values of 0 and 1 (default: -1 1; with positions and a resolution above the image's, 0 1)"
    add("--span", nargs="+", metavar="VALUE", help=values)
    add("--half", action="store_true", help="store half precision")
    return parser


def describe(model: PatchModel, settings: Settings) -> str:
    """Return what was read, what was taken, and what of it was assumed."""
    network, pad, largest = model.denoiser.network, settings.pad, settings.patch_sizes[-1]
    million = sum(p.numel() for p in network.parameters()) / 1e6
    resolution, canvas = network.plain_config["resolution"], settings.image_size + 2 * pad
    assumed = f"assumed {', '.join(settings.assumed)}" if settings.assumed else "nothing assumed"
    parts = [
        f"{model.training['class']} of {million:.2f} million weights, channels {network.channels}, "
        f"positions {'yes' if network.positions else 'no'}, resolution {resolution}",
        f"image_size {settings.image_size}, patch_sizes {' '.join(map(str, settings.patch_sizes))}, pad {pad}, "
        f"span {settings.span[0]:g} {settings.span[1]:g} ({assumed})",
    ]
    if network.positions and canvas != resolution:
        parts.append(f"positions are stretched over {canvas} instead of {resolution}")
    if (settings.image_size + pad) % largest:
        parts.append(f"no grid of {largest} covers the image at all offsets, predict takes OverlapTiling only")
    return "; ".join(parts)


def run(args: Sequence[str]) -> None:
    """Run the command ``import``: read a snapshot, write a prior, say what was assumed.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: an argument or the file cannot be used; nothing was written.
    """
    options = _parser().parse_args(list(args))
    if options.output.suffix != ".safetensors":
        raise InputError(f"output is {str(options.output)!r}; wanted a name that ends in .safetensors")
    model, settings = load(
        options.file,
        image_size=options.image_size,
        patch_sizes=_numbers(options.patch_sizes, "patch_sizes", int),
        pad=options.pad,
        span=_numbers(options.span, "span", float),
    )
    model.save(options.output, options.half)
    print(f"wrote {options.output} from {options.file}: {describe(model, settings)}")
