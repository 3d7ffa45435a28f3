"""What is read is what the file holds, in the place where it lies."""

from __future__ import annotations

import csv
import io
import pickle
import shutil
import zipfile
from itertools import chain

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import scipy.io
import tifffile
import torch
from lightning.pytorch import Trainer
from nibabel.nicom.dicomwrappers import wrapper_from_file
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_rescale, get_decoder
from pydicom.uid import JPEGLSLossless
from torch._utils import ExceptionWrapper
from torch.utils.data import ConcatDataset, DataLoader

from padis_lightning.callbacks import Results
from padis_lightning.cli import main
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.readers import PreparedSource, open_series
from padis_lightning.data.sources.open import open_source
from padis_lightning.errors import InputError
from padis_lightning.messages.sentences import explain
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.slices import Slices
from padis_lightning.solvers.pseudo_inverse import PseudoInverse
from padis_lightning.types import Normalisation
from tests.making import RAS_TO_LPS, dicom, enhanced, lps, prepared, rotation, write, write_stack

UPRIGHT = lps(np.eye(3), (0.5, 0.75, 2.0), (-10, 20, 30))
STACKS = {
    "upright": UPRIGHT,
    "oblique": lps(rotation(0.3, -0.7, 1.9), (0.5, 0.75, 2.0), (-10, 20, 30)),
    "from head to foot": UPRIGHT @ np.diag([1, 1, -1, 1]),
    "lying the other way": lps(rotation(0, 0, np.pi), (0.8, 0.8, 1.25), (100, -50, 7)),
    "sagittal": lps(rotation(0, np.pi / 2, 0), (0.5, 0.75, 2.0), (0, 0, 0)),
    "leaning gantry": UPRIGHT @ np.array([[1, 0, 0.7, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
}


@pytest.fixture
def volume():
    return np.random.default_rng(0).integers(0, 4096, (5, 6, 8)).astype(np.uint16)


def nifti(path, data, affine, unit="mm"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("kind", STACKS)
def test_every_voxel_of_a_dicom_series_keeps_its_value_and_its_place(tmp_path, volume, kind):
    """File names, instance numbers and the order of writing say nothing; the direction along the normal is one for all."""
    affine = STACKS[kind]
    paths = write_stack(tmp_path / "scan", volume, affine)
    (series,) = open_series(tmp_path)
    assert (series.name, series.group, series.count, series.shape, series.units) == ("patient_4", "patient", 5, (6, 8), "HU")
    places = np.linalg.inv(affine) @ series.affine  # from our indices to those of the writer
    order = [round((places @ (0, 0, k, 1))[2]) for k in range(5)]
    assert sorted(order) == list(range(5)) and series.files == tuple(paths[j] for j in order)
    assert np.cross(series.affine[:3, 1], series.affine[:3, 0]) @ series.affine[:3, 2] > 0
    np.testing.assert_allclose(places[:2], np.eye(4)[:2], atol=1e-6)
    for k, j in enumerate(order):
        np.testing.assert_allclose(places @ (0, 0, k, 1), (0, 0, j, 1), atol=1e-6)
        np.testing.assert_array_equal(series.read(k), 2.0 * volume[j] - 1024)
    np.testing.assert_allclose(series.spacing, np.linalg.norm(affine[:3, :2], axis=0))


def test_dicom_and_nifti_of_one_volume_are_one_series_and_nibabel_agrees(tmp_path, volume):
    affine = STACKS["oblique"]
    paths = write_stack(tmp_path / "scan", volume, affine)
    (ours,) = open_series(tmp_path / "scan")
    np.testing.assert_allclose(ours.affine, affine, atol=1e-6)
    columns_first = np.transpose(2 * volume.astype(np.int16) - 1024, (2, 1, 0))
    path = nifti(tmp_path / "scan.nii.gz", columns_first, RAS_TO_LPS @ affine[:, [1, 0, 2, 3]])
    (theirs,) = open_series(path)
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-4)  # NIfTI holds single precision
    for k in range(5):
        np.testing.assert_array_equal(theirs.read(k), ours.read(k))
    world = nibabel.affines.apply_affine(nibabel.load(path).affine, (7, 2, 3))  # column, row, slice
    np.testing.assert_allclose((ours.affine @ (2, 7, 3, 1))[:3] * (-1, -1, 1), world, atol=1e-4)
    wrapped = wrapper_from_file(paths[0])
    np.testing.assert_allclose(wrapped.affine[:, [0, 1, 3]], ours.affine[:, [0, 1, 3]], atol=1e-6)


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"]
)
def test_bundled_files_of_pydicom_are_read_as_pydicom_reads_them(name):
    path = get_testdata_file(name, download=False)
    theirs = pydicom.dcmread(path)
    expected = apply_rescale(theirs.pixel_array, theirs).astype(np.float64)
    if theirs.Modality == "CT" and "PixelPaddingValue" in theirs:
        expected[theirs.pixel_array == theirs.PixelPaddingValue] = -1024
    (series,) = open_series(path)
    np.testing.assert_array_equal(series.read(0), expected)
    assert series.units == ("HU" if theirs.Modality == "CT" else "") and series.group == theirs.PatientID
    np.testing.assert_allclose(series.affine[:3, 3], [float(v) for v in theirs.ImagePositionPatient])


def test_deflated_and_implicit_files_hold_the_same(tmp_path, volume):
    kinds = {"plain": "1.2.840.10008.1.2.1", "deflated": "1.2.840.10008.1.2.1.99", "implicit": "1.2.840.10008.1.2"}
    stored = volume[0].astype(np.int16) - 2000
    read = {}
    for name, syntax in kinds.items():
        one = dicom(stored, UPRIGHT, PixelPaddingValue=int(stored[0, 0]))
        one.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        one.save_as(tmp_path / name, enforce_file_format=True)
        read[name] = open_series(tmp_path / name)[0].read(0)
    expected = np.where(stored == stored[0, 0], -1024, 2.0 * stored - 1024)
    for name in kinds:
        np.testing.assert_array_equal(read[name], expected, err_msg=name)


def test_frames_of_enhanced_ct_lie_where_their_groups_say(tmp_path, volume):
    affine, order = STACKS["oblique"], [3, 0, 4, 1, 2]
    enhanced(volume, affine, order).save_as(tmp_path / "one.dcm")
    (series,) = open_series(tmp_path / "one.dcm")
    assert series.count == 5 and series.units == "HU"
    np.testing.assert_allclose(series.affine, affine, atol=1e-6)
    for k in range(5):
        np.testing.assert_array_equal(series.read(k), (k + 1.0) * volume[k] - 1000)


def test_a_folder_of_dicom_gives_its_series_without_localisers_reports_and_notes(tmp_path, volume):
    write_stack(tmp_path / "a", volume, UPRIGHT)
    write_stack(tmp_path / "b", volume[:3], UPRIGHT, SeriesInstanceUID="1.2.9", PatientID="p/2", SeriesNumber=11)
    write_stack(tmp_path / "c", volume[:4], UPRIGHT, SeriesInstanceUID="1.2.8", PatientID="p/2", SeriesNumber=9)
    write_stack(tmp_path / "d", volume[:2], UPRIGHT, SeriesInstanceUID="1.2.7", PatientID="p/2", SeriesNumber=9)
    scout = dicom(volume[0, :, :3], UPRIGHT, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])  # even in the same series
    scout.save_as(tmp_path / "a" / "scout")
    for name in ("rtplan.dcm", "rtdose.dcm", "liver_1frame.dcm"):  # a plan, a dose, a segmentation
        shutil.copy(get_testdata_file(name, download=False), tmp_path / "a" / name)
    (tmp_path / "a" / "notes.txt").write_text("hello")
    series = open_series(tmp_path)
    assert [(s.name, s.group, s.count) for s in series] == [
        ("p_2_9", "p/2", 2), ("p_2_9_2", "p/2", 4), ("p_2_11", "p/2", 3), ("patient_4", "patient", 5)
    ]  # fmt: skip
    source = open_source(tmp_path)
    assert [source[i].name for i in (0, 1, 2)] == ["p_2_9_0000", "p_2_9_0001", "p_2_9_2_0000"]
    assert source.normalisation == Normalisation(-1000.0, 1000.0, (-1000.0, 1000.0))


def test_hounsfield_units_are_clipped_padding_becomes_air_and_other_units_are_not_assumed(tmp_path):
    stored = np.array([[-2000, 12, 512], [1012, 2000, 262]], np.int16)
    dicom(stored, UPRIGHT, PixelPaddingValue=-2000).save_as(tmp_path / "ct.dcm")
    image = open_source(tmp_path / "ct.dcm")[0].image
    torch.testing.assert_close(image, torch.tensor([[[0, 0, 0.5], [1, 1, 0.25]]]))
    dicom(stored, UPRIGHT, PixelPaddingValue=2000, PixelPaddingRangeLimit=512).save_as(tmp_path / "ct.dcm")
    assert (open_series(tmp_path / "ct.dcm")[0].read(0) == -1024).tolist() == [[False, False, True], [True, True, False]]
    for name, tags in {"mr": {"Modality": "MR"}, "raw": {"RescaleSlope": None}, "us": {"RescaleType": "US"}}.items():
        dicom(stored, UPRIGHT, **tags).save_as(tmp_path / f"{name}.dcm")
        assert open_series(tmp_path / f"{name}.dcm")[0].units == ""
        with pytest.raises(InputError, match=r"1 slices of .*dcm have no range of values; wanted --data.range"):
            open_source(tmp_path / f"{name}.dcm")
    np.testing.assert_array_equal(open_series(tmp_path / "raw.dcm")[0].read(0), stored)
    ranged = open_source(tmp_path / "mr.dcm", data_range=(-5024, 2976))
    torch.testing.assert_close(ranged.normalisation.restore(ranged[0].image)[0], torch.from_numpy(2.0 * stored - 1024).float())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_is_scaled_and_lies_where_nibabel_says(tmp_path, suffix):
    data = np.random.default_rng(1).integers(-500, 900, (7, 5, 4)).astype(np.int16)
    affine = RAS_TO_LPS @ STACKS["oblique"]
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_slope_inter(0.25, -3.5)
    nibabel.save(image, tmp_path / f"v{suffix}")
    (series,) = open_series(tmp_path / f"v{suffix}")
    theirs = nibabel.load(tmp_path / f"v{suffix}")
    assert (series.name, series.count, series.shape) == ("v", 4, (5, 7))
    for k in (3, 0, 2):
        np.testing.assert_allclose(series.read(k), theirs.get_fdata()[:, :, k].T, rtol=1e-6)
        left_back_head = (series.affine @ (4, 6, k, 1))[:3]
        np.testing.assert_allclose(left_back_head * (-1, -1, 1), theirs.affine @ (6, 4, k, 1) @ np.eye(4, 3), rtol=1e-6)


def test_nifti_of_other_shapes_units_and_without_a_place(tmp_path):
    data, affine = np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([2.0, 3, 4, 1])
    for shape in [(2, 3, 4, 1), (2, 3, 4, 1, 1)]:
        (series,) = open_series(nifti(tmp_path / "a.nii", data.reshape(shape), affine))
        assert series.count == 4 and np.array_equal(series.read(3), data[:, :, 3].T)
    (series,) = open_series(nifti(tmp_path / "b.nii", data[:, :, 0], affine))
    assert series.count == 1 and np.array_equal(series.read(0), data[:, :, 0].T)
    (series,) = open_series(nifti(tmp_path / "c.nii", data, affine, unit="micron"))
    np.testing.assert_allclose(series.spacing, (0.003, 0.002))
    for name, placeless in {"d.nii": None, "s.nii": np.diag([2.0, 0, 4, 1])}.items():
        image = nibabel.Nifti1Image(data, None)
        if placeless is not None:
            image.header.set_sform(placeless, code=1)
        nibabel.save(image, tmp_path / name)
        (series,) = open_series(tmp_path / name)
        assert series.affine is None and series.spacing is None
    coloured = np.zeros((2, 3, 4), [(c, "u1") for c in "RGB"])
    coloured["G"], coloured["B"] = data, 7
    (series,) = open_series(nifti(tmp_path / "e.nii", coloured, affine))
    assert series.shape == (3, 2, 3) and series.range == (0, 255)
    np.testing.assert_array_equal(series.read(1), np.stack([0 * data[:, :, 1].T, data[:, :, 1].T, 0 * data[:, :, 1].T + 7], -1))
    (series,) = open_series(nifti(tmp_path / "f.nii", data.astype(np.uint8), affine))
    assert series.range == (0, 255)


def test_a_folder_of_volumes_is_grouped_by_its_folders(tmp_path):
    for place in ("p1/ct", "p2/ct", "p2/late/ct"):
        nifti(tmp_path / f"{place}.nii", np.zeros((3, 3, 2), np.uint8), np.eye(4))
    assert [(s.name, s.group) for s in open_series(tmp_path)] == [("p1_ct", "p1"), ("p2_ct", "p2"), ("p2_late_ct", "p2")]
    nifti(tmp_path / "flat" / "all" / "b10.nii.gz", np.zeros((3, 3, 2), np.uint8), np.eye(4))
    nifti(tmp_path / "flat" / "all" / "b9.nii", np.zeros((3, 3, 2), np.uint8), np.eye(4))
    assert [(s.name, s.group) for s in open_series(tmp_path / "flat")] == [("b9", "b9"), ("b10", "b10")]


def test_hdf5_holds_images_with_the_keys_of_npz_or_lodopab_or_one_array(tmp_path):
    values = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    source = open_source(write(tmp_path / "ground_truth_test_000.hdf5", data=values))
    assert source.normalisation == Normalisation(0.0, 1.0) and len(set(source.groups)) == 3
    torch.testing.assert_close(torch.cat([source[i].image for i in range(3)]), torch.from_numpy(values), rtol=0, atol=0)
    stored, labels = (2000 * values).astype(np.uint16), ["a", "a", "b"]
    source = open_source(write(tmp_path / "hu.h5", ("hu_window",), images=stored, patient=labels, hu_window=[-900, 700]))
    assert source.normalisation == Normalisation(-900.0, 700.0, (-900.0, 700.0)) and source.groups == labels
    torch.testing.assert_close(source[2].image[0], torch.from_numpy((stored[2] / 1600).clip(0, 1).astype(np.float32)))
    source = open_source(write(tmp_path / "one.h5", anything=np.full((2, 4, 4, 3), 51, np.uint8), note=np.zeros(3)))
    assert source.image_shape == (3, 4, 4) and source[1].name == "one_0001"
    torch.testing.assert_close(source[1].image, torch.full((3, 4, 4), 0.2))
    source = open_source(write(tmp_path / "ranged.h5", images=np.full((2, 4, 4), 30, np.int16), range=[10, 50]))
    torch.testing.assert_close(source[0].image, torch.full((1, 4, 4), 0.5))


PARTS, GROUPS = ["train"] * 5 + ["validation"] * 2 + ["test"], ["a", "b", "b", "c", "d", "e", "e", "f"]


def test_prepared_data_is_mapped_and_scaled_and_its_parts_are_kept(tmp_path):
    stored = np.random.default_rng(0).integers(0, 5000, (8, 60, 60)).astype(np.uint16)
    path = prepared(tmp_path / "p.h5", stored, PARTS, GROUPS)
    source = open_source(path)
    assert isinstance(source, PreparedSource) and isinstance(source.stored(0), np.memmap)
    assert source.normalisation == Normalisation(-1000.0, 1000.0, (-1000.0, 1000.0)) and source.parts == PARTS
    for k in range(8):
        np.testing.assert_array_equal(source.stored(k), stored[k])
        torch.testing.assert_close(source[k].image[0], torch.from_numpy((stored[k] / 4000).clip(0, 1).astype(np.float32)))
        assert (source[k].name, source[k].group) == (f"slice {k}", GROUPS[k])
    small = open_source(path, size=30)
    torch.testing.assert_close(small[2].image[0, 0, 0], source[2].image[0, :2, :2].mean())
    wide = open_source(path, data_range=(-1000, 3000))
    torch.testing.assert_close(wide[1].image[0], torch.from_numpy((stored[1] / 8000).astype(np.float32)))
    again = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < stored.nbytes / 4 and torch.equal(again[3].image, source[3].image)
    series = open_series(path)
    np.testing.assert_array_equal(series[3].read(0), stored[3] / 2 - 1000)
    assert series[0].spacing == (0.5, 0.75) and series[1].affine is None and series[3].name == "slice 3"


def test_prepared_colours_without_units(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    kinds = {"units": "", "window": None, "range": [0, 1], "slope": 1 / 255, "intercept": 0.0}
    source = open_source(prepared(tmp_path / "p.h5", stored, ["train", "train", "validation"], ["a", "b", "c"], **kinds))
    assert source.normalisation == Normalisation(0.0, 1.0) and source.image_shape == (3, 4, 4)
    torch.testing.assert_close(source[1].image, torch.from_numpy(np.moveaxis(stored[1], -1, 0) / 255).float())


def test_parts_that_a_file_names_are_those_of_fit_and_predict(tmp_path):
    path = str(prepared(tmp_path / "p.h5", np.zeros((8, 4, 4), np.uint16), PARTS, GROUPS))

    def groups(stage, part, **options):
        data = ImageData(path, **options)
        data.setup(stage)
        return [item.group for item in data._parts[part]]

    assert groups("fit", "fit") == GROUPS[:5] and groups("fit", "validation") == ["e", "e"]
    for subset, expected in {"train": GROUPS[:5], "validation": ["e", "e"], "test": ["f"], "all": GROUPS}.items():
        assert groups("predict", "predict", subset=subset) == expected
    fewer = [set(groups("fit", "fit", training_groups=n, seed=3)) for n in (1, 2, 3)]
    assert [len(part) for part in fewer] == [1, 2, 3] and fewer[0] < fewer[1] < fewer[2] < {*"abcd"}
    with pytest.raises(InputError, match="training_groups is 5; wanted at most 4, which the part 'train' has"):
        groups("fit", "fit", training_groups=5)
    tests = prepared(tmp_path / "q.h5", np.zeros((8, 4, 4), np.uint16), ["test"] * 8, GROUPS)
    with pytest.raises(InputError, match="q.h5 has nothing in the part 'train'; wanted one of test"):
        ImageData(str(tests)).setup("fit")
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 4, 4)))
    with pytest.raises(InputError, match="subset is 'test' and .*a.npz names no parts; wanted all, train or validation"):
        ImageData(str(tmp_path / "a.npz"), subset="test").setup("predict")


