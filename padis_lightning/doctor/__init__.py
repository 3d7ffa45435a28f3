"""The command ``doctor``: what of this machine works, found out by trying it."""

from padis_lightning.doctor.command import run

__all__ = ["run"]
