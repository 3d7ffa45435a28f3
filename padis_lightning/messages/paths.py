"""Where a config may write: below the output folder, and never to an address; priors alone are read from one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from padis_lightning.errors import InputError
from padis_lightning.files import lies_in
from padis_lightning.hub import SCHEME, Address
from padis_lightning.messages.allowed import default_of, entries_of, find_class

# ruff: noqa: ANN401 - configs hold anything
FOLDERS = ("dirpath", "save_dir", "dir")  # that loggers, profilers and checkpoints write into
PRIORS = ("checkpoint", "initial")  # that name a prior, which may be one of the Hub
PARTS = ("name", "version", "sub_dir", "filename", "id")  # of what they write there
ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/|::|^data:")  # of a file system, also behind another, as fsspec reads it
PLAIN = re.compile(r"(?:[^{}$~\\\0]|\{[\w/]*(:[\w.]*)?\})*")  # braces hold a metric; a format could fill in slashes


def is_address(text: str | PurePath) -> bool:
    """Return whether a path names a place that is not on this machine's file system."""
    return bool(ADDRESS.search(str(text)))


def check_paths(settings: Any, output: Path) -> None:
    """Refuse addresses but those of priors on the Hub, and paths of what is written that lead out of the output folder.

    Args:
        settings: the parsed config.
        output: the folder of the run.

    Raises:
        InputError: with the key and the path.
    """
    _refuse_addresses(settings, "")
    if registry := settings.get("trainer.model_registry"):
        raise InputError(f"trainer.model_registry is {registry!r}; wanted null, since models are not uploaded")
    _check_part(entries_of(settings.get("checkpoint")), "checkpoint", output)
    _check_classes(settings, "", output)


def check_output(output: str) -> None:
    """Refuse the output folder of a config, rather than of the command line, that is not below the working folder.

    Raises:
        InputError: with the folder.
    """
    if not lies_in(Path(output), Path()):
        raise InputError(f"a config sets output to {output!r}; wanted --output, or a folder below {Path().resolve()}")


def _refuse_addresses(value: Any, key: str) -> None:
    if isinstance(value, str) and value.startswith(SCHEME) and key.rpartition(".")[2] in PRIORS:
        Address.read(value)
    elif isinstance(value, (str, PurePath)) and is_address(value):
        raise InputError(f"{key} is {str(value)[:80]!r}; wanted a path on this machine, not an address")
    for item in value if isinstance(value, (list, tuple, set)) else ():
        _refuse_addresses(item, key)
    for name, item in entries_of(value).items():
        _refuse_addresses(name, key)
        _refuse_addresses(item, f"{key}.{name}".removeprefix(".").replace(".init_args", ""))


def _check_classes(value: Any, key: str, output: Path) -> None:
    """Check the paths of every class in a config but those of this package, of which none says where it writes."""
    for item in value if isinstance(value, (list, tuple)) else ():
        _check_classes(item, key, output)
    entries = entries_of(value)
    cls = find_class(entries.get("class_path"))
    if cls is not None and not cls.__module__.startswith("padis_lightning."):
        given = {**entries_of(entries.get("init_args")), **entries_of(entries.get("dict_kwargs"))}
        _check_part({name: item for name, item in given.items() if item != default_of(cls, name)}, key, output)
    for name, item in entries.items():
        _check_classes(item, f"{key}.{name}".removeprefix(".").replace(".init_args", ""), output)


def _check_part(arguments: Mapping[str, Any], key: str, output: Path) -> None:
    """Check the arguments of something that writes."""
    for name, value in arguments.items():
        if not isinstance(value, (str, PurePath)):
            continue
        text = str(value)
        plain = PLAIN.fullmatch(text) is not None
        if name in FOLDERS and not (plain and lies_in(Path(text), output)):
            raise InputError(f"{key}.{name} is {text!r}; wanted a folder below {str(output)!r}, see --output")
        if name in PARTS and (not plain or Path(text).is_absolute() or ".." in Path(text).parts):
            raise InputError(f"{key}.{name} is {text!r}; wanted a name that stays below the folder it is in")
