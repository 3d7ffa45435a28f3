"""Arguments of the commands that are not Lightning's."""

from __future__ import annotations

import argparse

from padis_lightning.errors import InputError


class Parser(argparse.ArgumentParser):
    """Parse a command's arguments and raise on a mistake; the program's last word is the command's name."""

    def error(self, message: str) -> None:
        """Raise one sentence instead of printing the usage and exiting.

        Raises:
            InputError: always.
        """
        raise InputError(f"{message}; wanted what {self.prog.split()[-1]} --help lists")