def test_patients_to_validate_on_are_kept_of_those_to_train_on_where_a_file_names_none(tmp_path, caplog):
    """As of a file without parts, whose groups are the same; those to test on stay out of both."""
    parts = ["test" if group == "f" else "train" for group in GROUPS]
    prepared(tmp_path / "q.h5", np.zeros((8, 4, 4), np.uint16), parts, GROUPS)
    kept = [k for k, part in enumerate(parts) if part == "train"]
    np.savez(tmp_path / "a.npz", images=np.zeros((len(kept), 4, 4)), patient=[GROUPS[k] for k in kept], range=[0, 1])
    found = []
    for path in (tmp_path / "q.h5", tmp_path / "a.npz"):
        data = ImageData(str(path), validation=0.4)
        data.setup("fit")
        found.append([{item.group for item in data._parts[part]} for part in ("fit", "validation")])
    assert found[0] == found[1] and [len(groups) for groups in found[0]] == [3, 2] and not found[0][0] & found[0][1]
    assert "q.h5 has no part 'validation'; a share of the groups of 'train' is kept for it" in caplog.text
    prepared(tmp_path / "r.h5", np.zeros((2, 4, 4), np.uint16), ["train"] * 2, ["a", "a"])
    with pytest.raises(InputError, match="r.h5 has 1 group; wanted at least 2, one to train and one to validate on"):
        ImageData(str(tmp_path / "r.h5")).setup("fit")


