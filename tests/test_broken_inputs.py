"""Data that cannot be used: one sentence with what was seen and what was wanted, and nothing written."""

from __future__ import annotations

import json
import re
import stat
import struct
import zipfile

import nibabel
import numpy as np
import pytest
import scipy.io
import tifffile
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import JPEG2000Lossless

from padis_lightning.cli import main
from padis_lightning.ct import Geometry
from padis_lightning.data import archives
from padis_lightning.data.datamodule import ImageData
from padis_lightning.errors import InputError
from tests.making import dicom, enhanced, lps, prepared, saved, write, write_stack

UPRIGHT = lps(np.eye(3), (0.5, 0.75, 2.0), (-10, 20, 30))
VOLUME = np.random.default_rng(0).integers(0, 4096, (5, 6, 8)).astype(np.uint16)
SCAN = {"size": 16, "pixel_spacing": 0.5, "bin_spacing": 0.25, "angles": np.linspace(0, 1, 3), "range": [0, 1]}
UNIT, VOLUMES = {"range": (0, 1)}, {"volumes": True}
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
EIGHT = np.zeros((1, 4, 4), np.uint8)


def cut(path, share=0.6):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def stack(folder, change=None, volume=VOLUME):
    """A folder with a stack, after ``change`` of the tags of slice k, which yields None for a slice to leave out."""
    for k, pixels in enumerate(volume):
        tags = change(k) if change else {}
        if tags is not None:
            dicom(pixels, UPRIGHT, k, **tags).save_as(folder / f"{k}.dcm")
    return folder


def at(place):
    """The position of slice ``place``, which may lie between two."""
    return {"ImagePositionPatient": [-10, 20, 30 + 2.0 * place]}


def a_folder_without_pictures(folder):
    (folder / "notes.txt").write_text("hello")
    (folder / "table.csv").write_text("1,2")
    return folder


def truncated_compressed_dicom(folder):
    with open(get_testdata_file("693_J2KI.dcm", download=False), "rb") as file:
        (folder / "cut.dcm").write_bytes(file.read()[:3000])
    return folder / "cut.dcm"


def dicom_with_noise_for_pixels(folder):
    one = dicom(VOLUME[0], UPRIGHT)
    one.file_meta.TransferSyntaxUID = JPEG2000Lossless
    one.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x08\0\0\0notajp2k\xfe\xff\xdd\xe0\0\0\0\0"
    one["PixelData"].VR = "OB"
    one["PixelData"].is_undefined_length = True
    one.save_as(folder / "noise.dcm")
    return folder / "noise.dcm"


def volume(path, data):
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)
    return path


def matlab(folder, **arrays):
    scipy.io.savemat(folder / "a.mat", arrays, do_compression=True)
    return folder / "a.mat"


def tiff(folder, array, photometric="minisblack"):
    tifffile.imwrite(folder / "a.tif", array, photometric=photometric)
    return folder / "a.tif"


def text(path):
    path.write_text("hello")
    return path


def one_picture(path, kind, color=0, **options):
    Image.new(kind, (8, 8), color).save(path, **options)
    return path


def with_one(shape, place, value, dtype=float):
    """Zeros but for one value."""
    array = np.zeros(shape, dtype)
    array[place] = value
    return array


def picture(path, array=None):
    Image.fromarray(np.zeros((8, 8), np.uint8) if array is None else array).save(path)
    return path


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zipfile.crc32(kind + data))


