"""Keep a trained patch denoiser with all that a solver has to know of its training, and read and write its file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from padis_lightning import hub
from padis_lightning.diffusion.denoiser import Denoiser
from padis_lightning.diffusion.positions import Positions
from padis_lightning.errors import InputError, one_line
from padis_lightning.files import whole
from padis_lightning.networks import PatchNetwork
from padis_lightning.networks.diffusers import find_model
from padis_lightning.pickles import require_plain_checkpoint
from padis_lightning.types import Normalisation

FORMAT = "padis_lightning prior 1"
NAME = "prior.safetensors"  #: of the file in a folder
MOST_SIDE, MOST_PIXELS = 2**14, 2**27  # of an image, and of its canvas, which may be a volume
BUNDLED = Path(__file__).parent.parent / "assets"


@dataclass
class PatchModel:
    """A denoiser and what it was trained on.

    Args:
        denoiser: the network with its preconditioning.
        image_shape: channels, height and width of the training images.
        patch_sizes: sides of the training patches, smallest first; the last one is what tilings use.
        pad: zeros on every side of the training images, height and width.
        normalisation: what stored values became 0 and 1.
        training: provenance, plain values.

    Raises:
        InputError: sides, patches or padding are not whole numbers, or do not fit each other.
    """

    denoiser: Denoiser
    image_shape: tuple[int, ...]
    patch_sizes: Sequence[int]
    pad: tuple[int, ...]
    normalisation: Normalisation
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = {"image_shape": self.image_shape, "patch_sizes": self.patch_sizes, "pad": self.pad}
        for name, values in parts.items():
            whole_numbers = isinstance(values, (list, tuple)) and values and all(type(n) is int for n in values)
            if not whole_numbers or min(values) < (name != "pad") or max(values) > MOST_SIDE:
                raise InputError(f"the prior has {name} {values!r:.60}; wanted whole numbers up to {MOST_SIDE}")
        sides, pad, patch = self.image_shape[1:], self.pad, max(self.patch_sizes)
        if len(sides) not in (2, 3) or len(pad) != len(sides) or patch > min(sides[-2:]) or max(pad) > max(sides) + patch:
            raise InputError(
                f"the prior has images {list(sides)}, patches of {patch} and padding {list(pad)}; wanted patches of at most the "
                "image, and padding of at most the image and a patch"
            )
        pixels = math.prod(n + 2 * margin for n, margin in zip(sides, pad, strict=True))
        if pixels > MOST_PIXELS:
            raise InputError(f"the prior has a canvas of {pixels} pixels; wanted at most {MOST_PIXELS}")

    def describe(self) -> dict[str, Any]:
        """Return everything but the weights, as plain values."""
        network, positions = self.denoiser.network, self.denoiser.positions
        return {
            "network": type(network).__name__,
            "network_config": network.plain_config,
            "positions": type(positions).__name__,
            "positions_config": positions.plain_config,
            **({"context": True} if self.denoiser.context else {}),
            "sigma_data": self.denoiser.sigma_data,
            "span": list(self.denoiser.span),
            "image_shape": list(self.image_shape),
            "patch_sizes": list(self.patch_sizes),
            "pad": list(self.pad),
            "normalisation": self.normalisation.describe(),
            "training": self.training,
        }

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the network's weights under its own names, those of the positions behind ``positions.``."""
        return {k.removeprefix("network."): v for k, v in self.denoiser.state_dict().items()}

    @classmethod
    def build(cls, described: dict[str, Any], state: dict[str, torch.Tensor]) -> PatchModel:
        """Build a model from what :meth:`describe` and :meth:`weights` return."""
        owned = {k if k.startswith("positions.") else f"network.{k}": v for k, v in state.items()}
        with torch.device("meta"):  # takes no memory
            _build_denoiser(described).load_state_dict({k: v.to("meta") for k, v in owned.items()})
        denoiser = _build_denoiser(described)
        denoiser.load_state_dict({k: v.to(torch.get_default_dtype()) for k, v in owned.items()})
        return cls(
            denoiser=denoiser,
            image_shape=tuple(described["image_shape"]),
            patch_sizes=described["patch_sizes"],
            pad=tuple(described["pad"]),
            normalisation=Normalisation.read(described["normalisation"]),
            training=described["training"],
        )

    def save(self, path: Path, half: bool = False) -> None:
        """Write a safetensors file, in half precision if asked; never weights that are not finite."""
        state = {k: (v.half() if half else v).detach().cpu().contiguous() for k, v in self.weights().items()}
        broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
        if broken:
            raise InputError(f"weights of {broken[0]} are not finite; wanted finite weights, nothing was written")
        with whole(path) as temporary:
            temporary.write_bytes(_sort_metadata(save(state, {"format": FORMAT, "model": json.dumps(self.describe())})))

    @staticmethod
    def find(path: str | Path) -> Path:
        """Return the file of a prior: as given, in the folder that is given, of a bundled one by its name, or one of the Hub.

        Raises:
            InputError: there is no such file.
        """
        if hub.is_address(path):
            return hub.fetch(str(path))
        named, inside = BUNDLED / f"{path}.safetensors", Path(path) / NAME
        file = Path(path) if Path(path).is_file() else named if named.is_file() else inside
        if not file.is_file():
            bundled = ", ".join(sorted(p.stem for p in BUNDLED.glob("*.safetensors")))
            other = ", or --prior DenoiserPrior for this diffusion model" if find_model(Path(path)) else ""
            raise InputError(f"there is no prior {str(path)!r}; wanted a file or a bundled prior ({bundled}){other}")
        return file

    @classmethod
    def load(cls, path: str | Path) -> PatchModel:
        """Read ``prior.safetensors``, a checkpoint of ``fit``, or what :meth:`find` finds; raise an InputError for others."""
        file = cls.find(path)
        try:  # a file's parts may be anything
            described, state = (_from_lightning if file.suffix == ".ckpt" else _from_safetensors)(file)
            taken, held = sum(v.numel() * v.element_size() for v in state.values()), file.stat().st_size
            if taken > held:  # tensors that share their numbers
                raise InputError(f"{file} of {held} bytes has tensors of {taken}; wanted a prior written by fit")
            return cls.build(described, state)
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            reason = f"{type(error).__name__}: {one_line(error)[:160]}"
            raise InputError(f"{file} does not fit together ({reason}); wanted a prior written by fit") from error