@pytest.mark.parametrize("colours", [False, True])
def test_matlab_files_of_both_versions_hold_the_same(tmp_path, colours):
    images = np.random.default_rng(0).random((4, 5, 3, 6) if colours else (4, 5, 6))
    scipy.io.savemat(tmp_path / "v5.mat", {"images": images, "n": 6.0, "others": images[:2]}, do_compression=True)
    with h5py.File(tmp_path / "v73.mat", "w", userblock_size=512) as file:
        file["images"] = images.transpose()
    with (tmp_path / "v73.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    for name in ("v5", "v73"):
        series = open_series(tmp_path / f"{name}.mat")
        assert [s.name for s in series] == [f"{name}_{k:04d}" for k in range(6)] and len({s.group for s in series}) == 6
        for k, one in enumerate(series):
            assert one.shape == images.shape[:-1]
            np.testing.assert_array_equal(one.read(0), images[..., k].astype(np.float32))
    scipy.io.savemat(tmp_path / "b.mat", {"anything": (255 * images).astype(np.uint8), "n": 6.0})
    assert open_series(tmp_path / "b.mat")[0].range == (0, 255)


def test_pictures_keep_their_bits(tmp_path):
    rng = np.random.default_rng(0)
    grey8, grey16 = rng.integers(0, 256, (5, 7)).astype(np.uint8), rng.integers(0, 65536, (5, 7)).astype(np.uint16)
    rgb8, rgb16 = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8), rng.integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    real = rng.normal(size=(5, 7))
    palette = Image.fromarray(rgb8).quantize(16)
    opaque = Image.fromarray(np.concatenate([rgb8, np.full((5, 7, 1), 255, np.uint8)], -1))
    made = {
        "grey8.png": (Image.fromarray(grey8), grey8, 255), "grey16.png": (Image.fromarray(grey16), grey16, 65535),
        "rgb8.png": (Image.fromarray(rgb8), rgb8, 255), "rgb8.bmp": (Image.fromarray(rgb8), rgb8, 255),
        "palette.png": (palette, np.asarray(palette.convert("RGB")), 255), "opaque.png": (opaque, rgb8, 255),
        "bits.png": (Image.fromarray(grey8 > 99), 255 * (grey8 > 99), 255),
        "grey8.tif": (grey8, grey8, 255), "grey16.tif": (grey16, grey16, 65535), "rgb16.tiff": (rgb16, rgb16, 65535),
        "float32.tif": (real.astype(np.float32), real.astype(np.float32), None), "float64.tif": (real, real, None),
        "int16.tif": (grey8.astype(np.int16) - 99, grey8.astype(int) - 99, None),
        "uint32.tif": (grey16.astype(np.uint32) * 3, grey16.astype(int) * 3, None),
    }  # fmt: skip
    for name, (picture, expected, top) in made.items():
        if isinstance(picture, Image.Image):
            picture.save(tmp_path / name)
        else:
            colours = picture.ndim == 3
            tifffile.imwrite(tmp_path / name, picture, photometric="rgb" if colours else "minisblack")
        (series,) = open_series(tmp_path / name)
        np.testing.assert_array_equal(series.read(0), np.asarray(expected, np.float32), err_msg=name)
        assert series.shape == np.shape(expected), name
        assert series.range == (None if top is None else (0, top)), name
    Image.fromarray(rgb8).save(tmp_path / "lossy.jpg", quality=30)
    np.testing.assert_array_equal(open_series(tmp_path / "lossy.jpg")[0].read(0), np.asarray(Image.open(tmp_path / "lossy.jpg")))


