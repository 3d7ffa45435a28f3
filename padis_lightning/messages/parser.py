"""The parser's messages, of many lines, as sentences: the key and the value seen, the value wanted."""

from __future__ import annotations

import ast
import inspect
import math
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import Namespace

from padis_lightning.errors import InputError
from padis_lightning.registry import subclasses

PLAIN = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "tuple": "a list", "list": "a list",
    "collections.abc.Sequence": "a list", "dict": "keys and values", "datetime.timedelta": "a time such as 0:30:00",
}  # fmt: skip
NOISE = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>", "Expected a path but")
LONGEST = 80  # characters of a value that are shown


def parser_sentence(message: str) -> str:
    """One sentence for a message of the parser."""
    for pattern, told in TOLD:
        found = re.search(pattern, message)
        sentence = found and told(*found.groups())
        if sentence:
            return sentence
    return _value_sentence(message) or f"{flat(message)}; wanted what --help lists"


def flat(message: str) -> str:
    """A message in one line, without the branches of a union that nobody meant."""
    lines = (line.strip().removeprefix("- ") for line in message.partition("Given value type:")[0].splitlines())
    return " ".join(line for line in lines if line and not line.startswith(NOISE)).rstrip(".")


def _short(value: str) -> str:
    value = value.strip()
    return value if len(value) <= LONGEST else f"{value[:LONGEST]} ..."


def _quoted(value: str) -> str:
    return value if re.match(r"[-+\d.\[{(]|(None|True|False)$", value) else repr(value)


def _unknown_key(path: str, key: str) -> str | None:
    cls = _find(path)
    if cls is None:
        return None
    known = [name for name in keys_of(cls) if name not in ("prior", "operator", "problem")]
    return f"{key!r} is not a key of {cls.__name__}; wanted one of {', '.join(known)}"


TOLD = (
    (r"class_path '([\w.]+)':\s+(?:- )?Option '([^']+)' is not accepted", _unknown_key),
    (
        r"class_path '(?:[\w.]+\.)?(\w+)':\s+(?:- )?the following arguments are required: (.*)",
        lambda name, keys: f"{name} comes without {keys}; wanted a value for it",
    ),
    (r'Spaces not allowed in keys: "(.*?)"\.', lambda key: f"a config has the key {key!r}; wanted keys without spaces"),
    (r"^unrecognized arguments: (.*)$", lambda words: f"there is no option {_short(words)}; wanted those that --help lists"),
    (
        r"^Subcommand '(\w+)' does not accept option '(.*?)'",
        lambda command, key: f"{key!r} is not a key of {command}; wanted one that {command} --help lists",
    ),
    (
        r"^the following arguments are required: (.*)$",
        lambda keys: f"{keys.replace(', ', ' and ')} missing; wanted --config FILE that names them, or options",
    ),
    (
        r"(?s)^Problems parsing config: (.*)$",
        lambda why: f"a config cannot be read ({_short(flat(why))}); wanted YAML of keys and values",
    ),
    (
        r"(?s)^Unexpected config: (.*)$",
        lambda text: f"a config holds {_short(text)!r}; wanted keys and values such as 'model: DDS'",
    ),
    (r"^argument subcommand: invalid choice: '(.*?)' ", lambda word: f"there is no command {word!r}; wanted fit or predict"),
    (r"^Key must be a string, got: (.*?)\.?$", lambda key: f"a config has the key {key}; wanted keys of text"),
    (r"^argument ([-\w/]+): expected (.*)$", lambda flag, what: f"{flag} comes without a value; wanted {what}"),
    (r'^--([\w.]+\.help): "?(?:.*: )?([^"]+?)"?(?: is not .*)?$', lambda flag, name: f"{flag} names {name}; wanted a class"),
)  # fmt: skip


def check_numbers(values: Mapping[str, Any]) -> None:
    """Refuse numbers that are not finite or do not fit into 64 bits, wherever they are.

    Args:
        values: the flat config.

    Raises:
        InputError: with the key.
    """
    for key, value in values.items():
        for number in _numbers(value):
            large = isinstance(number, int) and not -(2**63) <= number < 2**63
            if large or not math.isfinite(number):
                seen = f"{key.replace('.init_args', '')} is {_short(str(number))}"
                raise InputError(f"{seen}; wanted a finite number, a whole one of at most 64 bits")


def _numbers(value: Any) -> Iterator[float]:  # noqa: ANN401 - whatever a config holds
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, (dict, Namespace)):
        for one in vars(value).values() if isinstance(value, Namespace) else value.values():
            yield from _numbers(one)


