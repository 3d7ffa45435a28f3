"""The table of a sweep, as a file and as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from padis_lightning.commands.sweep.model import Sweep, word
from padis_lightning.commands.sweep.records import Result, read_result
from padis_lightning.files import write_text

CSV = "sweep.csv"


def read_results(sweep: Sweep, output: Path) -> list[Result]:
    """How every row ended; nothing is run.

    Raises:
        InputError: a folder holds a finished row of other settings.
    """
    return [read_result(row, output / row.name) for row in sweep.rows]


def write_table(sweep: Sweep, output: Path) -> list[Result]:
    """Write ``sweep.csv``, one line a row in the sweep's order: name, what varies, status, seconds, scores."""
    results = read_results(sweep, output)
    scores = list(dict.fromkeys(key for result in results for key in result.values))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *sweep.varying, "status", "seconds", *scores])
    for result in results:
        values = [result.values.get(key, "") for key in scores]
        writer.writerow([result.row.name, *_varying(sweep, result), result.status, result.seconds, *values])
    write_text(output / CSV, text.getvalue())
    return results


def _varying(sweep: Sweep, result: Result) -> list[str]:
    row = result.row
    known = {"config": " ".join(row.configs)} | {key: word(value) for key, value in row.settings.items()}
    return [known.get(key, "") for key in sweep.varying]


def table(sweep: Sweep, results: Sequence[Result]) -> str:
    """One line a row, the best first; then which is best, and what failed or is missing."""
    metric = sweep.metric
    ranked = sorted(results, key=lambda result: metric.rank(result.values))
    width = max(len(row.name) for row in sweep.rows)
    lines = [f"{'row':<{width}}  {'status':<7}  {'seconds':>8}  {metric.name}"]
    for result in ranked:
        seconds = "-" if result.seconds is None else f"{result.seconds:.1f}"
        lines.append(f"{result.row.name:<{width}}  {result.status:<7}  {seconds:>8}  {_score(result, metric.name)}")
    if ranked and metric.rank(ranked[0].values) < float("inf"):
        lines.append(f"best: {ranked[0].row.name}, {metric.name} {_score(ranked[0], metric.name)}")
    lines += [f"failed: {r.row.name}, exit code {r.exit_code}: {r.message}" for r in results if r.status == "failed"]
    missing = sum(result.status == "missing" for result in results)
    return "\n".join(lines + [f"{missing} of {len(results)} rows have not ended"] * bool(missing))


def _score(result: Result, name: str) -> str:
    if name not in result.values:
        return "-"
    low, high = (result.values.get(f"{name}_{end}") for end in ("low", "high"))
    spread = "" if low is None or high is None else f" [{low:.5g}, {high:.5g}]"
    return f"{result.values[name]:.5g}{spread}"
