"""What a DICOM file is, by its header, and checks of it before any pixels are read."""

from __future__ import annotations

import io
import math
import os
import re
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from padis_lightning.errors import InputError
from padis_lightning.inputs import BLOCK, require_inflated, require_pixels, require_size

if TYPE_CHECKING:
    from pydicom import Dataset

MOST_HEADER = 16 * BLOCK  # bytes, unpacked
PIXELS = 0x7FE00008  # the first tag of pixel data
MARK = b"DICM"  # after a preamble of 128 bytes
META, IDENTIFYING = 0x0002, 0x0008  # the groups that files begin with
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")  # with 4 bytes of length
DERIVED = ("SEG", "RTDOSE")  # drawn on slices rather than slices
CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # the classes of secondary captures
STREAM = re.compile(  # where JPEG 2000 (SIZ) and the other kinds of JPEG (SOF) name their sides; matches may overlap
    rb"(?=\xff\x4f\xff\x51(?P<length>..)..(?P<width>.{4})(?P<height>.{4}).{24}(?P<parts>..)"
    rb"|\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7](?P<length8>..).(?P<height16>..)(?P<width16>..)(?P<parts8>.))",
    re.DOTALL,
)


def is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM does: after a preamble, or without one by two elements that fit and rise."""
    with path.open("rb") as file:
        start = file.read(1024)
    if start[128:132] == MARK:
        return True
    place, before = 0, (0, 0)
    for _ in range(2):
        if len(start) < place + 12:
            return False
        tag, kind = struct.unpack_from("<HH", start, place), start[place + 4 : place + 6]
        if tag[0] not in (META, IDENTIFYING) or tag <= before:
            return False
        if not re.fullmatch(rb"[A-Z]{2}", kind):  # an implicit one, which has its length in place of a kind
            place += 8 + struct.unpack_from("<I", start, place + 4)[0]
        elif kind in LONG:
            place += 12 + struct.unpack_from("<I", start, place + 8)[0]
        else:
            place += 8 + struct.unpack_from("<H", start, place + 6)[0]
        before = tag
    return True


def read_header(path: Path) -> tuple[Dataset, int]:
    """Return what comes before the pixels, and the bytes from there to the file's end."""
    import pydicom

    _check_deflated(path)
    with path.open("rb") as file:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        return with_syntax(header), path.stat().st_size - file.tell()


def with_syntax(data: Dataset) -> Dataset:
    """Return the same data, whose syntax is named by how it was read where the file does not name it."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return data


def left_out(header: Dataset) -> str:
    """Return why a file is no slice, whatever lies beside it, or nothing."""
    if "Rows" not in header:
        return f"{header.get('Modality') or 'DICOM'} without pixel data"
    if header.get("Modality") in DERIVED:
        return f"{header.Modality}, drawn on slices"
    return "a localiser" if "LOCALIZER" in (header.get("ImageType") or ()) else ""


def is_capture(header: Dataset) -> bool:
    """Return whether a file is a picture of a screen or a page, such as the one that a scanner writes the dose on."""
    scaled = any(name in header for name in ("RescaleSlope", "ModalityLUTSequence", "PerFrameFunctionalGroupsSequence"))
    unmeasured = header.get("Modality") == "CT" and not scaled and int(header.get("BitsStored") or 16) <= 8
    captured = str(header.get("SOPClassUID", "")).startswith(CAPTURES) and "ImagePositionPatient" not in header
    return unmeasured or captured or _coloured(header) or "SCREEN SAVE" in (header.get("ImageType") or ())


def _coloured(header: Dataset) -> bool:
    return int(header.get("SamplesPerPixel") or 1) != 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR"


def _check_deflated(path: Path) -> None:
    """Refuse a deflated file that unpacks to more than its header and pixels; only its first bytes are kept."""
    from pydicom.filereader import read_dataset

    with path.open("rb") as file:
        begin = 132 if file.read(132)[128:] == MARK else 0
        file.seek(begin)
        if file.read(2) != struct.pack("<H", META):
            return
        file.seek(begin)
        meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != META)
        if not getattr(meta.get("TransferSyntaxUID"), "is_deflated", False):
            return
        begin += 12 + meta.FileMetaInformationGroupLength  # the length itself takes 12 bytes
        file.seek(begin)
        start = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(MOST_HEADER), MOST_HEADER)
        header = read_dataset(io.BytesIO(start), False, True, stop_when=lambda tag, *_: tag >= PIXELS)
        pixels = _pixel_bytes(header)
        require_size(path, pixels, path.stat().st_size)
        file.seek(begin)
        require_inflated(path, file, pixels + MOST_HEADER, -zlib.MAX_WBITS)


def _check_streams(path: Path, header: Dataset, pixels: int) -> None:
    """Refuse compressed pictures that name larger sides than the file does: decoders take memory for what these name."""
    with path.open("rb") as file:
        file.seek(-pixels, os.SEEK_END)
        content = file.read()
    wanted = header.Rows * header.Columns * int(header.get("SamplesPerPixel", 1))
    for found in STREAM.finditer(content):
        names = ("length", "height", "width", "parts") if found["width"] else ("length8", "height16", "width16", "parts8")
        length, height, width, parts = (int.from_bytes(found[name]) for name in names)
        if length == (38 if found["width"] else 8) + 3 * parts and height * width * parts > wanted:
            raise InputError(f"{path} holds a picture of {height}x{width}x{parts}; wanted {wanted} values, as the file says")


def _pixel_bytes(header: Dataset) -> int:
    numbers = header.get("Rows"), header.get("Columns"), header.get("SamplesPerPixel", 1), header.get("NumberOfFrames") or 1
    return math.prod(int(n or 0) for n in numbers) * int(header.get("BitsAllocated", 8)) // 8


def check_header(path: Path, header: Dataset, pixels: int) -> None:
    """Refuse what has no pixels, too few of them, colours, or a compression that nothing decodes."""
    from pydicom.pixels import get_decoder

    syntax = header.file_meta.get("TransferSyntaxUID")
    require_pixels(path, header.Rows * header.Columns)
    frames = int(header.get("NumberOfFrames") or 1)
    if syntax is None or not syntax.is_deflated:
        if pixels <= 0:
            raise InputError(f"{path} has no pixel data; wanted an image, or a file that is not cut off")
        expected = _pixel_bytes(header)
        if not (syntax and syntax.is_encapsulated) and pixels < expected:
            raise InputError(f"{path} is cut off, {pixels} bytes of pixels and their tag; wanted {expected} and more")
    if syntax and syntax.is_encapsulated:
        _check_streams(path, header, pixels)
    if syntax and syntax.is_encapsulated and not get_decoder(syntax).is_available:
        package = "pylibjpeg-openjpeg" if "2000" in syntax.name else "python-gdcm"
        raise InputError(
            f"{path} is compressed as {syntax.name}, which nothing installed decodes; "
            f"wanted pip install {package}, which is in 'padis_lightning[dicom]'"
        )
    if _coloured(header):
        raise InputError(f"{path} is in colours ({header.get('PhotometricInterpretation')}); wanted grey values")
    if frames > 1 and "PerFrameFunctionalGroupsSequence" not in header:
        kind = getattr(header.get("SOPClassUID"), "name", "unknown")
        raise InputError(f"{path} has {frames} frames without places ({kind}); wanted one slice a file, or enhanced DICOM")
