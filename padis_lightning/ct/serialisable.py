"""Geometries are kept as plain values and as JSON files."""

from __future__ import annotations

import json
import math
from abc import ABC
from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, fields
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from padis_lightning.errors import InputError
from padis_lightning.files import write_text


def _number(value: object, name: str) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InputError(f"the geometry has {name} {value!r:.40}; wanted a number")
    number = float(value)
    if math.isfinite(number) and abs(number) > 1e15:
        raise InputError(f"the geometry has {name} {number:g}; wanted at most 1e15")
    return number


def _whole(value: object, name: str) -> int:
    number = _number(value, name)
    if number % 1 or abs(number) > MOST:
        raise InputError(f"the geometry has {name} {number:g}; wanted a whole number of at most {MOST}")
    return int(number)


def _truth(value: object, name: str) -> bool:
    if value not in (False, True):
        raise InputError(f"the geometry has {name} {value!r:.40}; wanted true or false")
    return bool(value)


def _numbers(values: object, name: str) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)):
        raise InputError(f"the geometry has {name} {values!r:.40}; wanted numbers")
    return tuple(_number(value, name) for value in values)


def _sides(values: object, name: str, count: int) -> tuple[int, ...]:
    """Read the sides of an image or a volume; one number stands for all of them."""
    sides = tuple(_whole(v, name) for v in (values if isinstance(values, (list, tuple)) else [values] * count))
    if len(sides) != count:
        raise InputError(f"the geometry has {name} {list(sides)}; wanted {count} numbers")
    return sides


def _centre(value: object, name: str) -> str | tuple[float, ...]:
    if isinstance(value, str):
        return value
    place = _numbers(value, name)
    if len(place) != 2:
        raise InputError(f"the geometry has {name} {list(place)}; wanted middle, pixel, or a row and a column")
    return place


MOST = 10**6  # pixels along a side, and bins
READERS: dict[str, Callable[[Any, str], Any]] = {  # by the type that a field is annotated with
    "int": _whole,
    "float": _number,
    "float | None": lambda value, name: None if value is None else _number(value, name),
    "bool": _truth,
    "Offset": lambda value, name: (_numbers if isinstance(value, (list, tuple)) else _number)(value, name),
    "Centre": _centre,
    "tuple[float, ...]": _numbers,
    "tuple[int, int]": lambda values, name: _sides(values, name, 2),
    "tuple[int, int, int]": lambda values, name: _sides(values, name, 3),
}


class Serialisable(ABC):
    """A serialisable dataclass is kept as plain values: numbers, and tuples of them."""

    FORMAT: ClassVar[str]
    if TYPE_CHECKING:  # hidden from jsonargparse, which evaluates annotations where a subclass is defined
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def describe(self) -> dict[str, Any]:
        """Return plain values for a file."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def read(cls, described: dict[str, Any]) -> Self:
        """Build a geometry from what :meth:`describe` returned; raise an InputError for missing, unknown and wrong keys."""
        known = {field.name: field for field in fields(cls)}
        missing = sorted(name for name, field in known.items() if field.default is MISSING and name not in described)
        unknown = sorted(described.keys() - known)
        if missing or unknown:
            seen = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)}"
            raise InputError(f"the geometry {seen}; wanted the keys {', '.join(known)}")
        try:
            return cls(**{name: READERS[str(known[name].type)](value, name) for name, value in described.items()})
        except InputError:
            raise
        except (TypeError, ValueError, ArithmeticError) as error:
            raise InputError(f"the geometry cannot be used ({error}); wanted numbers, whole ones of pixels and bins") from error

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        write_text(Path(path), json.dumps({"format": self.FORMAT, **self.describe()}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; raise an InputError where there is no such file, or it holds something else."""
        try:
            described = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise InputError(f"{path} cannot be read ({error}); wanted a geometry in .json") from error
        if not isinstance(described, dict) or described.pop("format", None) != cls.FORMAT:
            raise InputError(f"{path} is not a geometry; wanted a .json file with the format {cls.FORMAT!r}")
        try:
            return cls.read(described)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
