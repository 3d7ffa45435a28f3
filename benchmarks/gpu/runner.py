"""Run parts in turn, each within its share of the time, and write every row as soon as it is known."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.machine import machine
from padis_lightning.errors import one_line
from padis_lightning.files import write_text

MEASURED, FAILED, SKIPPED = "measured", "failed", "skipped"
LATE = "no time was left"


@dataclass(frozen=True)
class Row:
    """A row is one figure.

    Args:
        name: what was measured.
        value: the figure, or None where there is none.
        unit: of the figure.
        details: what it follows from and depends on, plain values.
        status: ``measured``, or ``failed`` or ``skipped`` with a sentence.
    """

    name: str
    value: float | None = None
    unit: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    status: str = MEASURED


def skipped(name: str, reason: str) -> Row:
    """Return the row of what was not measured."""
    return Row(name, status=f"{SKIPPED}: {reason}")


@dataclass
class Context:
    """A context is what measurements depend on.

    Attributes:
        device: ``cuda`` or ``cpu``.
        tiny: everything small; figures mean nothing.
        data: folder with ``ct_train.npz`` and ``ct_test.npz``, or None for phantoms.
        output: folder of the results.
        deadline: when the part that runs has to end, by ``time.perf_counter``.
        product_rate: floating-point operations a second of bfloat16 matrix products, where they were measured.
    """

    device: str
    tiny: bool
    data: Path | None
    output: Path
    deadline: float = math.inf
    product_rate: float | None = None

    @property
    def left(self) -> float:
        """Return the seconds that the part has left."""
        return self.deadline - time.perf_counter()

    def share_of_rate(self, operations: float, seconds: float) -> float | None:
        """Return the part of the measured matrix rate that a computation reaches; None where the rate is not known."""
        return None if self.product_rate is None else operations / seconds / self.product_rate


#: what a part measures: a name, for a row that says why there is none, and what returns the rows
Measurement = tuple[str, Callable[[], Iterable[Row]]]


class Part(NamedTuple):
    """A part is a group of measurements.

    Attributes:
        letter: its name on the command line.
        title: what it measures.
        share: of the time, in parts of those of all.
        measurements: yields what to measure, one after the other; nothing begins after the deadline.
    """

    letter: str
    title: str
    share: float
    measurements: Callable[[Context], Iterable[Measurement]]


class Book:
    """Rows on disk: ``rows.jsonl``, a line each as soon as it is known, and ``table.md``, written anew after each part.

    Args:
        context: where, and on which device.
        parts: those whose rows are about to be measured; rows of others that the folder has are kept.
    """

    def __init__(self, context: Context, parts: Sequence[Part]) -> None:
        self.folder, self.start = context.output, time.perf_counter()
        self.path, new = self.folder / "rows.jsonl", {part.letter for part in parts}
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.rows = [row for row in map(json.loads, lines) if row["part"] not in new]
        known = machine(context.device)
        self.machine = f"{known['gpu' if context.device == 'cuda' else 'cpu']}, torch {known['torch']}"
        self.machine += ", tiny: figures mean nothing" if context.tiny else ""
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def add(self, part: Part, row: Row) -> None:
        """Write a row and print it."""
        seconds = round(time.perf_counter() - self.start, 2)
        line = {"part": part.letter, "title": part.title, **asdict(row), "at": seconds, "machine": self.machine}
        self.rows.append(line)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        value = "" if row.value is None else f"{row.value:.4g} {row.unit}"
        print(f"({part.letter}) {line['at']:7.1f} s  {row.name}: {value or row.status}", flush=True)

    def write_table(self) -> None:
        """Write all rows as tables, a part each, with the machine that they are of."""
        seen: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(self.rows, key=lambda row: row["part"]):
            seen.setdefault(row["part"], []).append(row)
        text = ["# What was measured"]
        for letter, rows in seen.items():
            text += [f"\n## ({letter}) {rows[-1]['title']}\n\n{rows[-1]['machine']}\n"]
            text += ["| what | figure | unit | details |", "|---|---|---|---|", *map(_line, rows)]
        write_text(self.folder / "table.md", "\n".join(text) + "\n")


def _line(row: dict[str, Any]) -> str:
    value = "" if row["value"] is None else f"{row['value']:.4g}"
    details = [f"{key.replace('_', ' ')} {_short(value)}" for key, value in row["details"].items() if value is not None]
    if row["status"] != MEASURED:
        details.insert(0, row["status"])
    cells = (row["name"], value, row["unit"], ", ".join(details))
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def _short(value: Any) -> str:  # noqa: ANN401 - a plain value
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rows_of(part: Part, context: Context) -> Iterator[Row]:
    """Measure a part; what fails is a row with its sentence, what is not installed or has no time left one that was skipped."""
    try:
        for name, measure in part.measurements(context):
            if context.left <= 0:
                yield skipped(name, LATE)
            else:
                yield from _guarded(name, measure)
            if context.device == "cuda":
                gc.collect()
                torch.cuda.empty_cache()
    except Exception as error:  # noqa: BLE001 - the rest is still worth measuring
        yield _failed(part.title, error)


def _guarded(name: str, measure: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    try:
        yield from measure()
    except ModuleNotFoundError as error:
        yield skipped(name, f"{error.name} is not installed")
    except Exception as error:  # noqa: BLE001
        yield _failed(name, error)


def _failed(name: str, error: Exception) -> Row:
    return Row(name, status=f"{FAILED}: {type(error).__name__}: {one_line(error)[:300]}")


def answers(device: str) -> bool:
    """Return whether a device still computes; after some errors CUDA refuses all further work of a process."""
    try:
        return bool(torch.ones(2, device=device).sum() == 2)
    except RuntimeError:
        return False


def run(parts: Sequence[Part], context: Context, minutes: float) -> tuple[bool, Sequence[Part]]:
    """Run parts, which share what time is left at their beginning; return whether all went well, and those still to run.

    Parts are still to run where the device no longer answers: another process has to.
    """
    book, end, good = Book(context, parts), time.perf_counter() + 60 * minutes, True
    for place, part in enumerate(parts):
        begun = time.perf_counter()
        rest = sum(other.share for other in parts[place:])
        context.deadline = begun + max(0.0, end - begun) * part.share / rest
        for row in rows_of(part, context):
            good &= not row.status.startswith(FAILED)
            book.add(part, row)
        taken, given = time.perf_counter() - begun, context.deadline - begun
        book.add(part, Row("the part", taken, "s", {"given_seconds": given}))
        book.write_table()
        if not answers(context.device):
            return False, parts[place + 1 :]
    return good, ()
