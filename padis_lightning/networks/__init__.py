"""Patch networks. A new one is one file here: a subclass of PatchNetwork."""

from padis_lightning.networks.base import PatchNetwork
from padis_lightning.registry import import_submodules

import_submodules(__name__, __path__)

__all__ = ["PatchNetwork"]
