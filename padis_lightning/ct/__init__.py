"""Computed tomography below the operators: this package holds scans, projectors and filtered back-projection."""

from padis_lightning.ct.backends import CONE_PROJECTORS, PROJECTORS, choose
from padis_lightning.ct.cone import ConeGeometry
from padis_lightning.ct.geometry import Geometry
from padis_lightning.ct.projectors import Projector

__all__ = ["CONE_PROJECTORS", "PROJECTORS", "ConeGeometry", "Geometry", "Projector", "choose"]
