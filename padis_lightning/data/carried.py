"""What a picture file has besides its colours: transparency, the meaning of its colours, and where it comes from."""

from __future__ import annotations

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
        found, profile = _tags(stream)
        kept = Image.Exif()
        for tag in TOLD:
            if tag in found:
                kept[tag] = found[tag]
        for place in (IFD.Exif, IFD.GPSInfo):
            if inside := {tag: value for tag, value in found.get_ifd(place).items() if tag not in OF_THE_FILE}:
                kept[place] = inside
        kept.tobytes()
    except Exception:  # noqa: BLE001 - PIL raises anything, and the picture itself is whole
        note(f"{name} has EXIF that cannot be read; it is left out, and so is its colour profile")
        return Carried(alpha)
    return Carried(alpha, profile, kept)


def _tags(stream: BinaryIO) -> tuple[Image.Exif, bytes | None]:
    """Return EXIF and ICC profile; of a TIFF that PIL does not open, its directory as EXIF, which has the same form."""
    try:
        image = open_picture(stream)
    except UnidentifiedImageError:
        stream.seek(0)
        found = Image.Exif()
        found.load(stream.read())
        return found, found.get(PROFILE)
    return image.getexif(), image.info.get("icc_profile")


def without_alpha(values: np.ndarray, premultiplied: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Split whole numbers ``(H, W, C + 1)`` into grey ``(H, W)`` or colours ``(H, W, 3)``, and alpha, the last channel."""
    colours, alpha = values[..., :-1], values[..., -1]
    if premultiplied:
        whole = np.iinfo(values.dtype).max
        colours = (colours * (whole / np.maximum(alpha, 1))[..., None]).round().clip(0, whole).astype(values.dtype)
    return colours[..., 0] if colours.shape[-1] == 1 else colours, alpha
