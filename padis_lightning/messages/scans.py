"""The operator of a measured file, as a config would name it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from padis_lightning.ct import ConeGeometry, Geometry
from padis_lightning.data.conventions import Named
from padis_lightning.data.sources.axes import describe_scan

if TYPE_CHECKING:
    from jsonargparse import Namespace


def take_scan(config: Namespace) -> str | None:
    """Put operator and range of a file of measurements into a parsed config; return a line that says so, None for other data."""
    data = config.data.init_args  # data that is drawn has no path
    named = Named(*(data.get(key) for key in Named._fields))
    if not data.get("path"):
        return None
    calibrated = {"auto": True, "None": None}.get(str(data.get("range")), False)
    geometry, axis, found, pixels = describe_scan(data.path, named, data.get("axis"), calibrated)
    if geometry is None:
        return None
    if calibrated is not False:
        data.range = found
    given = config.operator.init_args.as_dict() if config.operator else {}
    config.operator = namespace(type(config), scan_settings(geometry, given, bool(data.get("volumes")), pixels))
    rays = "cone" if isinstance(geometry, ConeGeometry) else "fan" if geometry.fan else "parallel"
    return f"{data.path} is a measurement of {len(geometry.angles)} {rays} views; its geometry is used{axis and '; '}{axis}"


def namespace(kind: type[Namespace], values: dict[str, Any]) -> Namespace:
    """Return nested values as a parsed config has them."""
    return kind({key: namespace(kind, value) if isinstance(value, dict) else value for key, value in values.items()})


def scan_settings(geometry: Geometry | ConeGeometry, given: dict[str, Any], volumes: bool, pixels: str | None) -> dict[str, Any]:
    """Return ``class_path`` and ``init_args`` of the operator of a measured scan.

    Args:
        geometry: of the measurement.
        given: ``init_args`` of the operator that the config names; its backend, filter, pixels and count of slices are kept.
        volumes: whether the slices of a volume were measured.
        pixels: what they stand for, where the config's operator does not say and the file does.
    """
    cone = isinstance(geometry, ConeGeometry)
    stacked = volumes and not cone and "depth" in given
    own = given["operator"]["init_args"] if stacked else given
    described = {"class_path": f"padis_lightning.ct.{type(geometry).__name__}", "init_args": geometry.describe()}
    kept = {"pixels": pixels} | {key: own[key] for key in ("backend", "filter", "pixels") if own.get(key) is not None}
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
