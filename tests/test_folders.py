"""Folders as scanners and people leave them: what is no slice is left out in a word, what is odd is named, and all of it."""

from __future__ import annotations

import re
import shutil

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom import dcmwrite
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLosslessSV1, SecondaryCaptureImageStorage

from padis_lightning.commands.prepare import run as prepare
from padis_lightning.data.dicom_checks import is_dicom
from padis_lightning.data.names import files_below
from padis_lightning.data.readers import open_series
from padis_lightning.data.sources.open import open_source
from padis_lightning.data.sources.volumes import VolumeSource
from padis_lightning.errors import InputError
from padis_lightning.types import Normalisation
from tests.making import dicom, enhanced, lps, saved, write, write_stack

UPRIGHT = lps(np.eye(3), (0.5, 0.75, 2.0), (-10, 20, 30))
VOLUME = np.random.default_rng(0).integers(0, 4096, (5, 6, 8)).astype(np.uint16)
HU = 2.0 * VOLUME - 1024


def values(path, **options):
    return [np.stack([one.read(k) for k in range(one.count)]) for one in open_series(path, **options)]


def page(path, grey):
    pixels = np.full((6, 8) if grey else (6, 8, 3), 90, np.uint8)
    colours = {} if grey else {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    kind = {"Rows": 6, "Columns": 8, "SOPClassUID": SecondaryCaptureImageStorage} | colours
    nowhere = dict.fromkeys(("RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient"))
    return saved(path, pixels, UPRIGHT, SeriesInstanceUID="1.9", **kind, **nowhere)


@pytest.mark.parametrize(
    ("word", "add"),
    [
        ("1 file is left out, a capture or a page: x", lambda f: page(f / "x", grey=True)),
        ("1 file is left out, a capture or a page: x", lambda f: page(f / "x", grey=False)),
        ("5 files are left out, PT beside the CT", lambda f: write_stack(f / "pet", VOLUME, UPRIGHT, Modality="PT",
                                                                         SeriesInstanceUID="1.8")),
        ("1 file is left out, SR without pixel data: x", lambda f: saved(f / "x", VOLUME[0], UPRIGHT, Modality="SR", Rows=None,
                                                                         Columns=None, PixelData=None)),
        ("1 file is left out, a localiser: x", lambda f: saved(f / "x", VOLUME[0], UPRIGHT, ImageType=["O", "P", "LOCALIZER"])),
        ("1 file is left out, a copy of .*: x", lambda f: shutil.copy(f / "IM001", f / "x")),
    ],
)  # fmt: skip
def test_what_is_no_slice_is_left_out_in_a_word(tmp_path, caplog, word, add):
    write_stack(tmp_path, VOLUME, UPRIGHT)
    add(tmp_path)
    (read,) = values(tmp_path, volumes=True)
    np.testing.assert_array_equal(read, HU)
    assert len(caplog.messages) == 1 and re.match(f"{tmp_path}: {word}", caplog.messages[0])


def test_slices_of_one_identity_that_differ_are_no_copies(tmp_path):
    """As those who take names out of files leave them."""
    write_stack(tmp_path, VOLUME, UPRIGHT, SOPInstanceUID="1.2.3.9")
    np.testing.assert_array_equal(values(tmp_path)[0], HU)


def test_all_odd_series_are_named_at_once_and_can_be_left_out(tmp_path, caplog):
    for number, name in enumerate("ABCD"):
        write_stack(tmp_path / name, VOLUME, UPRIGHT, SeriesInstanceUID=f"1.{number}", PatientID=name)
    for name, place in (("B", 2), ("D", 3)):  # a slice is lost, and one lies where another does
        middle = next(p for p in (tmp_path / name).iterdir() if pydicom.dcmread(p).InstanceNumber == 100 - place)
        if name == "B":
            middle.unlink()
            continue
        one = pydicom.dcmread(middle)
        one.ImagePositionPatient[2] += 2
        one.save_as(middle)
    both = r"2 series are odd: series B_4 lacks 1 of its slices .*, series D_4 has .* at one place; wanted --data.skip_bad true"
    with pytest.raises(InputError, match=both):
        open_series(tmp_path, volumes=True)
    kept = open_series(tmp_path, skip_bad=True)
    assert [(s.name, s.count) for s in kept] == [("A_4", 5), ("C_4", 5)]
    assert [m.split(" has ")[0].split(" lacks ")[0] for m in caplog.messages] == ["series B_4", "series D_4"]
    shutil.rmtree(tmp_path / "D")
    caplog.clear()
    slices = open_source(tmp_path)  # single slices may have gaps between them
    assert len(slices) == 14 and "series B_4 lacks 1 of its slices" in caplog.text
    parts = [s for s in slices.series if s.group == "B"]
    assert [s.count for s in parts] == [2, 2]
    np.testing.assert_allclose(parts[1].affine @ (0, 0, 0, 1), UPRIGHT @ (0, 0, 3, 1))
    with pytest.raises(InputError, match="series B_4 lacks 1 of its slices .*or --data.skip_bad true"):
        open_series(tmp_path, volumes=True)


def test_prepare_leaves_out_what_is_odd_and_no_volume_of_its_file_goes_across_a_gap(tmp_path, capsys):
    for number, name in enumerate("AB"):
        write_stack(tmp_path / "s" / name, VOLUME, UPRIGHT, SeriesInstanceUID=f"1.{number}", PatientID=name)
    one = next(p for p in (tmp_path / "s" / "B").iterdir() if pydicom.dcmread(p).InstanceNumber == 98)
    one.unlink()
    for name, options, heights in (("all", [], [5, 2, 2]), ("even", ["--skip_bad"], [5])):
        out = tmp_path / f"{name}.h5"
        prepare([str(tmp_path / "s"), "--output", str(out), "--split", "1", "0", "0", "--workers", "1", *options])
        depths = [stack.count for stack in open_series(tmp_path / "s", skip_bad=bool(options))]
        assert depths == heights and len(VolumeSource(open_source(out), 2)) == sum(h // 2 for h in heights)


def test_two_phases_in_one_series_are_two_series(tmp_path, caplog):
    for phase in (2, 1):
        write_stack(tmp_path / str(phase), VOLUME + np.uint16(phase), UPRIGHT, AcquisitionNumber=phase)
    first, second = values(tmp_path, volumes=True)
    np.testing.assert_array_equal(first, HU + 2)
    np.testing.assert_array_equal(second, HU + 4)
    assert "has 2 phases by their AcquisitionNumber" in caplog.text
    shutil.rmtree(tmp_path / "1")
    for k, path in enumerate(write_stack(tmp_path / "2", VOLUME, UPRIGHT)):  # a number for each slice is no phase
        one = pydicom.dcmread(path)
        one.AcquisitionNumber = k
        one.save_as(path)
    assert [len(one) for one in values(tmp_path)] == [5]


@pytest.mark.parametrize("bare", [{3, 4}, {0, 1, 2, 3, 4}])
@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_a_preamble_are_read_as_those_with_one(tmp_path, bare, implicit):
    for k, path in enumerate(write_stack(tmp_path, VOLUME, UPRIGHT)):
        if k in bare:
            header = Dataset(pydicom.dcmread(path))
            dcmwrite(path, header, implicit_vr=implicit, little_endian=True)
            assert path.read_bytes()[128:132] != b"DICM" and is_dicom(path)
    (read,) = values(tmp_path)
    np.testing.assert_array_equal(read, HU)


def test_other_files_are_no_dicom(tmp_path):
    random = np.random.default_rng(0)
    contents = [b"", b"\x08\0", b"hello" * 99, bytes(2000), b"\x08\0\x05\0CS\x0a\0ISO_IR 100", random.bytes(3000),
                b"\x08\0\x05\0CS\x02\0AB\x08\0\x05\0CS\x02\0AB" + bytes(9), b"\x08\0" + random.bytes(3000)]  # fmt: skip
    for k, content in enumerate(contents):
        (tmp_path / str(k)).write_bytes(content)
        assert not is_dicom(tmp_path / str(k)), content[:20]


def test_linked_folders_are_followed_once(tmp_path):
    write_stack(tmp_path / "scan" / "real", VOLUME, UPRIGHT)
    write_stack(tmp_path / "other", VOLUME, UPRIGHT, SeriesInstanceUID="1.8")
    for name, target in {"again": "scan/real", "loop": "scan", "up": ".", "elsewhere": "other", "twice": "other"}.items():
        (tmp_path / "scan" / name).symlink_to(tmp_path / target)
    found = files_below(tmp_path / "scan")
    assert len(found) == 10 and {p.parent.name for p in found} == {"real", "elsewhere"}
    assert [s.count for s in open_series(tmp_path / "scan")] == [5, 5]


def test_a_table_of_values_is_applied_and_a_private_tag_overrides_nothing(tmp_path):
    stored = (VOLUME[0] % 16).astype(np.uint16)
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [16, 0, 16], "HU"
    table.add_new("LUTData", "US", [(37 * k * k) % 5000 for k in range(16)])
    one = dicom(stored, UPRIGHT, RescaleSlope=None, RescaleIntercept=None)
    one.ModalityLUTSequence = [table]
    one.save_as(tmp_path / "table.dcm")
    (series,) = open_series(tmp_path / "table.dcm")
    assert series.units == "HU"
    np.testing.assert_array_equal(series.read(0), np.array(table.LUTData)[stored])
    frames = enhanced(VOLUME, UPRIGHT, [0, 1, 2, 3, 4])
    for group in frames.PerFrameFunctionalGroupsSequence:
        private, inner = group.private_block(0x2005, "SOMEBODY", create=True), Dataset()
        inner.RescaleSlope, inner.PixelSpacing = 99, [9, 9]
        private.add_new(0x0F, "SQ", [inner])
    frames.save_as(tmp_path / "many.dcm")
    (series,) = open_series(tmp_path / "many.dcm")
    assert series.spacing == (0.5, 0.75)
    np.testing.assert_array_equal(series.read(3), 4.0 * VOLUME[3] - 1000)


def test_white_for_low_values_is_turned_but_for_measured_ones(tmp_path):
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    unscaled = {"Modality": "DX", "RescaleSlope": None, "RescaleIntercept": None}
    saved(tmp_path / "dx", VOLUME[0], UPRIGHT, BitsStored=12, **unscaled, **inverted)
    np.testing.assert_array_equal(values(tmp_path / "dx")[0][0], 4095.0 - VOLUME[0])
    saved(tmp_path / "ct", VOLUME[0], UPRIGHT, **inverted)
    np.testing.assert_array_equal(values(tmp_path / "ct")[0][0], HU[0])


def test_jpeg_ls_and_lossless_jpeg_are_decoded(tmp_path):
    gdcm = pytest.importorskip("gdcm")
    source = get_testdata_file("MR_small.dcm", download=False)
    truth = values(source)[0]
    np.testing.assert_array_equal(values(get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False))[0], truth)
    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(source)
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(tmp_path / "a.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(tmp_path / "a.dcm").file_meta.TransferSyntaxUID == JPEGLosslessSV1
    np.testing.assert_array_equal(values(tmp_path / "a.dcm")[0], truth)


def test_hounsfield_units_are_known_in_every_format_when_told_so(tmp_path):
    hu = np.array([[-2000, -1000, 0], [500, 1000, 3071]], np.int16)
    nibabel.save(nibabel.Nifti1Image(hu.T[:, :, None], np.eye(4)), tmp_path / "v.nii")
    tifffile.imwrite(tmp_path / "v.tif", hu)
    np.save(tmp_path / "v.npy", hu[None])
    write(tmp_path / "v.npz", images=hu[None])
    write(tmp_path / "v.h5", images=hu[None])
    expected = np.clip(hu, -1000, 1000) / 2000 + 0.5
    for suffix in ("nii", "tif", "npy", "npz", "h5"):
        source = open_source(tmp_path / f"v.{suffix}", hu=True)
        assert source.normalisation == Normalisation(-1000.0, 1000.0, (-1000.0, 1000.0)), suffix
        np.testing.assert_allclose(source[0].image[0], expected, atol=1e-6)
        named = open_source(tmp_path / f"v.{suffix}", data_range=(-1000, 0))
        np.testing.assert_allclose(named[0].image[0], np.clip(hu / 1000 + 1, 0, 1), atol=1e-6)
    scan = {"y": np.ones((1, 3, 40)), "angles": [0, 1, 2.0], "size": 4, "pixel_spacing": 1, "bin_spacing": 1, "range": [0, 1]}
    for name in ("y.npz", "y.h5"):
        with pytest.raises(InputError, match="hu is true and .* has measurements; wanted images"):
            open_source(write(tmp_path / name, **scan), hu=True)


def test_pages_and_folders_of_slices_are_volumes_when_asked(tmp_path):
    volume = 13 * VOLUME
    tifffile.imwrite(tmp_path / "pages.tif", volume, imagej=True)
    tifffile.imwrite(tmp_path / "zipped.tif", volume, compression="zlib", photometric="minisblack")
    for name in ("one", "two"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for k, values_ in enumerate(volume):
            tifffile.imwrite(tmp_path / "scans" / name / f"s{k + 7}.tif", values_)
    for path, count in {"pages.tif": 1, "zipped.tif": 1, "scans/one": 1, "scans": 2}.items():
        source = VolumeSource(open_source(tmp_path / path, volumes=True))
        assert len(source) == count
        for item in source:
            np.testing.assert_allclose(65535 * item.image[0].double(), volume, atol=0.01)
    with pytest.raises(InputError, match="pages.tif has 5 pages; wanted one picture a file, or --data.volumes true"):
        open_series(tmp_path / "pages.tif")
    tifffile.imwrite(tmp_path / "scans/one/s99.tif", volume[0, :3])
    with pytest.raises(InputError, match="scans/one|one has slices of 6x8 and 3x8; wanted one size for a volume"):
        open_series(tmp_path / "scans/one", volumes=True)


def test_webp_palettes_and_cmyk_are_colours(tmp_path):
    colours = np.repeat(np.array([[[250, 10, 30], [20, 200, 90]]], np.uint8), 4, 0).repeat(4, 1)
    image = Image.fromarray(colours)
    image.save(tmp_path / "a.webp", lossless=True)
    image.quantize(4).save(tmp_path / "b.png")
    image.convert("CMYK").save(tmp_path / "c.tif")
    for name in ("a.webp", "b.png", "c.tif"):
        np.testing.assert_allclose(values(tmp_path / name)[0][0], colours, atol=1, err_msg=name)
