"""Measurement operators. A new one is one file here: a subclass of LinearOperator."""

from padis_lightning.modules import import_submodules
from padis_lightning.operators.base import Composition, LinearOperator, Stack

import_submodules(__name__, __path__)

__all__ = ["Composition", "LinearOperator", "Stack"]
