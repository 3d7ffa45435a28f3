"""Define the rows of a sweep, and read them from a file, which may not decide everything that a command line may."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import Any

import yaml

from padis_lightning.errors import InputError, one_line
from padis_lightning.messages.configs import find_config, find_sweep

# ruff: noqa: ANN401 - settings and parts of a file are whatever YAML holds
NAME_LENGTH = 96
UNSAFE = re.compile(r"[^A-Za-z0-9_.+=,]+")
KEYS = ("command", "config", "settings", "grid", "rows", "metric", "tuning")
DEFAULT_METRICS = {"predict": {"name": "psnr"}, "fit": {"name": "val/loss", "goal": "minimize"}}
LABELS = ("name", "config")  # what a written row has besides settings
KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
RESERVED = ("config", "output", "allow")  # the sweep gives the first two; only who types a command may permit modules
OPTION = re.compile(r"-(?![\d.])|.*\0", re.DOTALL)  # what the command line, or the system, would not take as a value
VARIABLE = re.compile(r"\$\{(\w+)\}")
MOST_ROWS, MOST_VALUES, DEEPEST = 10_000, 100_000, 50
UNREADABLE = (yaml.YAMLError, ValueError, TypeError, RecursionError)


def word(value: Any) -> str:
    """Return a setting's value as a word of the command line: text as it is, anything else as JSON, which is YAML."""
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Row:
    """A row is one run of ``fit`` or ``predict``: its configs in order, and settings by dotted key over them."""

    name: str
    command: str
    configs: list[str]
    settings: dict[str, Any]

    def arguments(self, output: Path | None = None) -> list[str]:
        """Return the words after ``python -m padis_lightning``; ``model`` comes before ``model.steps``, which it would clear."""
        configs = [text for config in self.configs for text in ("--config", config)]
        keys = sorted(self.settings, key=lambda key: key.count("."))
        where = [] if output is None else ["--output", str(output)]
        return [self.command, *configs, *(f"--{key}={word(self.settings[key])}" for key in keys), *where]


@dataclass(frozen=True)
class Sweep:
    """A sweep has rows, keys in which they differ, the grid's values by key, and name and goal of the score to sort by."""

    name: str
    rows: list[Row]
    varying: list[str]
    grid: dict[str, list[Any]]
    metric: dict[str, str]

    def rank(self, scores: Mapping[str, float]) -> float:
        """Return a number that is lower for better scores; infinite where the metric is missing or not a number."""
        score = scores.get(self.metric["name"], float("nan"))
        return float("inf") if score != score else -score if self.metric["goal"] == "maximize" else score


