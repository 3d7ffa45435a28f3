"""Configs by name: as given, or among those that come with the package."""

from __future__ import annotations

from pathlib import Path

from padis_lightning.errors import InputError

_PACKAGE = Path(__file__).parent
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
