"""The command ``doctor``: what of this machine works, found out by trying it."""

from padis_lightning.commands.doctor.command import run

__all__ = ["run"]
