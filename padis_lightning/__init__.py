"""Patch diffusion priors for inverse problems in imaging, as PyTorch Lightning modules.

``import padis_lightning as pl`` shows what ``__init__.pyi`` lists; each name is imported when it is asked for.

The layers, lowest first; imports run only upwards::

    networks, operators, linalg, random -> diffusion -> priors -> solvers, training -> callbacks, cli
"""

from __future__ import annotations

import ast
import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


@cache
def _listed() -> dict[str, str]:
    """Return the module of each name that is public."""
    tree = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {alias.name: part.module for part in tree.body if isinstance(part, ast.ImportFrom) for alias in part.names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever has the name
    asks = sys._getframe(1).f_globals.get("__name__", "")  # jsonargparse writes the shortest path of a class into configs,
    if name.startswith("_") or name not in _listed() or asks.startswith("jsonargparse"):  # by which runs are compared
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_listed()[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_listed()})
