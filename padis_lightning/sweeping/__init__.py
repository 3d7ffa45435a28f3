"""Sweeps: runs that differ in a few settings, written in a file."""

from padis_lightning.sweeping.command import run
from padis_lightning.sweeping.model import Metric, Row, Sweep
from padis_lightning.sweeping.reading import read_sweep
from padis_lightning.sweeping.records import Result
from padis_lightning.sweeping.running import run_sweep
from padis_lightning.sweeping.tables import read_results

__all__ = ["Metric", "Result", "Row", "Sweep", "read_results", "read_sweep", "run", "run_sweep"]
