"""Templates of the page; whatever is put into them is text, never markup."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parents[2] / "assets" / "report"


def raw(name: str) -> Markup:
    """Return a file of the page as it is."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    return environment


def render(name: str, **values: Any) -> Markup:  # noqa: ANN401
    """Return a template with values put in."""
    return Markup(_environment().get_template(name).render(values))
