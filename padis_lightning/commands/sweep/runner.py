"""Run rows as processes and keep how each ended: finished ones are not run again, failing ones do not stop the others."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from padis_lightning.commands.sweep.rows import Row, Sweep, word
from padis_lightning.errors import InputError, require_at_least
from padis_lightning.files import lies_in, write_text
from padis_lightning.messages.configs import find_config
from padis_lightning.results.json_files import NUMBER, read_json
from padis_lightning.signals import STOPPING, Stopped

SCORES = ("psnr", "ssim", "residual", "deviation", "coverage", "seconds_per_image", "evaluations", "n")
CONTENTS = "the contents of "  # before the name of a config whose hash is kept
LOG, PROMPT = "log.txt", "$ "
RECORD = {"settings": {str: str}, "seconds": NUMBER | None, "values": {str: NUMBER | None}, "exit_code": int}
ENDING = {*STOPPING, signal.SIGHUP}
PAUSE = 0.05  # seconds between two looks at the processes


@dataclass(frozen=True)
class Result:
    """A result says how a row ended: ``done``, ``failed`` or ``missing``; its scores by name; the last line of a failed one."""

    row: Row
    status: str
    seconds: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    exit_code: int | None = None
    message: str = ""


def run_sweep(sweep: Sweep, output: Path, jobs: int = 1, only: int | None = None, allow: Sequence[str] = ()) -> list[Result]:
    """Run the rows that are not finished, or of these row ``only``, each in ``output/<name>``; return how these rows ended.

    Args:
        sweep: rows from :func:`padis_lightning.commands.sweep.read_sweep`.
        output: folder of the sweep.
        jobs: number of rows at once.
        only: number of the one row to run, from 0.
        allow: modules whose classes the rows may name.

    Raises:
        InputError: there is no such row, or a folder holds a finished row of other settings; nothing was run.
        Stopped: a signal ended the sweep.
    """
    require_at_least(1, jobs=jobs)
    last = len(sweep.rows) - 1
    if only is not None and not 0 <= only <= last:
        raise InputError(f"row is {only}; wanted one of the {last + 1} rows, from 0 to {last}")
    results = read_results(sweep, output)
    if led := next((log for row in sweep.rows if not lies_in(log := output / row.name / LOG, output)), None):
        raise InputError(f"{led} is a link to {led.resolve()}; wanted a file of its own, or another --output")
    asked = range(last + 1) if only is None else [only]
    for number in asked:
        if results[number].status == "done":
            _report(sweep, number, results[number], "done before")
    waiting = [number for number in asked if results[number].status != "done"]
    caught: list[int] = []
    before = {one: signal.signal(one, lambda received, _: caught.append(received)) for one in ENDING}
    try:
        for number, result in _run(sweep, waiting, output, jobs, allow, caught):
            results[number] = result
            _report(sweep, number, result, f"{result.seconds:.1f} s")
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if _stopped(caught):
        number = next(received for received in caught if received in ENDING)
        raise Stopped(number, "; the same command runs the rows that have not ended")
    return [results[number] for number in asked]


def _run(
    sweep: Sweep, waiting: list[int], output: Path, jobs: int, allow: Sequence[str], caught: list[int]
) -> Iterator[tuple[int, Result]]:
    """Run rows and yield each that ends; signals that are caught are passed on, each once."""
    running: dict[int, tuple[subprocess.Popen, float]] = {}
    passed, allowed = 0, [f"--allow={module}" for module in allow]
    while running or (waiting and not _stopped(caught)):
        while waiting and len(running) < jobs and not _stopped(caught):
            row = sweep.rows[waiting[0]]
            resumed = ["--ckpt_path", "auto"] if row.command == "fit" and "ckpt_path" not in row.settings else []
            words = [*row.arguments(output / row.name), *resumed, *allowed]
            running[waiting.pop(0)] = start(words, output / row.name / LOG, jobs), time.monotonic()
        time.sleep(PAUSE)
        for number, (process, began) in list(running.items()):
            if (code := process.poll()) is not None:
                del running[number]
                row, seconds = sweep.rows[number], round(time.monotonic() - began, 1)
                stopped = Result(row, "missing", seconds)  # it may have ended well, but early
                yield number, stopped if _stopped(caught) else _ended(row, output / row.name, code, seconds)
        for received in caught[passed:]:
            passed += 1
            for process, _ in running.values():
                process.send_signal(received)


def _stopped(caught: Sequence[int]) -> bool:
    return not ENDING.isdisjoint(caught)


def start(words: Sequence[str], log: Path, jobs: int) -> subprocess.Popen:
    """Start ``python -m padis_lightning`` with ``words``, what it says added to ``log``; rows at once share the processors."""
    command = [sys.executable, "-m", "padis_lightning", *words]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab", buffering=0) as out:
        out.write(f"{PROMPT}{shlex.join(command)}\n".encode())
        return subprocess.Popen(
            command,
            env={**threads, **os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # else a signal to the group would reach it twice
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def _ended(row: Row, folder: Path, code: int, seconds: float) -> Result:
    """Keep how a row ended, in place of how it ended before."""
    if code:
        log = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        last = next(line.strip() for line in reversed(log) if line.strip())
        message = "" if last.startswith(PROMPT) else last.removeprefix("padis_lightning: error: ")
        result = Result(row, "failed", seconds, {}, 128 - code if code < 0 else code, message)
    else:
        result = Result(row, "done", seconds, dict(read_scores(row, folder)), 0)
    record = asdict(result) | {"settings": _fingerprint(row)}
    del record["row"], record["status"]
    write_text(folder / f"{result.status}.json", json.dumps(record, indent=2) + "\n")
    if result.status == "done":
        (folder / "failed.json").unlink(missing_ok=True)
    return result


def _report(sweep: Sweep, number: int, result: Result, how: str) -> None:
    score = result.values.get(sweep.metric["name"])
    said = {
        "done": "done" if score is None else f"{sweep.metric['name']} {score:.4g}",
        "failed": f"failed with exit code {result.exit_code}: {result.message}",
        "missing": "stopped",
    }
    print(f"row {number} of {len(sweep.rows)}: {result.row.name}: {said[result.status]}, {how}", flush=True)


def _fingerprint(row: Row) -> dict[str, str]:
    """Return what decides a row's results, in words by key: command, configs with hashes of their contents, settings."""
    contents = {CONTENTS + name: hashlib.sha256(Path(find_config(name)).read_bytes()).hexdigest() for name in row.configs}
    return {"command": row.command, "config": " ".join(row.configs), **contents} | {k: word(v) for k, v in row.settings.items()}


