"""Read a sweep's file as rows, and refuse what a file may not decide."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import count, product
from pathlib import Path
from typing import Any

import yaml

from padis_lightning.commands.sweep.rows import Row, Sweep, row_name, word
from padis_lightning.errors import InputError, one_line
from padis_lightning.messages.configs import find_config, find_sweep

# ruff: noqa: ANN401 - parts of a file are whatever YAML holds
KEYS = ("command", "config", "settings", "grid", "rows", "metric", "tuning")
DEFAULT_METRICS = {"predict": {"name": "psnr"}, "fit": {"name": "val/loss", "goal": "minimize"}}
LABELS = ("name", "config")  # what a written row has besides settings
KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
RESERVED = ("config", "output", "allow")  # the sweep gives the first two; only who types a command may permit modules
OPTION = re.compile(r"-(?![\d.])|.*\0", re.DOTALL)  # what the command line, or the system, would not take as a value
VARIABLE = re.compile(r"\$\{(\w+)\}")
SUBSET_KEYS = ("data", "data.init_args", "data.subset", "data.init_args.subset")
MOST_ROWS, MOST_VALUES, DEEPEST = 10_000, 100_000, 50
UNREADABLE = (yaml.YAMLError, ValueError, TypeError, RecursionError)


def read_sweep(path: str | Path, variables: Mapping[str, str] | None = None, settings: Mapping[str, Any] | None = None) -> Sweep:
    """Read a sweep; the same file gives the same rows.

    Args:
        path: a file, or the name of a shipped one.
        variables: what stands for each ``${NAME}``.
        settings: values by dotted key for all rows, over those of the file.

    Raises:
        InputError: the file cannot be read or a part of it cannot be used.
    """
    found, given = Path(find_sweep(str(path))), _settings(settings or {}, "the command line")
    raw = _mapping(_filled(_read_yaml(found, "a sweep"), variables or {}, found), found, KEYS)
    command, tuning = raw.get("command"), raw.get("tuning", False)
    if command not in ("predict", "fit"):
        raise InputError(f"command is {command!r} in {found}; wanted predict or fit")
    metric = {"goal": "maximize", **_mapping(raw.get("metric", DEFAULT_METRICS[command]), "metric", ("name", "goal"))}
    if not isinstance(metric.get("name"), str) or metric["goal"] not in ("maximize", "minimize"):
        raise InputError(f"metric is {metric}; wanted a name and the goal maximize or minimize")
    if not isinstance(tuning, bool):
        raise InputError(f"tuning is {tuning!r}; wanted true or false")
    configs = _configs(raw["config"], found) if "config" in raw else []
    written = [_written(row, f"rows[{k}]") for k, row in enumerate(_list(raw["rows"], "rows"))] if "rows" in raw else [{}]
    grid = {key: _list(values, f"grid.{key}") for key, values in _settings(raw.get("grid", {}), "grid").items()}
    keys = [*dict.fromkeys(key for row in written for key in row if key not in LABELS), *grid]
    if double := _first_double(keys):
        raise InputError(f"{double} is in grid and in rows of {found}; wanted it in one of them")
    if fixed := next((key for key in given if key in keys), None):
        raise InputError(f"{fixed} differs from row to row in {found}; wanted a key that is the same in all")
    if (total := len(written) * math.prod(map(len, grid.values()))) > MOST_ROWS:
        raise InputError(f"{found} has {total} rows; wanted at most {MOST_ROWS}")
    shared, rows = {**_settings(raw.get("settings", {}), "settings"), **given}, []
    for row, values in product(written, product(*grid.values())):
        own, point = {key: row[key] for key in row if key not in LABELS}, dict(zip(grid, values, strict=True))
        name = row.get("name") or "+".join(Path(config).stem for config in row.get("config", ()))
        named = row_name(name, point if "name" in row else own | point, keys)  # a row's own name stands for what is written in it
        rows.append(Row(named, command, row.get("config", configs), shared | own | point))
        if not rows[-1].configs:
            raise InputError(f"row {len(rows) - 1} of {found} has no config; wanted one in the file or in the row")
    if double := _first_double(row.name for row in rows):
        raise InputError(f"two rows of {found} are called {double!r}; wanted rows that differ, or names for them")
    if tuning and command == "predict":
        _check_tuning(rows)
    varying = ["config"] * any("config" in row for row in written) + keys
    return Sweep(found.stem, rows, varying, grid, metric)


def as_yaml(text: str) -> Any:
    """Return a word as YAML reads it, or the word itself where it is not YAML or no plain value, such as a date."""
    try:
        value = yaml.safe_load(text)
        json.dumps(value)
    except UNREADABLE:
        return text
    return text if value is None and text not in ("null", "~") else value


def _read_yaml(path: Path, wanted: str) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except UNREADABLE as error:
        raise InputError(f"{path} is not YAML ({one_line(error)}); wanted {wanted}") from None


def _filled(raw: Any, variables: Mapping[str, str], where: Path) -> Any:
    """Return plain values with every ``${NAME}`` replaced; text that is nothing else may become a number or a list."""
    seen = count(1)

    def fill(value: Any, depth: int = 0) -> Any:
        if next(seen) > MOST_VALUES or depth > DEEPEST:  # a few aliases can stand for more values than memory holds
            raise InputError(f"{where} holds too many values; wanted at most {MOST_VALUES}, {DEEPEST} deep")
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {key: fill(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item, depth + 1) for item in value]
        if not isinstance(value, (str, bool, int, float, type(None))):
            raise InputError(f"{where} holds {value!r:.60}; wanted numbers, booleans, lists, keys and text in quotes")
        if not isinstance(value, str):
            return value
        for name in VARIABLE.findall(value):
            if name not in variables:
                raise InputError(f"${{{name}}} has no value in the sweep; wanted --set {name}=VALUE")
        filled = VARIABLE.sub(lambda found: variables[found[1]], value)
        return as_yaml(filled) if VARIABLE.fullmatch(value) else filled

    return fill(raw)


def _mapping(raw: Any, where: object, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise InputError(f"{where} is {raw!r}; wanted keys with values")
    if other := [key for key in raw if keys is not None and key not in keys]:
        raise InputError(f"{other[0]!r} is not a key of {where}; wanted one of {', '.join(keys)}")
    return raw


def _settings(raw: Any, where: str) -> dict[str, Any]:
    """Return values by dotted key of a config, none of which the command line would take for an option of its own."""
    for key, value in _mapping(raw, where).items():
        if not KEY.fullmatch(key) or key.partition(".")[0] in RESERVED:
            raise InputError(f"{key!r} is not a setting in {where}; wanted a dotted key of a config such as model.steps")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and OPTION.match(text):
                raise InputError(f"{key} is {text!r} in {where}; wanted a value, not an option of the command line")
    return dict(raw)


def _list(raw: Any, where: str) -> list[Any]:
    if not isinstance(raw, list) or not raw:
        raise InputError(f"{where} is {raw!r}; wanted a list of values")
    return raw


def _first_double(words: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((one for one in words if one in seen or seen.add(one)), None)


def _written(row: Any, where: str) -> dict[str, Any]:
    """Return a row as it stands in the file, its name as text and its config as a list."""
    labels = {"name": lambda name: word(name).strip(), "config": lambda config: _configs(config, where)}
    own = {key: read(row[key]) for key, read in labels.items() if key in _mapping(row, where)}
    if not own.get("name", "row"):
        raise InputError(f"{where}.name is empty; wanted a word")
    return own | _settings({key: value for key, value in row.items() if key not in labels}, where)


def _configs(raw: Any, where: object) -> list[str]:
    configs = raw if isinstance(raw, list) else [raw]
    if not configs or not all(isinstance(config, str) and not OPTION.match(config) for config in configs):
        raise InputError(f"config is {raw!r} in {where}; wanted the name of a config or a list of names")
    for config in configs:
        find_config(config)
    return configs


def _check_tuning(rows: list[Row]) -> None:
    """Refuse rows that predict other data than a part of training or validation: what is reported is never tuned on."""
    read = cache(lambda path: _read_yaml(path, "a config"))

    def subset(data: Any, folder: Path) -> Any:
        if isinstance(data, str) and (folder / data).is_file():  # a config may name a file beside it
            data = read(folder / data)
        data = data if isinstance(data, dict) else {}
        return (data["init_args"] if isinstance(data.get("init_args"), dict) else data).get("subset")

    for row in rows:
        configs = [(read(path), path.parent) for path in map(Path, map(find_config, row.configs))]
        named = [subset(config.get("data"), folder) for config, folder in configs if isinstance(config, dict)]
        last = [value for value in named if value is not None][-1:] or ["all"]
        own = {key: as_yaml(word(row.settings[key])) for key in SUBSET_KEYS if key in row.settings}
        named = [value if key.endswith("subset") else subset(value, Path()) for key, value in own.items()]
        for seen in [value for value in named if value is not None] or last:
            if seen not in ("train", "validation"):
                where = f"row {row.name!r} of a sweep that tunes"
                raise InputError(f"data.subset is {seen!r} in {where}; wanted train or validation, never what is reported")
