"""Network checkpoints of EDM, Patch-Diffusion and PaDIS as prior files.

Architecture and sizes are read off the names and shapes of the weights; no code in the file is run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from padis_lightning import __version__
from padis_lightning.commands.arguments import Parser
from padis_lightning.commands.pickles import Record, printable, read
from padis_lightning.diffusion import Coordinates, Denoiser, NoPositions, PatchModel
from padis_lightning.errors import InputError
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.types import Normalisation

PRECONDITIONED = ("EDMPrecond", "Patch_EDMPrecond")
DEEPEST = 32  # modules within modules


def find_network(snapshot: object, file: Path) -> Record:
    """The averaged network of a snapshot, or else the one that was trained.

    Raises:
        InputError: there is none, or it is not preconditioned as EDM's.
    """
    if not isinstance(snapshot, dict):
        raise InputError(f"{file} holds a {type(snapshot).__name__}; wanted a dictionary with a network under 'ema' or 'net'")
    found = [snapshot[key] for key in ("ema", "net") if isinstance(snapshot.get(key), Record)]
    if not found:
        keys = ", ".join(sorted(printable(str(key)) for key in snapshot)[:8]) or "none"
        raise InputError(f"{file} has the keys {keys}; wanted a network under 'ema' or 'net'")
    if found[0].name not in PRECONDITIONED:
        raise InputError(f"{file} holds a network of the class {found[0].name}; wanted {' or '.join(PRECONDITIONED)}")
    return found[0]


def _children(module: Record, key: str, kind: type) -> Iterator[tuple[str, Any]]:
    """The entries of a module's dictionary, those that are None left out."""
    children = module.state.get(key) or {}
    if not isinstance(children, dict):
        raise InputError(f"{key} of {module.name} is a {type(children).__name__}; wanted a dictionary")
    for name, child in children.items():
        if not isinstance(name, str) or not re.fullmatch(r"\w{1,100}", name):
            raise InputError(f"{key} of {module.name} has the name {printable(str(name))!r}; wanted letters, digits and _")
        if child is not None and not isinstance(child, kind):
            raise InputError(f"{key} of {module.name} has a {type(child).__name__} as {name}; wanted a {kind.__name__}")
        if child is not None:
            yield name, child


def walk(module: Record, prefix: str = "") -> Iterator[tuple[str, Record]]:
    """A module and all within it, with the prefixes of their names.

    Raises:
        InputError: there is no end to them.
    """
    if prefix.count(".") > DEEPEST:
        raise InputError(f"the network has modules more than {DEEPEST} deep; wanted DDPM++")
    yield prefix, module
    for name, child in _children(module, "_modules", Record):
        yield from walk(child, f"{prefix}{name}.")


def collect(network: Record) -> dict[str, Tensor]:
    """Parameters and stored buffers under the names that ``nn.Module.state_dict`` gives them."""
    state: dict[str, Tensor] = {}
    for prefix, module in walk(network):
        passing = module.state.get("_non_persistent_buffers_set") or ()
        state |= {prefix + name: value for name, value in _children(module, "_parameters", Tensor)}
        state |= {prefix + name: value for name, value in _children(module, "_buffers", Tensor) if name not in passing}
    return state


OTHERS = (
    (r"map_noise\.", "a Fourier embedding as in NCSN++"),
    (r"map_label\.", "an input of class labels"),
    (r"enc\..*_aux_", "a second encoder as in NCSN++"),
    (r"dec\..*_aux_up", "outputs at several resolutions"),
    (r"out_(norm|conv)\.", "an output as in ADM"),
    (r"enc\.[^.]*_conv\.0\.", "an input of several layers"),
)
CONSTANTS = {  # attributes that leave no trace in the weights
    "skip_scale": (math.sqrt(0.5),),
    "eps": (1e-6,),
    "num_heads": (0, 1),
    "max_positions": (10000,),
    "endpoint": (True,),
}


def _number(key: str, value: object) -> float:
    """An attribute that has to be a number."""
    if not isinstance(value, (bool, int, float)):
        raise InputError(f"the network's {key} is a {type(value).__name__}; wanted a number")
    return float(value)


def check_constants(network: Record) -> None:
    """Refuse a network that computes with other constants than DDPM++, as far as it says.

    Raises:
        InputError: with the first one.
    """
    for prefix, module in walk(network):
        for key, wanted in CONSTANTS.items():
            value = module.state.get(key, wanted[0])
            if not any(math.isclose(_number(key, value), each, rel_tol=1e-4) for each in wanted):
                raise InputError(f"the network's {prefix}{key} is {value:g}; wanted {wanted[-1]:g}, as in DDPM++")


def _shape(state: dict[str, Tensor], name: str) -> torch.Size:
    """The shape of a convolution's kernel."""
    if name not in state or state[name].ndim != 4:
        seen = "x".join(map(str, state[name].shape)) if name in state else "missing"
        raise InputError(f"the network's {name} is {seen}; wanted the kernel of a convolution, as in DDPM++")
    return state[name].shape


