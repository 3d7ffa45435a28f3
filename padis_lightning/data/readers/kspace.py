"""BART's ``.cfl`` of fully sampled k-space."""

from __future__ import annotations

from pathlib import Path

from padis_lightning.data.sources.combined import combined_series
from padis_lightning.data.sources.kspace import find_kspace
from padis_lightning.data.sources.series import Reader, Series


def read(path: Path) -> list[Series]:
    """Return the slices of a file as one series of complex images."""
    found = find_kspace(path)
    assert found is not None
    return combined_series(found)


READER = Reader("BART's k-space", (".cfl",), read)
