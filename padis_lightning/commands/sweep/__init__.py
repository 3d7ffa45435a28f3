"""Sweeps: runs that differ in a few settings, written in a file."""

from padis_lightning.commands.sweep.command import run
from padis_lightning.commands.sweep.model import Metric, Row, Sweep
from padis_lightning.commands.sweep.reading import read_sweep
from padis_lightning.commands.sweep.records import Result
from padis_lightning.commands.sweep.running import run_sweep
from padis_lightning.commands.sweep.tables import read_results

__all__ = ["Metric", "Result", "Row", "Sweep", "read_results", "read_sweep", "run", "run_sweep"]
