"""A check, what it finds, and the wall around it: whatever goes wrong inside becomes a finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from padis_lightning.errors import one_line

State = Literal["ok", "absent", "broken"]
LONGEST = 300  # characters of another library's message


class _Seen(Exception):  # noqa: N818 - a finding, raised to leave a check
    """What was seen.

    Args:
        text: a line.
        remedy: what to do about it; empty for the check's own, or where there is nothing to do.
    """

    def __init__(self, text: str, remedy: str = "") -> None:
        super().__init__(text)
        self.remedy = remedy


class Absent(_Seen):
    """Something optional is not there."""


class Broken(_Seen):
    """Something does not do what it should."""


@dataclass(frozen=True)
class Finding:
    """What a check found; ``remedy`` is what to do about it, empty where it is well or nothing can be done."""

    name: str
    state: State
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """One thing to try.

    Args:
        name: what is looked at.
        look: tries it and says in a line what it saw; raises :class:`Absent`, or :class:`Broken` or anything else.
        remedy: what to do where it is broken.
    """

    name: str
    look: Callable[[], str]
    remedy: str

    def find(self) -> Finding:
        """Try it; never raises."""
        try:
            return Finding(self.name, "ok", self.look())
        except Absent as gap:
            return Finding(self.name, "absent", str(gap), gap.remedy)
        except Broken as fault:
            return Finding(self.name, "broken", str(fault), fault.remedy or self.remedy)
        except Exception as error:
            text = one_line(f"{type(error).__name__}: {error}")
            return Finding(self.name, "broken", text[:LONGEST], self.remedy)
