"""What the names in a network snapshot stand for: records, and a few classes that read numbers and tensors out of bytes."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padis_lightning.commands.pickles import MAGIC, OPCODES, Reader, Record, Refused, Sealed, printable

LAYOUT = 1001  # of torch's storages
_WORDS = "Double Float Half BFloat16 Long Int Short Char Byte Bool"
_TYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
STORAGES = {f"{word}Storage": getattr(torch, name) for word, name in zip(_WORDS.split(), _TYPES.split(), strict=True)}
INERT = {
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


def _inert(module: str, names: str) -> dict[str, type]:
    return {f"{module}.{name}": Sealed(name, (Record,), {"__slots__": ()}) for name in names.split()}


class StorageReader(Reader):
    """The reader of the pickles in a storage's bytes: element types and the persistent id that describes the storage."""

    known = _inert("torch", " ".join(STORAGES))
    opcodes = OPCODES | {"BINPERSID"}

    def persistent_load(self, pid: object) -> object:
        """Return the description itself."""
        return pid


def _storage(data: bytes) -> Tensor:
    """Read a storage that torch has written: five pickles, the number of values, the values."""
    stream = io.BytesIO(data)
    magic, layout, system, described, keys = (StorageReader(stream).load() for _ in range(5))
    kind, element, key, _device, count, *view = described
    stored, values = int.from_bytes(stream.read(8), "little"), bytearray(stream.read())
    regular = (magic, layout, kind, keys, system["little_endian"]) == (MAGIC, LAYOUT, "storage", [key], True)
    dtype = STORAGES[element.__name__]
    if not regular or any(view) or stored != count or len(values) != count * dtype.itemsize:
        raise pickle.UnpicklingError("a storage is not as torch writes it")
    return torch.frombuffer(values, dtype=dtype) if count else torch.empty(0, dtype=dtype)


class Stored(Record):
    """A tensor, in a record so that no opcode finds its methods."""

    __slots__ = ("tensor",)


def _stored(values: Tensor, *source: object) -> Stored:
    record = Stored(*source)
    record.name, record.tensor = "Tensor", values
    return record


def _tensor(storage: Stored, offset: int, size: Sequence[int], stride: Sequence[int], *_rest: object) -> Stored:
    """Return a tensor no larger than its storage; torch checks that it lies within."""
    if math.prod(size) > storage.tensor.numel():
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    return _stored(storage.tensor.as_strided(tuple(size), tuple(stride), offset))


def _scalar(dtype: Record, data: bytes) -> int | float | bool:
    """Return the Python number of a numpy scalar; numpy's own function would take objects, too."""
    code, order = str(dtype.arguments[0]), str(dtype.state["state"][1])
    if code not in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8") or order not in ("<", "|"):
        raise Refused(f"a numpy scalar of the type {printable(order + code)}")
    return np.frombuffer(data, f"<{code}")[0].item()


def _persistent(meta: dict[str, Any]) -> Record:
    """Return the record of an object that EDM stores with its source code; the code stays a string that nobody reads."""
    if meta["type"] != "class" or not meta["class_name"].isidentifier():
        raise pickle.UnpicklingError("a persistent object is not of a class")
    record = Record()
    record.name = meta["class_name"]
    record.__setstate__(meta["state"] or {})
    return record


def _sealed(make: Callable[..., Any]) -> Sealed:
    """Return a class that makes what a function makes; a pickle could change the function itself."""
    return Sealed("", (), {"__slots__": (), "__new__": lambda _cls, *arguments: make(*arguments)})


EMPTY = _sealed(lambda: {})  # of no arguments, since copies of copies grow
PARAMETER, SCALAR = _sealed(lambda data, *_rest: data), _sealed(_scalar)


class SnapshotReader(Reader):
    """The reader of network snapshots: tensors, plain containers, numbers, and records of everything else that is known."""

    known = {
        "collections.OrderedDict": EMPTY,
        "dnnlib.util.EasyDict": EMPTY,
        "numpy._core.multiarray.scalar": SCALAR,
        "numpy.core.multiarray.scalar": SCALAR,
        "torch._utils._rebuild_parameter": PARAMETER,
        "torch._utils._rebuild_tensor_v2": _sealed(_tensor),
        "torch.nn.parameter.Parameter": PARAMETER,
        "torch_utils.persistence._reconstruct_persistent_obj": _sealed(_persistent),
        **{name: kind for module, names in INERT.items() for name, kind in _inert(module, names).items()},
    }

    def __init__(self, stream: io.BytesIO) -> None:
        self._storages: dict[int, Stored] = {}
        self.known = {**self.known, "torch.storage._load_from_bytes": _sealed(self._load)}
        super().__init__(stream)

    def _load(self, data: bytes) -> Stored:
        """Return a storage; a file can name the same bytes any number of times."""
        if id(data) not in self._storages:
            self._storages[id(data)] = _stored(_storage(data), data)
        return self._storages[id(data)]
