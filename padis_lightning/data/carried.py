"""What a picture file has besides its colours: transparency, the meaning of its colours, and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import IFD, Base

from padis_lightning.data.notes import note
from padis_lightning.inputs import open_picture

#: tags of the picture as a whole that hold for a result as well: resolution, camera, dates, author, rights, titles
TOLD = (270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 18246, 33432, 40091, 40092, 40093, 40094, 40095)
#: what holds for the file that it was in: places in it, and sizes
OF_THE_FILE = (Base.MakerNote, Base.ExifInteroperabilityOffset, Base.ExifImageWidth, Base.ExifImageHeight)
PROFILE = 34675  # tag of the ICC profile
DESCRIPTION, WIDE, HIGH, UNIT = 270, 282, 283, 296  # tags: a text, and pixels a unit of length along rows and columns
INCHES, CENTIMETRES = 2, 3
OF_THE_SIZE = ("<?xml", "<OME", '{"shape"')  # how descriptions begin that programs read sizes from
SPACES = {1: b"GRAY", 3: b"RGB "}  # of ICC profiles, by the channels that they hold for


class Carried(NamedTuple):
    """What goes from a picture to its result as it is.

    Attributes:
        alpha: ``(H, W)``, in the bits of the colours, or None where the file has none.
        profile: the ICC profile, or None.
        exif: EXIF without orientation and thumbnail, since the picture is upright and another.
    """

    alpha: np.ndarray | None = None
    profile: bytes | None = None
    exif: Image.Exif = Image.Exif()

    def for_shape(self, before: Sequence[int], after: Sequence[int]) -> Carried:
        """Return the same for a result ``after`` (H, W, ...) that shows what the picture ``before`` (H, W, ...) does.

        Where it has more pixels, more of them lie on a unit of length; a description that programs read sizes from is left out.
        """
        if tuple(after) == tuple(before):
            return self
        exif = Image.Exif()
        exif.update(self.exif)
        if str(exif.get(DESCRIPTION, "")).startswith(OF_THE_SIZE):
            del exif[DESCRIPTION]
        for tag, old, new in zip((HIGH, WIDE), before[:2], after[:2], strict=True):
            if tag in exif:
                exif[tag] = float(exif[tag]) * new / old
        return self._replace(exif=exif)

    @property
    def dots(self) -> tuple[float, float] | None:
        """Return the pixels an inch along rows and columns, where the picture says so."""
        inch = {INCHES: 1.0, CENTIMETRES: 2.54}.get(self.exif.get(UNIT, INCHES))
        wide, high = (float(self.exif.get(tag, 0)) for tag in (WIDE, HIGH))
        return (inch * wide, inch * high) if inch and min(wide, high) > 0 else None

    def profile_for(self, channels: int, name: object) -> bytes | None:
        """Return the profile if it holds for so many channels; else none, in a word."""
        if not self.profile:
            return None
        space = self.profile[16:20]
        if space == SPACES[channels]:
            return self.profile
        wanted = SPACES[channels].decode().strip()
        seen = space.decode("latin-1").strip()
        note(f"{name} has a colour profile of {seen!r}, which does not hold for the {wanted} result; it is left out")
        return None


def carried_by(stream: BinaryIO, alpha: np.ndarray | None, name: object) -> Carried:
    """Return what the picture of a stream has besides its colours; what cameras wrote amiss is left out, in a word."""
    stream.seek(0)
    try:
        found, profile, dots = _tags(stream)
        kept = Image.Exif()
        for tag in TOLD:
            if tag in found and (tag not in (WIDE, HIGH) or 0 < float(found[tag]) < math.inf):
                kept[tag] = found[tag]
        if WIDE not in kept and min(dots, default=0) > 0:
            kept[WIDE], kept[HIGH], kept[UNIT] = *dots, INCHES
        for place in (IFD.Exif, IFD.GPSInfo):
            if inside := {tag: value for tag, value in found.get_ifd(place).items() if tag not in OF_THE_FILE}:
                kept[place] = inside
        kept.tobytes()
    except Exception:  # noqa: BLE001 - PIL raises anything, and the picture itself is whole
        note(f"{name} has EXIF that cannot be read; it is left out, and so is its colour profile")
        return Carried(alpha)
    return Carried(alpha, profile, kept)


def _tags(stream: BinaryIO) -> tuple[Image.Exif, bytes | None, tuple[float, ...]]:
    """Return EXIF, ICC profile and pixels an inch, perhaps none.

    Of a TIFF that PIL does not open, EXIF is its directory, which has the same form.
    """
    try:
        image = open_picture(stream)
    except UnidentifiedImageError:
        stream.seek(0)
        found = Image.Exif()
        found.load(stream.read())
        return found, found.get(PROFILE), ()
    return image.getexif(), image.info.get("icc_profile"), tuple(map(float, image.info.get("dpi", ())))


def without_alpha(values: np.ndarray, premultiplied: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Split whole numbers ``(H, W, C + 1)`` into grey ``(H, W)`` or colours ``(H, W, 3)``, and alpha, the last channel."""
    colours, alpha = values[..., :-1], values[..., -1]
    if premultiplied:
        whole = np.iinfo(values.dtype).max
        colours = (colours * (whole / np.maximum(alpha, 1))[..., None]).round().clip(0, whole).astype(values.dtype)
    return colours[..., 0] if colours.shape[-1] == 1 else colours, alpha