def read_results(sweep: Sweep, output: Path) -> list[Result]:
    """Return how every row ended; nothing is run.

    Raises:
        InputError: a folder holds a finished row of other settings, or a damaged record.
    """
    return [_read_result(row, output / row.name) for row in sweep.rows]


def _read_result(row: Row, folder: Path) -> Result:
    path = next((path for path in (folder / "done.json", folder / "failed.json") if path.is_file()), None)
    if path is None:
        return Result(row, "missing")
    try:
        record = read_json(path, RECORD)
    except InputError:
        raise InputError(f"{path} is damaged; wanted what a sweep wrote, or no such file") from None
    theirs, ours = record["settings"], _fingerprint(row)
    values = {key: value for key, value in record["values"].items() if value is not None}  # JSON has no nan
    result = Result(row, path.stem, record["seconds"], values, record["exit_code"], str(record.get("message", "")))
    changed = next((key for key in theirs | ours if theirs.get(key) != ours.get(key)), None)
    if changed is not None and result.status == "done":
        seen, wanted = (made.get(changed, "unset")[: 12 if changed.startswith(CONTENTS) else None] for made in (theirs, ours))
        raise InputError(f"{folder} was finished with {changed} {seen}; wanted {wanted} as now, or another --output")
    return result


def read_scores(row: Row, folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the scores that ``predict`` summed up, with the ends of their intervals, or that ``fit`` logged last."""
    if row.command == "fit":
        yield from _last_logged(folder)
    elif (folder / "summary.json").is_file():
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        scores = {key: (summary[key], summary.get("intervals", {}).get(key)) for key in SCORES if summary.get(key) is not None}
        scores |= {f"gain_{name}": (gain["psnr"], gain.get("interval")) for name, gain in summary.get("gain", {}).items()}
        for key, (value, interval) in scores.items():
            yield key, value
            yield from zip((f"{key}_low", f"{key}_high"), interval or (), strict=False)


def _last_logged(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the last of each validation score, and the steps that were logged; a run that was resumed has several logs."""
    last: dict[str, str] = {}
    for path in sorted(folder.glob("log/version_*/metrics.csv"), key=lambda path: int(path.parent.name.removeprefix("version_"))):
        with path.open(newline="", encoding="utf-8") as handle:
            for line in csv.DictReader(handle):
                last |= {key: value for key, value in line.items() if value and (key == "step" or key.startswith("val/"))}
    for key, value in last.items():
        yield ("steps", int(value) + 1) if key == "step" else (key, float(value))