UPRIGHTS = {1: lambda a: a, 2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud, 5: np.transpose,
            6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].T, 8: np.rot90}  # fmt: skip


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_pictures_are_turned_upright(tmp_path, name):
    picture = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7) * 7)
    for orientation, upright in UPRIGHTS.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(tmp_path / name, exif=exif, quality=95)
        (series,) = open_series(tmp_path / name)
        expected = upright(np.asarray(Image.open(tmp_path / name) if name == "a.jpg" else picture).astype(float))
        assert series.shape == expected.shape == series.read(0).shape
        np.testing.assert_array_equal(series.read(0), expected)


def pictures_in(folder, names):
    """Pictures of one value each: the place of their name in the list."""
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(folder / name)


def seen(path):
    source = open_source(path)
    return [(item.name, item.group, round(255 * float(item.image.mean()))) for item in source]


def zipped(path, folder, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*"):
            archive.write(file, prefix + str(file.relative_to(folder)))
    return path


def test_a_folder_and_a_zip_of_pictures_are_the_same(tmp_path):
    pictures_in(tmp_path / "flat", ["im10.png", "im9.png", "Im2.png"])
    (tmp_path / "flat" / "._im9.png").write_text("not a picture")
    (tmp_path / "flat" / "notes.txt").write_text("not a picture")
    expected = [("Im2", "Im2", 2), ("im9", "im9", 1), ("im10", "im10", 0)]
    assert seen(tmp_path / "flat") == expected
    assert seen(zipped(tmp_path / "flat.zip", tmp_path / "flat")) == expected
    assert seen(zipped(tmp_path / "below.zip", tmp_path / "flat", "some/folder/")) == expected


def test_pictures_in_folders_are_grouped_by_them_and_those_of_one_name_are_told_apart(tmp_path):
    pictures_in(tmp_path / "alike", ["a.png", "a.bmp", "a_2.png"])
    assert len({item.name for item in open_source(tmp_path / "alike")}) == 3
    pictures_in(tmp_path / "d", ["p1/s2.png", "p1/s10.png", "p2/early/a.png", "p2/late/a.png"])
    expected = [("p1_0000", "p1", 0), ("p1_0001", "p1", 1), ("p2_early", "p2", 2), ("p2_late", "p2", 3)]
    assert seen(tmp_path / "d") == expected and seen(zipped(tmp_path / "d.zip", tmp_path / "d", "d/")) == expected
    Image.fromarray(np.full((6, 6), 9, np.uint8)).save(tmp_path / "d/p1/large.png")
    assert [s.name for s in open_series(tmp_path / "d")][:3] == ["p1_large", "p1_s2", "p1_s10"]
    source = open_source(tmp_path / "d", size=2)
    assert source.image_shape == (1, 2, 2) and source.groups == ["p1"] * 3 + ["p2"] * 2


def test_pictures_that_cannot_be_read_are_named_all_or_left_out(tmp_path, caplog):
    pictures_in(tmp_path / "d", ["a.png", "p/b.jfif", "p/c.png"])
    (tmp_path / "d" / "empty.png").touch()
    (tmp_path / "d" / "p" / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "d" / "IMG_1.HEIC").write_text("a camera's")
    page = Image.new("L", (4, 4))
    page.save(tmp_path / "d" / "two.tif", save_all=True, append_images=[page])
    for path in (tmp_path / "d", zipped(tmp_path / "d.zip", tmp_path / "d")):
        with pytest.raises(
            InputError, match="3 series are odd: .*empty.png .*page.jpg .*two.tif has 2 pages; wanted --data.skip"
        ):
            open_series(path)
        assert sum(one.count for one in open_series(path, skip_bad=True)) == 3
        assert f"{path} holds IMG_1.HEIC beside pictures; left out" in caplog.text and caplog.text.count("it is left out") == 3
        caplog.clear()


def test_kinds_that_do_not_go_together_are_refused(tmp_path):
    pictures_in(tmp_path, ["a.png"])
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "c.tif")
    with pytest.raises(InputError, match="2 slices of .* mix the ranges 0 to 255 and unknown; wanted one kind"):
        open_source(tmp_path)
    (tmp_path / "c.tif").unlink()
    Image.fromarray(np.full((4, 4), 13107, np.uint16)).save(tmp_path / "b.png")
    assert open_source(tmp_path)[1].image.mean() == pytest.approx(0.2)
    assert open_source(tmp_path, data_range=(0, 26214))[1].image.mean() == 0.5
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match="2 slices of .* mix channels 1 and 3; wanted one kind"):
        open_source(tmp_path)


