"""Structs, arrays and sizes of MATLAB's files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from padis_lightning.data.containers import hdf5
from padis_lightning.inputs import reading, require_inflated, require_size

COMPRESSED = 15  # type of an element
FLOATS = {"double": "f8", "single": "f4", "logical": "?"}  # MATLAB's names for them; those of integers are NumPy's
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


def described(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shapes and types of the arrays of a file, axes as MATLAB has them; nothing is unpacked but names."""
    import h5py
    from scipy.io import whosmat

    if h5py.is_hdf5(path):  # version 7.3
        with hdf5(path) as file:
            return {name: (d.shape[::-1], d.dtype) for name, d in file.items() if hasattr(d, "shape")}
    with reading(path, WHOLE):
        check_packed(path)
        found = whosmat(path)
    kinds = [FLOATS.get(kind, kind if "int" in kind else "O") for _, _, kind in found]  # objects: text, cells and the like
    return {name: (shape, np.dtype(kind)) for (name, shape, _), kind in zip(found, kinds, strict=True)}


def load_array(path: Path, name: str) -> np.ndarray:
    """Read an array, axes as MATLAB has them."""
    import h5py
    from scipy.io import loadmat

    if h5py.is_hdf5(path):
        with hdf5(path) as file:
            require_size(path, file[name].nbytes, path.stat().st_size)
            return np.asarray(file[name][()]).T
    with reading(path, WHOLE):
        check_packed(path)
        return np.asarray(loadmat(path, variable_names=[name])[name])


def _plain(value: Any) -> Any:  # noqa: ANN401 - a struct holds anything
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else np.asarray(value)
