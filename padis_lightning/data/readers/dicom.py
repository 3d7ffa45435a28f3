"""DICOM: files or folders of them, in Hounsfield units where they are CT, in the order in which they lie in the patient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from padis_lightning.data.dicom_checks import check_deflated, check_header
from padis_lightning.data.names import files_below, natural, needed
from padis_lightning.data.ranges import implied_range
from padis_lightning.data.sources.series import Reader, Series
from padis_lightning.data.stacks import stack
from padis_lightning.errors import InputError
from padis_lightning.inputs import reading

if TYPE_CHECKING:
    from pydicom import Dataset

DERIVED = ("SEG", "RTDOSE")  # drawn on slices rather than slices
WHOLE = "DICOM that is whole"
PADDING_HU = -1024.0  # what the scanner did not see


@dataclass(frozen=True)
class Frame:
    """Holds what the header says of one slice; lengths in mm."""

    path: Path
    index: int
    patient: str
    number: int
    shape: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    thickness: float
    rescale: tuple[float, float] | None
    hounsfield: bool
    range: tuple[float, float] | None
    padding: tuple[float, float] | None
    deflated: bool


def is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM does."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read(path: Path) -> list[Series]:
    """Return all series of a DICOM file or of a folder and its sub-folders, whatever the files are called.

    Values are ``slope * stored + intercept``; of CT they are HU unless the file says otherwise. Slices are ordered by their
    place along the normal. Localisers, plans, doses and segmentations are left out where there is something else.
    """
    needed("pydicom", "DICOM", "dicom")
    groups: dict[str, list[Frame]] = defaultdict(list)
    left_out = "is not DICOM"
    for file in filter(is_dicom, files_below(path) if path.is_dir() else [path]):
        with reading(file, WHOLE):
            header, pixels = _header(file)
            if "Rows" not in header:
                left_out = "holds DICOM without pixel data"
            elif header.get("Modality") in DERIVED:
                left_out = f"holds {header.Modality} and nothing else"
            elif "LOCALIZER" in (header.get("ImageType") or ()):
                left_out = "holds a localiser and nothing else"
            else:
                check_header(file, header, pixels)
                groups[str(header.get("SeriesInstanceUID", file))] += _frames(file, header)
    if not groups:
        raise InputError(f"{path} {left_out}; wanted slices in DICOM")
    ordered = sorted(groups.items(), key=lambda item: (natural(item[1][0].patient), item[1][0].number, item[0]))
    return [_series(frames) for _, frames in ordered]


def _header(path: Path) -> tuple[Dataset, int]:
    """Return what comes before the pixels, and the bytes from there to the file's end."""
    import pydicom

    check_deflated(path)
    with path.open("rb") as file:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        return header, path.stat().st_size - file.tell()


