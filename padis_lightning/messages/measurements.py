"""What a config needs for measured data: the operator of a scan, or one that follows the sizes of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from padis_lightning.data.sources.kspace import KSpace, find_kspace
from padis_lightning.data.sources.pictures import holds_pictures
from padis_lightning.errors import InputError
from padis_lightning.messages.allowed import find_class
from padis_lightning.messages.scans import namespace, take_scan
from padis_lightning.operators.mri import CartesianMRI, MeasuredMRI
from padis_lightning.operators.non_cartesian import MeasuredNonCartesianMRI, NonCartesianMRI
from padis_lightning.operators.pixels import PixelOperator

if TYPE_CHECKING:
    from jsonargparse import Namespace


def take_measurement(config: Namespace) -> str | None:
    """Fit a parsed config to measured data; return a line that says so, None for other data.

    Arrays ``y`` are pictures where the config's operator measures pixels, and nothing in the file is of a scan.

    Raises:
        InputError: nothing says what is measured.
    """
    data, operator = config.data.init_args, config.operator  # data that is drawn has no path
    cls = find_class(operator.class_path) if operator else None
    if data.get("path") and (found := find_kspace(Path(data.path))):
        return _take_kspace(config, found, cls)
    if cls is None or not issubclass(cls, PixelOperator) or not data.get("path"):
        said = take_scan(config)
        if "path" in data and not config.operator:
            seen = f"{data.path} holds no scan" if data.path else "there is no data"
            wanted = "--data.path of a measured scan, as docs/formats.md has them, or --operator"
            raise InputError(f"{seen} and the config names no operator; wanted {wanted}")
        return said
    path = Path(data.path)
    if not data.measured and not holds_pictures(path):
        return take_scan(config)
    data.measured, data.size = True, None
    if operator.init_args.get("mask") is not None:
        operator.init_args.image_shape = None  # the mask has its own
    return f"{path} is a measurement: nothing is simulated, no noise is added, and sizes follow from it"


def _take_kspace(config: Namespace, found: KSpace, cls: type | None) -> str:
    """Put the operator of k-space into a parsed config, unless that names maps and the points; return a line that says so."""
    data, (count, held, *size) = config.data.init_args, found.shape
    known, measured = (NonCartesianMRI, MeasuredNonCartesianMRI) if found.sides else (CartesianMRI, MeasuredMRI)
    shown = f"{size[1]} samples off the grid" if found.sides else f"{size[0]}x{size[1]}"
    said = f"{data.path} is k-space of {count} slices of {held} coils, {shown}"
    if cls is known:
        return f"{said}; {'trajectory' if found.sides else 'mask'} and maps are those of the config"
    data.size = None
    own = config.operator.init_args.as_dict() if cls is measured else {}
    settings = {**own, "size": list(found.sides or size), "coils": data.get("coils") or held}
    if found.sides:
        settings["trajectory"] = str(data.path)
    path = f"{measured.__module__}.{measured.__name__}"
    config.operator = namespace(type(config), {"class_path": path, "init_args": settings})
    return f"{said}; {'maps' if found.sides else 'mask and maps'} follow from each slice"
