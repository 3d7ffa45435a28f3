"""Configs by name, as given or among those that come with the package, read whole with the parts that they name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from padis_lightning.errors import InputError, one_line

# ruff: noqa: ANN401 - configs hold anything
CONFIG = ("--config", "-c")
LARGEST = 10_000  # values of a config, above any that a person writes: aliases of YAML can multiply
DEEPEST = 50
ENDINGS = (".yaml", ".yml")
PATHS = ("--config", "--output", "--ckpt_path")

_PACKAGE = Path(__file__).parent.parent
CONFIGS = next((d for d in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if d.is_dir()), _PACKAGE / "configs")


def find_config(name: str) -> str:
    """Return the path of a config: as given, or a name in the folder of shipped ones.

    Raises:
        InputError: there is none; with the names there are.
    """
    return _find(name, "config", CONFIGS)


def find_sweep(name: str) -> str:
    """Return the path of a sweep: as given, or a name in the folder of shipped ones.

    Raises:
        InputError: there is none; with the names there are.
    """
    return _find(name, "sweep", CONFIGS / "sweep")


def _find(name: str, kind: str, folder: Path) -> str:
    for path in (Path(name), folder / name, CONFIGS / name):
        if path.is_file():
            return str(path)
    known = ", ".join(sorted(path.relative_to(folder).as_posix() for path in folder.glob("*.yaml")))
    raise InputError(f"there is no {kind} {name!r}; wanted a file or one of {known}")


def find_configs(args: Sequence[str]) -> tuple[list[str], str]:
    """Return the arguments with every config found and ahead of the options, and the name of the last one.

    So options win wherever they stand; ``--model`` comes next, so that those of a model do. Both are two words each.

    Raises:
        InputError: there is no such config, or ``--config`` comes without one.
    """
    split = ("--config=", "-c=", "--model=")
    out = [word for arg in args for word in (arg.split("=", 1) if arg.startswith(split) else [arg])]
    name, configs, models, others = "run", list[str](), list[str](), list[str]()
    for before, word in pairwise(["", *out, None]):
        if before in CONFIG:
            if not word:
                raise InputError("--config comes without a value; wanted the name of a config")
            configs += [before, find_config(word)]
            name = Path(word).stem or name
        elif word is not None and word not in CONFIG:
            (models if "--model" in (before, word) else others).append(word)
    return [*others[:1], *configs, *models, *others[1:]], name


def inline(args: Sequence[str]) -> list[str]:
    """Return the arguments of :func:`find_configs` with configs, and parts that options name, as text in place of their paths.

    ``--model NAME`` brings NAME's own settings rather than another solver's of the same names: the parser keeps what two
    classes share; by way of one that has neither steps nor levels only the common options are kept.

    Raises:
        InputError: a config or a part is missing or cannot be read.
    """
    configs = {value: read_config(Path(value)) for flag, value in pairwise(args) if flag in CONFIG}
    models = {_model_of(config) for config in configs.values()}
    out: list[str] = []
    for before, word in pairwise(["", *args]):
        flag, equals, value = word.partition("=") if word.startswith("--") else (before, "", word)
        if before in CONFIG:
            word = _text(configs[word])
        elif flag.startswith("--") and "." not in flag and flag not in PATHS and value.endswith(ENDINGS):
            word = f"{flag}{equals}" * bool(equals) + _text(_expand(value, Path(), (flag[2:],), [0]))
        elif before == "--model" and args[0] == "predict" and word.rpartition(".")[2] not in models | {""}:
            out += ["PseudoInverse", "--model"]
        out.append(word)
    return out


def _text(config: Any) -> str:
    """Return a config as YAML that leaves no doubt what is text and what a number."""
    return yaml.safe_dump(config, default_style='"', allow_unicode=True, sort_keys=False, width=math.inf)


def _model_of(config: dict[str, Any]) -> str | None:
    """Return the short name of the class that a config's ``model`` names; None for one that the parser will refuse."""
    model = config.get("model")
    name = model.get("class_path") if isinstance(model, dict) else model
    return name.rpartition(".")[2] if isinstance(name, str) else None


def read_config(path: Path) -> dict[str, Any]:
    """Read a config and, in place of their names, the parts that it names: any value that ends in ``.yaml``.

    Raises:
        InputError: it is not YAML of keys and values, is endless, or a part is missing.
    """
    config = _expand(_load(path), path.parent, (), [0])
    if not isinstance(config, dict):
        raise InputError(f"{path} holds {str(config)[:80]!r}; wanted keys and values such as 'model: DDS'")
    return config


def _load(path: Path) -> Any:
    from jsonargparse import get_loader  # which --help need not wait for

    try:
        text = path.read_text(encoding="utf-8")
        value = get_loader("yaml")(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)[:200]}); wanted YAML of keys and values") from None
    return text if value is None else value


def _expand(value: Any, folder: Path, place: tuple[str, ...], count: list[int]) -> Any:
    """Replace names of parts by what they hold.

    Args:
        value: a config or a part of it.
        folder: that of the file it stands in.
        place: the keys that it lies under.
        count: values met so far.
    """
    count[0] += 1
    if count[0] > LARGEST or len(place) > DEEPEST:
        raise InputError(f"a config holds more than {LARGEST} values or is more than {DEEPEST} deep; wanted a plain one")
    key = ".".join(key for key in place if key != "init_args") or "a config"
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str) or " " in name:
                raise InputError(f"{key} has the key {name!r}; wanted keys of text without spaces")
            if "class_path" in value and name not in ("class_path", "init_args", "dict_kwargs"):
                raise InputError(f"{key} has the key {name!r} beside class_path; wanted it in init_args")
        return {name: _expand(item, folder, (*place, name), count) for name, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, folder, place, count) for item in value]
    if isinstance(value, str) and value.endswith(ENDINGS):
        path = _find_part(value, folder, key)
        return _expand(_load(path), path.parent, (*place, "init_args"), count)
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise InputError(f"{key} is {str(value)[:80]!r}; wanted text, numbers, lists, keys and values")


def _find_part(name: str, folder: Path, key: str) -> Path:
    """Return the file of a part: relative to what names it, or among the shipped configs."""
    for path in (folder / name, CONFIGS / name):
        if path.is_file():
            return path
    raise InputError(f"{key} is {name!r}, which is neither in {folder.resolve()} nor in {CONFIGS}; wanted a file")
