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


def lzw_tiff(path, codes, order):
    """A TIFF (H, W, C) of 16 bits by LZW, as photographers' programs write it: codes of 9 bits, cleared before they grow."""
    data = codes.astype(f"{order}u2").tobytes()
    symbols = [s for k in range(0, len(data), 200) for s in (256, *data[k : k + 200])] + [257]
    bits = "".join(f"{s:09b}" for s in symbols)
    packed = bytes(int(bits[k : k + 8].ljust(8, "0"), 2) for k in range(0, len(bits), 8))
    height, width, channels = codes.shape
    tags = {256: width, 257: height, 258: 0, 259: 5, 262: 2, 273: 0, 277: channels, 278: height, 279: len(packed)}
    tags |= {338: 2} if channels == 4 else {}
    depths = 8 + 2 + 12 * len(tags) + 4
    tags |= {258: depths, 273: depths + 2 * channels}
    entries = [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries[2] = struct.pack(f"{order}HHII", 258, 3, channels, depths)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(tags))
    path.write_bytes(head + b"".join(entries) + bytes(4) + struct.pack(f"{order}{channels}H", *[16] * channels) + packed)
    return path


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


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
def test_compressed_tiff_of_16_bits_is_read_to_the_bit(tmp_path, channels, order):
    codes = RNG.integers(0, 65536, (*SHAPE, channels))
    path = lzw_tiff(tmp_path / "a.tif", codes, order)
    (series,) = read(path)
    assert series.range == (0, 65535) and series.shape == (*SHAPE, 3)
    np.testing.assert_array_equal(tifffile.imread(rewritten(tmp_path, path)), codes)


@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_of_16_bits_is_turned_like_one_of_8(tmp_path, channels):
    """White may be 0 in a grey one. PIL reads the one of 8 bits, which must be the same picture."""
    values = RNG.integers(0, 256, (*SHAPE, channels), dtype=np.uint8).squeeze()
    for orientation in range(1, 9):
        kind = "rgb" if channels == 3 else ("miniswhite", "minisblack")[orientation % 2]
        for name, pixels in {"a": values, "b": values * np.uint16(257)}.items():
            tags = {"extratags": [(Base.Orientation, "H", 1, orientation, True)], "metadata": None}
            tifffile.imwrite(tmp_path / f"{name}.tif", pixels, photometric=kind, **tags)
        (small,), (deep,) = read(tmp_path / "a.tif"), read(tmp_path / "b.tif")
        assert deep.shape == small.shape and deep.range == (0, 65535)
        np.testing.assert_array_equal(deep.read(0), 257 * small.read(0))


@pytest.mark.filterwarnings("error")
def test_one_transparent_colour_becomes_alpha(tmp_path):
    grey = RNG.integers(0, 65536, SHAPE).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=int(grey[2, 3]))
    written, _ = unfiltered_png(rewritten(tmp_path, tmp_path / "a.png"))
    np.testing.assert_array_equal(written, np.dstack([grey, np.where(grey == grey[2, 3], 0, 65535)]))
    Image.fromarray((grey >> 8).astype(np.uint8)).convert("P").save(tmp_path / "p.png", transparency=bytes([0, 90, *[255] * 254]))
    with Image.open(rewritten(tmp_path, tmp_path / "p.png")) as result, Image.open(tmp_path / "p.png") as palette:
        np.testing.assert_array_equal(np.asarray(result), np.asarray(palette.convert("RGBA")))


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


def test_pixels_a_length_grow_with_the_picture(tmp_path):
    """A picture that is enlarged shows the same on the same paper; a text that names its size is left out, another stays."""
    pixels = RNG.integers(0, 256, SHAPE, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", dpi=(200, 100))
    filtered_png(tmp_path / "b.png", RNG.integers(0, 65536, (*SHAPE, 3)))
    (deep,), (small,) = read(tmp_path / "b.png"), read(tmp_path / "a.png")
    for series in (small, type(deep)(**{**vars(deep), "carried": small.carried})):
        for factor in (1, 3):
            values = series.read(0).repeat(factor, 0).repeat(factor, 1)
            with Image.open(write_as_read(tmp_path, "large", values, series)) as result:
                assert result.info["dpi"] == pytest.approx((200 * factor, 100 * factor), abs=0.02)
                assert result.getexif()[Base.XResolution] == pytest.approx(200 * factor, abs=0.02)
    ome = {"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.1}}
    texts = {"ome": ome, "imagej": {"imagej": True, "resolution": (10, 5)}}
    for name, how in texts.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, **how)
        (series,) = read(tmp_path / f"{name}.tif")
        for factor in (1, 3):
            values = series.read(0).repeat(factor, 0).repeat(factor, 1)
            with tifffile.TiffFile(write_as_read(tmp_path, name, values, series)) as file:
                assert file.series[0].shape == values.shape
                assert file.is_ome == (name == "ome" and factor == 1) and file.is_imagej == (name == "imagej")
                if name == "imagej":
                    assert file.pages[0].tags["XResolution"].value == (10 * factor, 1)


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


def test_pictures_of_8_and_of_16_bits_in_one_folder_keep_their_bits(tmp_path):
    """Values are those of 16 bits, where 257 is one step of 8; the same with one truth a picture, of either kind."""
    small, deep = RNG.integers(0, 256, (*SHAPE, 3), dtype=np.uint8), RNG.integers(0, 65536, (*SHAPE, 3)).astype(np.uint16)
    (tmp_path / "in").mkdir()
    Image.fromarray(small).save(tmp_path / "in" / "a.png")
    tifffile.imwrite(tmp_path / "in" / "b.tif", small, photometric="rgb")
    filtered_png(tmp_path / "in" / "c.png", deep)
    words = ("--data.measured", "true", "--model.exact", "false", "--data.reference", str(tmp_path / "in"))
    out = run(tmp_path, *words, path=str(tmp_path / "in"), operator="Identity")
    with Image.open(out / "pictures" / "a.png") as result:
        assert result.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(result), small)
    again = tifffile.imread(out / "pictures" / "b.tiff")
    assert again.dtype == np.uint8
    np.testing.assert_array_equal(again, small)
    np.testing.assert_array_equal(unfiltered_png(out / "pictures" / "c.png")[0], deep)
    np.testing.assert_allclose(np.load(out / "arrays" / "a.npy"), 257.0 * small, rtol=1e-6)


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
