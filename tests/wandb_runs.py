"""What a W&B run of one process wrote on the disk, read back as the server would get it."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import ArtifactRecord, Record

BLOCK, HEADER = 32768, struct.Struct("<IHB")  # of LevelDB's log: checksum, length and kind before each piece
FULL, LAST = 1, 4


def records(path: Path) -> Iterator[Record]:
    """All records of a ``.wandb`` file, every checksum held."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, pieces = HEADER.size, b""
    while position < len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:
            position += left
            continue
        checksum, length, kind = HEADER.unpack_from(data, position)
        piece = data[position + HEADER.size : position + HEADER.size + length]
        assert checksum == zlib.crc32(piece, zlib.crc32(bytes([kind])))
        position, pieces = position + HEADER.size + length, pieces + piece
        if kind in (FULL, LAST):
            yield Record.FromString(pieces)
            pieces = b""


class WandbRun:
    """A run: ``config``, ``summary``, ``history`` (a mapping each), ``artifacts`` by type, and its exit code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.artifacts: dict[str, ArtifactRecord] = {}
        self.name = self.project = ""
        self.exit_code: int | None = None
        for record in _finished(folder):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.name, self.project = record.run.display_name, record.run.project
            elif kind == "config":
                self.config |= _values(record.config.update)
            elif kind == "summary":
                self.summary |= _values(record.summary.update)
            elif kind == "history":
                self.history.append(_values(record.history.item))
            elif kind == "artifact":
                self.artifacts[record.artifact.type] = record.artifact
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    def media(self, key: str) -> list[Path]:
        """Pictures under a name, in the order in which they were logged."""
        lines = [line for line in self.history if f"{key}/filenames" in line]
        return [self.folder / "files" / name for line in lines for name in line[f"{key}/filenames"]]

    def table(self, key: str) -> list[dict[str, Any]]:
        """The rows of a table."""
        (line,) = (line for line in self.history if f"{key}/path" in line)
        table = json.loads((self.folder / "files" / line[f"{key}/path"]).read_text())
        return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def _finished(folder: Path, seconds: float = 60) -> list[Record]:
    """The records of a run that has ended; its writer is a process of its own and ends a little later."""
    end = time.monotonic() + seconds
    (file,) = folder.glob("*.wandb")
    while True:
        try:
            found = list(records(file))
            if found and found[-1].WhichOneof("record_type") == "exit":
                return found
        except (AssertionError, struct.error):
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, f"{file} has no end"
        time.sleep(0.1)


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def runs_in(output: Path) -> list[WandbRun]:
    """The runs below an output folder, oldest first."""
    return [WandbRun(folder) for folder in sorted((output / "wandb").glob("offline-run-*"), key=lambda p: p.stat().st_mtime)]
