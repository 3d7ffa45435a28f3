"""The log of training as a table in a CSV file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from padis_lightning.files import whole


class Log(CSVLogger):
    """Write Lightning's table so that neither a full disk nor a sudden end takes what was there."""

    @rank_zero_only
    def save(self) -> None:
        """Append the new rows; where they bring new columns, write the table anew and whole.

        Raises:
            OSError: with the table's path; it is as before.
        """
        table, known = self.experiment, set(self.experiment.metrics_keys)
        if not table.metrics:
            return
        path, widened = Path(table.metrics_file_path), any(row.keys() - known for row in table.metrics)
        with whole(path) if widened else _unchanged_on_error(path) as target:
            if widened and path.is_file():
                shutil.copyfile(path, target)
            table.metrics_file_path = str(target)
            try:
                super().save()
            finally:
                table.metrics_file_path = str(path)


@contextmanager
def _unchanged_on_error(path: Path) -> Iterator[Path]:
    length = path.stat().st_size
    try:
        yield path
    except OSError as error:
        os.truncate(path, length)
        error.filename = str(path)
        raise