def _levels(state: dict[str, Tensor]) -> tuple[list[int], int]:
    """Named sides of the encoder's levels, largest first, and the residual blocks of the first."""
    found: dict[int, set[str]] = {}
    for name in state:
        matched = re.match(r"enc\.([0-9]{1,5})x\1_([a-z]+[0-9]*)\.", name)
        if matched:
            found.setdefault(int(matched[1]), set()).add(matched[2])
    if not found:
        raise InputError(f"the network has {next(iter(state), 'no weights')} and no level enc.NxN; wanted DDPM++")
    sides = sorted(found, reverse=True)
    if sides != [sides[0] >> level for level in range(len(sides))]:
        raise InputError(f"the network has levels of {', '.join(map(str, sides))}; wanted each half the one before")
    return sides, sum(part.startswith("block") for part in found[sides[0]])


def architecture(state: dict[str, Tensor]) -> dict[str, Any]:
    """The arguments of :class:`DDPMpp` that give a network with these names and shapes.

    Raises:
        InputError: the names or the shapes are another network's.
    """
    for pattern, what in OTHERS:
        seen = [name for name in state if re.match(pattern, name)]
        if seen:
            raise InputError(f"the network has {seen[0]}, {what}; wanted DDPM++ without class labels")
    sides, blocks = _levels(state)
    top = f"{sides[0]}x{sides[0]}"
    base, inputs = _shape(state, f"enc.{top}_conv.weight")[:2]
    channels = _shape(state, f"dec.{top}_aux_conv.weight")[0]
    if inputs - channels not in (0, 2):
        raise InputError(f"the network takes {inputs} channels and gives {channels}; wanted as many, or 2 more for positions")
    widths = [_shape(state, f"enc.{side}x{side}_block0.conv0.weight")[0] for side in sides]
    if base < 4 or any(width % base for width in widths):
        raise InputError(f"the network's levels have {widths} channels; wanted multiples of its first {base}, at least 4")
    return {
        "channels": channels,
        "positions": inputs - channels,
        "base": base,
        "multipliers": [width // base for width in widths],
        "blocks": blocks,
        "resolution": sides[0],
        "attention_resolutions": [side for side in sides if f"enc.{side}x{side}_block0.qkv.weight" in state],
    }


def _kept(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without what DDPM++ does by itself: means of 2x2 pixels, and augmentation labels, which nobody gives."""
    mean = torch.full((1, 1, 2, 2), 0.25)
    for name, value in state.items():
        if name.endswith("resample_filter") and not (value.shape == mean.shape and torch.equal(value.float(), mean)):
            raise InputError(f"the network's {name} is {value.flatten().tolist()[:16]}; wanted the mean of 2x2 pixels")
    return {k: v for k, v in state.items() if not k.endswith("resample_filter") and k != "map_augment.weight"}


def _check_fits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Refuse weights that the network lacks, has besides, or has in another shape or of another kind than numbers."""
    for name in [*ours, *theirs]:
        if name not in theirs:
            raise InputError(f"the network lacks {name}; wanted all weights of DDPM++")
        if name not in ours:
            raise InputError(f"the network has {name}; wanted the weights of DDPM++ alone")
        seen, wanted = theirs[name], ours[name]
        if seen.shape != wanted.shape or not seen.is_floating_point():
            raise InputError(f"the network's {name} is {seen.dtype} {tuple(seen.shape)}; wanted floats {tuple(wanted.shape)}")


def build_network(state: dict[str, Tensor], dropout: float = 0.0) -> DDPMpp:
    """A network with these weights.

    Raises:
        InputError: they are not those of a DDPM++.
    """
    config, kept = architecture(state), _kept(state)
    try:
        network = DDPMpp(**config, dropout=dropout)
    except ValueError as error:
        raise InputError(f"the network has {config['base']} channels ({error}); wanted a multiple of its groups") from error
    _check_fits(network.state_dict(), kept)
    network.load_state_dict(kept)
    return network


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


def settle(
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
        pad: zeros on every side (default: what is between image and resolution).
        span: the network's values of 0 and 1 (default: -1 and 1; with positions and padding, as in PaDIS, 0 and 1).

    Raises:
        InputError: the values do not fit each other or the network.
    """
    given = {"image_size": image_size, "patch_sizes": patch_sizes, "pad": pad, "span": span}
    resolution = network.plain_config["resolution"]
    image_size = resolution if image_size is None else image_size
    if image_size < 1:
        raise InputError(f"image_size is {image_size}; wanted at least 1")
    pad = _border(resolution, image_size) if pad is None else pad
    if pad < 0:
        raise InputError(f"pad is {pad}; wanted at least 0")
    patch_sizes = _patches(network, patch_sizes, image_size, pad)
    if span is None:
        span = (0.0, 1.0) if network.positions and resolution > image_size else (-1.0, 1.0)
    if len(span) != 2 or not -math.inf < span[0] < span[1] < math.inf:
        raise InputError(f"span is {list(span)}; wanted two values, the lower first")
    return Settings(image_size, patch_sizes, pad, (span[0], span[1]), [name for name, value in given.items() if value is None])


def _patches(network: DDPMpp, sizes: Sequence[int] | None, image_size: int, pad: int) -> list[int]:
    """Patch sizes in order, each once."""
    if sizes is None and network.positions:
        raise InputError("patch_sizes is missing; wanted those of the training, a network with positions does not tell them")
    sizes = [image_size] if sizes is None else sorted(set(sizes))
    canvas, divisor = image_size + 2 * pad, network.divisor
    for size in sizes or [0]:
        if size < 1 or size % divisor or size > canvas:
            raise InputError(
                f"patch size {size} does not fit; wanted a multiple of {divisor} up to {canvas}, the image with its padding"
            )
    return sizes


def _border(resolution: int, image_size: int) -> int:
    """Half of what is between the image and the resolution."""
    border = max(resolution - image_size, 0)
    if border % 2:
        raise InputError(f"image_size is {image_size} and the network's resolution {resolution}; wanted --pad, {border} is odd")
    return border // 2


def load(file: Path, **options: Any) -> tuple[PatchModel, Settings]:  # noqa: ANN401 - settle's
    """A prior from a network snapshot.

    Args:
        file: the snapshot.
        **options: those of :func:`settle`.

    Raises:
        InputError: the file, its network or the options cannot be used.
    """
    outer = find_network(read(file), file)
    inner = dict(_children(outer, "_modules", Record)).get("model")
    if inner is None:
        raise InputError(f"{file} holds a network without a module 'model'; wanted one of EDM, Patch-Diffusion or PaDIS")
    arguments = inner.state.get("_init_kwargs")
    dropout = arguments.get("dropout", 0.0) if isinstance(arguments, dict) else 0.0
    network = build_network(collect(inner), _number("dropout", dropout))
    check_constants(inner)
    settings = settle(network, **options)
    positions = Coordinates() if network.positions else NoPositions()
    model = PatchModel(
        denoiser=Denoiser(network.eval(), _number("sigma_data", outer.state.get("sigma_data", 0.5)), positions, settings.span),
        image_shape=(network.channels, settings.image_size, settings.image_size),
        patch_sizes=settings.patch_sizes,
        pad=(settings.pad, settings.pad),
        normalisation=Normalisation(0.0, 1.0),
        training={"source": file.name, "class": outer.name, "padis_lightning": __version__},
    )
    return model, settings


def _numbers(words: Sequence[str] | None, option: str, kind: type) -> list[Any] | None:
    """Numbers, written ``16 32`` or ``[16, 32]``."""
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
    parser.add_argument("file", type=Path, help="network-snapshot-*.pkl")
    parser.add_argument("--output", type=Path, required=True, help="file for the prior, .safetensors")
    parser.add_argument("--image_size", type=int, help="side of the images (default: the network's resolution)")
    parser.add_argument(
        "--patch_sizes", nargs="+", metavar="N", help="sides of the training patches; may be left out only without positions"
    )
    parser.add_argument("--pad", type=int, help="zeros on every side (default: half of what image and resolution differ by)")
    parser.add_argument(
        "--span",
        nargs="+",
        metavar="VALUE",
        help="the network's values of 0 and 1 (default: -1 1; with positions and a resolution above the image's, 0 1)",
    )
    parser.add_argument("--half", action="store_true", help="store half precision")
    return parser


def describe(model: PatchModel, settings: Settings) -> str:
    """What was read, what was taken, and what of it was assumed."""
    network, pad, largest = model.denoiser.network, settings.pad, settings.patch_sizes[-1]
    million = sum(p.numel() for p in network.parameters()) / 1e6
    resolution, canvas = network.plain_config["resolution"], settings.image_size + 2 * pad
    assumed = f"assumed {', '.join(settings.assumed)}" if settings.assumed else "nothing assumed"
    told = [
        f"{model.training['class']} of {million:.2f} million weights, channels {network.channels}, "
        f"positions {'yes' if network.positions else 'no'}, resolution {resolution}",
        f"image_size {settings.image_size}, patch_sizes {' '.join(map(str, settings.patch_sizes))}, pad {pad}, "
        f"span {settings.span[0]:g} {settings.span[1]:g} ({assumed})",
    ]
    if network.positions and canvas != resolution:
        told.append(f"positions are stretched over {canvas} instead of {resolution}")
    if (settings.image_size + pad) % largest:
        told.append(f"no grid of {largest} covers the image at all offsets, predict takes OverlapTiling only")
    return "; ".join(told)


def run(args: Sequence[str]) -> None:
    """The command ``import``: read a snapshot, write a prior, say what was assumed.

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
