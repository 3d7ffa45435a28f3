"""Run the command ``sweep``: its arguments, its table, and its hand-over to SLURM and to W&B."""

from __future__ import annotations

import argparse
import csv
import io
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from padis_lightning.commands.arguments import Parser
from padis_lightning.commands.sweep.rows import Sweep, as_yaml, read_sweep, word
from padis_lightning.commands.sweep.runner import Result, read_results, run_sweep
from padis_lightning.errors import InputError
from padis_lightning.files import write_text
from padis_lightning.locks import WriteLock
from padis_lightning.messages.allowed import split_allowed
from padis_lightning.messages.configs import find_sweep

SBATCH = Path("slurm") / "sweep.sbatch"


def run(args: Sequence[str]) -> None:
    """Run the command ``sweep`` with the arguments after its name.

    Raises:
        InputError: the sweep or an argument cannot be used; nothing was run.
        SystemExit: with 1 where a row failed.
    """
    words, allow = split_allowed(args)
    options = _parser().parse_intermixed_args(words)
    sweep = read_sweep(options.file, dict(options.set), {key: as_yaml(value) for key, value in options.settings})
    output = options.output or Path("results") / sweep.name
    text = Path(find_sweep(options.file)).read_text(encoding="utf-8")
    for name, _ in options.set:
        if f"${{{name}}}" not in text:
            raise InputError(f"--set names {name}; wanted a name that {options.file} uses as ${{{name}}}")
    if options.count:
        print(len(sweep.rows))
    elif options.list:
        print(f"{len(sweep.rows)} rows")
        for number, result in enumerate(read_results(sweep, output)):
            print(f"{number:>4}  {result.status:<7}  {result.row.name}")
    elif options.submit:
        _submit(sweep, [word for word in args if word != "--submit"])
    elif options.wandb:
        path = output / "wandb.yaml"
        write_text(path, yaml.safe_dump(wandb_config(sweep, output, allow), sort_keys=False, width=130))
        print(f"wrote {path}; wandb sweep {path} registers it")
    else:
        results = [] if options.table else _run(sweep, output, options, allow)
        every = write_table(sweep, output)
        if options.row is None:
            print(f"{_table(sweep, every)}\nthe table is {output / 'sweep.csv'}")
        if any(result.status == "failed" for result in results):
            raise SystemExit(1)


def _run(sweep: Sweep, output: Path, options: argparse.Namespace, allow: Sequence[str]) -> list[Result]:
    with WriteLock(output, options.row) as lock:
        lock.admit()
        return run_sweep(sweep, output, options.jobs, options.row, allow)


def _parser() -> Parser:
    parser = Parser(
        "sweep",
        description="Run fit or predict with many settings. Rows that are finished are not run again.",
        epilog="--allow MODULE (or the variable PADIS_LIGHTNING_ALLOW): a module of your own whose classes rows may name",
    )
    add, alone = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    add("file", metavar="FILE", help="the sweep: a file, or the name of one in configs/sweep")
    add("settings", nargs="*", type=_pair, metavar="KEY=VALUE", help="a setting of all rows, such as data.count=4")
    add("--output", type=Path, metavar="DIR", help="a folder a row in it (default: results/<name of the file>)")
    add("--set", action="append", type=_pair, default=[], metavar="NAME=VALUE", help="what stands for ${NAME} in the file")
    add("--jobs", type=int, default=1, metavar="N", help="rows at once (default: 1)")
    alone("--row", type=int, metavar="K", help="run one row, from 0, as a task of a job array does")
    alone("--list", action="store_true", help="print the rows and how they ended")
    alone("--count", action="store_true", help="print how many rows there are")
    alone("--table", action="store_true", help="write sweep.csv and print the table of what is there")
    alone("--submit", action="store_true", help=f"hand the rows to SLURM as a job array, by {SBATCH}")
    alone("--wandb", action="store_true", help="write wandb.yaml, the same sweep for W&B's agents")
    return parser


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no name with = and a value")
    return key, value


