"""Arguments of ``prepare``, and what it says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from padis_lightning.commands.arguments import Parser
from padis_lightning.commands.prepare.container import verify
from padis_lightning.commands.prepare.plan import Plan, make_plan
from padis_lightning.commands.prepare.settings import LEVELS, PARTS, Settings
from padis_lightning.commands.prepare.work import prepare
from padis_lightning.errors import InputError


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parser() -> Parser:
    parser = Parser(
        prog="python -m padis_lightning prepare",
        description="Turn images of any readable kind into one HDF5 file for training. A run that was cut off goes on.",
        allow_abbrev=False,
    )
    parser.add_argument("sources", nargs="*", type=Path, metavar="SOURCE", help="files and folders")
    parser.add_argument("--output", type=Path, help="the file to write, .h5")
    parser.add_argument("--check", type=Path, metavar="FILE", help="hash the images of a prepared file and do nothing else")
    parser.add_argument("--size", type=int, metavar="N", help="side of the images (default: as they are)")
    parser.add_argument(
        "--spacing", type=float, metavar="MM", help="resample to this pixel spacing first, then cut or border to --size"
    )
    parser.add_argument(
        "--range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values that become 0 and 1, in HU where the sources say so; others are clipped (default: what the sources name, "
        "-1000 1000 for HU)",
    )
    parser.add_argument(
        "--split",
        type=float,
        nargs=3,
        default=(0.8, 0.1, 0.1),
        metavar=tuple(part.upper() for part in PARTS),
        help="shares of the groups (patients), of which none is in two parts (default: 0.8 0.1 0.1)",
    )
    parser.add_argument("--every", type=int, default=1, metavar="K", help="take every K-th slice of a series (default: 1)")
    parser.add_argument("--dtype", choices=list(LEVELS), default="uint16", help="of the stored numbers (default: uint16)")
    parser.add_argument("--licence", default="", metavar="TEXT", help="terms of the data, for the manifest")
    parser.add_argument("--seed", type=int, default=0, help="key of the split (default: 0)")
    parser.add_argument("--workers", type=int, default=_processors(), metavar="N", help="processes (default: one a processor)")
    parser.add_argument("--restart", action="store_true", help="begin anew where a run was cut off")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished file")
    return parser


def _check_output(output: Path | None, overwrite: bool) -> None:
    if output is None or output.suffix not in (".h5", ".hdf5"):
        raise InputError(f"output is {'missing' if output is None else repr(str(output))}; wanted a name that ends in .h5")
    if output.is_dir() or (output.exists() and not overwrite):
        raise InputError(f"{output} exists; wanted another --output, or --overwrite")


def describe(plan: Plan) -> str:
    """What a file holds, in a line."""
    shared = ", ".join(f"{part} {count['slices']}" for part, count in plan.counts().items())
    low, high = plan.range
    return (
        f"{plan.count} slices of {'x'.join(map(str, plan.shape))} {plan.dtype}, {len(plan.parts)} groups ({shared}), "
        f"values from {low:g} to {high:g} {plan.units}".rstrip()
    )


def run(args: Sequence[str]) -> None:
    """The command ``prepare``: write a file, or check one.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: an argument or a source cannot be used; nothing was written.
    """
    options = _parser().parse_intermixed_args(list(args))
    if options.check:
        if options.sources or options.output:
            raise InputError("--check comes with sources or an output; wanted it alone")
        count, digest = verify(options.check)
        print(f"{options.check} is whole: {count} slices, SHA-256 {digest}")
        return
    if not options.sources:
        raise InputError("sources are missing; wanted files or folders")
    if options.workers < 1:
        raise InputError(f"workers is {options.workers}; wanted at least 1")
    _check_output(options.output, options.overwrite)
    settings = Settings(
        options.size,
        options.spacing,
        tuple(options.range) if options.range else None,
        tuple(options.split),
        options.dtype,
        options.every,
        options.seed,
        options.licence,
    )
    plan = make_plan(options.sources, settings)
    if options.output.resolve() in {file for _, file in plan.files}:
        raise InputError(f"{options.output} is a source; wanted another --output")
    prepare(plan, options.output, options.workers, options.restart)
    print(f"wrote {options.output}: {describe(plan)}")
