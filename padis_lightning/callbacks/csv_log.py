"""The log of training as a table in a CSV file."""

from __future__ import annotations

import shutil
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from padis_lightning.files import whole


class Log(CSVLogger):
    """Write Lightning's table so that neither a full disk nor a sudden end takes what was there."""

    @rank_zero_only
    def save(self) -> None:
        """Add the new rows to a copy of the table, which then takes its place.

        Raises:
            OSError: with the table's path; it is as before.
        """
        table = self.experiment
        if not table.metrics:
            return
        path = Path(table.metrics_file_path)
        with whole(path) as temporary:
            if path.is_file():
                shutil.copyfile(path, temporary)
            table.metrics_file_path = str(temporary)
            try:
                super().save()
            finally:
                table.metrics_file_path = str(path)