def test_worker_processes_read_what_one_process_reads(tmp_path, volume):
    """Of each kind of file, in which processes must not share a place: what was opened before they start is not used by them."""
    write_stack(tmp_path / "dicom", volume, UPRIGHT)
    scipy.io.savemat(tmp_path / "m.mat", {"images": volume.transpose(1, 2, 0).astype(np.uint8)})
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for k, array in enumerate(np.random.default_rng(0).integers(0, 256, (40, 64, 64)).astype(np.uint8)):
            stream = io.BytesIO()
            Image.fromarray(array).save(stream, "PNG")
            archive.writestr(f"{k}.png", stream.getvalue())
    paths = [
        tmp_path / "dicom", tmp_path / "m.mat", tmp_path / "z.zip",
        nifti(tmp_path / "v.nii.gz", volume.astype(np.uint8), np.eye(4)),
        write(tmp_path / "h.h5", images=volume.astype(np.uint8)), prepared(tmp_path / "p.h5", volume, PARTS[:5], GROUPS[:5]),
    ]  # fmt: skip
    sources = [open_source(path) for path in paths]
    alone = [[source[i].image for i in range(len(source))] for source in sources]
    assert all(torch.equal(source[0].image, images[0]) for source, images in zip(sources, alone, strict=True))  # and a bit ahead
    loader = DataLoader(ConcatDataset(sources), batch_size=4, num_workers=2, collate_fn=list)
    assert all(torch.equal(item.image, image) for item, image in zip(chain(*loader), chain(*alone), strict=True))
    for path, source, images in zip(paths, sources, alone, strict=True):
        assert torch.equal(source[1].image, images[1]), path  # where processes shared a place, theirs has moved
        assert torch.equal(pickle.loads(pickle.dumps(source))[1].image, images[1]), path  # what spawned workers get


