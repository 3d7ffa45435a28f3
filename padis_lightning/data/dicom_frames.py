"""Slices of DICOM files: what the headers say of each, and its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from padis_lightning.data.dicom_checks import with_syntax
from padis_lightning.data.ranges import implied_range
from padis_lightning.errors import InputError
from padis_lightning.inputs import reading
from padis_lightning.types import pair_of

if TYPE_CHECKING:
    from pydicom import Dataset

WHOLE = "DICOM that is whole"
PADDING_HU = -1024.0  # what the scanner did not see
PHASES = ("AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "EchoNumbers")  # what tells phases apart
MACROS = (  # where an enhanced file has what belongs to a frame; others repeat some of these keywords for other things
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence",
    "FrameContentSequence",
)  # fmt: skip
MEASURING = ("CT", "PT", "NM")  # modalities whose values are measured, whatever way round they are shown


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
    turned: float | None
    mapped: bool
    whole: bool
    phases: tuple[str, ...]


def frames_of(path: Path, header: Dataset) -> list[Frame]:
    """Return the one frame of a classic file, or all of an enhanced one."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        return [_frame(path, header, 0, header)]
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])
    frames = []
    for index, group in enumerate(header.PerFrameFunctionalGroupsSequence):
        described: dict[str, Any] = {}
        for part in (*shared, group):
            for macro in filter(part.get, MACROS):
                described |= {inner.keyword: inner.value for inner in part[macro].value[0] if inner.keyword}
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
    table = (header.get("ModalityLUTSequence") or [None])[0]
    kind = place.get("RescaleType") or "HU" if table is None else table.get("ModalityLUTType")
    bits, signed = int(header.get("BitsStored", 16)), bool(header.get("PixelRepresentation"))
    modality, scaled = header.get("Modality"), rescale is not None or table is not None
    if modality == "CT" and not scaled and bits <= 8:
        raise InputError(
            f"{path} is a CT of {bits} bits without a rescale, a picture rather than measured values; wanted HU of 9 bits or more"
        )
    ends = [v for v in (header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")) if v is not None]
    gap = place.get("SpacingBetweenSlices") or place.get("SliceThickness") or 1.0
    turned = header.get("PhotometricInterpretation") == "MONOCHROME1" and modality not in MEASURING
    if turned and table is not None:
        raise InputError(f"{path} is MONOCHROME1 and has a table of values, whose ends are not known; wanted MONOCHROME2")
    syntax, spacing = header.file_meta.TransferSyntaxUID, _numbers(place.get("PixelSpacing"), 2)
    return Frame(
        path=path,
        index=index,
        patient=str(header.get("PatientID") or header.get("StudyInstanceUID") or path.parent.name),
        number=int(header.get("SeriesNumber") or 0),
        shape=(int(header.Rows), int(header.Columns)),
        position=_numbers(place.get("ImagePositionPatient"), 3),
        orientation=_numbers(place.get("ImageOrientationPatient"), 6),
        spacing=None if spacing is None else pair_of(spacing),
        thickness=abs(float(gap)),
        rescale=rescale,
        hounsfield=modality == "CT" and scaled and kind == "HU",
        range=implied_range(np.dtype("u1")) if bits == 8 and not scaled and not signed else None,
        padding=(float(min(ends)), float(max(ends))) if ends else None,
        turned=(-1.0 if signed else 2.0**bits - 1) if turned else None,
        mapped=table is not None,
        whole=syntax.is_deflated or table is not None or header.preamble is None,
        phases=tuple(str(place.get(name, header.get(name, ""))) for name in PHASES),
    )


def frame_values(frames: Sequence[Frame], k: int) -> np.ndarray:
    """Read slice k: ``slope * stored + intercept``, or what a table has for it; padding of a CT is air."""
    import pydicom
    from pydicom.pixels import apply_modality_lut, pixel_array

    frame = frames[k]
    with reading(frame.path, WHOLE):
        data = with_syntax(pydicom.dcmread(frame.path, force=True)) if frame.whole else frame.path
        stored = pixel_array(data, index=frame.index)
        mapped = stored if isinstance(data, Path) or not frame.mapped else apply_modality_lut(stored, data)
    values = mapped.astype(np.float64)
    if frame.turned is not None:
        values = frame.turned - values
    if frame.rescale and not frame.mapped:
        values = values * frame.rescale[0] + frame.rescale[1]
    if frame.hounsfield and frame.padding:
        values[(stored >= frame.padding[0]) & (stored <= frame.padding[1])] = PADDING_HU
    return values.astype(np.float32)
