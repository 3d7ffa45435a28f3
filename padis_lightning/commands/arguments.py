"""Arguments of the commands that are not Lightning's."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from padis_lightning.errors import InputError
from padis_lightning.messages.paths import is_address


class Parser(argparse.ArgumentParser):
    """Parse a command's arguments, whose names cannot be shortened, and raise on a mistake.

    Args:
        command: its name.
        description: what it does.
        options: argparse's.
    """

    def __init__(self, command: str, description: str, **options: Any) -> None:  # noqa: ANN401 - argparse's
        super().__init__(prog=f"python -m padis_lightning {command}", description=description, allow_abbrev=False, **options)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        """Raise one sentence instead of printing the usage and exiting.

        Raises:
            InputError: always.
        """
        raise InputError(f"{message}; wanted what {self.prog.split()[-1]} --help lists")


def _path(text: str) -> Path:
    if is_address(text):
        raise argparse.ArgumentTypeError(f"{text!r} is an address and no path on this machine")
    return Path(text)