def test_names_that_are_not_fit_for_files_are_made_so_in_results_and_nowhere_else(tmp_path):
    names = ["a/b", "a_b", "../c", "a/b", "fine (1)"]
    path = prepared(tmp_path / "p.h5", np.zeros((5, 4, 4), np.uint16), PARTS[:5], GROUPS[:5], name=names)
    data = ImageData(str(path), batch_size=5)
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[Results()], default_root_dir=tmp_path / "out",
                      enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)  # fmt: skip
    with torch.no_grad():
        trainer.predict(PseudoInverse(Identity((1, 4, 4))), data, return_predictions=False)
    expected = ["a_b_2", "a_b", "_c", "a_b_3", "fine (1)"]
    assert [label.name for label in data.item_labels] == expected and next(iter(data.predict_dataloader())).name == names
    assert sorted(file.stem for file in (tmp_path / "out" / "arrays").iterdir()) == sorted(expected)


class Signed(Identity):
    """Measures complex images as they are."""

    signed = True


RANDOM = np.random.default_rng(5)
MEASURED = {  # what predict reads, and an operator that keeps it
    "HU above the end of a window": (
        {"images": RANDOM.integers(0, 2001, (4, 8, 6)).astype(np.uint16), "hu_window": [-1000.0, 1000.0]}, Identity((1, 8, 6)),
    ),
    "attenuation": ({"images": 0.04 * RANDOM.random((4, 8, 8)), "range": [0.0, 0.04]}, Identity((1, 8, 8))),
    "colours": ({"images": RANDOM.integers(0, 256, (4, 8, 6, 3)).astype(np.uint8)}, Identity((3, 8, 6))),
    "complex": ({"images": RANDOM.uniform(-3, 3, (4, 8, 6, 2)), "range": [0.0, 4.0]}, Signed((2, 8, 6))),
    "volumes": ({"images": RANDOM.random((4, 8, 6)), "z": np.arange(4.0)}, Slices(Identity((1, 8, 6)), 2)),
}  # fmt: skip


