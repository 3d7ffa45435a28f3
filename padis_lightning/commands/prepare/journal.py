"""Which slices of an unfinished file are written, so that a run that was killed can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from padis_lightning.errors import InputError
from padis_lightning.files import write_text

Span = tuple[int, int]
SEALING = "sealing"  # said before the file's own structure is changed, which a kill could tear


class Journal:
    """A header, then spans of slices, a line each; a span is there only after its slices have reached the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, header: dict[str, Any], offset: int, done: Iterable[Span] = ()) -> None:
        """Write anew, with the spans that are done; ``offset`` is where the images lie in the file."""
        write_text(self.path, "".join(f"{json.dumps(line)}\n" for line in ([header, offset], *done)))

    def add(self, *lines: Span | str) -> None:
        """Append, and return once it is on the disk."""
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.writelines(f"{json.dumps(line)}\n" for line in lines)
            handle.flush()
            os.fsync(handle.fileno())

    def read(self) -> tuple[dict[str, Any], int, list[Span]] | None:
        """Header, offset and spans; None where there is no journal or nothing to go on with."""
        try:
            first, *rest = self.path.read_text(encoding="utf-8").split("\n")[:-1]  # a line that was cut off has no end
            header, offset = json.loads(first)
            lines = [json.loads(line) for line in rest]
        except (OSError, ValueError):
            return None
        return None if SEALING in lines else (header, offset, [(start, stop) for start, stop in lines])


def check_same(theirs: dict[str, Any], ours: dict[str, Any], part: Path) -> None:
    """Refuse to go on with a file that was begun otherwise.

    Raises:
        InputError: with the first difference.
    """
    for key, value in json.loads(json.dumps(ours)).items():
        if theirs.get(key) == value:
            continue
        seen = theirs.get(key)
        if key == "sources":
            seen, value = next(((a, b) for a, b in zip(seen, value, strict=False) if a != b), (len(seen), len(value)))
        raise InputError(f"{part} was begun with {key} {_said(seen)}; wanted {_said(value)} as now, or --restart")


def _said(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def missing(done: Iterable[Span], count: int, most: int) -> Iterator[Span]:
    """Spans of at most ``most`` slices that together are what is not done of ``count``."""
    at = 0
    for start, stop in [*sorted(done), (count, count)]:
        yield from ((first, min(first + most, start)) for first in range(at, start, most))
        at = max(at, stop)
