"""Stand-in until the readers are there."""

from __future__ import annotations

from pathlib import Path

from padis_lightning.data.series import Series
from padis_lightning.errors import InputError


def open_series(path: Path) -> list[Series]:
    """No format is known.

    Raises:
        InputError: always.
    """
    raise InputError(f"{path} is of no known kind; wanted data")