def keys_of(cls: type) -> list[str]:
    """Names of what a class takes, those that it passes on to its bases included."""
    found: dict[str, None] = {}
    for base in cls.__mro__:
        parameters = inspect.signature(vars(base).get("__init__", lambda self, **rest: None)).parameters.values()
        kinds = {p.name: p.kind for p in parameters if p.name != "self"}
        found |= dict.fromkeys(name for name, kind in kinds.items() if kind.name not in ("VAR_KEYWORD", "VAR_POSITIONAL"))
        if inspect.Parameter.VAR_KEYWORD not in kinds.values():
            break
    return list(found)


def _value_sentence(message: str) -> str | None:
    """``model.steps is 'x'; wanted a whole number``, from the innermost key that the message is about."""
    keys, parent, block = _innermost(message.splitlines())
    if not keys:
        return None
    text = "\n".join(block)
    given = re.search(r"^ *Given value: (.*?)(?=^ *Given|\Z)", text, re.DOTALL | re.MULTILINE) or re.search(
        r"Got value: (.*)", text
    )
    if given is None:
        given = re.search(r"(?:import path string|import path format): (.*)", text)
    nested = given and re.match(r"NestedArg\(key='([^']+)', val=(.*)\)$", given[1].strip())
    value = nested[2] if nested else given[1] if given else None
    key = ".".join([*keys, nested[1]] if nested else keys)
    beside = _beside(value)
    if beside:
        return f"{key} has the key {beside!r} beside class_path; wanted it in init_args"
    wanted = list(dict.fromkeys(_wanted(text, parent, keys[-1])))
    seen = f"{key} is {_quoted(_short(value))}" if value is not None else f"{key} cannot be used ({_short(flat(text))})"
    return f"{seen}; wanted {' or '.join(wanted) if wanted else 'another value'}"


def _beside(value: str | None) -> str | None:
    """A key that a class given as keys and values has besides the two of a class."""
    try:
        given = ast.literal_eval((value or "").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(given, dict) or "class_path" not in given:
        return None
    return next((str(key) for key in given if key not in ("class_path", "init_args", "__path__")), None)


def _innermost(lines: list[str]) -> tuple[list[str], str | None, list[str]]:
    """Keys from the outermost to the innermost, the class that has the last of them, and the lines below it."""
    keys, parent, path, at, start = [], None, None, -1, 0
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if keys and line.strip() and indent <= at:
            return keys, parent, lines[start:i]
        named = re.search(r"class_path '([\w.]+)'", line)
        path = named[1] if named else path
        found = re.search(r'Parser key "([^"]+)"', line)
        if found and indent > at:
            keys, parent, at, start = [*keys, found[1]], path, indent, i + 1
    return keys, parent, lines[start:]


def _wanted(text: str, parent: str | None, key: str) -> Iterator[str]:
    for expected in re.findall(r"Expected an? (.*?)(?:\. Got value|$)", text, re.MULTILINE):
        literal, plain = re.search(r"Literal\[(.*)\]", expected), re.match(r"<class '([\w.]+)'>", expected)
        counted = re.match(r"tuple with (\d+) elements", expected)
        if literal:
            yield literal[1].replace("'", "").replace('"', "")
        elif counted:
            yield f"a list of {counted[1]} values"
        elif plain and plain[1] in PLAIN:
            yield PLAIN[plain[1]]
    if re.search(r"import path|valid subclass|subclass of|class_path", text):
        names = sorted({sub.__name__ for base in _bases(text, parent, key) for sub in _known(base)})
        yield f"one of {', '.join(names)}" if names else "the name of a class"


def _bases(text: str, parent: str | None, key: str) -> list[type]:
    """The classes of which a key takes a subclass."""
    subtypes = re.search(r"Subtypes: \[(.*)\]$", text, re.MULTILINE)
    if subtypes:
        found = [_find(path) for path in re.findall(r"[\w.]+\.\w+", subtypes[1])]
        return [cls for cls in found if cls is not None and cls.__module__.startswith(("padis_lightning", "lightning."))][-1:]
    cls = _find(parent)
    hint = typing.get_type_hints(cls.__init__).get(key) if cls else None
    return [base for base in (hint, *typing.get_args(hint)) if inspect.isclass(base) and base is not type(None)]


def _known(base: type) -> Iterator[type]:
    for sub in subclasses(base):
        if sub.__module__.startswith(("padis_lightning.", "lightning.pytorch.")) and not inspect.isabstract(sub):
            yield from () if sub.__name__.startswith("_") else (sub,)


def _find(path: str | None) -> type | None:
    """The class that the parser has already imported."""
    module, _, name = (path or "").rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    return cls if inspect.isclass(cls) else None