def row_name(name: str, point: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return the name of a row in letters that every file system takes: its own, then ``key=value`` of each of ``point``.

    A key is cut to its last parts, as many as tell it from the other ``keys`` that vary. A digest ends a name that was changed.
    """
    words = ([name] if name else []) + [f"{_short(key, keys)}={word(value)}" for key, value in point.items()]
    full = re.sub(r"\[([\d., ]+)\]", lambda found: found[1].replace(", ", "-"), ",".join(words) or "row")
    safe = UNSAFE.sub("-", full).strip("-.")
    if safe == full and len(full) <= NAME_LENGTH:
        return full
    digest = hashlib.sha256(json.dumps([name, point], sort_keys=True).encode()).hexdigest()[:8]
    return f"{safe[: NAME_LENGTH - 9]}-{digest}"


def _short(key: str, keys: Sequence[str]) -> str:
    parts = key.split(".")
    ends = (".".join(parts[-count:]) for count in range(1, len(parts)))
    return next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1), key)


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
    raw = _mapping(_load(found, variables or {}), found, KEYS)
    command, tuning = raw.get("command"), raw.get("tuning", False)
    if command not in ("predict", "fit"):
        raise InputError(f"command is {command!r} in {found}; wanted predict or fit")
    metric = {"goal": "maximize", **_mapping(raw.get("metric", DEFAULT_METRICS[command]), "metric", ("name", "goal"))}
    if not isinstance(metric.get("name"), str) or metric["goal"] not in ("maximize", "minimize"):
        raise InputError(f"metric is {metric}; wanted a name and the goal maximize or minimize")
    if not isinstance(tuning, bool):
        raise InputError(f"tuning is {tuning!r}; wanted true or false")
    written = [_written(row, f"rows[{k}]") for k, row in enumerate(_list(raw.get("rows", [{}]), "rows"))]
    grid = {key: _list(values, f"grid.{key}") for key, values in _settings(raw.get("grid", {}), "grid").items()}
    keys = [*dict.fromkeys(key for row in written for key in row if key not in LABELS), *grid]
    if double := _repeated(keys):
        raise InputError(f"{double} is in grid and in rows of {found}; wanted it in one of them")
    if fixed := next((key for key in given if key in keys), None):
        raise InputError(f"{fixed} differs from row to row in {found}; wanted a key that is the same in all")
    if (total := len(written) * math.prod(map(len, grid.values()))) > MOST_ROWS:
        raise InputError(f"{found} has {total} rows; wanted at most {MOST_ROWS}")
    shared = Row("", command, _configs(raw, found), {**_settings(raw.get("settings", {}), "settings"), **given})
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    rows = [_row(row, point, shared, keys) for row in written for point in points]
    if double := _repeated(row.name for row in rows):
        raise InputError(f"two rows of {found} are called {double!r}; wanted rows that differ, or names for them")
    for row in rows:
        if not row.configs:
            raise InputError(f"row {row.name!r} of {found} has no config; wanted one in the file or in the row")
        if tuning and command == "predict":
            _check_tuning(row)
    varying = ["config"] * any("config" in row for row in written) + keys
    return Sweep(found.stem, rows, varying, grid, metric)


def _row(written: dict[str, Any], point: dict[str, Any], shared: Row, keys: list[str]) -> Row:
    """Return a row of the file at a point of the grid; its own name stands for what is written in it."""
    own = {key: value for key, value in written.items() if key not in LABELS}
    name = written.get("name") or "+".join(Path(config).stem for config in written.get("config", ()))
    named = row_name(name, point if "name" in written else own | point, keys)
    return Row(named, shared.command, written.get("config", shared.configs), shared.settings | own | point)


def _check_tuning(row: Row) -> None:
    """Refuse to tune on what is reported; of the keys that may name a part of the data, that which is read last counts."""
    keys = ("data.init_args", "data.init_args.subset", "data.subset")
    seen = next((row.settings[key] for key in keys if key in row.settings), None)
    if seen not in ("train", "validation"):
        where = f"the settings of row {row.name!r}, which tunes"
        raise InputError(f"data.subset is {seen!r} in {where}; wanted train or validation, never what is reported")


def as_yaml(text: str) -> Any:
    """Return a word as YAML reads it, or the word itself where it is not YAML or no plain value, such as a date."""
    try:
        value = yaml.safe_load(text)
        json.dumps(value)
    except UNREADABLE:
        return text
    return text if value is None and text not in ("null", "~") else value


def _load(path: Path, variables: Mapping[str, str]) -> Any:
    """Return plain values of a file with every ``${NAME}`` replaced; text that is nothing else may become a number or a list."""
    try:
        raw, seen = yaml.safe_load(path.read_text(encoding="utf-8")), count(1)
    except UNREADABLE as error:
        raise InputError(f"{path} is not YAML ({one_line(error)}); wanted a sweep") from None

    def replacement(found: re.Match) -> str:
        if found[1] not in variables:
            raise InputError(f"{found[0]} has no value in the sweep; wanted --set {found[1]}=VALUE")
        return variables[found[1]]

    def fill(value: Any, depth: int = 0) -> Any:
        if next(seen) > MOST_VALUES or depth > DEEPEST:  # a few aliases can stand for more values than memory holds
            raise InputError(f"{path} holds too many values; wanted at most {MOST_VALUES}, {DEEPEST} deep")
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {key: fill(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item, depth + 1) for item in value]
        if not isinstance(value, (str, bool, int, float, type(None))):
            raise InputError(f"{path} holds {value!r:.60}; wanted numbers, booleans, lists, keys and text in quotes")
        if not isinstance(value, str):
            return value
        filled = VARIABLE.sub(replacement, value)
        return as_yaml(filled) if VARIABLE.fullmatch(value) else filled

    return fill(raw)


def _mapping(raw: Any, where: object, keys: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise InputError(f"{where} is {raw!r}; wanted keys with values")
    if other := [key for key in raw if keys and key not in keys]:
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
    return raw


def _list(raw: Any, where: str) -> list[Any]:
    if not isinstance(raw, list) or not raw:
        raise InputError(f"{where} is {raw!r}; wanted a list of values")
    return raw


def _repeated(words: Iterable[str]) -> str | None:
    return next((one for one, times in Counter(words).items() if times > 1), None)


def _written(row: Any, where: str) -> dict[str, Any]:
    """Return a row as it stands in the file, its name as text and its config as a list."""
    own: dict[str, Any] = {"name": word(row["name"]).strip()} if "name" in _mapping(row, where) else {}
    if own == {"name": ""}:
        raise InputError(f"{where}.name is empty; wanted a word")
    own |= {"config": _configs(row, where)} if "config" in row else {}
    return own | _settings({key: value for key, value in row.items() if key not in LABELS}, where)


def _configs(raw: dict[str, Any], where: object) -> list[str]:
    """Return the names of configs that a file or a row has, none where it has no such key."""
    if "config" not in raw:
        return []
    configs = raw["config"] if isinstance(raw["config"], list) else [raw["config"]]
    if not configs or not all(isinstance(config, str) and not OPTION.match(config) for config in configs):
        raise InputError(f"config is {raw['config']!r} in {where}; wanted the name of a config or a list of names")
    for config in configs:
        find_config(config)
    return configs