def _frames(path: Path, header: Dataset) -> list[Frame]:
    """Return the one frame of a classic file, or all of an enhanced one."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        return [_frame(path, header, 0, header)]
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])
    frames = []
    for index, group in enumerate(header.PerFrameFunctionalGroupsSequence):
        described: dict[str, Any] = {}
        for part in (*shared, group):
            for element in part:
                if element.VR == "SQ" and element.value:
                    described |= {inner.keyword: inner.value for inner in element.value[0] if inner.keyword}
        frames.append(_frame(path, header, index, described))
    return frames


def _numbers(values: Sequence[Any] | None, count: int) -> tuple[float, ...] | None:
    if values and len(values) != count:
        raise ValueError(f"{len(values)} numbers where there should be {count}")
    numbers = tuple(map(float, values)) if values else None
    if numbers and not np.isfinite(numbers).all():
        raise ValueError(f"{numbers} where there should be finite numbers")
    return numbers


def _frame(path: Path, header: Dataset, index: int, place: Dataset | dict[str, Any]) -> Frame:
    """Describe one slice; ``place`` is where a frame's own attributes are, the file itself or its functional groups."""
    slope, intercept = place.get("RescaleSlope"), place.get("RescaleIntercept")
    rescale = None if slope is None or intercept is None else (float(slope), float(intercept))
    bits, tomograph = int(header.get("BitsStored", 16)), header.get("Modality") == "CT"
    if tomograph and rescale is None and bits <= 8:
        raise InputError(
            f"{path} is a CT of {bits} bits without a rescale, a picture rather than measured values; wanted HU of 9 bits or more"
        )
    ends = [v for v in (header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")) if v is not None]
    gap = place.get("SpacingBetweenSlices") or place.get("SliceThickness") or 1.0
    eight = bits == 8 and rescale is None and not header.get("PixelRepresentation")
    return Frame(
        path=path,
        index=index,
        patient=str(header.get("PatientID") or header.get("StudyInstanceUID") or path.parent.name),
        number=int(header.get("SeriesNumber") or 0),
        shape=(int(header.Rows), int(header.Columns)),
        position=_numbers(place.get("ImagePositionPatient"), 3),
        orientation=_numbers(place.get("ImageOrientationPatient"), 6),
        spacing=_numbers(place.get("PixelSpacing"), 2),
        thickness=abs(float(gap)),
        rescale=rescale,
        hounsfield=tomograph and rescale is not None and (place.get("RescaleType") or "HU") == "HU",
        range=implied_range(np.dtype("u1")) if eight else None,
        padding=(float(min(ends)), float(max(ends))) if ends else None,
        deflated=bool(header.file_meta.get("TransferSyntaxUID", "") and header.file_meta.TransferSyntaxUID.is_deflated),
    )


def _alike(a: Any, b: Any) -> bool:  # noqa: ANN401 - numbers, several of them, or None
    return a == b if a is None or b is None else bool(np.allclose(a, b, rtol=1e-4, atol=1e-4))


def _series(frames: list[Frame]) -> Series:
    """Return the series of some frames, in the order in which they lie."""
    first = frames[0]
    name = f"{first.patient}_{first.number}"
    for kind in ("shape", "orientation", "spacing", "hounsfield"):
        values = [getattr(f, kind) for f in frames]
        other = next((v for v in values if not _alike(v, values[0])), values[0])
        if other is not values[0]:
            raise InputError(f"series {name} mixes slices of {kind} {values[0]} and {other}; wanted one")
    placed = [f.position for f in frames if f.position is not None and f.orientation is not None]
    order, affine = list(range(len(frames))), None
    if len(placed) == len(frames):
        apart = len({f.path for f in frames}) == len(frames)
        names = [f.path.name if apart else f"{f.path.name}[{f.index}]" for f in frames]
        order, affine = stack(name, names, np.array(placed), np.array(first.orientation), first.spacing, first.thickness)
    elif len(frames) > 1:
        raise InputError(f"series {name} has {len(frames)} slices, {len(placed)} with a place in the patient; wanted it of all")
    frames = [frames[k] for k in order]
    return Series(
        name=name,
        group=first.patient,
        count=len(frames),
        shape=first.shape,
        load=partial(_values, frames),
        units="HU" if first.hounsfield else "",
        range=first.range,
        spacing=first.spacing,
        affine=affine,
        files=tuple(dict.fromkeys(f.path for f in frames)),
    )


def _values(frames: Sequence[Frame], k: int) -> np.ndarray:
    """Read slice k: ``slope * stored + intercept``; padding of a CT is air."""
    import pydicom
    from pydicom.pixels import pixel_array

    frame = frames[k]
    with reading(frame.path, WHOLE):
        stored = pixel_array(pydicom.dcmread(frame.path) if frame.deflated else frame.path, index=frame.index)
    slope, intercept = frame.rescale or (1.0, 0.0)
    values = stored.astype(np.float64) * slope + intercept
    if frame.hounsfield and frame.padding:
        values[(stored >= frame.padding[0]) & (stored <= frame.padding[1])] = PADDING_HU
    return values.astype(np.float32)


READER = Reader("DICOM", (), read, folder="whole")