def write_table(sweep: Sweep, output: Path) -> list[Result]:
    """Write ``sweep.csv``, one line a row in the sweep's order: name, what varies, status, seconds, scores."""
    results = read_results(sweep, output)
    scores = list(dict.fromkeys(key for result in results for key in result.values))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["name", *sweep.varying, "status", "seconds", *scores], "", "ignore", lineterminator="\n")
    writer.writeheader()
    for result in results:
        settings = {key: word(value) for key, value in result.row.settings.items()}
        own = {"name": result.row.name, "config": " ".join(result.row.configs), "status": result.status}
        writer.writerow({**settings, **own, "seconds": result.seconds, **result.values})
    write_text(output / "sweep.csv", text.getvalue())
    return results


def _table(sweep: Sweep, results: Sequence[Result]) -> str:
    """Return one line a row, the best first: name, status, seconds and score with its interval, or what went wrong."""
    metric, width = sweep.metric["name"], max(len(row.name) for row in sweep.rows)
    lines = [f"{'row':<{width}}  {'status':<7}  {'seconds':>8}  {metric}"]
    for result in sorted(results, key=lambda result: sweep.rank(result.values)):
        value, low, high = (result.values.get(key) for key in (metric, f"{metric}_low", f"{metric}_high"))
        score = result.message or "-" if value is None else f"{value:.5g}"
        spread = "" if low is None or high is None else f" [{low:.5g}, {high:.5g}]"
        seconds = "-" if result.seconds is None else f"{result.seconds:.1f}"
        lines.append(f"{result.row.name:<{width}}  {result.status:<7}  {seconds:>8}  {score}{spread}")
    return "\n".join(lines)


def _submit(sweep: Sweep, words: Sequence[str]) -> None:
    """Hand the rows to SLURM; each task runs this command with its own row."""
    script = next((folder / SBATCH for folder in (Path(), Path(__file__).parents[3]) if (folder / SBATCH).is_file()), None)
    if script is None:
        raise InputError(f"there is no {SBATCH} here; wanted a checkout of the repository to submit from")
    if shutil.which("sbatch") is None:
        raise InputError("there is no sbatch here; wanted a machine that submits to SLURM, or no --submit")
    command = ["sbatch", f"--array=0-{len(sweep.rows) - 1}", str(script), *words]
    done = subprocess.run(command, env={**os.environ, "PADIS_SLURM": str(script.parent.resolve())}, check=False)
    if done.returncode:
        raise SystemExit(1)


def wandb_config(sweep: Sweep, output: Path, allow: Sequence[str] = ()) -> dict[str, Any]:
    """Return the configuration for ``wandb sweep``; every run of its agents lands in ``output/<id of the run>``.

    Raises:
        InputError: the sweep is not the grid of one config.
    """
    if not sweep.grid or sweep.varying != list(sweep.grid):
        seen = ", ".join(sweep.varying) or "nothing"
        raise InputError(f"{seen} varies in {sweep.name}; wanted keys of a grid alone, which W&B has, too")
    # its agents write a number as it is, and anything else not as the command line reads it
    grid = {key: {"values": [v if type(v) in (int, float) else word(v) for v in values]} for key, values in sweep.grid.items()}
    shared = {key: value for key, value in sweep.rows[0].settings.items() if key not in sweep.grid}
    row = replace(sweep.rows[0], settings={"trainer.logger": "WandbLogger", **shared})
    fixed = [*row.arguments(), *(f"--allow={module}" for module in allow)]
    folder = f'exec "$@" --output {shlex.quote(str(output))}/"$WANDB_RUN_ID"'  # an agent knows the run only in its process
    return {
        "name": sweep.name,
        "program": "padis_lightning",
        "command": ["${env}", "sh", "-c", folder, "sh", "${interpreter}", "-m", "${program}", *fixed, "${args}"],
        "method": "grid",
        "metric": dict(sweep.metric),
        "parameters": grid,
    }
