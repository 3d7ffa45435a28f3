"""Run the paper's studies and write their page: ``python -m benchmarks.paper --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.paper import costs, folders, scores
from benchmarks.paper.page import SECTIONS, write_page
from benchmarks.paper.plan import seconds
from benchmarks.paper.scales import SCALES, variables
from benchmarks.paper.studies import Part, parts
from padis_lightning.commands import explaining
from padis_lightning.commands.sweep import run_sweep, write_table
from padis_lightning.errors import InputError
from padis_lightning.files import write_text


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description="The paper's studies as sweeps. Finished rows are kept, a run that was cut off goes on.",
    )
    files = "ct_train.npz, ct_test.npz, faces_train.zip, faces_test.zip and perhaps BSD100 and DIV2K_valid_HR"
    parser.add_argument("--scale", choices=list(SCALES), required=True)
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"folder with {files} (default: generated images)")
    parser.add_argument("--output", type=Path, default=Path("results/paper"))
    parser.add_argument("--only", default=",".join(SECTIONS), help="studies with commas between them (default: %(default)s)")
    parser.add_argument("--jobs", type=int, help="rows at once (default: a row a processor, one with a GPU)")
    parser.add_argument("--plan", action="store_true", help="print the rows and the hours they may take, and run nothing")
    parser.add_argument("--table", action="store_true", help="write the page from what is there, and run nothing")
    parser.add_argument("--write", type=Path, help="the page (default: results.md in the output folder)")
    options = parser.parse_args(arguments)
    options.studies = tuple(name for name in SECTIONS if name in options.only.split(","))
    unknown = set(options.only.split(",")) - set(SECTIONS)
    if unknown:
        parser.error(f"--only names {', '.join(sorted(unknown))}; wanted some of {', '.join(SECTIONS)}")
    if options.data and not options.data.is_dir():
        parser.error(f"there is no folder {str(options.data)!r}; wanted one with the images")
    return options


def _setup(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a run depends on, from its folder or as it is now.

    Raises:
        InputError: the folder is of another scale or of other data.
    """
    path = options.output / "setup.json"
    data = options.data and options.data.resolve()
    now = {"scale": options.scale, "data": str(data) if data else None, "version": version("padis_lightning")}
    now |= {"values": variables(options.scale, data, options.output.resolve())}
    if not path.is_file():
        return now | {"machine": machine("cuda" if torch.cuda.is_available() else "cpu")}
    kept = json.loads(path.read_text(encoding="utf-8"))
    for key in ("scale",) if options.table else ("scale", "data"):
        if kept[key] != now[key]:
            raise InputError(f"{options.output} was begun with {key} {kept[key]}; wanted {now[key]} as now, or another --output")
    return kept


def _jobs(options: argparse.Namespace) -> int:
    return options.jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)


def _show_plan(found: list[Part], options: argparse.Namespace, values: dict[str, str]) -> None:
    total, count = 0.0, 0
    for part in found:
        for row in part.sweep(values, options.output).rows:
            taken = seconds(row, options.scale, values)
            total, count = total + taken, count + 1
            print(f"{part.folder}/{row.name:<24}{row.command:<9}{taken / 60:8.1f} min")
    jobs = _jobs(options)
    print(f"{count} rows, {total / 3600:.1f} hours one after the other, {total / 3600 / jobs:.1f} with {jobs} at once; "
          "partitions and costs, which are no rows, are not in it")  # fmt: skip


def _run_once(path: Path, study: Callable[[], Any]) -> None:
    """Run a study that is no sweep, once."""
    if not path.is_file():
        write_text(path, json.dumps(study(), indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; return 1 if a row failed."""
    options = _arguments(arguments)
    setup, found = _setup(options), parts(options.studies)
    values, output, failed = setup["values"], options.output, []
    if options.plan:
        _show_plan(found, options, values)
        return 0
    page = options.write or output / "results.md"
    pictures = page.parent / page.stem
    if not options.table:
        write_text(output / "setup.json", json.dumps(setup, indent=1) + "\n")
        if "inpainting" in options.studies:
            folders.prepare(options.data, output / "folders", int(values["PHOTO"]), int(values["COUNT"]))
        for part in found:
            print(f"{part.folder}:", flush=True)
            sweep = part.sweep(values, output)
            results = run_sweep(sweep, output / part.folder, _jobs(options))
            write_table(sweep, output / part.folder)
            failed += [f"{part.folder}/{result.row.name}" for result in results if result.status != "done"]
            write_page(output, setup, options.studies, page, pictures)
        if "partitions" in options.studies and "priors/ct" not in failed:
            test = None if options.data is None else values["TEST"]
            prior = str(output / "priors" / "ct" / "prior.safetensors")
            _run_once(output / "partitions.json", lambda: scores.study(prior, test, values))
        if "costs" in options.studies:
            _run_once(output / "costs.json", lambda: costs.study(values))
    write_page(output, setup, options.studies, page, pictures)
    print(f"wrote {page}")
    if failed:
        print(f"{len(failed)} rows failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    with explaining():
        sys.exit(main())
