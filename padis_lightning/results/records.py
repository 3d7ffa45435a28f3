"""What ``predict`` has finished in a folder, so that a rerun goes on and several processes write into one place.

``run.json`` says what the folder is of: the settings that make a pixel, and the list of all images. ``records/NAME.json`` is
written when all files of an image are: its scores and their digests. The table, the summary and the page are made of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from padis_lightning.data.batches import ItemLabel
from padis_lightning.errors import InputError
from padis_lightning.files import lies_in
from padis_lightning.results.json_files import DISPLAY, NUMBER, SCORES, first_difference, read_json, write_json

DERIVED = ("metrics.csv", "summary.json", "report.json", "report.html", "calibration.npz")  # files that are made of the records
RUN = {"settings": {str: str}, "images": [list], "made": {str: object}, "shown": DISPLAY, "pictures": [str]}
SCORED = {**SCORES, "seconds": NUMBER, "evaluations": NUMBER}
FAILED = {"index": int, "name": str, "group": str}  # a row of scores
SOLVED = {**FAILED, **SCORED, "baselines": {str: SCORED}}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class Records:
    """The records of a result folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, name: str) -> Path:
        return self.folder / "records" / f"{name}.json"

    def run(self) -> dict[str, Any] | None:
        """Return what the folder is of: ``settings``, ``images``, ``made`` (provenance), ``shown`` and ``pictures``.

        It is None where predict has never written into the folder.

        Raises:
            InputError: the file is damaged.
        """
        path = self.folder / "run.json"
        if not path.is_file():
            return None
        run = read_json(path, RUN)
        for image in run["images"]:
            if list(map(type, image)) != [int, str, str] or Path(image[1]).name != image[1]:
                raise InputError(f"{path} lists the image {image!r:.60}; wanted its number, a name without folders and its group")
        names = [image[1] for image in run["images"]]
        if not names or len({*names}) < len(names):
            raise InputError(f"{path} lists {len(names)} images, {len({*names})} of which differ; wanted at least 1, each once")
        return run

    def refuse_other(self, settings: dict[str, str], images: Sequence[ItemLabel]) -> None:
        """Refuse to go on with results of other settings or images, naming the first difference."""
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

    def forget_other(
        self, settings: dict[str, str], images: Sequence[ItemLabel], require_alone: Callable[[], None] = lambda: None
    ) -> None:
        """Remove results of other settings or images, once ``require_alone`` has not raised; keep those of the same."""
        try:
            self.refuse_other(settings, images)
        except InputError:
            require_alone()
            self.forget()

    def begin(self, run: dict[str, Any]) -> None:
        """Write what the folder is of."""
        write_json(self.folder / "run.json", run)

    def forget(self) -> None:
        """Remove the results of an earlier run, as far as its records name them, and the states of solves that it kept.

        Nothing outside of the folder is removed, wherever a record or a link leads.

        Raises:
            InputError: ``records`` or ``unfinished`` is a link that leads out of the folder.
        """
        for path in (self.folder / "records", self.folder / "unfinished"):
            if not lies_in(path, self.folder):
                raise InputError(f"{path} is a link to {path.resolve()}; wanted a folder of its own, or another --output")
        records = [*(self.folder / "records").glob("*.json")]
        files = [self.folder / file for path in records for file in self._read(path).get("files", ())]
        states = (self.folder / "unfinished").glob("*")
        for path in (*files, *states, *records, *(self.folder / name for name in ("run.json", *DERIVED))):
            if lies_in(path.parent, self.folder) and not path.is_dir():
                path.unlink(missing_ok=True)

    def keep(self, row: dict[str, Any], files: Iterable[Path]) -> None:
        """Note that an image is finished: its scores, or why there are none, after all its files are written."""
        digests = {path.relative_to(self.folder).as_posix(): digest(path) for path in files}
        write_json(self._path(row["name"]), {"row": row, "files": digests})

    def row(self, name: str) -> dict[str, Any] | None:
        """Return the scores of a finished image, or why it failed under ``failed``; None for one that is not there."""
        row = self._read(self._path(name)).get("row", {})
        other = first_difference(row, {**FAILED, "failed": str} if "failed" in row else SOLVED) or row["name"] != name
        return None if other else row

    def is_whole(self, name: str) -> bool:
        """Return whether an image was solved and its files are as they were written."""
        row = self.row(name)
        if row is None or "failed" in row:
            return False
        files = [(self.folder / file, expected) for file, expected in self._read(self._path(name))["files"].items()]
        return bool(files) and all(file.is_file() and digest(file) == expected for file, expected in files)

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        """Return a record; empty where it is missing or damaged, so that its image is solved again."""
        try:
            return read_json(path, {"row": dict, "files": {str: str}})
        except InputError:
            return {}