def _from_safetensors(file: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return a model's description and its weights."""
    try:
        with safe_open(file, "pt") as handle:
            metadata = handle.metadata() or {}
            state = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise InputError(f"{file} is not a safetensors file ({error}); wanted a prior written by fit") from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{file} has the format {metadata.get('format')!r}; wanted {FORMAT!r}, written by fit")
    return json.loads(metadata["model"]), state


def _from_lightning(file: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return a model's description and its weights."""
    require_plain_checkpoint(file)
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise InputError(f"{file} cannot be read ({type(error).__name__}); wanted a checkpoint written by fit") from error
    if not isinstance(checkpoint, dict) or "patch_model" not in checkpoint:
        raise InputError(f"{file} holds no patch model; wanted a checkpoint written by fit")
    state = {k.removeprefix("denoiser.").removeprefix("network."): v for k, v in checkpoint["state_dict"].items()}
    return checkpoint["patch_model"], state


def _build_denoiser(described: dict[str, Any]) -> Denoiser:
    """Build the denoiser that :meth:`PatchModel.describe` described, with fresh weights."""
    network = PatchNetwork.build(described["network"], described["network_config"])
    positions = Positions.build(described.get("positions", "Coordinates"), described.get("positions_config", {}))
    span, context = described.get("span", (0.0, 1.0)), described.get("context", False)
    return Denoiser(network, described["sigma_data"], positions, span, context)


def _sort_metadata(file: bytes) -> bytes:
    """Return a safetensors file with its metadata in order of their names, which the library shuffles."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[end:]
