"""DICOM: files or folders of them, in Hounsfield units where they are CT, in the order in which they lie in the patient."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from padis_lightning.data.dicom_checks import check_header, is_capture, is_dicom, left_out, read_header
from padis_lightning.data.dicom_frames import PHASES, WHOLE, Frame, frame_values, frames_of
from padis_lightning.data.names import files_below, natural
from padis_lightning.data.sources.series import Reader, Series, odd_series
from padis_lightning.data.stacks import Run, doubled, stack
from padis_lightning.errors import InputError, first_few
from padis_lightning.inputs import reading
from padis_lightning.registry import needed

Aside = dict[str, list[Path]]  # files that are left out, by why

log = logging.getLogger(__name__)


@dataclass
class Found:
    """Holds what the header of one file says; ``error`` is why its pixels cannot be used."""

    path: Path
    series: str = ""
    instance: str = ""
    modality: str = ""
    capture: bool = False
    pixels: int = 0
    frames: list[Frame] = field(default_factory=list)
    error: str = ""


def read(path: Path) -> list[Series]:
    """Return all series of a DICOM file or of a folder and its sub-folders, whatever the files are called.

    Values are ``slope * stored + intercept``, or what a table of the file has for them; of CT they are HU unless the file says
    otherwise. Slices are ordered by their place along the normal. Localisers, plans, doses and segmentations are left out, and
    so are captures and dose pages where there are slices, and other modalities where there is a CT, each in a word. A series
    that cannot be used has no slices and says why; one with gaps is several, each evenly spaced.
    """
    needed("pydicom", "reading DICOM needs pydicom", "dicom")
    aside: Aside = defaultdict(list)
    found = []
    for file in filter(is_dicom, files_below(path) if path.is_dir() else [path]):
        one = _describe(file, aside)
        if one:
            found.append(one)
    if not found:
        raise InputError(f"{path} holds {' and '.join(aside) or 'no DICOM'} and nothing else; wanted slices in DICOM")
    kept = _without_copies(_slices(found, aside), aside)
    for reason, files in aside.items():
        count, names = len(files), first_few([file.name for file in files])
        log.warning("%s: %d file%s left out, %s: %s", path, count, " is" if count == 1 else "s are", reason, names)
    groups: dict[str, list[Found]] = defaultdict(list)
    for one in kept:
        groups[one.series].append(one)
    return [series for _, inside in sorted(groups.items(), key=_place) for series in _tried(inside)]


def _describe(path: Path, aside: Aside) -> Found | None:
    """Read the header of a file; one that is no slice is counted in ``aside`` by why."""
    one = Found(path, series=str(path))
    try:
        with reading(path, WHOLE):
            header, one.pixels = read_header(path)
            if why := left_out(header):
                aside[why].append(path)
                return None
            one.series = str(header.get("SeriesInstanceUID", path))
            one.instance, one.modality = str(header.get("SOPInstanceUID", "")), str(header.get("Modality", ""))
            one.capture = is_capture(header)
            check_header(path, header, one.pixels)
            one.frames = frames_of(path, header)
    except InputError as error:
        one.error = str(error)
    return one


def _slices(found: list[Found], aside: Aside) -> list[Found]:
    """Leave out captures beside slices, and other modalities beside a CT."""
    pages = all(one.capture for one in found)
    tomograms = any(one.modality == "CT" and (pages or not one.capture) for one in found)
    kept = []
    for one in found:
        if one.capture and not pages:
            aside["a capture or a page"].append(one.path)
        elif tomograms and one.modality not in ("CT", ""):
            aside[f"{one.modality} beside the CT"].append(one.path)
        else:
            kept.append(one)
    return kept


def _without_copies(found: list[Found], aside: Aside) -> list[Found]:
    """Leave out files that say they are a slice that there is already, and hold the same pixels."""
    first: dict[tuple[object, ...], Found] = {}
    kept = []
    for one in found:
        key = one.series, one.instance, one.frames[0].position if one.frames else one.path
        other = first.setdefault(key, one)
        if other is one or _pixels(one) != _pixels(other):
            kept.append(one)
        else:
            aside[f"a copy of {other.path.name}"].append(one.path)
    return kept


def _pixels(one: Found) -> bytes:
    with one.path.open("rb") as file:
        file.seek(0 if one.frames[0].whole else one.path.stat().st_size - one.pixels)
        return file.read()


def _place(group: tuple[str, list[Found]]) -> tuple[object, ...]:
    uid, inside = group
    frame = next((f for one in inside for f in one.frames), None)
    return (natural(frame.patient), frame.number, uid) if frame else (natural(inside[0].path), 0, uid)


def _tried(inside: Sequence[Found]) -> list[Series]:
    """Return the series of some files, or one without slices that says why there are none."""
    frames = [frame for one in inside for frame in one.frames]
    name = f"{frames[0].patient}_{frames[0].number}" if frames else inside[0].path.stem
    try:
        for one in inside:
            if one.error:
                raise InputError(one.error)
        phases = _phases(name, frames)
        return [part for key, phase in phases.items() for part in _series(key, phase)]
    except InputError as error:
        return [odd_series(name, error, *(one.path for one in inside))]


def _phases(name: str, frames: list[Frame]) -> dict[str, list[Frame]]:
    """Tell phases apart that lie at the same places, by the first attribute that does it."""
    if any(f.position is None or f.orientation is None for f in frames) or not _doubled(frames):
        return {name: frames}
    for k, keyword in enumerate(PHASES):
        phases: dict[str, list[Frame]] = defaultdict(list)
        for frame in frames:
            phases[frame.phases[k]].append(frame)
        if len(phases) > 1 and not any(map(_doubled, phases.values())):
            log.warning("series %s has %d phases by their %s; each is read as a series", name, len(phases), keyword)
            return {f"{name}_{key}": phases[key] for key in sorted(phases, key=natural)}
    return {name: frames}


def _doubled(frames: Sequence[Frame]) -> bool:
    return doubled(np.array([f.position for f in frames]), np.array(frames[0].orientation))


def _alike(a: Any, b: Any) -> bool:  # noqa: ANN401 - numbers, several of them, or None
    return a == b if a is None or b is None else bool(np.allclose(a, b, rtol=1e-4, atol=1e-4))


def _series(name: str, frames: list[Frame]) -> list[Series]:
    """Return the series of some frames, in the order in which they lie; one that has gaps is several."""
    first = frames[0]
    for kind in ("shape", "orientation", "spacing", "hounsfield"):
        values = [getattr(f, kind) for f in frames]
        other = next((v for v in values if not _alike(v, values[0])), values[0])
        if other is not values[0]:
            raise InputError(f"series {name} mixes slices of {kind} {values[0]} and {other}; wanted one")
    placed = [f.position for f in frames if f.position is not None and f.orientation is not None]
    if len(placed) < len(frames) and len(frames) > 1:
        raise InputError(f"series {name} has {len(frames)} slices, {len(placed)} with a place in the patient; wanted it of all")
    runs, gap = [Run([0], None)], ""
    if placed:
        apart = len({f.path for f in frames}) == len(frames)
        names = [f.path.name if apart else f"{f.path.name}[{f.index}]" for f in frames]
        runs, gap = stack(name, names, np.array(placed), np.array(first.orientation), first.spacing, first.thickness)
    series = []
    for part, (order, affine) in enumerate(runs):
        inside = [frames[k] for k in order]
        series.append(
            Series(
                name=f"{name}_part{part}" if gap else name,
                group=first.patient,
                count=len(inside),
                shape=first.shape,
                load=partial(frame_values, inside),
                units="HU" if first.hounsfield else "",
                range=first.range,
                spacing=first.spacing,
                affine=affine,
                files=tuple(dict.fromkeys(f.path for f in inside)),
                gap=gap,
            )
        )
    return series


READER = Reader("DICOM", (), read, folder="whole")
