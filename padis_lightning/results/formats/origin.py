"""What a written estimate says of its making."""

from __future__ import annotations

from typing import NamedTuple


class Origin(NamedTuple):
    """What made an estimate.

    Attributes:
        solver: its name.
        version: of this package.
        description: a line: solver, operator, prior, seed and versions.
        settings: a digest that other settings, weights and versions do not have.
    """

    solver: str
    version: str
    description: str
    settings: str
