"""A sweep's file as rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from padis_lightning.commands.sweep.checks import count, dotted, first_double, flag, mapping, number, read_yaml, several
from padis_lightning.commands.sweep.model import Metric, Row, Sweep
from padis_lightning.commands.sweep.naming import row_name, short_keys
from padis_lightning.commands.sweep.points import Choice, Draws, Point, Range, drawn_points, grid_points
from padis_lightning.commands.sweep.tuning import check_tuning
from padis_lightning.errors import InputError
from padis_lightning.messages.configs import find_config, find_sweep

# ruff: noqa: ANN401 - parts of a file are whatever YAML holds
KEYS = ("command", "config", "settings", "grid", "random", "sobol", "rows", "metric", "tuning")
METRICS = {"predict": Metric("psnr", "maximize"), "fit": Metric("val/loss", "minimize")}
VARIABLE = re.compile(r"\$\{(\w+)\}")
LABELS = ("name", "config")  # what a written row has besides settings


def read_sweep(path: str | Path, variables: Mapping[str, str] | None = None, settings: Mapping[str, Any] | None = None) -> Sweep:
    """Read a sweep; the same file gives the same rows.

    Args:
        path: a file, or the name of a shipped one.
        variables: what stands for each ``${NAME}``.
        settings: values by dotted key for all rows, over those of the file.

    Raises:
        InputError: the file cannot be read or a part of it cannot be used.
    """
    found, used = Path(find_sweep(str(path))), set()
    raw = _filled(mapping(read_yaml(found, "a sweep"), str(found), KEYS), dict(variables or {}), used)
    command = raw.get("command")
    if command not in METRICS:
        raise InputError(f"command is {command!r} in {found}; wanted {' or '.join(METRICS)}")
    configs = _configs(raw["config"], str(found)) if "config" in raw else []
    written = _written(raw["rows"]) if "rows" in raw else [{}]
    grid = {key: several(values, f"grid.{key}") for key, values in dotted(raw.get("grid", {}), "grid").items()}
    draws = {kind: _draws(raw[kind], kind) for kind in ("random", "sobol") if kind in raw}
    given = [list(dict.fromkeys(key for row in written for key in row if key not in LABELS)), grid]
    given += [part.values for part in draws.values()]
    keys = [key for part in given for key in part]
    if (double := first_double(keys)) is not None:
        raise InputError(f"{keys[double]} is in two parts of {found}; wanted it in one of grid, random, sobol and rows")
    over = dotted(dict(settings or {}), "the command line")
    if fixed := next((key for key in over if key in keys), None):
        raise InputError(f"{fixed} differs from row to row in {found}; wanted a key that is the same in all")
    shared = dotted(raw.get("settings", {}), "settings") | over
    parts = [written, grid_points(grid), *(drawn_points(kind, part) for kind, part in draws.items())]
    short = short_keys(keys)
    rows = [_row(point, command, configs, shared, short) for point in product(*parts)]
    _check(rows, str(found))
    if flag(raw.get("tuning", False), "tuning"):
        check_tuning(rows)
    return Sweep(
        name=found.stem,
        command=command,
        configs=configs,
        settings=shared,
        rows=rows,
        varying=["config"] * any("config" in row for row in written) + keys,
        metric=_metric(raw["metric"]) if "metric" in raw else METRICS[command],
        grid=grid,
        random=draws.get("random"),
        sobol=draws.get("sobol"),
        written="rows" in raw,
        variables=frozenset(used),
    )


def plain(text: str) -> Any:
    """A word as YAML reads it, or the word itself."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if value is None and text not in ("null", "~") else value


def _filled(value: Any, variables: dict[str, str], used: set[str]) -> Any:
    """``value`` with every ``${NAME}`` replaced; a string that is nothing else may become a number."""
    if isinstance(value, dict):
        return {key: _filled(item, variables, used) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables, used) for item in value]
    if not isinstance(value, str):
        return value
    for name in VARIABLE.findall(value):
        if name not in variables:
            raise InputError(f"${{{name}}} has no value in the sweep; wanted --set {name}=VALUE")
        used.add(name)
    if VARIABLE.fullmatch(value):
        return plain(str(variables[value[2:-1]]))
    return VARIABLE.sub(lambda found: str(variables[found[1]]), value)