def zipped(folder, *names, **changes):
    """A zip of one picture under several names, each with the attributes of ``changes``."""
    data = picture(folder / "one.png").read_bytes()
    with zipfile.ZipFile(folder / "z.zip", "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.writestr(info, data)
    return folder / "z.zip"


def an_encrypted_zip(folder):
    data = bytearray(zipped(folder, "a.png").read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of the file and of its entry
        data[data.index(mark) + place] |= 1
    (folder / "z.zip").write_bytes(data)
    return folder / "z.zip"


def a_zip_bomb(folder):
    data = bytearray(zipped(folder, "a.png").read_bytes())
    place = data.index(b"PK\x01\x02") + 24  # the size that the entry names
    data[place : place + 4] = struct.pack("<I", 2**31)
    (folder / "z.zip").write_bytes(data)
    return folder / "z.zip"


def a_zip_with_a_flipped_bit(folder):
    data = bytearray(zipped(folder, "a.png").read_bytes())
    data[60] ^= 1
    (folder / "z.zip").write_bytes(data)
    return folder / "z.zip"


def measured(folder, **changes):
    return write(folder / "y.h5", **{"y": np.ones((2, 3, 40)), **SCAN, **changes})


def counted(folder, counts=1000.0, **changes):
    return measured(folder, **{"y": None, "counts": np.broadcast_to(counts, (2, 3, 40)), "flat": 5000.0, **changes})


def results(folder, array=(4, 4), dtype=np.float32, **changes):
    """A results folder of two images, the second of which is ``array``."""
    run = {"range": [0, 1], "shown": {"units": "", "lower": 0, "upper": 1}, "images": [[0, "a", "p"], [1, "b", "q"]], **changes}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "arrays").mkdir()
    for name, shape in (("a", (4, 4)), ("b", array)):
        if shape:
            np.save(folder / "arrays" / f"{name}.npy", np.zeros(shape, dtype))
    return folder


def a_transposed_sinogram_with_its_scan_beside_it(folder):
    Geometry((16, 16), (0.0, 0.5, 1.0), 40, 0.5, 0.25).save(folder / "y.json")
    return write(folder / "y.h5", y=np.ones((2, 40, 3)), range=[0, 1])


def degrees_beside_the_file(folder):
    Geometry((16, 16), (0.0, 50.0, 100.0), 40, 0.5, 0.25).save(folder / "y.json")
    return write(folder / "y.h5", y=np.ones((2, 3, 40)), range=[0, 1])


def missing_slices(folder):
    return stack(folder, lambda k: None if k in (5, 6) else {}, np.concatenate([VOLUME, VOLUME]))


# fmt: off
CASES = [  # a sentence, what makes the input in an empty folder, options
    ("the folder .* holds 2 files, none of which can be read; wanted DICOM", a_folder_without_pictures),
    ("cut.dcm cannot be read .*; wanted DICOM that is whole", truncated_compressed_dicom),
    ("noise.dcm cannot be read .*; wanted DICOM that is whole", dicom_with_noise_for_pixels),
    (r"series patient_4 lacks 1 of its slices between two.dcm\[3\] and two.dcm\[0\], 4 mm apart; wanted one every 2 mm",
     lambda f: saved(f / "two.dcm", made=enhanced(VOLUME, UPRIGHT, [4, 0, 1, 2])), VOLUMES),
    (r"a.npz has images of shape \(5, 3, 16, 16\), which look like \(n, C, H, W\); wanted \(n, H, W\)",
     lambda f: write(f / "a.npz", images=np.zeros((5, 3, 16, 16), np.uint8))),
    ("p.h5 has no images of 3 or 4 axes; wanted a whole file of 'prepare'",
     lambda f: write(f / "p.h5", ("format",), format="padis_lightning")),
    (r"z.zip holds 'a.png', which is encrypted; wanted a zip without a password", an_encrypted_zip),
    (r"z.zip of \d+ bytes holds \d+; wanted at most 1000 times as many and 64 GiB", a_zip_bomb),
    ("z.zip cannot be read at a.png .*; wanted a zip of pictures that is whole", a_zip_with_a_flipped_bit),
    (r"has NaN in images\[1\]; wanted finite numbers",
     lambda f: write(f / "a.npz", images=with_one((2, 4, 4), (1, 2, 3), np.nan))),
    (r"y.h5 has y of shape \(2, 40, 3\) and 3 angles, so it looks transposed; wanted \(n, views, bins\)",
     a_transposed_sinogram_with_its_scan_beside_it),
    (r"y.json has angles from 0 to 100 in steps of 50, which look like degrees; wanted radians", degrees_beside_the_file),
    ("there is no file or folder '.*nope'; wanted DICOM, HDF5", lambda f: f / "nope"),
    ("the folder .* is empty; wanted DICOM, HDF5", lambda f: f),
    (r"notes.txt ends in '.txt' and is not DICOM; wanted DICOM, HDF5", lambda f: text(f / "notes.txt")),
    (r"3.dcm is cut off, \d+ bytes of pixels and their tag; wanted 96 and more", lambda f: cut(stack(f) / "3.dcm", 0.97).parent),
    ("(cut.dcm has no pixel data|cut.dcm cannot be read|cut.dcm holds .* without pixel data).*; wanted",
     lambda f: cut(saved(f / "cut.dcm", VOLUME[0], UPRIGHT), 0.5)),
    ("2.dcm has no pixel data; wanted an image", lambda f: stack(f, lambda k: {"PixelData": None} if k == 2 else {})),
    ("rtplan.dcm holds RTPLAN without pixel data and nothing else; wanted slices in DICOM",
     lambda f: get_testdata_file("rtplan.dcm", download=False)),
    (r"series patient_4 mixes slices of shape \(6, 8\) and \(6, 4\); wanted one",
     lambda f: saved(stack(f) / "3.dcm", VOLUME[3, :, :4], UPRIGHT, 3).parent),
    ("series patient_4 mixes slices of orientation .*; wanted one",
     lambda f: stack(f, lambda k: {"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]} if k == 1 else {})),
    ("series patient_4 mixes slices of spacing .*; wanted one",
     lambda f: stack(f, lambda k: {"PixelSpacing": [0.5, 0.5]} if k == 1 else {})),
    ("series patient_4 mixes slices of hounsfield True and False; wanted one",
     lambda f: stack(f, lambda k: {"RescaleType": "US"} if k == 1 else {})),
    ("series patient_4 lacks 2 of its slices between 4.dcm and 7.dcm, 6 mm apart; wanted one every 2 mm, or --data.skip_bad true",
     missing_slices, VOLUMES),
    ("series patient_4 has uneven gaps, 2.[12] mm between 2.dcm and 3.dcm; wanted 2 mm as elsewhere",
     lambda f: stack(f, lambda k: at(k + 0.1 * (k > 2))), VOLUMES),
    ("series patient_4 has uneven gaps, 2.03 mm between 0.dcm and 1.dcm; wanted 2 mm as elsewhere",
     lambda f: stack(f, lambda k: at(k + 0.015 * (k > 0))), VOLUMES),
    ("series patient_4 has 1.dcm and 2.dcm at one place; wanted one slice at each",
     lambda f: stack(f, lambda k: at(k - (k > 1)))),
    ("series patient_4 has .*dcm .* mm beside the line of the others; wanted slices on a line",
     lambda f: stack(f, lambda k: {"ImagePositionPatient": [-10 + 3.0 * (k == 2), 20, 30 + 2.0 * k]})),
    ("series patient_4 has 5 slices, 4 with a place in the patient; wanted it of all",
     lambda f: stack(f, lambda k: {"ImagePositionPatient": None} if k == 2 else {})),
    ("series patient_4 has the orientation .*; wanted two unit vectors at right angles",
     lambda f: stack(f, lambda k: {"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]})),
    ("0.dcm is a CT of 8 bits without a rescale, a picture rather than measured values; wanted HU",
     lambda f: stack(f, lambda k: {"RescaleSlope": None}, (VOLUME // 16).astype(np.uint8))),
    ("scout.dcm holds a localiser and nothing else; wanted slices",
     lambda f: saved(f / "scout.dcm", VOLUME[0], UPRIGHT, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
    (r"many.dcm has 5 frames without places \(CT Image Storage\); wanted one slice a file",
     lambda f: saved(f / "many.dcm", VOLUME, UPRIGHT, NumberOfFrames=5)),
    ("rtdose.dcm holds RTDOSE, drawn on slices and nothing else; wanted slices in DICOM",
     lambda f: get_testdata_file("rtdose.dcm", download=False)),
    (r"examples_rgb_color.dcm is in colours \(RGB\); wanted grey values",
     lambda f: get_testdata_file("examples_rgb_color.dcm", download=False)),
    ("the images are 6x8; wanted square ones to be brought to 4x4", lambda f: stack(f), {"size": 4}),
    ("v has values in slice 2 that are not finite; wanted finite numbers",
     lambda f: volume(f / "v.nii.gz", with_one((4, 4, 5), (1, 3, 2), np.nan, np.float32)), UNIT),
    ("5 slices of v.nii.gz have no range of values; wanted --data.range .*, or --data.hu true where they are HU",
     lambda f: volume(f / "v.nii.gz", np.zeros((4, 4, 5), np.int16))),
    (r"v.nii has int16 of shape \(4, 4, 5, 2\); wanted one volume of real numbers",
     lambda f: volume(f / "v.nii", np.zeros((4, 4, 5, 2), np.int16)), UNIT),
    (r"v.nii has complex64 of shape \(4, 4, 5\); wanted one volume of real numbers",
     lambda f: volume(f / "v.nii", np.zeros((4, 4, 5), np.complex64)), UNIT),
    ("v.nii cannot be read .*; wanted NIfTI that is whole",
     lambda f: cut(volume(f / "v.nii", np.zeros((4, 4, 500), np.int16))), UNIT),
    ("v.nii.gz cannot be read .*; wanted NIfTI that is whole", lambda f: cut(volume(f / "v.nii.gz", VOLUME)), UNIT),
    ("a.h5 has left, right in it; wanted 'images', 'data', or one array of 3 or 4 axes",
     lambda f: write(f / "a.h5", left=np.zeros((2, 4, 4)), right=np.zeros((2, 4, 4)))),
    ("a.h5 cannot be read .*truncated file.*; wanted HDF5 that is whole",
     lambda f: cut(write(f / "a.h5", images=np.zeros((9, 40, 40), np.uint8)))),
    (r"a.h5 has images of shape \(16, 16, 5\), which look like \(H, W, n\); wanted \(n, H, W\)",
     lambda f: write(f / "a.h5", images=np.zeros((16, 16, 5), np.uint8))),
    ("a.h5 has 1 entries of patient; wanted 2, one an image",
     lambda f: write(f / "a.h5", images=np.zeros((2, 4, 4), np.uint8), patient=["a"])),
    ("p.h5 is of version 2; wanted 1", lambda f: prepared(f / "p.h5", EIGHT, ["test"], ["a"], version=2)),
    ("p.h5 has no 'slope'; wanted a whole file of 'prepare'", lambda f: prepared(f / "p.h5", EIGHT, ["test"], ["a"], slope=None)),
    (r"p.h5 has 'group' of shape \(1,\); wanted \(2,\), one an image",
     lambda f: prepared(f / "p.h5", np.zeros((2, 4, 4), np.uint8), ["test", "test"], ["a"])),
    ("p.h5 has the part 'holdout'; wanted train, validation, test", lambda f: prepared(f / "p.h5", EIGHT, ["holdout"], ["a"])),
    ("p.h5 has images of uint8 in chunks; wanted a contiguous block",
     lambda f: prepared(f / "p.h5", EIGHT, ["test"], ["a"], chunks=(1, 4, 4))),
    ("a.mat has no array of 3 or 4 axes; wanted 'images', H x W x n", lambda f: matlab(f, x=np.zeros(3))),
    (r"a.mat has images of shape \(5, 16, 16\), which looks like n x H x W; wanted H x W x n",
     lambda f: matlab(f, images=np.zeros((5, 16, 16))), UNIT),
    (r"a.mat has images of type float64 and shape \(16, 16, 5, 9\); wanted real numbers",
     lambda f: matlab(f, images=np.zeros((16, 16, 5, 9))), UNIT),
    ("a.mat cannot be read .*complex.*; wanted a whole file of MATLAB",
     lambda f: matlab(f, images=np.ones((4, 4, 2)) * 1j), UNIT),
    ("a.mat cannot be read .*; wanted a whole file of MATLAB",
     lambda f: cut(matlab(f, images=np.random.default_rng(0).random((4, 4, 9)))), UNIT),
    ("a.png cannot be read .*; wanted a picture that is whole", lambda f: text(picture(f / "b.png").with_name("a.png")).parent),
    ("a.png cannot be read .*; wanted a picture that is whole", lambda f: cut(picture(f / "a.png", NOISE))),
    ("a.tif cannot be read .*; wanted a picture that is whole", lambda f: cut(tiff(f, np.zeros((64, 64, 3), np.uint16), "rgb"))),
    (r"a.png is transparent in places \(alpha 100 of 255\); wanted an opaque picture",
     lambda f: picture(f / "a.png", 255 - with_one((8, 8, 4), (2, 3, 3), 155, np.uint8))),
    (r"a.png is transparent in places \(alpha 0 of 255\); wanted an opaque picture",
     lambda f: one_picture(f / "a.png", "L", 3, transparency=3)),
    ("a.tif is in the mode LAB; wanted grey or RGB", lambda f: one_picture(f / "a.tif", "LAB")),
    ("a.tif has 3 pages; wanted one picture a file", lambda f: tiff(f, np.zeros((3, 8, 8), np.uint8))),
    (r"z.zip holds '../../evil.png', which lies outside of it; wanted names below its own folder",
     lambda f: zipped(f, "a.png", "../../evil.png")),
    (r"z.zip holds '\.\.\\\\evil.png', which lies outside of it", lambda f: zipped(f, "..\\evil.png")),
    (r"z.zip holds '/tmp/evil.png', which lies outside of it; wanted names below its own folder",
     lambda f: zipped(f, "/tmp/evil.png")),
    (r"z.zip holds 'C:.*evil.png', which lies outside of it", lambda f: zipped(f, "C:\\evil.png")),
    (r"z.zip holds 'a.png', which is a symbolic link; wanted files",
     lambda f: zipped(f, "a.png", external_attr=(stat.S_IFLNK | 0o777) << 16)),
    ("z.zip cannot be read .*; wanted a zip of pictures that is whole", lambda f: cut(zipped(f, "a.png", "b.png"))),
    ("z.zip holds no pictures; wanted .png", lambda f: zipped(f, "a.txt")),
    (r"y.h5 has y of shape \(2, 40, 3\) and 3 angles, so it looks transposed; wanted \(n, views, bins\)",
     lambda f: measured(f, y=np.ones((2, 40, 3)))),
    (r"y.h5 has angles from 0 to 178 in steps of 2, which look like degrees; wanted radians",
     lambda f: measured(f, y=np.ones((2, 90, 40)), angles=np.arange(0.0, 180, 2))),
    ("p.h5 has images of int32; wanted a contiguous block of uint8, uint16 or float32",
     lambda f: prepared(f / "p.h5", np.zeros((1, 4, 4), np.int32), ["test"], ["a"])),
    ("y.h5 has counts without flat; wanted the counts of a scan without an object", lambda f: counted(f, flat=None)),
    ("y.h5 has flat not above 0 in any of 240 bins; wanted photons", lambda f: counted(f, flat=np.zeros(40))),
    ("y.h5 has flat not above dark in any of 240 bins; wanted photons", lambda f: counted(f, flat=10.0, dark=10.0)),
    ("y.h5 has counts not above dark in 126 of 240 bins with a beam; wanted photons in most",
     lambda f: counted(f, counts=np.where(np.arange(40) < 21, 10.0, 1000), dark=10.0)),
    ("y.h5 has counts not above 0 in 120 of 222 bins with a beam; wanted photons in most",
     lambda f: counted(f, counts=np.where(np.arange(40) < 23, 0, 1000), flat=np.where(np.arange(40) < 3, 0.0, 5000))),
    (r"y.h5 has flat of shape \(3,\); wanted one value, or \(40\), \(3, 40\)", lambda f: counted(f, flat=np.full(3, 5000.0))),
    ("y.h5 has both y and counts; wanted one of them", lambda f: counted(f, y=np.ones((2, 3, 40)))),
    (r"observation_x.h5 has data of shape \(2, 60, 513\); wanted \(n, 1000, 513\), LoDoPaB's observations",
     lambda f: write(f / "observation_x.h5", data=np.zeros((2, 60, 513)))),
    ("there is no .*arrays/b.npy; wanted a run that has solved all its images", lambda f: results(f, None)),
    ("run.json cannot be read .*; wanted what this version of predict writes", lambda f: results(f, shown=None)),
    ("run.json lists the image '../b'; wanted a name without folders", lambda f: results(f, images=[[0, "../b", "p"]])),
    (r"run.json has NaN in range\[1\]; wanted finite numbers", lambda f: results(f, range=[0, float("nan")])),
    (r"b.npy has numbers of type float32 and shape \(2, 2, 4, 4\); wanted an image", lambda f: results(f, (2, 2, 4, 4))),
    (r"a.npy has numbers of type int64 and shape \(1, 4, 4\); wanted an image or a volume", lambda f: results(f, dtype=np.int64)),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=[case[0][:40] for case in CASES])
def test_broken_data_gets_one_sentence(tmp_path, case):
    sentence, make, *options = case
    with pytest.raises(InputError) as error:
        data = ImageData(str(make(tmp_path)), **dict(*options))
        data.setup("predict")
        for _ in data._parts["predict"]:
            pass
    said = str(error.value)
    assert re.search(sentence, said) and "; wanted " in said and "\n" not in said, said


def test_archives_of_more_than_64_gib_are_refused(tmp_path, monkeypatch):
    path = zipped(tmp_path, "a.png")
    monkeypatch.setattr(archives, "MOST_BYTES", 10)
    with pytest.raises(InputError, match=r"z.zip of \d+ bytes holds \d+; wanted at most"):
        archives.members(path)


@pytest.mark.parametrize(
    ("command", "name"), [("fit --config ct.yaml", "missing_slices"),
                          ("predict --config ct20.yaml --model PseudoInverse", "a_transposed_sinogram_with_its_scan_beside_it")],
)  # fmt: skip
def test_the_command_line_says_it_in_one_line_and_writes_nothing(tmp_path, capsys, command, name):
    sentence, make, *options = next(case for case in CASES if case[1].__name__ == name)
    (tmp_path / "data").mkdir()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--data.path", str(make(tmp_path / "data")), "--output", str(tmp_path / "out"),
              *(f"--data.{key}={value}" for one in options for key, value in one.items()),
          "--data.size", "null", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"])  # fmt: skip
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("padis_lightning: error: ")]
    assert stop.value.code == 2 and len(said) == 1 and re.search(sentence, said[0]), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("there", [False, True])
def test_pixels_that_cannot_be_read_leave_nothing_of_a_run(tmp_path, capsys, there):
    """Its header is whole, so that the run begins. What was in the folder stays."""
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    cut(tmp_path / "a.png")
    if there:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--config", "sr4x.yaml", "--model", "PseudoInverse", "--data.path", str(tmp_path / "a.png"),
              "--data.measured", "true", "--data.channels", "3", "--output", str(tmp_path / "out"),
              "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"])  # fmt: skip
    assert stop.value.code == 2 and re.search("a.png cannot be read .*; wanted a picture that is whole", capsys.readouterr().err)
    assert [path.name for path in (tmp_path / "out").glob("*")] == ["mine.txt"] * there and (tmp_path / "out").exists() == there


def test_what_is_whole_is_read(tmp_path):
    """The makers above, without what breaks them."""
    write_stack(tmp_path / "stack", VOLUME, UPRIGHT)
    (tmp_path / "made").mkdir()
    makers = {"stack": lambda: stack(tmp_path / "made"), "zip": lambda: zipped(tmp_path, "a/b.png", "c.png")}
    makers |= {
        "y": lambda: measured(tmp_path),
        "within one percent": lambda: stack(tmp_path / "made", lambda k: at(k + 0.004 * (k > 2))),
    }
    for name, make in makers.items():
        data = ImageData(str(make()))
        data.setup("predict")
        assert len(list(data._parts["predict"])) == {"stack": 5, "within one percent": 5}.get(name, 2)
    (tmp_path / "made").rename(tmp_path / "counted")
    data = ImageData(str(counted(tmp_path / "counted", counts=6000.0)))  # brighter than without an object: noise
    data.setup("predict")
    np.testing.assert_allclose(data._parts["predict"][0].measurement, -np.log(1.2), rtol=1e-5)


@pytest.mark.parametrize("blind", [1, 18])
def test_bins_that_saw_nothing_are_one_count_and_bins_without_a_beam_do_not_count(blind, tmp_path, monkeypatch):
    """Up to half of those with a beam may see nothing, as through metal."""
    said, places = [], np.arange(40)
    monkeypatch.setattr("padis_lightning.data.sources.measurements.note", said.append)
    counts, flat = np.where(places < blind, 9.0, 1010), np.where(places >= 37, 10.0, 5010)
    data = ImageData(str(counted(tmp_path, counts=counts, flat=flat, dark=10.0)))
    data.setup("predict")
    item, kinds = data._parts["predict"][1], [places < blind, (places >= blind) & (places < 37), places >= 37]
    y, weights = item.measurement[0].numpy(), item.weights[0].numpy()
    np.testing.assert_allclose(y, np.broadcast_to(np.select(kinds, [np.log(5000), np.log(5), np.log(5)]), y.shape), rtol=1e-5)
    expected = np.select(kinds, [1.0, 1000.0, 0.0])
    np.testing.assert_allclose(weights, np.broadcast_to(expected / expected.mean(), y.shape), rtol=1e-5)
    assert [line.split(": ")[1] for line in said if " bins " in line and "scan" not in line] == [
        f"{6 * blind} of 240 bins have no count above the dark field and are taken as 1 count",
        "18 of 240 bins see no beam and do not count",
    ]
