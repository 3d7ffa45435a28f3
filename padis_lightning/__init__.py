"""Patch diffusion priors for inverse problems in imaging, as PyTorch Lightning modules.

The layers, lowest first; imports run only upwards::

    networks, operators, linalg, random -> diffusion -> priors -> solvers, training -> callbacks, cli
"""

__version__ = "0.1.0"
