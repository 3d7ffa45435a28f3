"""Names of series and files: fit for files, unique, in the order that people count in."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import TypeVar

from padis_lightning.errors import InputError

Named = TypeVar("Named")


def needed(module: str, kind: str, extra: str) -> ModuleType:
    """Import an optional library.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"reading {kind} needs {module}, which is not installed; wanted pip install 'padis_lightning[{extra}]'"
        ) from None


def safe(name: str) -> str:
    """Turn a name into one for a file, without folders."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "unnamed"


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key under which 2 comes before 10."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part.lower()) for part in parts]


def common(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the folders that all paths begin with."""
    first, last = min(paths), max(paths)
    same = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same]


def unique(series: Sequence[Named]) -> list[Named]:
    """Return the same series, or other frozen data with a name, with a number after every name that has been taken."""
    taken: set[str] = set()
    out = []
    for one in series:
        name, number = one.name, 1
        while name in taken:
            number += 1
            name = f"{one.name}_{number}"
        taken.add(name)
        out.append(one if name == one.name else replace(one, name=name))
    return out
