"""Write the table and the page of a result folder, or of several against each other, from what ``predict`` left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from padis_lightning.commands.arguments import Parser
from padis_lightning.errors import InputError, RunError
from padis_lightning.files import write_text


def _parser() -> Parser:
    parser = Parser(
        "report",
        description="Write the page of a result folder again, or one that compares several. Nothing is solved.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="a folder that predict wrote")
    parser.add_argument(
        "--output", type=Path, help="the page (default: report.html in the folder; comparison.html here for several)"
    )
    return parser


def run(args: Sequence[str]) -> None:
    """Run the command ``report``.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: a folder is not one of results, lacks a file, or holds other images than the first.
    """
    options = _parser().parse_args(list(args))
    from padis_lightning.results.report.page import report_page  # imports torch, for which --help need not wait
    from padis_lightning.results.report.runs import read_runs

    runs = read_runs(options.folders)
    alone = options.folders[0] / "report.html" if len(runs) == 1 else Path("comparison.html")
    output = options.output or alone
    if output.is_dir():
        raise InputError(f"output is the folder {str(output)!r}; wanted the name of a page to write")
    write_text(output, report_page(runs))
    print(f"wrote {output}: {len(runs[0].rows)} images of {' and '.join(run.name for run in runs)}")


def gather(args: Sequence[str]) -> None:
    """Run the command ``gather``.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: the folder is not one that predict wrote.
        RunError: images failed or are missing; the table of the others is written.
    """
    parser = Parser(
        "gather",
        description="Make the table, the summary and the page of a folder that several shards of predict wrote into.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the shards' --output")
    folder = parser.parse_args(list(args)).folder
    from padis_lightning.results.scores import table
    from padis_lightning.results.summary import missing_sentence, read_results, write_summary

    gathered = read_results(folder)
    if gathered.summary is not None:
        write_summary(folder, gathered)
        print(table(gathered.summary))
        print(f"gathered {len(gathered.rows)} images into {folder / 'metrics.csv'}; open {folder / 'report.html'}")
    if missing_sentence(gathered):
        raise RunError(missing_sentence(gathered))
