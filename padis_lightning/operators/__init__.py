"""Measurement operators: each is one file that holds a subclass of LinearOperator."""

from padis_lightning.operators.base import Composition, LinearOperator
from padis_lightning.operators.stack import Stack
from padis_lightning.registry import import_submodules

import_submodules(__name__, __path__)

__all__ = ["Composition", "LinearOperator", "Stack"]
