"""JSON files of a result folder: without NaN and Infinity, and read only where they have the shape that predict writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import UnionType
from typing import Any

from padis_lightning.errors import InputError, one_line
from padis_lightning.files import write_text

NUMBER = int | float
Shape = type | UnionType | dict | list  # a dict of shapes by key, or by ``str`` for any key; a list with the shape of its items

SCORES = {"psnr": NUMBER | None, "ssim": NUMBER | None, "residual": NUMBER | None}
DISPLAY = {"units": str, "lower": NUMBER, "upper": NUMBER, "window": [NUMBER], "error_scale": NUMBER}


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Write a value whole; numbers that are not finite, which JSON does not have, become null."""
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def finite(value: Any) -> Any:  # noqa: ANN401
    """Return a nested value with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, shape: Shape) -> Any:  # noqa: ANN401
    """Read a value of a shape; numbers that are not finite, or of more than 18 digits, count as null.

    Raises:
        InputError: the file is not JSON, or of another shape; with the first place that differs.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(
            text,
            parse_constant=lambda _: None,
            parse_float=lambda s: finite(float(s)),
            parse_int=lambda s: int(s) if len(s) < 19 else None,
        )
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); wanted what predict writes") from error
    difference = first_difference(value, shape)
    if difference:
        raise InputError(f"{path} is not as predict writes it: {difference}")
    return value


def first_difference(value: Any, shape: Shape, place: str = "it") -> str | None:  # noqa: ANN401
    """Return where a value has another shape, in words; None where it has not."""
    if isinstance(shape, (dict, list)):
        kind: type[Any] = type(shape)
        if not isinstance(value, kind):
            return f"{place} is {value!r:.40}; wanted a {kind.__name__}"
        parts: list[tuple[Any, Any, Shape]]
        if isinstance(shape, list):
            parts = [(k, part, shape[0]) for k, part in enumerate(value)]
        elif str in shape:
            parts = [(key, part, shape[str]) for key, part in value.items()]
        else:
            missing = ", ".join(shape.keys() - value.keys())
            if missing:
                return f"{place} lacks {missing}"
            parts = [(key, value[key], part) for key, part in shape.items()]
        found = (first_difference(part, wanted, f"{place}[{key!r:.40}]") for key, part, wanted in parts)
        return next(filter(None, found), None)
    return None if isinstance(value, shape) else f"{place} is {value!r:.40}; wanted {getattr(shape, '__name__', shape)}"
