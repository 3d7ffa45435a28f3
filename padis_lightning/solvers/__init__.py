"""Solvers of inverse problems. A new one is one file here: a subclass of Solver or DiffusionSolver."""

from padis_lightning.registry import import_submodules
from padis_lightning.solvers.base import Solver
from padis_lightning.solvers.diffusion import DiffusionSolver

import_submodules(__name__, __path__)

__all__ = ["DiffusionSolver", "Solver"]
