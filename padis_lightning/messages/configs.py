"""Configs by name, as given or among those that come with the package, and what else of a command line is settled by words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from padis_lightning.errors import InputError

CONFIG = ("--config", "-c")

_PACKAGE = Path(__file__).parent.parent
CONFIGS = next((d for d in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if d.is_dir()), _PACKAGE / "configs")


def find_config(name: str) -> str:
    """The path of a config: as given, or a name in the folder of shipped ones.

    Raises:
        InputError: there is none; with the names there are.
    """
    return _find(name, "config", CONFIGS)


def find_sweep(name: str) -> str:
    """The path of a sweep: as given, or a name in the folder of shipped ones.

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
    """Arguments with every config's path found and ``--config`` and ``--model`` in two words; the name of the last config."""
    split = ("--config=", "-c=", "--model=")
    out = [word for arg in args for word in (arg.split("=", 1) if arg.startswith(split) else [arg])]
    name = "run"
    for i, (flag, value) in enumerate(pairwise(list(out))):
        if flag in CONFIG:
            out[i + 1] = find_config(value)
            name = Path(value).stem or name
    return out, name


def own_settings(args: Sequence[str]) -> list[str]:
    """Arguments in which ``--model NAME`` brings NAME's own settings rather than another solver's of the same names.

    The parser keeps what two classes share; by way of one that has neither steps nor levels only the common options are kept.

    Args:
        args: those of :func:`find_configs`.
    """
    if args[:1] != ["predict"] or "--model" not in args:
        return list(args)
    named = {_model_of(value) for flag, value in pairwise(args) if flag in CONFIG}
    out: list[str] = []
    for flag, value in pairwise([*args, ""]):
        if flag == "--model" and value and value.rpartition(".")[2] not in named:
            out += ["--model", "PseudoInverse"]
        out.append(flag)
    return out


def _model_of(config: str) -> str | None:
    """The short name of the class that a config's ``model`` names; None for one that the parser will refuse."""
    try:
        model = yaml.safe_load(Path(config).read_text(encoding="utf-8"))["model"]
        return (model["class_path"] if isinstance(model, dict) else model).rpartition(".")[2]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return None
