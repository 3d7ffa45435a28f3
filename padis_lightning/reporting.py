"""The page of a result folder, or of several against each other, from what ``predict`` left: nothing is solved again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from padis_lightning.arguments import Parser
from padis_lightning.callbacks.report import report_page
from padis_lightning.callbacks.runs import read_runs
from padis_lightning.errors import InputError
from padis_lightning.files import write_text


def _parser() -> Parser:
    parser = Parser(
        prog="python -m padis_lightning report",
        description="Write the page of a result folder again, or one that compares several. Nothing is solved.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="a folder that predict wrote")
    parser.add_argument(
        "--output", type=Path, help="the page (default: report.html in the folder; comparison.html here for several)"
    )
    return parser


def run(args: Sequence[str]) -> None:
    """The command ``report``.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: a folder is not one of results, lacks a file, or holds other images than the first.
    """
    options = _parser().parse_args(list(args))
    runs = read_runs(options.folders)
    alone = options.folders[0] / "report.html" if len(runs) == 1 else Path("comparison.html")
    output = options.output or alone
    if output.is_dir():
        raise InputError(f"output is the folder {str(output)!r}; wanted the name of a page to write")
    write_text(output, report_page(runs))
    print(f"wrote {output}: {len(runs[0].rows)} images of {' and '.join(run.name for run in runs)}")
