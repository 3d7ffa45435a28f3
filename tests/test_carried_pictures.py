"""What a result has of the picture that it was: its bits, its transparency, the meaning of its colours, its EXIF."""

from __future__ import annotations

import logging
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps
from PIL.ExifTags import IFD, Base

from padis_lightning.data.carried import Carried
from padis_lightning.data.readers.pictures import read
from padis_lightning.data.sources.open import open_source
from padis_lightning.errors import InputError
from padis_lightning.results.formats.as_read import write_as_read
from tests.test_own_pictures import run

RNG = np.random.default_rng(3)
SHAPE = (10, 7)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by the type of a PNG


def exif():
    """EXIF of a camera on its side, with a place and a time."""
    made = Image.Exif()
    made[Base.Orientation], made[Base.Artist] = 6, "Ann"
    made[IFD.Exif], made[IFD.GPSInfo] = {Base.ISOSpeedRatings: 400}, {1: "N", 2: (52.0, 30.0, 1.0)}
    return made


def predicted(line, above, step, kind):
    """What filter ``kind`` of the PNG specification takes off the bytes of a line."""
    left, corner = (np.concatenate([np.zeros(step, int), one[:-step]]) for one in (line, above))
    distances = np.abs(np.stack([above - corner, left - corner, left + above - 2 * corner]))  # to left, above and corner
    paeth = np.choose(distances.argmin(0), [left, above, corner])
    return [0, left, above, (left + above) // 2, paeth][kind]


def filtered_png(path, codes):
    """A PNG of 16 bits whose lines are filtered in turn by all five filters of the specification."""
    height, width, channels = codes.shape
    lines = codes.astype(">u2").reshape(height, -1).view(np.uint8).astype(int)
    before = np.vstack([np.zeros_like(lines[:1]), lines[:-1]])
    packed = b""
    for k, (line, above) in enumerate(zip(lines, before, strict=True)):
        packed += bytes([k % 5]) + ((line - predicted(line, above, 2 * channels, k % 5)) % 256).astype(np.uint8).tobytes()
    kind = {count: kind for kind, count in CHANNELS.items()}[channels]
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0), b"IDAT": zlib.compress(packed), b"IEND": b""}
    parts = [struct.pack(">I", len(d)) + c + d + struct.pack(">I", zlib.crc32(c + d)) for c, d in chunks.items()]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def unfiltered_png(path):
    """The numbers of a PNG of 16 bits whose lines are stored as they are, and its chunks."""
    data, chunks, at = path.read_bytes(), {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks[data[at + 4 : at + 8]] = data[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, _, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    return lines[:, 1:].copy().view(">u2").reshape(height, width, CHANNELS[kind]), chunks


def rewritten(tmp_path, path, **how):
    """The file of a result that is the picture itself."""
    (series,) = read(path)
    return write_as_read(tmp_path / "out", "a", series.read(0, transparent=True), series, **how)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_png_is_read_and_written_to_the_bit(tmp_path, channels):
    codes = RNG.integers(0, 65536, (*SHAPE, channels))
    path = filtered_png(tmp_path / "a.png", codes)
    (series,) = read(path)
    colours = codes[..., :1] if channels == 2 else codes[..., :3]
    assert series.range == (0, 65535) and series.shape == (SHAPE if channels == 2 else (*SHAPE, 3))
    np.testing.assert_array_equal(series.read(0, transparent=True).reshape(colours.shape), colours)
    written, _ = unfiltered_png(rewritten(tmp_path, path))
    np.testing.assert_array_equal(written, codes)
    if channels != 3:
        with pytest.raises(InputError, match="transparent in places .alpha .* of 65535.; wanted an opaque picture"):
            series.read(0)


@pytest.mark.parametrize("bits", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiff_comes_back_with_alpha_profile_and_exif(tmp_path, bits, channels):
    values = RNG.integers(0, np.iinfo(bits).max + 1, (*SHAPE, channels)).astype(bits)
    kind = {"photometric": "rgb" if channels > 2 else "minisblack", "extrasamples": [2] * (channels in (2, 4))}
    notes = {"iccprofile": PROFILE, "extratags": [(Base.Artist, "s", 0, "Ann", True)], "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", values if channels > 1 else values[..., 0], **kind, **notes)
    path = rewritten(tmp_path, tmp_path / "a.tif")
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        np.testing.assert_array_equal(page.asarray().reshape(values.shape), values)
        assert page.dtype == bits and page.tags["Artist"].value == "Ann"
        assert page.tags.valueof("InterColorProfile") == (PROFILE if channels > 2 else None)  # which is one of colours
    if (channels, bits) == (2, np.uint16):
        return  # which PIL does not open
    with Image.open(path) as picture:
        assert picture.size == SHAPE[::-1] and picture.info.get("icc_profile") == (PROFILE if channels > 2 else None)


def test_premultiplied_colours_are_divided(tmp_path):
    colours, alpha = RNG.integers(0, 65536, (*SHAPE, 3)), RNG.integers(1000, 65536, (*SHAPE, 1))
    stored = np.dstack([colours * alpha // 65535, alpha]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=[1], metadata=None)
    found = read(tmp_path / "a.tif")[0].read(0, transparent=True)
    np.testing.assert_allclose(found, colours, atol=66)  # a step of the stored ones


def test_photographs_stay_upright_and_keep_where_and_when(tmp_path):
    """Read by PIL, which turns a picture by its tag: a result that kept the tag would be turned twice."""
    pixels = RNG.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", icc_profile=PROFILE, exif=exif(), quality=95)
    with Image.open(tmp_path / "a.jpg") as photograph:
        upright = np.asarray(ImageOps.exif_transpose(photograph))
    assert upright.shape[:2] == SHAPE[::-1]
    deep = upright.astype(np.uint16) * 257
    (series,) = read(tmp_path / "a.jpg")
    files = {"png": rewritten(tmp_path, tmp_path / "a.jpg")}
    for name, path in {"deep": "b.png", "tiff": "b.tif"}.items():  # the same with 16 bits
        other = read(filtered_png(tmp_path / "b.png", deep))[0]
        other = type(other)(**{**vars(other), "files": (tmp_path / path,), "carried": series.carried})
        files[name] = write_as_read(tmp_path / name, name, deep.astype(np.float32), other)
    for name, path in files.items():
        with Image.open(path) as result:
            found = result.getexif()
            assert Base.Orientation not in found and found[Base.Artist] == "Ann", name
            assert found.get_ifd(IFD.GPSInfo) == {1: "N", 2: (52.0, 30.0, 1.0)}, name
            assert found.get_ifd(IFD.Exif)[Base.ISOSpeedRatings] == 400, name
            assert result.info["icc_profile"] == PROFILE, name
            if name == "png":
                np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(result)), upright)
    with tifffile.TiffFile(files["tiff"]) as file:
        tags = file.pages[0].tags
        assert tags["GPSTag"].value["GPSLatitudeRef"] == "N" and tags["ExifTag"].value["ISOSpeedRatings"] == 400
        np.testing.assert_array_equal(file.pages[0].asarray(), deep)


def test_a_profile_of_inks_does_not_hold_for_colours(caplog):
    inks = b"\0" * 16 + b"CMYK" + b"\0" * 108
    with caplog.at_level(logging.WARNING):
        assert Carried(profile=inks).profile_for(3, "c.jpg") is None
    assert "c.jpg has a colour profile of 'CMYK', which does not hold for the RGB result; it is left out" in caplog.text


def test_alpha_of_a_result_of_another_size(tmp_path):
    """Of a smooth alpha: a ramp stays one when it is enlarged, but for its ends, and its middle is its middle."""
    ramp = np.tile(np.arange(0, 240, 20, dtype=np.uint8), (8, 1))
    Image.fromarray(np.dstack([np.full((8, 12, 3), 100, np.uint8), ramp])).save(tmp_path / "a.png")
    (series,) = read(tmp_path / "a.png")
    with Image.open(write_as_read(tmp_path, "large", np.full((16, 24, 3), 100.0), series)) as result:
        alpha = np.asarray(result)[..., 3]
    np.testing.assert_array_equal(alpha[:, 1:-1], np.tile(np.arange(5, 220, 10), (16, 1)))
    with Image.open(write_as_read(tmp_path, "middle", np.full((8, 8, 3), 100.0), series, crop=True)) as result:
        np.testing.assert_array_equal(np.asarray(result)[..., 3], ramp[:, 2:10])


def test_portrait_and_landscape_with_alpha_by_one_command(tmp_path):
    wide = RNG.integers(0, 256, (8, 12, 4), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    for name, pixels in {"wide": wide, "high": wide.swapaxes(0, 1)}.items():
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png", icc_profile=PROFILE)
    out = run(tmp_path, "--data.measured", "true", "--model.exact", "false", path=str(tmp_path / "in"), operator="Identity")
    for name, pixels in {"wide": wide, "high": wide.swapaxes(0, 1)}.items():
        with Image.open(out / "pictures" / f"{name}.png") as result:
            np.testing.assert_array_equal(np.asarray(result), pixels)
            assert result.info["icc_profile"] == PROFILE
    truth = open_source(tmp_path / "in", measured=True)[0].measurement
    assert truth.shape[0] == 3 and torch.isfinite(truth).all()
