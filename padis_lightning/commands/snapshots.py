"""The command ``import``: a network snapshot of EDM, Patch-Diffusion or PaDIS becomes a prior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from padis_lightning.commands.arguments import Parser
from padis_lightning.errors import InputError


def _parser() -> Parser:
    parser = Parser(
        "import",
        description="Turn a network snapshot of EDM, Patch-Diffusion or PaDIS into a prior. No code in the snapshot is run.",
    )
    add = parser.add_argument
    add("file", type=Path, help="network-snapshot-*.pkl")
    add("--output", type=Path, required=True, help="file for the prior, .safetensors")
    add("--image_size", type=int, help="side of the images (default: the network's resolution)")
    sizes = "sides of the training patches; may be left out only without positions"
    add("--patch_sizes", type=int, nargs="+", metavar="N", help=sizes)
    add("--pad", type=int, help="zeros on every side (default: half of what image and resolution differ by)")
    values = "the network's values of 0 and 1 (default: -1 1; with positions and a resolution above the image's, 0 1)"
    add("--span", type=float, nargs=2, metavar=("LOW", "HIGH"), help=values)
    add("--half", action="store_true", help="store half precision")
    return parser


def run(args: Sequence[str]) -> None:
    """Run the command ``import``: read a snapshot, write a prior, say what was assumed.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: an argument or the file cannot be used; nothing was written.
    """
    options = vars(_parser().parse_args(list(args)))
    file, output, half = (options.pop(key) for key in ("file", "output", "half"))
    if output.suffix != ".safetensors":
        raise InputError(f"output is {str(output)!r}; wanted a name that ends in .safetensors")

    from padis_lightning.commands.snapshot_prior import describe, load

    model = load(file, **options)
    model.save(output, half)
    print(f"wrote {output} from {file}: {describe(model, [key for key, value in options.items() if value is None])}")
