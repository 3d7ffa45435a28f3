"""Names of rows: short, safe as names of folders, the same for the same settings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

LENGTH = 96  # of a name
UNSAFE = re.compile(r"[^A-Za-z0-9_.+]+")


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each key, with as many parts before it as tell it from the others."""
    keys = list(keys)
    return {key: _shortest(key, [other for other in keys if other != key]) for key in keys}


def _shortest(key: str, others: list[str]) -> str:
    parts = key.split(".")
    ends = (".".join(parts[-count:]) for count in range(1, len(parts)))
    return next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)), key)


def row_name(name: str, point: dict[str, Any], short: dict[str, str]) -> str:
    """The name of a row: its own, then ``key=value`` of what it does not share with the others."""
    words = [_safe(name)] if name else []
    words += [f"{short[key]}={_safe(value)}" for key, value in point.items()]
    whole = ",".join(words) or "row"
    if len(whole) <= LENGTH:
        return whole
    return f"{whole[: LENGTH - 9]}-{digest([name, point])}"


def digest(value: Any) -> str:  # noqa: ANN401 - whatever YAML holds
    """Eight letters that tell one value from another."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _safe(value: Any) -> str:  # noqa: ANN401 - whatever YAML holds
    """A value in letters that every file system takes; with a digest where that loses something."""
    text = value if isinstance(value, str) else json.dumps(value)
    kept = UNSAFE.sub("-", text).strip("-.")
    number = isinstance(value, (int, float))
    plain = isinstance(value, list) and all(isinstance(item, (int, float)) and item >= 0 for item in value)
    return text if number or kept == text else kept if plain else f"{kept[:24] or 'value'}-{digest(value)}"
