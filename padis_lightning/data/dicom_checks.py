"""Checks of a DICOM file by its header, before any pixels are read."""

from __future__ import annotations

import io
import math
import os
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from padis_lightning.errors import InputError
from padis_lightning.inputs import BLOCK, require_inflated, require_pixels, require_size

if TYPE_CHECKING:
    from pydicom import Dataset

MOST_HEADER = 16 * BLOCK  # bytes, unpacked
PIXELS = 0x7FE00008  # the first tag of pixel data
STREAM = re.compile(  # where JPEG 2000 (SIZ) and the other kinds of JPEG (SOF) name their sides; matches may overlap
    rb"(?=\xff\x4f\xff\x51(?P<length>..)..(?P<width>.{4})(?P<height>.{4}).{24}(?P<parts>..)"
    rb"|\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7](?P<length8>..).(?P<height16>..)(?P<width16>..)(?P<parts8>.))",
    re.DOTALL,
)


def check_deflated(path: Path) -> None:
    """Refuse a deflated file that unpacks to more than its header and pixels; only its first bytes are kept."""
    from pydicom.filereader import read_dataset, read_file_meta_info

    meta = read_file_meta_info(path)
    if not getattr(meta.get("TransferSyntaxUID"), "is_deflated", False):
        return
    with path.open("rb") as file:
        begin = 144 + meta.FileMetaInformationGroupLength  # preamble, mark and the length itself
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
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel", 1))
    if syntax is None or not syntax.is_deflated:
        if pixels <= 0:
            raise InputError(f"{path} has no pixel data; wanted an image, or a file that is not cut off")
        expected = _pixel_bytes(header)
        if not (syntax and syntax.is_encapsulated) and pixels < expected:
            raise InputError(f"{path} is cut off, {pixels} bytes of pixels and their tag; wanted {expected} and more")
    if syntax and syntax.is_encapsulated:
        _check_streams(path, header, pixels)
    if syntax and syntax.is_encapsulated and not get_decoder(syntax).is_available:
        raise InputError(
            f"{path} is compressed as {syntax.name}, which nothing installed decodes; "
            "wanted pip install 'padis_lightning[dicom]', or [jpeg] for JPEG-LS and lossless JPEG"
        )
    if samples != 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise InputError(f"{path} is in colours ({header.get('PhotometricInterpretation')}); wanted grey values")
    if frames > 1 and "PerFrameFunctionalGroupsSequence" not in header:
        kind = getattr(header.get("SOPClassUID"), "name", "unknown")
        raise InputError(f"{path} has {frames} frames without places ({kind}); wanted one slice a file, or enhanced DICOM")
