"""The table, the summary and the page of a result folder, from the records of its images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padis_lightning.errors import InputError, first_few
from padis_lightning.files import write_text
from padis_lightning.results.calibration import gather_counts
from padis_lightning.results.json_files import write_json
from padis_lightning.results.records import Records
from padis_lightning.results.report.page import report_page
from padis_lightning.results.report.runs import read_run, write_report_data
from padis_lightning.results.scores import summarise, to_csv


@dataclass(frozen=True)
class FolderResults:
    """The results in a folder.

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


def read_results(folder: Path) -> FolderResults:
    """Read the records of a folder.

    Raises:
        InputError: predict has never written into it, or its files are damaged.
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
        return FolderResults(run, rows, failed, missing, None)
    if any(row["baselines"].keys() != rows[0]["baselines"].keys() for row in rows):
        raise InputError(f"the records of {folder} name different baselines; wanted those of one run")
    summary = {**summarise(rows), "failed": failed, "missing": missing, **run["made"]}
    summary["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return FolderResults(run, rows, failed, missing, summary)


def write_summary(folder: Path, results: FolderResults) -> None:
    """Write ``metrics.csv``, ``summary.json``, ``report.json`` and ``report.html``."""
    run, rows = results.run, results.rows
    failures = [{"index": index, "name": name} for index, name, _ in run["images"] if name in results.failed]
    every = sorted([*rows, *failures], key=lambda row: row["index"])
    write_text(folder / "metrics.csv", to_csv(every))
    write_json(folder / "summary.json", results.summary)
    solved = {row["name"] for row in rows}
    gather_counts(folder, sorted(solved), run["settings"])
    write_report_data(folder, rows, run["shown"], [name for name in run["pictures"] if name in solved])
    write_text(folder / "report.html", report_page([read_run(folder)]))


def missing_sentence(results: FolderResults) -> str:
    """Return which images failed or are missing, in one sentence; empty where none are."""
    parts = []
    if results.failed:
        name, reason = next(iter(results.failed.items()))
        parts.append(f"{len(results.failed)} images failed ({first_few(list(results.failed))}; {name}: {reason})")
    if results.missing:
        parts.append(f"{len(results.missing)} images are missing ({first_few(results.missing)})")
    return " and ".join(parts)
