"""A secondary DICOM series: the source's patient, study and geometry around new pixels."""

from __future__ import annotations

import math
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from padis_lightning.data.readers.dicom import is_dicom
from padis_lightning.data.sources.base import Source, Wrapped
from padis_lightning.data.sources.series import SeriesSource, resized_affine
from padis_lightning.errors import InputError
from padis_lightning.files import whole
from padis_lightning.results.provenance import Origin

if TYPE_CHECKING:
    from pydicom import Dataset

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
STALE = (  # what was said of the pixels that are replaced, and signatures over them
    "FloatPixelData", "DoubleFloatPixelData", "PixelDataProviderURL", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    "SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "PlanarConfiguration", "ModalityLUTSequence", "RealWorldValueMappingSequence",
    "IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence",
    "InstanceCreationDate", "InstanceCreationTime", "InstanceCreatorUID", "SeriesDate", "SeriesTime",
)  # fmt: skip


def check_series(source: Source | None) -> None:
    """Refuse data whose slices were not read from DICOM, one file each."""
    source = source.inner if isinstance(source, Wrapped) else source
    if not isinstance(source, SeriesSource):
        seen = "drawn from the prior" if source is None else source.description
        raise InputError(f"the data is {seen}; wanted slices read from DICOM to write a series of theirs")
    for series in source.series:
        if len(series.files) != series.count or not all(map(is_dicom, series.files[:1])):
            files = f"{series.files[0].name} and {len(series.files) - 1} other files" if series.files else "no files"
            raise InputError(
                f"{series.name} has {series.count} slices from {files}; wanted one DICOM file a slice to write a series of theirs"
            )


def rescale(lower: float, upper: float) -> tuple[str, str]:
    """Return slope, a power of two, and intercept with which 16 signed bits hold the range and half of it on either side."""
    slope = 2.0 ** math.ceil(math.log2((upper - lower) / 32768))
    return _decimal(slope), _decimal((lower + upper) / 2)


def derived_uid(*parts: str) -> str:
    """Return a UID that is the same for the same parts: a name-based UUID under 2.25 (ITU-T X.667)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(parts)).int}"


def write_slice(path: Path, source: Path, values: np.ndarray, ends: tuple[float, float], units: str, origin: Origin) -> None:
    """Write one slice whole: explicit little endian, 16 bits, everything else as the DICOM file ``source`` has it.

    Private elements and marks stay as they are, and what was lossily compressed once stays marked so, as DICOM demands
    (PS3.3 C.7.6.1.1.5). ``values`` ``(H, W)`` cover the field of view of the source; outside of what 16 bits hold they are
    clipped. Their units are ``HU`` or empty.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = pydicom.dcmread(source, force=True)
    dataset.decode()
    if not dataset.original_encoding[1]:
        _swap_words(dataset)
    _refer(dataset)
    _name(dataset, origin)
    resized = values.shape != (dataset.Rows, dataset.Columns)
    if resized:
        _resize(dataset, values.shape)
    _drop_stale(dataset, resized)
    dataset.SourceImageSequence[0].SpatialLocationsPreserved = "NO" if resized else "YES"
    dataset.RescaleSlope, dataset.RescaleIntercept = rescale(*ends)
    dataset.RescaleType = units or "US"
    codes = (values.astype(np.float64) - float(dataset.RescaleIntercept)) / float(dataset.RescaleSlope)
    dataset.Rows, dataset.Columns = values.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.SamplesPerPixel = 1
    if dataset.get("PhotometricInterpretation") != "MONOCHROME1":
        dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = codes.round().clip(-32768, 32767).astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with whole(path) as temporary:
        pydicom.dcmwrite(temporary, dataset, enforce_file_format=True)


def _swap_words(dataset: Dataset) -> None:
    """Bring words of a big-endian file, which a reader leaves as they are, into little endian."""
    for element in dataset.iterall():
        if element.VR == "OW" and element.keyword != "PixelData":
            element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()


def _refer(dataset: Dataset) -> None:
    """Name the source as what the new image was derived from."""
    from pydicom import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    reference.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
    dataset.SourceImageSequence = [reference]


def _code(value: str, meaning: str) -> Dataset:
    from pydicom import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _name(dataset: Dataset, origin: Origin) -> None:
    """Give the image a new identity, and say what made it."""
    from pydicom import Dataset

    dataset.SOPInstanceUID = derived_uid(dataset.SOPInstanceUID, origin.settings)
    dataset.SeriesInstanceUID = derived_uid(dataset.SeriesInstanceUID, origin.settings)
    dataset.SeriesNumber = 1000 + int(dataset.get("SeriesNumber") or 0)
    dataset.SeriesDescription = f"padis_lightning {origin.solver}"
    dataset.ImageType = ["DERIVED", "SECONDARY", *list(dataset.get("ImageType") or [])[2:]]
    dataset.DerivationDescription = origin.description[:1024]
    equipment = Dataset()
    equipment.Manufacturer, equipment.SoftwareVersions = "padis_lightning", origin.version
    equipment.PurposeOfReferenceCodeSequence = [_code("109102", "Processing Equipment")]
    dataset.ContributingEquipmentSequence = [*dataset.get("ContributingEquipmentSequence", []), equipment]


def _resize(dataset: Dataset, size: tuple[int, int]) -> None:
    """Set spacing and position for ``size`` (H, W) over the same field of view."""
    before = dataset.Rows, dataset.Columns
    if {"PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"} <= {element.keyword for element in dataset}:
        affine = np.eye(4)
        directions = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
        affine[:3, 0] = directions[1] * float(dataset.PixelSpacing[0])
        affine[:3, 1] = directions[0] * float(dataset.PixelSpacing[1])
        affine[:3, 3] = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [_decimal(x) for x in resized_affine(affine, before, size)[:3, 3]]
    for keyword in SPACINGS:
        if keyword in dataset:
            spacing = (float(s) * old / new for s, old, new in zip(dataset[keyword].value, before, size, strict=True))
            setattr(dataset, keyword, [_decimal(s) for s in spacing])


def _decimal(value: float) -> str:
    """Return a number in the 16 characters that DICOM gives it."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value))


def _drop_stale(dataset: Dataset, resized: bool) -> None:
    """Leave out what does not hold of new pixels; overlays that were bits of the old ones, or lie on another grid."""
    for keyword in STALE:
        if keyword in dataset:
            delattr(dataset, keyword)
    palette = [e.tag for e in dataset if e.keyword.endswith(("PaletteColorLookupTableData", "PaletteColorLookupTableDescriptor"))]
    groups = {e.tag.group for e in dataset if e.tag.group in range(0x6000, 0x6020, 2)}
    embedded = {group for group in groups if resized or (group, 0x3000) not in dataset}
    for tag in [*palette, *(e.tag for e in dataset if e.tag.group in embedded)]:
        del dataset[tag]
