"""What is tuned is tuned on training or validation patients."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from padis_lightning.commands.sweep.checks import read_yaml
from padis_lightning.commands.sweep.model import Row
from padis_lightning.errors import InputError
from padis_lightning.messages.configs import find_config

PARTS = ("train", "validation")


def check_tuning(rows: Iterable[Row]) -> None:
    """Refuse to tune on what is reported.

    Raises:
        InputError: a row predicts other data than a part of training or validation.
    """
    for row in rows:
        seen = "validation" if row.command == "fit" else subset(row)
        if seen not in PARTS:
            raise InputError(
                f"data.subset is {seen!r} in row {row.name!r} of a sweep that tunes; wanted {' or '.join(PARTS)}, "
                "never what is reported"
            )


def subset(row: Row) -> str:
    """The part of the data that a row predicts: what its last config that names one says, unless its settings do."""
    part = "all"
    for config in row.configs:
        path = Path(find_config(config))
        part = _named(_read(path).get("data"), path.parent) or part
    part = _named(row.settings.get("data"), Path()) or part
    for key in ("data.init_args", "data.init_args.subset", "data.subset"):
        value = row.settings.get(key)
        part = (value.get("subset") if isinstance(value, dict) else value) or part
    return str(part)


def _named(data: Any, folder: Path) -> str | None:  # noqa: ANN401 - whatever YAML holds
    """The part that a ``data`` entry names; an entry may be the name of a file beside the config."""
    if isinstance(data, str) and (folder / data).is_file():
        data = _read(folder / data)
    if not isinstance(data, dict):
        return None
    inner = data.get("init_args")
    return (inner if isinstance(inner, dict) else data).get("subset")


def _read(path: Path) -> dict[str, Any]:
    raw = read_yaml(path, "a config")
    return raw if isinstance(raw, dict) else {}
