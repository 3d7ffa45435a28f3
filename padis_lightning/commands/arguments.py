"""Arguments of the commands that are not Lightning's."""

from __future__ import annotations

import argparse

from padis_lightning.errors import InputError


class Parser(argparse.ArgumentParser):
    """A parser that raises; its program's last word is the command's name."""

    def error(self, message: str) -> None:
        """One sentence instead of the usage and an exit.

        Raises:
            InputError: always.
        """
        raise InputError(f"{message}; wanted what {self.prog.split()[-1]} --help lists")