@pytest.mark.parametrize("kind", MEASURED)
def test_what_predict_has_found_is_read_as_the_images_that_it_is_of(kind, tmp_path):
    """Where nothing is lost, a results folder serves what its data did, in the range and the groups that they had."""
    arrays, operator = MEASURED[kind]
    np.savez(tmp_path / "images.npz", patient=["b", "b", "a", "a"], **arrays)
    data = [ImageData(str(tmp_path / place), batch_size=4, volumes=kind == "volumes") for place in ("images.npz", "out")]
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[Results()], default_root_dir=tmp_path / "out",
                      enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)  # fmt: skip
    with torch.no_grad():
        trainer.predict(PseudoInverse(operator), data[0], return_predictions=False)
    data[1].setup("predict")
    theirs, ours = (one._parts["predict"] for one in data)
    assert len(ours) == len(theirs) == (2 if kind == "volumes" else 4)
    for a, b in zip(theirs, ours, strict=True):
        assert a.group == b.group
        torch.testing.assert_close(b.image, a.image, rtol=0, atol=1e-6)
    window = data[0].normalisation.window
    assert data[1].normalisation.shown == data[0].normalisation.shown and (window is None) == ("hu_window" not in arrays)


def test_pixels_are_read_when_they_are_asked_for(tmp_path, volume):
    paths = write_stack(tmp_path / "dicom", volume, UPRIGHT)
    (series,) = open_series(tmp_path / "dicom")
    paths[2].unlink()
    np.testing.assert_array_equal(series.read(1), 2.0 * volume[1] - 1024)
    with pytest.raises(InputError, match=f"{paths[2]} cannot be read .*; wanted DICOM that is whole"):
        series.read(2)


