"""Run sweeps: runs that differ in a few settings, written in a file."""

from padis_lightning.commands.sweep.command import run, write_table
from padis_lightning.commands.sweep.rows import Row, Sweep, read_sweep
from padis_lightning.commands.sweep.runner import Result, read_results, run_sweep

__all__ = ["Result", "Row", "Sweep", "read_results", "read_sweep", "run", "run_sweep", "write_table"]
