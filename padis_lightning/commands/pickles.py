"""Reading a pickle without running it.

A pickle names functions that its reader is to call. Here names stand for the few functions of this file that build tensors
and plain containers; an object of any other class is a record of its attributes, and everything else is refused by name.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from padis_lightning.errors import InputError


class Refused(Exception):
    """What a file wants on loading and does not get."""


@dataclass
class Record:
    """An object of a file: the name of its class and its attributes. It can do nothing.

    Args:
        name: the class.
        state: the attributes.
    """

    name: str
    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Maker:
    """What a name in a file stands for. It is no function, so that only the reader can call what it holds.

    Args:
        make: builds a value from the arguments in the file.
    """

    make: Callable[..., Any]


PLAIN = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 "
    "BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS "
    "EMPTY_SET ADDITEMS FROZENSET GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL".split()
)


def _call(reader: Reader) -> None:
    """REDUCE and NEWOBJ: only what a known name stands for is called."""
    arguments, maker = reader.stack.pop(), reader.stack.pop()
    if not isinstance(maker, Maker) or not isinstance(arguments, tuple):
        raise Refused("to call something that is not a name")
    reader.append(maker.make(*arguments))


def _build(reader: Reader) -> None:
    """BUILD: only a record takes attributes, and it keeps them without looking."""
    state, target = reader.stack.pop(), reader.stack[-1]
    if not isinstance(target, Record):
        raise Refused(f"to set attributes of a {type(target).__name__}")
    target.state.update(state if isinstance(state, dict) else {"state": state})


def _instance(reader: Reader) -> None:
    """INST: refused under the name that it wants."""
    module, name = (reader.readline()[:-1].decode() for _ in range(2))
    reader.find_class(module, name)
    _refuse("INST", reader)


def _refuse(opcode: str, _reader: Reader) -> None:
    raise Refused(f"the pickle opcode {opcode}")


OWN = {"REDUCE": _call, "NEWOBJ": _call, "BUILD": _build, "INST": _instance}


def _opcodes(*extra: str) -> dict[int, Callable[[Any], None]]:
    """What is done at each opcode: the standard thing at plain ones and ``extra``, our own at four, refusal at the rest."""
    table = {ord(op.code): OWN.get(op.name, partial(_refuse, op.name)) for op in pickletools.opcodes}
    plain = [ord(op.code) for op in pickletools.opcodes if op.name in PLAIN.union(extra)]
    return table | {code: pickle._Unpickler.dispatch[code] for code in plain}


def printable(text: str) -> str:
    """A name from a file without what would end a line or steer a terminal."""
    return ascii(text[:200])[1:-1]


class Reader(pickle._Unpickler):
    """An unpickler that knows the names in ``known`` and no others; it imports nothing and looks no attribute up.

    Raises:
        Refused: the file names anything else, or wants more than to call what it may name.
    """

    known: ClassVar[dict[tuple[str, str], Any]] = {}
    dispatch = _opcodes()

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a maker or a plain value
        """What a name stands for."""
        if (module, name) not in self.known:
            raise Refused(printable(f"{module}.{name}"))
        return self.known[module, name]


# ---- what the names stand for

MAGIC, LAYOUT = 0x1950A86A20F9469CFC6C, 1001  # torch's own storage format
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class StorageReader(Reader):
    """The reader of the pickles in a storage's bytes: element types and the persistent id that describes the storage."""

    known: ClassVar[dict[tuple[str, str], Any]] = {("torch", name): dtype for name, dtype in STORAGES.items()}
    dispatch = _opcodes("BINPERSID")

    def persistent_load(self, pid: object) -> object:
        """The description itself."""
        return pid


