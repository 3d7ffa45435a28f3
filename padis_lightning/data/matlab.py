"""Structs and sizes of MATLAB's files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from padis_lightning.inputs import reading, require_inflated, require_size

COMPRESSED = 15  # type of an element
WHOLE = "a whole file of MATLAB"


def check_packed(path: Path) -> None:
    """Refuse compressed elements of version 5 that claim more than there is memory for, or hold more than they claim."""
    with path.open("rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(128)[126:])
        while order and len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            data = file.read(min(size, path.stat().st_size))
            if kind == COMPRESSED:
                claimed = 8 + struct.unpack(f"{order}4xI", zlib.decompressobj().decompress(data, 8))[0]
                require_size(path, claimed, size)
                require_inflated(path, io.BytesIO(data), claimed)


def structs(path: Path) -> list[str]:
    """Return the names of the structs of a file of version 5; nothing is unpacked but names."""
    from scipy.io import whosmat

    with reading(path, WHOLE):
        check_packed(path)
        return [name for name, _, kind in whosmat(path) if kind == "struct"]


def load_struct(path: Path, name: str) -> dict[str, Any]:
    """Read a struct as names and values, structs in it as well."""
    from scipy.io import loadmat

    with reading(path, WHOLE):
        check_packed(path)
        return _plain(loadmat(path, variable_names=[name], squeeze_me=True, simplify_cells=True)[name])


def _plain(value: Any) -> Any:  # noqa: ANN401 - a struct holds anything
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else np.asarray(value)
