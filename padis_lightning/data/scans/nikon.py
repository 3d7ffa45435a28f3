"""Nikon (X-Tek): ``.xtekct`` and its projection TIFFs, of a cone beam; lengths in mm, angles in degrees.

The object turns clockwise as seen from above, so that the source turns counter-clockwise around it; the first bin of a frame is
the right one as seen from the source. Frames are scaled so that the beam without an object has the white level.

Source: Nikon Metrology's X-Tek CT files, as the readers of CIL and TIGRE describe them.
"""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import numpy as np

from padis_lightning.data.conventions import Named
from padis_lightning.data.names import natural
from padis_lightning.data.notes import note
from padis_lightning.data.scans.base import Format, fan_row, stack_of
from padis_lightning.data.scans.frames import load_frames
from padis_lightning.errors import InputError
from padis_lightning.inputs import reading

NEEDED = (
    "SrcToObject", "SrcToDetector", "DetectorPixelsX", "DetectorPixelsY", "DetectorPixelSizeX", "Projections", "AngularStep",
    "WhiteLevel",
)  # fmt: skip
MOST = 1e15  # of a number that a scanner writes
TILTS = ("ObjectRoll", "ObjectTilt")


def _settings(path: Path) -> tuple[str, dict[str, float]]:
    """Return the name of a scan and its numbers."""
    parser = ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[method-assign, assignment]  # as the documentation of configparser has it
    with reading(path, "an .xtekct of Nikon's"):
        parser.read_string(path.read_text(encoding="utf-8-sig", errors="replace"))
        told = dict(parser["XTekCT"])
    numbers = {}
    for key in (*NEEDED, "InitialAngle", "ObjectOffsetX", *TILTS):
        try:
            numbers[key] = float(told[key]) if key in told or key in NEEDED else 0.0
            if not 0 <= abs(numbers[key]) < MOST:
                raise ValueError
        except (KeyError, ValueError):
            raise InputError(f"{path} has {key} {told.get(key)!r:.40}; wanted a number") from None
    return told.get("Name", path.stem), numbers


def read(path: Path, named: Named) -> dict[str, np.ndarray]:
    """Read rows of the TIFFs beside the file, ``Name_0001.tif`` and on, as counts; the flat field is the white level.

    ``ObjectOffsetX`` moves the axis to the left of the line from the source to the detector's middle. The detector is then
    shifted by as much as that is on the detector.
    """
    name, told = _settings(path)
    files = sorted((p for p in path.parent.iterdir() if p.suffix.lower() in (".tif", ".tiff")), key=natural)
    files = [p for p in files if p.stem.rpartition("_")[0] == name and p.stem.rpartition("_")[2].isdigit()]
    shape = int(told["DetectorPixelsY"]), int(told["DetectorPixelsX"])
    if len(files) != int(told["Projections"]):
        raise InputError(f"{path} has {int(told['Projections'])} projections and {len(files)} TIFFs {name}_*.tif; wanted as many")
    if tilted := [f"{key} {told[key]:g}" for key in TILTS if told[key]]:
        note(f"{path} has {' and '.join(tilted)}, which is not read: a row is taken as a fan")
    rows = fan_row(shape[0], named, path)
    arrays = {
        "counts": load_frames(files, rows, shape)[..., ::-1],
        "flat": np.asarray(told["WhiteLevel"]),
        "angles": told["InitialAngle"] + told["AngularStep"] * np.arange(len(files)) - 180,
        "angle_unit": np.asarray("degrees"),
        "bin_spacing": np.asarray(told["DetectorPixelSizeX"]),
        "source_distance": np.asarray(told["SrcToObject"]),
        "detector_distance": np.asarray(told["SrcToDetector"] - told["SrcToObject"]),
        **stack_of(rows, path),
    }
    if told["ObjectOffsetX"]:
        arrays["bin_offset"] = np.asarray(told["ObjectOffsetX"] * told["SrcToDetector"] / told["SrcToObject"])
    return arrays


SCAN = Format("Nikon", lambda path: path.suffix.lower() == ".xtekct" and path.is_file(), read)