def _storage(data: bytes) -> Tensor:
    """The values of a storage that torch has written: five pickles, the number of values, the values."""
    stream = io.BytesIO(data)
    magic, layout, system, described, keys = (StorageReader(stream).load() for _ in range(5))
    kind, dtype, key, _device, count, *view = described
    stored, values = int.from_bytes(stream.read(8), "little"), bytearray(stream.read())
    regular = (magic, layout, kind, keys, system["little_endian"]) == (MAGIC, LAYOUT, "storage", [key], True)
    if not regular or any(view) or stored != count or len(values) != count * dtype.itemsize:
        raise pickle.UnpicklingError("a storage is not as torch writes it")
    return torch.frombuffer(values, dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _tensor(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], _grad: object = None, _hooks: object = None
) -> Tensor:
    """A tensor no larger than its storage; torch checks that it lies within."""
    if math.prod(size) > storage.numel():
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _parameter(data: Tensor, _grad: object = None, _hooks: object = None) -> Tensor:
    return data


def _dtype(code: str, *_rest: object) -> Record:
    return Record("numpy.dtype", {"code": code})


def _scalar(dtype: Record, data: bytes) -> int | float | bool:
    """A Python number from a numpy scalar; numpy's own function would take objects, too."""
    code, order = str(dtype.state["code"]), str(dtype.state["state"][1])
    if code not in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8") or order not in ("<", "|"):
        raise Refused(f"a numpy scalar of the type {printable(order + code)}")
    return np.frombuffer(data, f"<{code}")[0].item()


def _device(*arguments: object) -> str:
    return ":".join(str(value) for value in arguments)


def _persistent(meta: dict[str, Any]) -> Record:
    """An object with source code: the code stays a string that nobody reads."""
    if meta["type"] != "class" or not meta["class_name"].isidentifier():
        raise pickle.UnpicklingError("a persistent object is not of a class")
    return Record(meta["class_name"], dict(meta["state"] or {}))


def _inert(name: str) -> Maker:
    return Maker(lambda: Record(name))


INERT = {
    "torch.nn.modules.container": ("ModuleDict", "ModuleList", "Sequential"),
    "torch.nn.modules.activation": ("SiLU",),
    "torch.nn.modules.linear": ("Identity",),
    "training.augment": ("AugmentPipe",),
    "training.loss": ("EDMLoss", "VELoss", "VPLoss"),
    "training.patch_loss": ("Patch_EDMLoss",),
}


class SnapshotReader(Reader):
    """The reader of network snapshots: tensors, plain containers, numbers, and records of everything else that is known."""

    known: ClassVar[dict[tuple[str, str], Any]] = {
        ("torch._utils", "_rebuild_tensor_v2"): Maker(_tensor),
        ("torch._utils", "_rebuild_parameter"): Maker(_parameter),
        ("torch.nn.parameter", "Parameter"): Maker(_parameter),
        ("torch.storage", "_load_from_bytes"): Maker(_storage),
        ("torch", "Size"): Maker(tuple),
        ("torch", "device"): Maker(_device),
        **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in STORAGES.values()},
        ("collections", "OrderedDict"): Maker(dict),
        ("dnnlib.util", "EasyDict"): Maker(dict),
        ("builtins", "set"): Maker(set),
        ("__builtin__", "set"): Maker(set),
        ("numpy", "dtype"): Maker(_dtype),
        ("numpy.core.multiarray", "scalar"): Maker(_scalar),
        ("numpy._core.multiarray", "scalar"): Maker(_scalar),
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): Maker(_persistent),
        **{(module, name): _inert(name) for module, names in INERT.items() for name in names},
    }


def read(file: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """What a pickle holds, of tensors, plain containers and records; nothing of it is run.

    Raises:
        InputError: there is no such file, it wants anything else, or it is damaged.
    """
    if not file.is_file():
        raise InputError(f"there is no file {str(file)!r}; wanted a network snapshot (.pkl)")
    try:
        with file.open("rb") as stream:
            if stream.read(2) == b"PK":
                raise InputError(f"{file} is an archive of torch.save; wanted a network snapshot (.pkl)")
            stream.seek(0)
            return SnapshotReader(stream).load()
    except InputError:
        raise
    except Refused as error:
        raise InputError(f"{file} wants {error} on loading; wanted tensors and plain containers only, nothing was run") from error
    except Exception as error:  # a damaged file can make the reader raise anything
        raise InputError(f"{file} cannot be read ({type(error).__name__}); wanted a network snapshot (.pkl)") from error