def _row(parts: Sequence[Point], command: str, configs: list[str], shared: Point, short: dict[str, str]) -> Row:
    """A row of a written one and points of the other parts; its name has the settings that its own name does not stand for."""
    labels = {key: parts[0][key] for key in LABELS if key in parts[0]}
    written = {key: value for key, value in parts[0].items() if key not in LABELS}
    drawn = {key: value for part in parts[1:] for key, value in part.items()}
    name = labels.get("name") or "+".join(Path(config).stem for config in labels.get("config", []))
    named = row_name(name, drawn if "name" in labels else written | drawn, short)
    return Row(named, command, labels.get("config", configs), shared | written | drawn)


def _check(rows: list[Row], where: str) -> None:
    for number_, row in enumerate(rows):
        if not row.configs:
            raise InputError(f"row {number_} of {where} has no config; wanted one in the file or in the row")
    names = [row.name for row in rows]
    if (double := first_double(names)) is not None:
        raise InputError(f"two rows of {where} are called {names[double]!r}; wanted rows that differ, or names for them")


def _written(raw: Any) -> list[dict[str, Any]]:
    """Rows as they stand in the file."""
    if not isinstance(raw, list) or not raw:
        raise InputError(f"rows is {raw!r}; wanted a list of rows")
    return [_labelled(mapping(row, f"rows[{k}]"), f"rows[{k}]") for k, row in enumerate(raw)]


def _labelled(row: dict[str, Any], where: str) -> dict[str, Any]:
    labels: dict[str, Any] = {}
    if "name" in row:
        if not isinstance(row["name"], (str, int, float)) or not str(row["name"]).strip():
            raise InputError(f"{where}.name is {row['name']!r}; wanted a word")
        labels["name"] = str(row["name"])
    if "config" in row:
        labels["config"] = _configs(row["config"], where)
    return {**labels, **dotted({key: value for key, value in row.items() if key not in LABELS}, where)}


def _configs(raw: Any, where: str) -> list[str]:
    configs = raw if isinstance(raw, list) else [raw]
    if not configs or not all(isinstance(config, str) for config in configs):
        raise InputError(f"config is {raw!r} in {where}; wanted the name of a config or a list of names")
    for config in configs:
        find_config(config)
    return configs


def _draws(raw: Any, kind: str) -> Draws:
    raw = mapping(raw, kind, ("samples", "seed", "values"))
    values = dotted(raw.get("values"), f"{kind}.values")
    if not values:
        raise InputError(f"{kind}.values is empty; wanted at least one key")
    space = {key: _space(value, f"{kind}.values.{key}") for key, value in values.items()}
    return Draws(count(raw.get("samples"), f"{kind}.samples", 1), count(raw.get("seed", 0), f"{kind}.seed", 0), space)


def _space(raw: Any, where: str) -> Range | Choice:
    raw = mapping(raw, where, ("low", "high", "log", "integer", "values"))
    if "values" in raw:
        if len(raw) > 1:
            raise InputError(f"{where} has values and {next(key for key in raw if key != 'values')}; wanted one or the other")
        return Choice(tuple(several(raw["values"], f"{where}.values")))
    log, integer = (flag(raw.get(key, False), f"{where}.{key}") for key in ("log", "integer"))
    low, high = (number(raw.get(key), f"{where}.{key}", integer) for key in ("low", "high"))
    if not low < high:
        raise InputError(f"{where} is from {low:g} to {high:g}; wanted low below high")
    if log and low <= 0:
        raise InputError(f"{where}.low is {low:g}; wanted more than 0 where log is true")
    return Range(low, high, log, integer)


def _metric(raw: Any) -> Metric:
    raw = mapping(raw, "metric", ("name", "goal"))
    name, goal = raw.get("name"), raw.get("goal", "maximize")
    if not isinstance(name, str) or goal not in ("maximize", "minimize"):
        raise InputError(f"metric is {raw!r}; wanted a name and the goal maximize or minimize")
    return Metric(name, goal)
