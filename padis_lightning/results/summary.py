"""The table, the summary and the page of a result folder, from the records of its images."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padis_lightning.errors import InputError, first_few
from padis_lightning.files import write_text
from padis_lightning.results.page import report_page
from padis_lightning.results.records import Records
from padis_lightning.results.runs import keep_run, read_run
from padis_lightning.results.scores import summarise, to_csv


@dataclass(frozen=True)
class Gathered:
    """What a folder holds.

    Attributes:
        run: what it is of, as :meth:`Records.run` reads it.
        rows: scores of the images that were solved, in the order of the data set.
        failed: why images were not, by name.
        missing: names of those that nobody has solved yet.
        summary: means, intervals and provenance; None where there are no rows.
    """

    run: dict[str, Any]
    rows: list[dict[str, Any]]
    failed: dict[str, str]
    missing: list[str]
    summary: dict[str, Any] | None


def read(folder: Path) -> Gathered:
    """Read the records of a folder.

    Raises:
        InputError: predict has never written into it.
    """
    records = Records(folder)
    run = records.run()
    if run is None:
        raise InputError(f"{folder} has no run.json; wanted a folder that predict wrote")
    found = {name: records.row(name) for _, name, _ in run["images"]}
    rows = [row for row in found.values() if row is not None and "failed" not in row]
    failed = {name: row["failed"] for name, row in found.items() if row is not None and "failed" in row}
    missing = [name for name, row in found.items() if row is None]
    if not rows:
        return Gathered(run, rows, failed, missing, None)
    finished = {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    summary = {**summarise(rows), "failed": failed, "missing": missing, **run["made"], **finished}
    return Gathered(run, rows, failed, missing, summary)


def write(folder: Path, gathered: Gathered) -> None:
    """Write ``metrics.csv``, ``summary.json``, ``report.json`` and ``report.html``."""
    run, rows = gathered.run, gathered.rows
    failures = [{"index": index, "name": name} for index, name, _ in run["images"] if name in gathered.failed]
    every = sorted([*rows, *failures], key=lambda row: row["index"])
    write_text(folder / "metrics.csv", to_csv(every))
    write_text(folder / "summary.json", json.dumps(gathered.summary, indent=2) + "\n")
    solved = {row["name"] for row in rows}
    keep_run(folder, rows, run["shown"], [name for name in run["pictures"] if name in solved])
    write_text(folder / "report.html", report_page([read_run(folder)]))


def told(gathered: Gathered) -> str:
    """What is lacking, in one sentence; empty where nothing is."""
    parts = []
    if gathered.failed:
        name, reason = next(iter(gathered.failed.items()))
        parts.append(f"{len(gathered.failed)} images failed ({first_few(list(gathered.failed))}; {name}: {reason})")
    if gathered.missing:
        parts.append(f"{len(gathered.missing)} images are missing ({first_few(gathered.missing)})")
    return " and ".join(parts)
