"""Running the rows of a sweep: finished ones are kept, failing ones do not stop the others."""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from padis_lightning.commands.sweep.model import Row, Sweep
from padis_lightning.commands.sweep.processes import PROMPT, Processes
from padis_lightning.commands.sweep.records import Result, write_result
from padis_lightning.commands.sweep.tables import read_results, write_table
from padis_lightning.commands.sweep.values import read_values
from padis_lightning.errors import InputError

LOG = "log.txt"


def run_sweep(sweep: Sweep, output: str | Path, jobs: int = 1, only: Collection[int] | None = None) -> list[Result]:
    """Run the rows that are not finished, each in ``output/<name>``, and write ``output/sweep.csv``.

    Args:
        sweep: of :func:`padis_lightning.commands.sweep.read_sweep`.
        output: folder of the sweep.
        jobs: rows at once.
        only: numbers of the rows to run, from 0 (default: all).

    Returns:
        Results of the rows that were asked for, in the sweep's order.

    Raises:
        InputError: a number is not one of the sweep, or a folder holds a finished row of other settings; nothing was run.
    """
    if jobs < 1:
        raise InputError(f"jobs is {jobs}; wanted at least 1")
    output, count = Path(output), len(sweep.rows)
    wrong = next((number for number in only or () if not 0 <= number < count), None)
    if wrong is not None:
        raise InputError(f"row is {wrong}; wanted one of the {count} rows, from 0 to {count - 1}")
    before, processes = read_results(sweep, output), Processes(jobs)

    def one(number: int) -> Result:
        known = before[number]
        if known.status == "done":
            _tell(sweep, number, known, "done before")
            return known
        result = _run(known.row, output / known.row.name, processes)
        _tell(sweep, number, result)
        return result

    with processes.passing_on(), ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(one, [number for number in range(count) if only is None or number in only]))
    write_table(sweep, output)
    if processes.stopped:
        raise SystemExit(128 + processes.stopped)
    return results


def _run(row: Row, folder: Path, processes: Processes) -> Result:
    if processes.stopped:
        return Result(row, "missing")
    resumed = ["--ckpt_path", "auto"] if row.command == "fit" and "ckpt_path" not in row.settings else []
    log, began = folder / LOG, time.monotonic()
    code = processes.run([*row.arguments(folder), *resumed], log)
    seconds = round(time.monotonic() - began, 1)
    if processes.stopped:  # it may have ended well, but early
        return Result(row, "missing", seconds, exit_code=code)
    if code:
        result = Result(row, "failed", seconds, {}, code, _last_line(log))
    else:
        result = Result(row, "done", seconds, read_values(row, folder), 0)
    write_result(folder, result)
    return result


def _last_line(log: Path) -> str:
    """The last line that a process left, empty where there is none after its command."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "" if lines[-1].startswith(PROMPT) else lines[-1].removeprefix("padis_lightning: error: ")


def _tell(sweep: Sweep, number: int, result: Result, how: str = "") -> None:
    name, score = sweep.metric.name, result.values.get(sweep.metric.name)
    said = {
        "done": f"{name} {score:.4g}" if score is not None else "done",
        "failed": f"failed with exit code {result.exit_code}: {result.message}",
        "missing": "stopped",
    }[result.status]
    took = f", {how}" if how else "" if result.seconds is None else f", {result.seconds:.1f} s"
    print(f"row {number} of {len(sweep.rows)}: {result.row.name}: {said}{took}", flush=True)
