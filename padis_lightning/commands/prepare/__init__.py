"""The command ``prepare``: any readable source becomes one HDF5 file for training."""

from padis_lightning.commands.prepare.command import run

__all__ = ["run"]
