"""A folder of projection TIFFs with flats and darks, and ``scan.yaml`` or ``scan.json`` of its geometry."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from padis_lightning.data.conventions import Named
from padis_lightning.data.names import natural
from padis_lightning.data.notes import note
from padis_lightning.data.scans.base import Format, fan_row, field, stack_of
from padis_lightning.data.scans.frames import frame_shape, load_frames
from padis_lightning.errors import InputError
from padis_lightning.inputs import reading

DESCRIBED = ("scan.yaml", "scan.yml", "scan.json")
FILES = {"projections": "proj*", "flats": "flat*", "darks": "dark*"}
TEXT = ("angle_unit", "centre")
NUMBERS = (
    "range",
    "size",
    "pixel_spacing",
    "bin_spacing",
    "source_distance",
    "detector_distance",
    "bin_offset",
    "axis",
    "curved",
)
ENDINGS = (".tif", ".tiff")


def _described(path: Path) -> Path | None:
    """Return the description of a folder of projections; None for other folders and files."""
    return next((path / name for name in DESCRIBED if (path / name).is_file()), None) if path.is_dir() else None


def _files(folder: Path, pattern: object, key: str, origin: Path) -> list[Path]:
    """Return the TIFFs that a pattern names below the folder, those of folders that it names among them, as people count."""
    place = PurePosixPath(str(pattern))
    if not isinstance(pattern, str) or place.is_absolute() or ".." in place.parts or not place.parts:
        raise InputError(f"{origin} has {key} {pattern!r:.60}; wanted names below its own folder, such as {FILES[key]}")
    found = [file for one in folder.glob(pattern) for file in (one.iterdir() if one.is_dir() else [one])]
    return sorted({file for file in found if file.suffix.lower() in ENDINGS and file.is_file()}, key=natural)


def _load(origin: Path) -> dict[str, Any]:
    with reading(origin, "YAML or JSON of keys and values"):
        text = origin.read_text(encoding="utf-8")
        told = json.loads(text) if origin.suffix == ".json" else yaml.safe_load(text)
    if not isinstance(told, dict):
        raise InputError(f"{origin} holds {str(told)!r:.60}; wanted keys and values such as 'angle_step: 1.0'")
    return told


def _angles(told: dict[str, Any], views: int, origin: Path) -> np.ndarray:
    """Return the angles that are listed, or those of even steps from ``angle_start``."""
    if "angles" in told:
        listed = np.asarray(told["angles"])
        if listed.shape != (views,) or listed.dtype.kind not in "uif":
            raise InputError(f"{origin} has {listed.size} angles for {views} projections; wanted as many numbers")
        return listed
    if "angle_step" not in told:
        raise InputError(f"{origin} has no angles; wanted angles, or angle_step and perhaps angle_start, and angle_unit")
    start, step = (_number(told.get(key, 0.0), key, origin) for key in ("angle_start", "angle_step"))
    return start + step * np.arange(views)


def _number(value: object, key: str, origin: Path) -> Any:  # noqa: ANN401 - a number or several
    values = np.asarray(value)
    if values.dtype.kind not in "uifb":
        raise InputError(f"{origin} has {key} {value!r:.40}; wanted a number")
    return values


def read(path: Path, named: Named) -> dict[str, np.ndarray]:
    """Read the projections that ``projections``, ``flats`` and ``darks`` name, and the other keys as those of a ``.npz``."""
    origin = _described(path) or path
    told = _load(origin)
    files = {key: _files(path, told.get(key, usual), key, origin) for key, usual in FILES.items()}
    if not files["projections"]:
        raise InputError(f"{path} has no TIFF {told.get('projections', FILES['projections'])}; wanted projections there")
    unknown = sorted(map(str, told.keys() - {*FILES, *TEXT, *NUMBERS, "angles", "angle_start", "angle_step", "line_integrals"}))
    if unknown:
        note(f"{origin} has {', '.join(unknown)}, which is not read")
    if not isinstance(told.get("line_integrals", False), bool):
        raise InputError(f"{origin} has line_integrals {told['line_integrals']!r:.40}; wanted true or false")
    shape = frame_shape(files["projections"][0])
    rows = fan_row(shape[0], named, path) if "source_distance" in told else named.pick(shape[0], path)
    values = load_frames(files["projections"], rows, shape)
    arrays = {"y" if told.get("line_integrals") else "counts": values, "angles": _angles(told, values.shape[1], origin)}
    for key, name in (("flat", "flats"), ("dark", "darks")):
        if files[name] and "counts" in arrays:
            arrays[key] = field(load_frames(files[name], rows, shape))
    arrays |= {key: _number(told[key], key, origin) for key in NUMBERS if key in told}
    arrays |= {key: np.asarray(told[key]) for key in TEXT if key in told}
    return {**arrays, **stack_of(rows, path)}


SCAN = Format("a folder of projection TIFFs", lambda path: _described(path) is not None, read)