def test_an_error_in_a_worker_process_is_one_sentence_too(tmp_path):
    data = np.zeros((4, 4, 2), np.float32)
    data[0, 0, 1] = np.nan
    nifti(tmp_path / "v.nii", data, np.eye(4))
    source = open_source(tmp_path / "v.nii", data_range=(0, 1))
    try:
        source[1]
    except InputError:
        sent = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(InputError) as error:
        sent.reraise()
    assert "Traceback" in str(error.value)
    assert explain(error.value) == ("v has values in slice 1 that are not finite; wanted finite numbers", 2)


def test_a_missing_library_is_named_with_its_extra(tmp_path, volume, monkeypatch):
    dicom(volume[0], UPRIGHT).save_as(tmp_path / "a.dcm")
    nifti(tmp_path / "a.nii", volume, np.eye(4))
    for module in ("pydicom", "nibabel"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    for name, kind, module, extra in [("a.dcm", "DICOM", "pydicom", "dicom"), ("a.nii", "NIfTI", "nibabel", "nifti")]:
        sentence = rf"reading {kind} needs {module}, which is not installed; wanted pip install 'padis_lightning\[{extra}\]'"
        with pytest.raises(InputError, match=sentence):
            open_series(tmp_path / name)


def test_a_compression_that_nothing_decodes_is_named_before_pixels_are_read(monkeypatch):
    monkeypatch.setattr(get_decoder(JPEGLSLossless), "_available", {})
    sentence = (
        r"is compressed as JPEG-LS Lossless Image Compression, which nothing installed decodes; wanted pip install python-gdcm, "
        r"which is in 'padis_lightning\[dicom\]'"
    )
    with pytest.raises(InputError, match=sentence):
        open_series(get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False))


def test_a_folder_of_dicom_is_reconstructed_in_hounsfield_units(tmp_path):
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    volume = np.stack([np.round(500 * np.exp(-4 * ((x - a) ** 2 + y**2))) + 12 for a in (0.0, 0.2, 0.4)]).astype(np.uint16)
    write_stack(tmp_path / "scan", volume, UPRIGHT)
    main(["predict", "--config", "ct20.yaml", "--model", "PseudoInverse", "--data.path", str(tmp_path / "scan"),
          "--data.size", "null", "--operator.size", "16", "--operator.views", "90", "--output", str(tmp_path / "out"),
          "--results.baselines", "{}", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"])  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert [row["name"] for row in rows] == ["0000", "0001", "0002"]
    for k, row in enumerate(rows):
        truth, estimate = 2.0 * volume[k] - 1024, np.load(tmp_path / "out" / "arrays" / f"{row['name']}.npy")
        error = np.square(estimate.clip(-1000, 1000) - truth).mean() / 2000**2
        assert float(row["psnr"]) == pytest.approx(-10 * np.log10(error), abs=0.01) and float(row["psnr"]) > 25
