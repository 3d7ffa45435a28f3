"""This module lists the backends and chooses between them. A new one is one file and one entry of a tuple here."""

from __future__ import annotations

from typing import Any

from padis_lightning.ct.astra import Astra
from padis_lightning.ct.astra_cone import AstraCone
from padis_lightning.ct.cone import ConeGeometry
from padis_lightning.ct.geometry import G, Geometry
from padis_lightning.ct.joseph import Joseph
from padis_lightning.ct.projectors import Projector
from padis_lightning.ct.sparse import SparseMatrix
from padis_lightning.ct.torch_radon import TorchRadon
from padis_lightning.errors import InputError

#: backends of images by name, in the order in which they are tried: the exact one first
PROJECTORS: dict[str, type[Projector[Geometry]]] = {cls.name: cls for cls in (SparseMatrix, TorchRadon, Astra)}
#: backends of volumes
CONE_PROJECTORS: dict[str, type[Projector[ConeGeometry]]] = {cls.name: cls for cls in (Joseph, AstraCone)}


def choose(geometry: G, backend: str = "auto") -> Projector[G]:
    """Return the backend of that name, or the first that is installed, can compute the scan, and is good at its size.

    Where none can, or the named one cannot, an InputError says why.
    """
    projectors: dict[str, type[Projector[Any]]] = CONE_PROJECTORS if isinstance(geometry, ConeGeometry) else PROJECTORS
    if backend != "auto" and backend not in projectors:
        raise InputError(f"backend is {backend!r}; wanted auto, {', '.join(projectors)}")
    tried = projectors.values() if backend == "auto" else [projectors[backend]]
    obstacles = {cls: cls.obstacle(geometry) if cls.version() else "it is not installed" for cls in tried}
    able = [cls for cls, obstacle in obstacles.items() if obstacle is None]
    if not able:
        reasons = "; ".join(f"{cls.name}: {obstacle}" for cls, obstacle in obstacles.items())
        raise InputError(f"this scan cannot be computed ({reasons}); wanted a smaller scan or another backend")
    return next((cls for cls in able if cls.comfortable(geometry)), able[0])(geometry)
