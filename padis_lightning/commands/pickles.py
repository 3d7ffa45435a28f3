"""Read a pickle without running it.

A pickle names functions that its reader is to call. Here a name stands for a class of ours, or the file is refused, and what
such a class makes has no methods that a pickle could reach.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from padis_lightning.errors import InputError

MOST = 300_000  # opcodes; the paper's larger network has about 40 000
LARGEST = 1000  # values in a tuple and in the tuples within it; hashing a tuple visits each
BITS = 63  # integers beyond can be chosen to have one hash
MAGIC = 0x1950A86A20F9469CFC6C  # of torch's storages, the one such integer


class Refused(Exception):
    """What a file wants on loading and does not get."""


class Sealed(type):
    """The class of what names stand for. A pickle's BUILD could otherwise set attributes of it."""

    def __setattr__(cls, name: str, value: object) -> None:
        """Refuse to be changed."""
        raise Refused("to set attributes of a name")


class Record(metaclass=Sealed):
    """An object of a file: the name of its class or function, its arguments and its attributes. It can do nothing."""

    __slots__ = ("arguments", "name", "state")

    def __new__(cls, *arguments: object) -> Record:
        """Keep the arguments."""
        self = super().__new__(cls)
        self.name, self.arguments, self.state = cls.__name__, arguments, {}
        return self

    def __setstate__(self, state: object) -> None:
        """Keep attributes as a dictionary, where none of them has a meaning."""
        self.state = state if isinstance(state, dict) else {"state": state}


def printable(text: str) -> str:
    """Return a name from a file without what would end a line or steer a terminal."""
    return ascii(text[:200])[1:-1]


OPCODES = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINSTRING "
    "SHORT_BINSTRING SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE "
    "TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_SET ADDITEMS BINGET LONG_BINGET BINPUT "
    "LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD".split()
)
NESTING = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPERSID")  # opcodes whose value is hashed with all that is in it


class Reader(pickle.Unpickler):
    """An unpickler that takes few opcodes and the names of its subclass, so that it imports nothing and calls nothing else.

    Args:
        stream: a pickle, which may begin in the middle.

    Attributes:
        known: what names stand for, by module and name with a dot between.
        opcodes: the opcodes that it takes.

    Raises:
        Refused: the file holds any other, or would take time or memory out of proportion to its length.
    """

    known: ClassVar[dict[str, type]] = {}
    opcodes = OPCODES

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        begin = stream.tell()
        self._check(stream)
        stream.seek(begin)

    def find_class(self, module: str, name: str) -> type:
        """Return what a name stands for."""
        if f"{module}.{name}" not in self.known:
            raise Refused(printable(f"{module}.{name}"))
        return self.known[f"{module}.{name}"]

    def _check(self, stream: io.BytesIO) -> None:
        """Go through the opcodes with a stack of sizes: how many values hashing an object would visit; None is a mark."""
        stack: list[int | None] = []
        memo: dict[int, int | None] = {}
        for count, (op, argument, _) in enumerate(pickletools.genops(stream)):
            if op.name in ("GLOBAL", "INST"):
                self.find_class(*argument.split(" ", 1))
            if op.name not in self.opcodes:
                raise Refused(f"the pickle opcode {op.name}")
            if count == MOST:
                raise Refused(f"more than {MOST} pickle opcodes")
            if isinstance(argument, int) and argument.bit_length() > BITS and argument != MAGIC:
                raise Refused(f"an integer of {argument.bit_length()} bits")
            if op.name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
                place = len(memo) if argument is None else argument
                if place > count:  # the unpickler would make a table as long
                    raise Refused(f"the place {place} of the pickle's memo")
                memo[place] = stack[-1]
            elif op.name in ("BINGET", "LONG_BINGET", "DUP"):
                stack.append(stack[-1] if op.name == "DUP" else memo[argument])
            else:
                _follow(op, stack)
                if stack and (stack[-1] or 0) > LARGEST:
                    raise Refused(f"a tuple of more than {LARGEST} values")


def _follow(op: pickletools.OpcodeInfo, stack: list[int | None]) -> None:
    """Take what an opcode takes off a stack of sizes, and put the size of its value there."""
    taken: list[int | None] = []
    before = op.stack_before
    if pickletools.markobject in before:
        while (top := stack.pop()) is not None:
            taken.append(top)
        before = before[: before.index(pickletools.markobject)]
    taken += [stack.pop() for _ in before]
    size = 1 + sum(taken) if op.name in NESTING else 1
    stack += [None if kind is pickletools.markobject else size for kind in op.stack_after]


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn whatever a damaged or malicious file raises within the block into one sentence.

    Raises:
        InputError: the file wants code to be run, or cannot be read.
    """
    try:
        yield
    except InputError:
        raise
    except Refused as error:
        raise InputError(f"{file} wants {error} on loading; wanted tensors and plain containers only, nothing was run") from error
    except Exception as error:  # a damaged file can make the reader raise anything
        raise InputError(f"{file} cannot be read ({type(error).__name__}); wanted a network snapshot (.pkl)") from error


def read(file: Path, reader: type[Reader]) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return what a pickle holds; nothing of it is run.

    Args:
        file: the pickle.
        reader: which names it may hold, and what they stand for.

    Raises:
        InputError: there is no such file, it wants anything else, or it is damaged.
    """
    if not file.is_file():
        raise InputError(f"there is no file {str(file)!r}; wanted a network snapshot (.pkl)")
    with reading(file):
        stream = io.BytesIO(file.read_bytes())
        if stream.getbuffer()[:2] == b"PK":
            raise InputError(f"{file} is an archive of torch.save; wanted a network snapshot (.pkl)")
        return reader(stream).load()
