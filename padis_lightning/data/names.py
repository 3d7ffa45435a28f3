"""Names of series and files: fit for files, unique, in the order that people count in."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from padis_lightning.files import safe_names


class HasName(Protocol):
    """Data with a name."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """Return the name."""


Named = TypeVar("Named", bound=HasName)


def natural(name: object) -> list[tuple[int, int, str]]:
    """Return a key under which 2 comes before 10."""
    parts = re.split(r"(\d+)", str(name))
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part.lower()) for part in parts]


def files_below(folder: Path) -> list[Path]:
    """Return the files of a folder and its sub-folders, but for hidden ones, in the order in which people count.

    A linked folder is followed once, unless it is elsewhere in the folder anyway or holds it.
    """
    root, files, seen = folder.resolve(), [], set()
    folders, links = [folder], list[Path]()
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        place = here.resolve()
        if place in seen or (place != root and root.is_relative_to(place)):
            continue
        seen.add(place)
        for path in sorted(here.iterdir(), key=natural):
            if path.is_dir():
                (links if path.is_symlink() else folders).append(path)
            elif path.is_file() and not path.name.startswith("."):
                files.append(path)
    return sorted(files, key=natural)


def common_depth(paths: Sequence[tuple[str, ...]]) -> int:
    """Return how many first folders all paths share."""
    return len(os.path.commonprefix(paths))


def unique(series: Sequence[Named]) -> list[Named]:
    """Return the same series, or other frozen data with a name, with names for files of which no two are alike."""
    return [replace(one, name=name) for one, name in zip(series, safe_names([s.name for s in series]), strict=True)]
