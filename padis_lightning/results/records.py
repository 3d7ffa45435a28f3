"""What ``predict`` has finished in a folder, so that a rerun goes on and several processes write into one place.

``run.json`` says what the folder is of: the settings that make a pixel, and the list of all images. ``records/NAME.json`` is
written when all files of an image are: its scores and their digests. The table, the summary and the page are made of these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from padis_lightning.data.batches import Listed
from padis_lightning.errors import InputError
from padis_lightning.files import write_text

MADE = ("metrics.csv", "summary.json", "report.json", "report.html")  # from the records


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class Records:
    """The records of a result folder.

    Args:
        folder: that of the results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, name: str) -> Path:
        return self.folder / "records" / f"{name}.json"

    def run(self) -> dict[str, Any] | None:
        """What the folder is of: ``settings``, ``images``, ``made`` (provenance), ``shown`` and ``pictures``; None if of nothing.

        Raises:
            InputError: the file is damaged.
        """
        path = self.folder / "run.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except ValueError as error:
            raise InputError(f"{path} cannot be read ({error}); wanted what predict writes, or another --output") from error

    def refuse_other(self, settings: dict[str, str], images: Sequence[Listed]) -> None:
        """Refuse to go on with results of other settings or images.

        Raises:
            InputError: with the first difference.
        """
        theirs = self.run()
        if theirs is None:
            return
        escape = "wanted the same, another --output, or --results.overwrite true"
        for key in dict.fromkeys((*theirs["settings"], *settings)):
            old, new = (one.get(key, "not set") for one in (theirs["settings"], settings))
            if old != new:
                raise InputError(f"{self.folder} holds results with {key} {old} and this run has {new}; {escape}")
        old, new = ([tuple(image) for image in one] for one in (theirs["images"], images))
        if old != new:
            index, name, group = next(iter(set(new) ^ set(old)), new[0])
            raise InputError(
                f"{self.folder} holds results of {len(old)} images and this run has {len(new)}, of which {name!r} of {group!r} "
                f"(number {index}) is in one only; {escape}"
            )

    def begin(self, run: dict[str, Any]) -> None:
        """Say what the folder is of."""
        write_text(self.folder / "run.json", json.dumps(run, indent=1) + "\n")

    def forget(self) -> None:
        """Remove the results of an earlier run, as far as its records name them."""
        for path in (self.folder / "records").glob("*.json"):
            for file in self._read(path).get("files", {}):
                if ".." not in Path(file).parts and not Path(file).is_absolute():
                    (self.folder / file).unlink(missing_ok=True)
            path.unlink()
        for name in ("run.json", *MADE):
            (self.folder / name).unlink(missing_ok=True)

    def keep(self, row: dict[str, Any], files: Iterable[Path]) -> None:
        """Note that an image is finished, after all its files are written.

        Args:
            row: its scores, or why there are none.
            files: what was written of it.
        """
        digests = {path.relative_to(self.folder).as_posix(): digest(path) for path in files}
        write_text(self._path(row["name"]), json.dumps({"row": row, "files": digests}) + "\n")

    def row(self, name: str) -> dict[str, Any] | None:
        """The scores of a finished image, or why it failed under ``failed``; None for one that is not there."""
        path = self._path(name)
        return self._read(path).get("row") if path.is_file() else None

    def is_whole(self, name: str) -> bool:
        """Whether an image was solved and its files are as they were written."""
        path = self._path(name)
        if not path.is_file():
            return False
        kept = self._read(path)
        if not kept.get("row") or "failed" in kept["row"]:
            return False
        files = ((self.folder / file, expected) for file, expected in kept["files"].items())
        return all(file.is_file() and digest(file) == expected for file, expected in files)

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        """A record; empty where it is damaged, so that its image is solved again."""
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return kept if isinstance(kept, dict) else {}
        except ValueError:
            return {}
