"""Read a pickle without running it.

A pickle is a program for a small machine with a stack. The machine here takes few of its opcodes, and the names of a closed list,
which stand for functions of ours: nothing is imported, and no attribute of anything is set.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from padis_lightning.errors import InputError

MOST_VALUES, DEEPEST = 1_000_000, 100  # of a checkpoint, each as often as it is met
STORAGES = [f"torch.{kind}Storage" for kind in "Double Float Half BFloat16 Long Int Short Char Byte Bool".split()]


class Refused(Exception):
    """What a file wants on loading and does not get."""


@dataclass(eq=False, repr=False, slots=True)
class Record:
    """An object of a file: the name of its class or function, its arguments and attributes, and the values of a tensor."""

    name: str
    arguments: tuple = ()
    state: dict = field(default_factory=dict)
    tensor: Tensor | None = None


def printable(text: str) -> str:
    """Return a name from a file without what would end a line or steer a terminal."""
    return ascii(text[:200])[1:-1]


class Opcodes(dict):
    """What the machine does for each opcode; any other is refused."""

    def __missing__(self, code: int) -> None:
        """Refuse an opcode.

        Raises:
            Refused: with its name.
        """
        raise Refused(f"the pickle opcode {next(op.name for op in pickletools.opcodes if op.code == chr(code))}")


def _checking_keys(opcode: bytes, keys: slice) -> Callable[[Reader], None]:
    """Return what is done for an opcode once the keys, in their place on the stack, are text or small numbers.

    Hashing a tuple visits all that is in it, and large numbers can share a hash.
    """
    load: Any = pickle._Unpickler.dispatch[opcode[0]]

    def load_checked(reader: Reader) -> None:
        for key in reader.stack[keys]:
            if not (isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 32)):
                raise Refused("a key that is neither text nor a small number")
        load(reader)

    return load_checked


class Reader(pickle._Unpickler):  # the one in C takes all opcodes
    """An unpickler of few opcodes, for names of a closed list.

    Attributes:
        known: the function of ours, or the value, that a name stands for, by module and name with a dot between.
        dispatch: what is done for each opcode.

    Raises:
        Refused: the file holds any other.
    """

    known: dict[str, Any] = {}
    stack: list[Any]
    append: Callable[[object], None]

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - whatever is on the list
        """Return what a name stands for."""
        if f"{module}.{name}" not in self.known:
            raise Refused(printable(f"{module}.{name}"))
        return self.known[f"{module}.{name}"]

    def load_call(self) -> None:
        """Replace a function and its arguments by what it makes of them; nothing but the functions of ``known`` can be called."""
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(function(*arguments))

    def load_state(self) -> None:
        """Keep attributes of a record, where none of them has a meaning."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Record):
            raise pickle.UnpicklingError("only records have attributes")
        self.stack[-1].state = state if isinstance(state, dict) else {"state": state}

    _SAME = (
        "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINSTRING "
        "SHORT_BINSTRING SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 "
        "TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT EMPTY_SET BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL "
        "STACK_GLOBAL"
    )
    dispatch = Opcodes({
        **{getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _SAME.split()},
        pickle.REDUCE[0]: load_call,
        pickle.NEWOBJ[0]: load_call,
        pickle.BUILD[0]: load_state,
        pickle.SETITEM[0]: _checking_keys(pickle.SETITEM, slice(-2, -1)),
        pickle.SETITEMS[0]: _checking_keys(pickle.SETITEMS, slice(0, None, 2)),
        pickle.ADDITEMS[0]: _checking_keys(pickle.ADDITEMS, slice(None)),
    })  # fmt: skip


