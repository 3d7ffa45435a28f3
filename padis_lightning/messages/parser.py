"""The parser's errors as sentences: the key and the value seen, the value wanted.

The parser wraps an error once for each key and class that it lies in. Keys and classes are read off these layers; what is wanted
comes from the annotation of the innermost one.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from padis_lightning.errors import one_line
from padis_lightning.messages.allowed import find_class, refused
from padis_lightning.registry import subclasses

# ruff: noqa: ANN401 - values and annotations are anything
PLAIN = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "list": "a list", "Sequence": "a list",
    "Iterable": "a list", "dict": "keys and values", "timedelta": "a time such as 0:30:00",
}  # fmt: skip
LONGEST = 80  # characters of a value that are shown


def sentence(error: BaseException, types: Mapping[str, Any]) -> str:
    """Return one sentence for an error of the parser.

    Args:
        error: what it raised.
        types: what its options take.
    """
    denied = refused(str(error))
    if denied:
        return denied
    keys, cls, message, seen = _layers(error)
    unknown = re.search(r"[Oo]ption '([^']+)' is not accepted|does not accept option '([^']+)'", message)
    lacking = re.search(r"arguments are required: (.*)", message)
    if unknown and cls:
        return f"{unknown[1]!r} is not a key of {cls.__name__}; wanted one of {', '.join(keys_of(cls))}"
    if unknown:
        return f"{unknown[1] or unknown[2]!r} is not a key of a config; wanted one that --help lists"
    if lacking and cls:
        return f"{cls.__name__} comes without {lacking[1]}; wanted a value for it"
    if lacking:
        return f"{lacking[1].replace(', ', ' and ')} missing; wanted --config FILE that names them, or options"
    if not keys:
        strange = message.removeprefix("unrecognized arguments: ")
        seen = f"there is no option {shown(strange)}" if strange != message else shown(one_line(message), 300)
        return f"{seen}; wanted what --help lists"
    hint = _hints(cls).get(keys[-1]) if cls else types.get(keys[0])
    wanted = " or ".join(dict.fromkeys(_words(hint))) or "another value"
    key = ".".join(keys)
    return f"{key} is {shown(seen)}; wanted {wanted}" if seen else f"{key} cannot be used ({shown(message)}); wanted {wanted}"


def shown(value: str, longest: int = LONGEST) -> str:
    """Return the beginning of a text in one line, in quotes unless it is a number or a list."""
    text = one_line(value)
    return text if len(text) <= longest else f"{text[:longest]} ..."


def _layers(error: BaseException | None) -> tuple[list[str], type | None, str, str | None]:
    """Return keys from the outermost to the innermost, the class that takes the last, the last message and the value seen."""
    keys: list[str] = []
    cls, message, value, of_class = None, "", None, True
    while error is not None:
        if str(error) != message:
            message = str(error)
            named = re.match(r"Problem with given class_path '([\w.]+)'", message)
            key = re.match(r'Parser key "([^"]+)"', message)
            if named:
                cls, of_class = find_class(named[1]), True
            elif key and of_class:
                keys, of_class = [*keys, key[1]], False
            given = re.search(r"(?:Got|Given) value: ((?!NestedArg).*)", message)
            value = given[1] if given else value
        error = error.__cause__ or error.__context__
    return keys, cls, message, value and _quoted(value)


def _quoted(value: str) -> str:
    return value if re.match(r"[-+\d.\[{(]|(None|True|False)$", value) else repr(value)


def keys_of(cls: type) -> list[str]:
    """Return the names of what a class takes, those that it passes on to its bases included, but what the command line gives."""
    found: dict[str, None] = {}
    for base in cls.__mro__:
        parameters = inspect.signature(vars(base).get("__init__", lambda self, **rest: None)).parameters.values()
        kinds = {p.name: p.kind for p in parameters if p.name not in ("self", "prior", "operator", "problem")}
        found |= dict.fromkeys(name for name, kind in kinds.items() if kind.name not in ("VAR_KEYWORD", "VAR_POSITIONAL"))
        if inspect.Parameter.VAR_KEYWORD not in kinds.values():
            break
    return list(found)


def _hints(cls: type) -> dict[str, Any]:
    bases = [base for base in reversed(cls.__mro__) if "__init__" in vars(base)]
    return {name: hint for base in bases for name, hint in typing.get_type_hints(base.__init__).items()}


def _words(hint: Any) -> Iterator[str]:
    """Yield what an annotation takes, in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    name = getattr(origin or hint, "__name__", "")
    if origin is typing.Literal:
        yield ", ".join(map(str, parts))
    elif origin is tuple:
        yield f"a list of {len(parts)} values" if ... not in parts else "a list"
    elif name in PLAIN and typing.get_origin(parts[0] if parts else None) is not typing.Literal:
        yield PLAIN[name]
    elif inspect.isclass(hint) and hint is not type(None):
        known = sorted({sub.__name__ for sub in subclasses(hint) if _is_ours(sub)})
        yield f"one of {', '.join(known)}" if known else "the name of a class"
    else:
        for part in parts:
            yield from _words(part)


def _is_ours(cls: type) -> bool:
    named = cls.__module__.startswith(("padis_lightning.", "lightning.pytorch."))
    return named and not inspect.isabstract(cls) and not cls.__name__.startswith("_")
