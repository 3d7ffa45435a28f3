"""What a row leaves besides its results: ``done.json``, or ``failed.json``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from padis_lightning.commands.sweep.model import Row, word
from padis_lightning.errors import InputError
from padis_lightning.files import write_text
from padis_lightning.messages.configs import find_config

DONE, FAILED = "done.json", "failed.json"
CONTENTS = "the contents of "  # before a config, a hash of which is kept


@dataclass(frozen=True)
class Result:
    """How a row ended.

    Args:
        row: the row.
        status: ``missing`` where it never ended.
        seconds: that its last process took.
        values: scores by name.
        exit_code: of its process.
        message: the last line of a failed row.
    """

    row: Row
    status: Literal["done", "failed", "missing"]
    seconds: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    exit_code: int | None = None
    message: str = ""


def fingerprint(row: Row) -> dict[str, str]:
    """What decides a row's results, in words by key: command, configs with their contents, settings."""
    contents = {CONTENTS + name: hashlib.sha256(Path(find_config(name)).read_bytes()).hexdigest() for name in row.configs}
    settings = {key: word(value) for key, value in row.settings.items()}
    return {"command": row.command, "config": " ".join(row.configs), **contents, **settings}


def write_result(folder: Path, result: Result) -> None:
    """Keep how a row ended, whole, in place of how it ended before."""
    made = fingerprint(result.row)
    record = {
        "hash": hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest(),
        "settings": made,
        "exit_code": result.exit_code,
        "seconds": result.seconds,
        "values": result.values,
    }
    done = result.status == "done"
    if not done:
        record["message"] = result.message
    write_text(folder / (DONE if done else FAILED), json.dumps(record, indent=2) + "\n")
    if done:
        (folder / FAILED).unlink(missing_ok=True)


def read_result(row: Row, folder: Path) -> Result:
    """How a row ended.

    Raises:
        InputError: the folder holds a finished row of other settings; with the first difference.
    """
    record = _read(folder / DONE)
    if record is not None:
        _check_same(record["settings"], fingerprint(row), folder)
        return Result(row, "done", record["seconds"], record["values"], 0)
    record = _read(folder / FAILED)
    if record is None:
        return Result(row, "missing")
    return Result(row, "failed", record["seconds"], record["values"], record["exit_code"], record["message"])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(f"{path} is damaged; wanted what a sweep wrote, or no such file") from None


def _check_same(theirs: dict[str, str], ours: dict[str, str], folder: Path) -> None:
    for key in {**theirs, **ours}:
        seen, wanted = (_said(made.get(key), key) for made in (theirs, ours))
        if seen != wanted:
            raise InputError(f"{folder} was finished with {key} {seen}; wanted {wanted} as now, or another --output")


def _said(value: str | None, key: str) -> str:
    if value is None:
        return "unset"
    return value[:12] if key.startswith(CONTENTS) else value
