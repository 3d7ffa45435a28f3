"""The parser's errors as sentences: the key and the value seen, the value wanted."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from jsonargparse import ArgumentError
from torch import Tensor

from padis_lightning.errors import InputError, one_line
from padis_lightning.messages.allowed import allowed_names, find_class, refused
from padis_lightning.messages.sentences import refusing
from padis_lightning.registry import subclasses

# ruff: noqa: ANN401 - values and annotations are anything
PLAIN = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "timedelta": "a time such as 0:30:00",
}
PLAIN |= dict.fromkeys(("list", "Sequence", "Iterable"), "a list")
LINKED = ("prior", "operator", "problem")  # what a model gets from keys of their own


@contextmanager
def parsing(types: Mapping[str, Any]) -> Iterator[None]:
    """Turn what the parser raises within the block into one sentence.

    Args:
        types: what each option takes.

    Raises:
        InputError: in place of the parser's error.
    """
    try:
        with refusing("the command line or a config cannot be read"):
            yield
    except ArgumentError as error:
        raise InputError(sentence(str(error), types)) from error


def sentence(message: str, types: Mapping[str, Any]) -> str:
    """Return one sentence for a message of the parser, whose options take ``types``."""
    if denied := refused(message):
        return denied
    keys, parent, cls, value = _innermost(message.splitlines())
    unknown = re.search(r"(?:Option '([^']+)' is not accepted|does not accept option '([^']+)')", message)
    lacking = re.search(r"arguments are required: (.*)", message)
    if unknown:
        key, known = unknown[1] or unknown[2], keys_of(cls) if cls else ["those that --help lists"]
        return f"{key!r} is not a key of {cls.__name__ if cls else 'a config'}; wanted one of {', '.join(known)}"
    if lacking and cls:
        return f"{cls.__name__} comes without {lacking[1]}; wanted a value for it"
    if lacking:
        return f"{lacking[1].replace(', ', ' and ')} missing; wanted --config FILE that names them, or options"
    if not keys:
        strange = message.removeprefix("unrecognized arguments: ")
        seen = f"there is no option {shown(strange)}" if strange != message else shown(message, 300)
        return f"{seen}; wanted those that --help lists"
    hint = hints(parent).get(keys[-1]) if parent else types.get(keys[-1])
    seen = f"is {shown(value)}" if value else f"cannot be used ({shown(message, 300)})"
    return f"{'.'.join(keys)} {seen}; wanted {words(hint) or 'another value'}"


def shown(text: str, longest: int = 80) -> str:
    """Return the beginning of a text in one line."""
    line = one_line(text)
    return line if len(line) <= longest else f"{line[:longest]} ..."


def _innermost(lines: list[str]) -> tuple[list[str], type | None, type | None, str | None]:
    """Return keys from the outermost to the innermost, the class that takes the last, the class that it is, and the value."""
    keys: list[str] = []
    parent, cls, value, at = None, None, None, -1
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if keys and line.strip() and indent <= at:
            break
        named = re.search(r"class_path '([\w.]+)'|Got value: .* Got value: Namespace\(class_path='([\w.]+)'", line)
        key = re.search(r'Parser key "([^"]+)"', line)
        given = re.search(r"(?:Got value|Given value|import path string): ((?!NestedArg).*?)(?:\. Got value|$)", line)
        if key and indent > at:
            keys, parent, at, value = [*keys, key[1]], cls, indent, None
        cls = find_class(named[1] or named[2]) if named else cls
        parent = cls if named and named[2] else parent
        value = given[1] if given and value is None else value
    plain = value is None or re.match(r"[-+\d.\[{(]|(True|False)$", value)
    return keys, parent, cls, "null" if value == "None" else value if plain else repr(value)


def keys_of(cls: type) -> list[str]:
    """Return the names of what a class takes, those that it passes on to its bases included, but what the command line gives."""
    found: dict[str, None] = {}
    for base in cls.__mro__:
        parameters = inspect.signature(vars(base).get("__init__", lambda self, **rest: None)).parameters.values()
        kinds = {p.name: p.kind for p in parameters if p.name not in ("self", *LINKED)}
        found |= dict.fromkeys(name for name, kind in kinds.items() if kind.name not in ("VAR_KEYWORD", "VAR_POSITIONAL"))
        if inspect.Parameter.VAR_KEYWORD not in kinds.values():
            break
    return list(found)


def hints(cls: type) -> dict[str, Any]:
    """Return the annotations of what a class takes, those of its bases included."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        with suppress(NameError):  # some of Lightning's annotations are for type checkers only
            found |= typing.get_type_hints(vars(base).get("__init__", object.__init__))
    return found


def words(hint: Any) -> str:
    """Return what an annotation takes, in words."""
    return " or ".join(dict.fromkeys(_words(hint)))


def _words(hint: Any) -> Iterator[str]:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    name = getattr(origin or hint, "__name__", "")
    if origin is typing.Literal:
        yield ", ".join(map(str, parts))
    elif origin is tuple:
        yield f"a list of {len(parts)} values" if ... not in parts else "a list"
    elif origin is dict:
        yield f"keys with values, each {words(parts[1])}"
    elif name in PLAIN and typing.get_origin(parts[0] if parts else None) is not typing.Literal:
        yield PLAIN[name]
    elif inspect.isclass(hint) and hint is not type(None):
        listed = (sub for sub in subclasses(hint) if f"{sub.__module__}.{sub.__qualname__}" in allowed_names())
        known = sorted({sub.__name__ for sub in listed if not inspect.isabstract(sub) and Tensor not in hints(sub).values()})
        yield f"one of {', '.join(known)}" if known else "the name of a class"
    else:
        for part in parts[-1:] if name == "Callable" else parts:
            yield from _words(part)