def read(file: Path, reader: type[Reader]) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return what a pickle holds; nothing of it is run.

    Raises:
        InputError: there is no such file, it wants anything that the reader does not know, or it is damaged.
    """
    if not file.is_file():
        raise InputError(f"there is no file {str(file)!r}; wanted a network snapshot (.pkl)")
    data = file.read_bytes()
    if data[:2] == b"PK":
        raise InputError(f"{file} is an archive of torch.save; wanted a network snapshot (.pkl)")
    try:
        return reader(io.BytesIO(data)).load()
    except Refused as error:
        raise InputError(f"{file} wants {error} on loading; wanted tensors and plain containers only, nothing was run") from error
    except Exception as error:  # a damaged file can make the reader raise anything
        raise InputError(f"{file} cannot be read ({type(error).__name__}); wanted a network snapshot (.pkl)") from error


class Mapping(dict):
    """A dictionary that may have attributes."""

    state: object = None


def _mapping(*arguments: object) -> Mapping:
    if arguments:  # their keys would be hashed unseen
        raise Refused("arguments of OrderedDict")
    return Mapping()


class CheckpointReader(Reader):
    """The reader of what is in a checkpoint: containers and the descriptions of tensors."""

    known = {
        "collections.OrderedDict": _mapping,
        "torch._utils._rebuild_tensor_v2": lambda *arguments: Record("tensor", arguments),
        "torch._utils._rebuild_parameter": lambda *arguments: Record("value", arguments),
        **{name: name for name in STORAGES},
        **{f"torch.{name}": lambda *arguments: Record("value", arguments) for name in ("Size", "device")},
    }

    def load_state(self) -> None:
        """Keep the attributes of a dictionary."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Mapping):
            raise Refused("attributes of something else than a dictionary")
        self.stack[-1].state = state

    def persistent_load(self, pid: object) -> object:
        """Return the description of a storage itself."""
        return pid

    dispatch = Opcodes({
        **Reader.dispatch, pickle.BUILD[0]: load_state, pickle.BINPERSID[0]: pickle._Unpickler.dispatch[pickle.BINPERSID[0]],
    })  # fmt: skip


def require_plain_checkpoint(file: Path, wanted: str = "a checkpoint written by fit") -> None:
    """Refuse a checkpoint that torch would take long to read, or from which it would make more than the file holds.

    torch runs no code of a file, but hashes tuples whose parts share parts, which takes a time that doubles with each level,
    and takes tensors of any size that share few numbers.

    Raises:
        InputError: the file is not as torch.save writes it, names other things than tensors and containers, has keys that are
            not plain, or stands for too much.
    """
    try:
        with file.open("rb") as handle:
            if handle.read(4) != b"PK\3\4":  # else torch reads the format it had before 2020
                raise Refused("another format than torch.save writes")
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
        for part in parts:
            if part.compress_type or part.file_size != part.compress_size:  # torch would unpack it to any size
                raise Refused(f"{printable(part.filename)!r} compressed")
        if sum(part.file_size for part in parts) > file.stat().st_size:
            raise Refused("parts that share their bytes")
        require_few(CheckpointReader(io.BytesIO(torch._C.PyTorchFileReader(str(file)).get_record("data.pkl"))).load(), file)
    except Refused as error:
        raise InputError(f"{file} has {error}; wanted {wanted}, nothing was run") from error
    except Exception as error:  # a damaged file can make the reader raise anything
        raise InputError(f"{file} cannot be read ({type(error).__name__}); wanted {wanted}") from error


def require_few(root: object, file: Path) -> None:
    """Refuse values that are many, deep, or tensors of more numbers than a file has bytes.

    Raises:
        Refused: with what there is too much of.
    """
    met, numbers, most = count(1), 0, file.stat().st_size

    def visit(value: object, depth: int) -> None:
        nonlocal numbers
        if next(met) > MOST_VALUES or depth > DEEPEST:
            raise Refused(f"more than {MOST_VALUES} values or more than {DEEPEST} levels")
        if isinstance(value, Record):
            sides = value.arguments[2] if value.name == "tensor" else ()
            numbers += prod(map(abs, sides)) if len(sides) < 9 else most + 1
            if numbers > most:
                raise Refused(f"tensors of more numbers than its {most} bytes")
            value = value.arguments
        elif isinstance(value, dict):
            value = [*value.values(), getattr(value, "state", None)]
        for part in value if isinstance(value, (list, tuple, set)) else ():
            visit(part, depth + 1)

    visit(root, 0)
