"""This module lists the backends and chooses between them. A new one is one file and one entry of a tuple here."""

from __future__ import annotations

from padis_lightning.ct.astra import Astra
from padis_lightning.ct.astra_cone import AstraCone
from padis_lightning.ct.cone import ConeGeometry
from padis_lightning.ct.geometry import Geometry
from padis_lightning.ct.joseph import Joseph
from padis_lightning.ct.projectors import Projector
from padis_lightning.ct.sparse import SparseMatrix
from padis_lightning.ct.torch_radon import TorchRadon
from padis_lightning.errors import InputError

#: backends of images by name, in the order in which they are tried: the exact one first
PROJECTORS: dict[str, type[Projector]] = {cls.name: cls for cls in (SparseMatrix, TorchRadon, Astra)}
#: backends of volumes
CONE_PROJECTORS: dict[str, type[Projector]] = {cls.name: cls for cls in (Joseph, AstraCone)}


def choose(geometry: Geometry | ConeGeometry, backend: str = "auto") -> Projector:
    """Return the backend of that name, or the first that is installed, can compute the scan, and is good at its size.

    Raises:
        InputError: none can, or the named one cannot; with the reasons.
    """
    projectors = CONE_PROJECTORS if isinstance(geometry, ConeGeometry) else PROJECTORS
    if backend != "auto" and backend not in projectors:
        raise InputError(f"backend is {backend!r}; wanted auto, {', '.join(projectors)}")
    able, reasons = [], []
    for name, cls in projectors.items():
        if backend not in ("auto", name):
            continue
        obstacle = cls.obstacle(geometry) if cls.version() else "it is not installed"
        if obstacle is None:
            able.append(cls)
        else:
            reasons.append(f"{name}: {obstacle}")
    if not able:
        raise InputError(f"this scan cannot be computed ({'; '.join(reasons)}); wanted a smaller scan or another backend")
    return next((cls for cls in able if cls.comfortable(geometry)), able[0])(geometry)
