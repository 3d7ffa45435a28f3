"""Settings of the operator that a measured scan needs, as a config would name it."""

from __future__ import annotations

from typing import Any

from padis_lightning.ct import ConeGeometry, Geometry


def scan_settings(geometry: Geometry | ConeGeometry, given: dict[str, Any], volumes: bool) -> dict[str, Any]:
    """Return ``class_path`` and ``init_args`` of the operator of a measured scan.

    Args:
        geometry: of the measurement.
        given: ``init_args`` of the operator that the config names; its backend, filter and count of slices are kept.
        volumes: whether the slices of a volume were measured.
    """
    cone = isinstance(geometry, ConeGeometry)
    stacked = volumes and not cone and "depth" in given
    own = given["operator"]["init_args"] if stacked else given
    described = {"class_path": f"padis_lightning.ct.{type(geometry).__name__}", "init_args": geometry.describe()}
    kept = {key: own[key] for key in ("backend", "filter") if key in own}
    scan = {
        "class_path": f"padis_lightning.operators.{'cone.ConeScan' if cone else 'ct.Scan'}",
        "init_args": {"geometry": described, **kept},
    }
    if not stacked:
        return scan
    return {
        "class_path": "padis_lightning.operators.slices.Slices",
        "init_args": {"operator": scan, "depth": given["depth"]},
    }


def scan_words(geometry: Geometry | ConeGeometry) -> str:
    """Return views and rays of a scan in words."""
    rays = "cone" if isinstance(geometry, ConeGeometry) else "fan" if geometry.fan else "parallel"
    return f"{len(geometry.angles)} {rays} views"
