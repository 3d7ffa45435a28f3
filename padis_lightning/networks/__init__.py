"""Patch networks. To add one, write a file here with a subclass of PatchNetwork."""

from padis_lightning.networks.base import PatchNetwork
from padis_lightning.registry import import_submodules

import_submodules(__name__, __path__)

__all__ = ["PatchNetwork"]
