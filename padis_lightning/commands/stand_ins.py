"""Read a network snapshot into records, numbers and tensors: what its names stand for."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padis_lightning.pickles import Opcodes, Reader, Record, Refused, printable

MAGIC, LAYOUT = 0x1950A86A20F9469CFC6C, 1001  # of torch's storages
_WORDS = "Double Float Half BFloat16 Long Int Short Char Byte Bool"
_TYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
STORAGES = {f"{word}Storage": getattr(torch, name) for word, name in zip(_WORDS.split(), _TYPES.split(), strict=True)}
NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
RECORDS = {
    "builtins": "set",
    "__builtin__": "set",
    "numpy": "dtype",
    "torch": f"Size device {_TYPES}",
    "torch.nn.modules.activation": "SiLU",
    "torch.nn.modules.container": "ModuleDict ModuleList Sequential",
    "torch.nn.modules.linear": "Identity",
    "training.augment": "AugmentPipe",
    "training.loss": "EDMLoss VELoss VPLoss",
    "training.patch_loss": "Patch_EDMLoss",
}


class StorageReader(Reader):
    """The reader of the pickles in a storage's bytes: element types and the persistent id that describes the storage."""

    known = {f"torch.{name}": dtype for name, dtype in STORAGES.items()}
    dispatch = Opcodes({**Reader.dispatch, pickle.BINPERSID[0]: pickle._Unpickler.dispatch[pickle.BINPERSID[0]]})

    def persistent_load(self, pid: object) -> object:
        """Return the description itself."""
        return pid


def _storage(data: bytes) -> Tensor:
    """Read a storage that torch has written: five pickles, the number of values, the values."""
    stream = io.BytesIO(data)
    magic, layout, system, (kind, dtype, key, _device, count, *view), keys = (StorageReader(stream).load() for _ in range(5))
    stored, values = int.from_bytes(stream.read(8), "little"), bytearray(stream.read())
    regular = (magic, layout, kind, system["little_endian"]) == (MAGIC, LAYOUT, "storage", True)
    if not (regular and isinstance(key, str) and keys == [key]) or any(view):
        raise pickle.UnpicklingError("a storage is not as torch writes it")
    if stored != count or len(values) != count * dtype.itemsize:
        raise pickle.UnpicklingError("a storage has another length than it says")
    return torch.frombuffer(values, dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _tensor(storage: Record, offset: int, size: Sequence[int], stride: Sequence[int], *_rest: object) -> Record:
    """Return a tensor no larger than its storage; torch checks that it lies within."""
    values = storage.tensor
    if values is None or len(size) > 8 or not all(type(n) is int for n in size) or math.prod(size) > values.numel():
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    return Record("Tensor", tensor=values.as_strided(tuple(size), tuple(stride), offset))


def _scalar(dtype: Record, data: bytes) -> int | float | bool:
    """Return the Python number of a numpy scalar; numpy's own function would take objects, too."""
    code, order = dtype.arguments[0], dtype.state["state"][1]
    if not isinstance(code, str) or not isinstance(order, str):
        raise pickle.UnpicklingError("a type of numpy has no name")
    if code not in NUMBERS or order not in ("<", "|"):
        raise Refused(f"a numpy scalar of the type {printable(order + code)}")
    return np.frombuffer(data, f"<{code}")[0].item()


def _persistent(meta: dict[str, Any]) -> Record:
    """Return the record of an object that EDM stores with its source code; the code stays a string that nobody reads."""
    if meta["type"] != "class" or not meta["class_name"].isidentifier() or not isinstance(meta["state"], dict | None):
        raise pickle.UnpicklingError("a persistent object is not of a class")
    return Record(meta["class_name"], state=meta["state"] or {})


def _parameter(data: Record, *_rest: object) -> Record:
    return data


def _recorded(name: str) -> Callable[..., Record]:
    return lambda *arguments: Record(name, arguments)


def _empty() -> dict:
    """Return a dictionary; it takes no arguments, since copies of copies grow."""
    return {}


class SnapshotReader(Reader):
    """The reader of network snapshots: tensors, plain containers, numbers, and records of everything else that is known."""

    known = {
        "collections.OrderedDict": _empty,
        "dnnlib.util.EasyDict": _empty,
        "numpy._core.multiarray.scalar": _scalar,
        "numpy.core.multiarray.scalar": _scalar,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch.nn.parameter.Parameter": _parameter,
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
        **{f"{module}.{name}": _recorded(name) for module, names in RECORDS.items() for name in names.split()},
    }

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self._storages: dict[int, tuple[bytes, Record]] = {}
        self.known = {**self.known, "torch.storage._load_from_bytes": self._load}

    def _load(self, data: bytes) -> Record:
        """Return a storage; a file can name the same bytes any number of times."""
        if id(data) not in self._storages:
            self._storages[id(data)] = data, Record("Storage", tensor=_storage(data))  # kept, so that no other has its id
        return self._storages[id(data)][1]
