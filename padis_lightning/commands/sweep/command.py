"""Arguments of ``sweep``, and what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from padis_lightning.commands.arguments import Parser
from padis_lightning.commands.sweep.exporting import wandb_config
from padis_lightning.commands.sweep.model import Sweep
from padis_lightning.commands.sweep.reading import plain, read_sweep
from padis_lightning.commands.sweep.running import run_sweep
from padis_lightning.commands.sweep.tables import CSV, read_results, table, write_table
from padis_lightning.errors import InputError
from padis_lightning.files import write_text

SBATCH = Path("slurm") / "sweep.sbatch"


def _parser() -> Parser:
    parser = Parser(
        prog="python -m padis_lightning sweep",
        description="Run fit or predict with many settings. Rows that are finished are not run again.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="the sweep: a file, or the name of one in configs/sweep")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="a setting of all rows, such as data.count=4")
    parser.add_argument("--output", type=Path, metavar="DIR", help="a folder a row in it (default: results/<name of the file>)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="what stands for ${NAME} in the file; once for each"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows at once (default: 1)")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--row", type=int, metavar="K", help="run one row, from 0, as a task of a job array does")
    alone.add_argument("--list", action="store_true", help="print the rows and how they ended")
    alone.add_argument("--count", action="store_true", help="print how many rows there are")
    alone.add_argument("--table", action="store_true", help="write sweep.csv and print the table of what is there")
    alone.add_argument("--submit", action="store_true", help=f"hand the rows to SLURM as a job array, by {SBATCH}")
    alone.add_argument("--wandb", action="store_true", help="write wandb.yaml, the same sweep for W&B's agents")
    return parser


def run(args: Sequence[str]) -> None:
    """The command ``sweep``.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: the sweep or an argument cannot be used; nothing was run.
        SystemExit: with 1 where a row failed.
    """
    options = _parser().parse_intermixed_args(list(args))
    variables = _pairs(options.set, "--set")
    settings = {key: plain(value) for key, value in _pairs(options.settings, "an argument").items()}
    sweep = read_sweep(options.file, variables, settings)
    unused = sorted(set(variables) - sweep.variables)
    if unused:
        raise InputError(f"--set names {unused[0]}; wanted a name that {options.file} uses as ${{{unused[0]}}}")
    output = options.output or Path("results") / sweep.name
    if options.count:
        print(len(sweep.rows))
    elif options.list:
        print(f"{len(sweep.rows)} rows")
        for number, result in enumerate(read_results(sweep, output)):
            print(f"{number:>4}  {result.status:<7}  {result.row.name}")
    elif options.submit:
        _submit(sweep, args)
    elif options.wandb:
        config = wandb_config(sweep, output)
        write_text(output / "wandb.yaml", yaml.safe_dump(config, sort_keys=False, width=130))
        print(f"wrote {output / 'wandb.yaml'}; wandb sweep {output / 'wandb.yaml'} registers it")
    else:
        _run(sweep, output, options.jobs, options.row, options.table)


def _run(sweep: Sweep, output: Path, jobs: int, row: int | None, only_table: bool) -> None:
    results = [] if only_table else run_sweep(sweep, output, jobs, None if row is None else [row])
    if row is None:
        print(table(sweep, write_table(sweep, output)))
        print(f"the table is {output / CSV}")
    if any(result.status == "failed" for result in results):
        raise SystemExit(1)


def _submit(sweep: Sweep, args: Sequence[str]) -> None:
    """Hand the rows to SLURM; each task runs this command with its own row."""
    script = next((folder / SBATCH for folder in (Path(), Path(__file__).parents[3]) if (folder / SBATCH).is_file()), None)
    if script is None:
        raise InputError(f"there is no {SBATCH} here; wanted a checkout of the repository to submit from")
    if shutil.which("sbatch") is None:
        raise InputError("there is no sbatch here; wanted a machine that submits to SLURM, or no --submit")
    words = [word for word in args if word != "--submit"]
    command = ["sbatch", f"--array=0-{len(sweep.rows) - 1}", str(script), *words]
    done = subprocess.run(command, env={**os.environ, "PADIS_SLURM": str(script.parent.resolve())}, check=False)
    if done.returncode:
        raise SystemExit(1)


def _pairs(words: Sequence[str], where: str) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise InputError(f"{where} is {word!r}; wanted a name, = and a value")
        pairs[key] = value
    return pairs
