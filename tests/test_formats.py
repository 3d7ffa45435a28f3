"""What other programs read of the estimates: the values, the geometry, and where they come from."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
import torch
from lightning.pytorch import LightningDataModule, Trainer
from PIL import Image
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from padis_lightning.callbacks import Results
from padis_lightning.cli import main
from padis_lightning.data.batches import Batches, ItemLabel, share
from padis_lightning.data.generators import PhantomSource
from padis_lightning.data.sources.phases import PhaseSource
from padis_lightning.data.sources.series import Series, SeriesSource
from padis_lightning.errors import InputError
from padis_lightning.operators.identity import Identity
from padis_lightning.priors import PatchPrior
from padis_lightning.results.formats import check_formats, dicom, nifti, pictures16, write_image, write_volumes
from padis_lightning.results.provenance import Origin, origin, settings_of
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.pseudo_inverse import PseudoInverse
from padis_lightning.types import Normalisation
from tests import making

ORIGIN = Origin("DDS", "1.2.3", "padis_lightning 1.2.3: solver DDS, operator ParallelBeam", "settings")
COUNT, SIDE = 4, 16
UNIT = Normalisation(0.0, 1000.0)
ROW, COLUMN = np.array([0.1, 0.9, -0.42]), np.array([0.98, -0.06, 0.1])  # directions in which row and column numbers grow
ROW, COLUMN = ROW / np.linalg.norm(ROW), COLUMN / np.linalg.norm(COLUMN)
COLUMN = COLUMN - ROW * (ROW @ COLUMN)
COLUMN /= np.linalg.norm(COLUMN)
NORMAL = np.cross(COLUMN, ROW)
PRIVATE, OVERLAY = 0x0099, 0x60003000


def slices(count=COUNT, side=SIDE):
    """Whole HU between -1000 and 1000, without symmetry."""
    return np.random.default_rng(0).integers(-1000, 1001, (count, side, side)).astype(np.float32)


def affine_of(spacing, step, direction, origin):
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = ROW * spacing[0], COLUMN * spacing[1], direction * step
    affine[:3, 3] = origin
    return affine


def write_source(path, k, pixels, affine, syntax=ExplicitVRLittleEndian):
    """One CT slice as a scanner writes it, with a private block, a padding value and an overlay of the source's grid."""
    stored = (pixels + 1024).astype(">u2" if syntax == ExplicitVRBigEndian else "<u2")
    made = making.dicom(
        stored, affine, k, PixelData=stored.tobytes(), RescaleSlope=1, RescaleType="HU", BitsStored=12, HighBit=11,
        SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Jörg", PatientBirthDate="19700101", StudyDate="20200102",
        SeriesDate="20200102", InstanceCreationDate="20200102", SeriesDescription="CHEST 1.0", FrameOfReferenceUID="1.2.5",
        Manufacturer="Scanner", LossyImageCompression="01", PixelPaddingValue=0, SmallestImagePixelValue=1, SliceThickness=2.5,
        ImageOrientationPatient=[f"{x:.10f}" for x in (*COLUMN, *ROW)],
        ImagePositionPatient=[f"{x:.9f}" for x in affine[:3, 3] + k * affine[:3, 2]],
    )  # fmt: skip
    image = pydicom.Dataset(made)  # without the byte order that a file has
    image.file_meta = made.file_meta
    image.file_meta.TransferSyntaxUID = syntax
    image.add(pydicom.DataElement(0x60000010, "US", pixels.shape[0]))
    image.add(pydicom.DataElement(OVERLAY, "OW", bytes(range(pixels.size // 8))))
    image.private_block(PRIVATE, "SCANNER 1.0", create=True).add_new(1, "LO", "kept as it is")
    image.save_as(path, enforce_file_format=True)


def dicom_series(folder, direction=NORMAL, syntax=ExplicitVRLittleEndian, name="chest"):
    """A series of slices in files, spacing 0.8 mm by 0.6 mm, 2.5 mm apart, towards ``direction``."""
    folder.mkdir(parents=True, exist_ok=True)
    spacing, pixels = (0.8, 0.6), slices()
    affine = affine_of(spacing, 2.5, direction, [-120.5, 33.25, 410.0])
    files = tuple(folder / f"{k}.dcm" for k in range(COUNT))
    for k, path in enumerate(files):
        write_source(path, k, pixels[k], affine, syntax)

    def read(k):
        image = pydicom.dcmread(files[k])
        return image.pixel_array.astype(np.float32) * float(image.RescaleSlope) + float(image.RescaleIntercept)

    return Series(name, "P7", COUNT, (SIDE, SIDE), read, "HU", None, spacing, affine, files)


def source_of(*series, size=None):
    return SeriesSource(series, size, None, "a folder of DICOM")


# --- pictures


def png(path):
    """Width, height, values and texts of a PNG without filters, by the specification."""
    data, chunks, at = path.read_bytes(), [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + content) == struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        chunks.append((kind, content))
        at += 12 + length
    width, height, bits, colour = struct.unpack(">IIBB", chunks[0][1][:10])
    channels = {0: 1, 2: 3}[colour]
    lines = np.frombuffer(zlib.decompress(dict(chunks)[b"IDAT"]), np.uint8).reshape(height, 1 + 2 * channels * width)
    assert bits == 16 and not lines[:, 0].any()
    values = lines[:, 1:].copy().view(">u2").reshape((height, width, 3) if channels == 3 else (height, width))
    return values.astype(int), dict(chunks)[b"tEXt"].decode("latin-1")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_of_16_bits_is_exact(tmp_path, shape):
    codes = np.random.default_rng(0).integers(0, 65536, shape)
    codes.flat[:2] = 0, 65535
    values = (-1000 + 2000 * codes / 65535).astype(np.float32)
    pictures16.write_png(tmp_path / "a.png", values, (-1000.0, 1000.0))
    read, text = png(tmp_path / "a.png")
    assert np.array_equal(read, codes) and "black is -1000, white is 1000" in text
    opened = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    assert np.array_equal(opened, codes if len(shape) == 2 else codes >> 8)  # Pillow reads colours of 8 bits
    pictures16.write_png(tmp_path / "b.png", values + 3000, (-1000.0, 1000.0))
    assert (png(tmp_path / "b.png")[0] == 65535).all()


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_tiff_is_exact_and_knows_its_spacing(tmp_path, shape):
    values = np.random.default_rng(0).normal(0, 1e3, shape).astype(np.float32)
    pictures16.write_tiff(tmp_path / "a.tiff", values.astype(np.float32), (0.8, 0.5))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tiff"), values)
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        tags = file.pages[0].tags
        assert tags["ResolutionUnit"].value == 3  # centimetres
        (x, y), (n, m) = tags["XResolution"].value, tags["YResolution"].value
        assert x / y == pytest.approx(10 / 0.5) and n / m == pytest.approx(10 / 0.8)
    pictures16.write_tiff(tmp_path / "b.tiff", values.astype(np.float32), None)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tiff"), values)


# --- NIfTI


def write_arrays(folder, source, indices, values):
    """What ``predict`` leaves of some items."""
    rows = [{"index": k, "name": source[k].name} for k in indices]
    (folder / "arrays").mkdir(parents=True)
    for row in rows:
        np.save(folder / "arrays" / f"{row['name']}.npy", values[row["index"]])
    return rows


def millimetres(affine, row, column, k):
    """LPS of a pixel's centre."""
    return (affine @ [row, column, k, 1])[:3]


def sampled(image, place):
    """The value of a NIfTI image at LPS millimetres, and how far its nearest voxel's centre is from there."""
    voxel = np.linalg.inv(image.affine) @ [-place[0], -place[1], place[2], 1]
    nearest = voxel[:3].round().astype(int)
    return image.get_fdata()[tuple(nearest)], np.abs(voxel[:3] - nearest).max()


@pytest.mark.parametrize("direction", [NORMAL, -NORMAL], ids=["oblique", "flipped"])
def test_every_value_of_a_volume_lies_where_its_pixel_lay(tmp_path, direction):
    series = replace(dicom_series(tmp_path / "in"), affine=affine_of((0.8, 0.6), 2.5, direction, [-120.5, 33.25, 410.0]))
    source, values = source_of(series), slices()
    write_volumes(tmp_path, write_arrays(tmp_path, source, range(COUNT), values), source, ORIGIN)
    image = nibabel.load(tmp_path / "volumes" / "chest.nii.gz")
    assert image.get_data_dtype() == np.float32 and image.header.get_xyzt_units()[0] == "mm" and image.get_sform(True)[1] == 1
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    np.testing.assert_allclose(image.header.get_zooms(), (0.6, 0.8, 2.5), rtol=1e-6)
    for row, column, k in [(0, 0, 0), (3, 11, 2), (15, 2, 3), (7, 7, 1)]:
        value, away = sampled(image, millimetres(series.affine, row, column, k))
        assert value == values[k, row, column] and away < 1e-4


def test_a_resized_volume_covers_the_same_field_of_view(tmp_path):
    series = dicom_series(tmp_path / "in")
    source, small = source_of(series, size=8), slices(side=8)
    write_volumes(tmp_path, write_arrays(tmp_path, source, range(COUNT), small), source, ORIGIN)
    image = nibabel.load(tmp_path / "volumes" / "chest.nii.gz")
    for row, column, k in [(0, 0, 0), (3, 6, 2)]:  # the centre of four pixels
        value, away = sampled(image, millimetres(series.affine, 2 * row + 0.5, 2 * column + 0.5, k))
        assert value == small[k, row, column] and away < 1e-4


def test_a_tilted_gantry_is_said_by_the_sform_alone(tmp_path):
    tilted = NORMAL + 0.3 * ROW
    affine = affine_of((0.8, 0.6), 2.5, tilted, [0, 0, 0])
    nifti.write_volume(tmp_path / "a.nii.gz", slices().transpose(1, 2, 0), affine, "DDS")
    image = nibabel.load(tmp_path / "a.nii.gz")
    value, away = sampled(image, millimetres(affine, 3, 11, 2))
    assert value == slices()[2, 3, 11] and away < 1e-4 and image.get_qform(coded=True)[1] == 0


def test_every_second_slice_is_a_volume_and_a_gap_is_refused_with_a_line(tmp_path, capsys):
    series, other = dicom_series(tmp_path / "in"), dicom_series(tmp_path / "in", name="second")
    source, values = source_of(series, other), np.concatenate([slices(), slices()])
    rows = write_arrays(tmp_path, source, [1, 3, 4, 5, 7], values)  # slices 1 and 3; 0, 1 and 3
    write_volumes(tmp_path, rows[::-1], source, ORIGIN)
    image = nibabel.load(tmp_path / "volumes" / "chest.nii.gz")
    assert image.shape == (SIDE, SIDE, 2)
    for k in (1, 3):
        value, away = sampled(image, millimetres(series.affine, 5, 9, k))
        assert value == values[k, 5, 9] and away < 1e-4
    assert "no volume of second was written: its slices 0, 1, 3 are not evenly spaced" in capsys.readouterr().out
    assert not (tmp_path / "volumes" / "second.nii.gz").exists()


def test_data_without_series_is_one_volume_with_the_identity(tmp_path):
    source, values = PhantomSource(3, 8, seed=0), slices(3, 8)
    write_volumes(tmp_path, write_arrays(tmp_path, source, range(3), values), source, ORIGIN)
    image = nibabel.load(tmp_path / "volumes" / "images.nii.gz")
    assert np.array_equal(image.affine, np.eye(4)) and image.header.get_xyzt_units()[0] == "unknown"
    np.testing.assert_array_equal(image.get_fdata(), values.transpose(2, 1, 0))


def test_complex_estimates_are_volumes_of_magnitude_and_of_phase(tmp_path):
    source, turns = PhantomSource(3, 8, seed=0), np.exp(1j * np.linspace(-3, 3, 64).reshape(8, 8))
    values = np.abs(slices(3, 8)) * turns
    write_volumes(tmp_path, write_arrays(tmp_path, source, range(3), values), source, ORIGIN)
    write_image(["nifti"], tmp_path, "x", values, UNIT, None, 0, ORIGIN, True)
    for stem in ("images", "x"):
        size, phase = (nibabel.load(tmp_path / "volumes" / f"{stem}{kind}.nii.gz").get_fdata() for kind in ("", "_phase"))
        np.testing.assert_allclose((size * np.exp(1j * phase)).transpose(2, 1, 0), values, atol=1e-3)
        assert size.min() >= 0 and abs(phase).max() <= np.pi


def test_dicom_and_pictures_of_complex_estimates_are_of_the_magnitude(tmp_path):
    values = 1000 * np.exp(1j * np.linspace(-3, 3, SIDE**2)).reshape(SIDE, SIDE) * np.linspace(0, 1, SIDE)
    magnitudes = replace(dicom_series(tmp_path / "in"), units="", range=(0.0, 1000.0))
    source = PhaseSource(source_of(magnitudes), seed=0)
    check_formats(["nifti", "dicom"], source, source.image_shape)
    *_, tiff, slice_file = write_image(["tiff", "dicom"], tmp_path, "x", values, UNIT, source, 1, ORIGIN, False)
    np.testing.assert_allclose(tifffile.imread(tiff), np.abs(values), rtol=1e-6)
    np.testing.assert_allclose(hounsfield(pydicom.dcmread(slice_file)), np.abs(values), atol=0.04)


# --- DICOM


@pytest.fixture(autouse=True)
def strictly(monkeypatch):
    """Whatever violates a value representation raises, on reading and on writing."""
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.RAISE)


def written(tmp_path, series, k, values, origin=ORIGIN):
    path = tmp_path / "out" / f"{k}.dcm"
    dicom.write_slice(path, series.files[k], values, (-1000.0, 1000.0), "HU", origin)
    image = pydicom.dcmread(path)
    list(image.iterall())  # reads, and so checks, every element
    return image


def hounsfield(image):
    return image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)


REPLACED = {
    "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ImageType", "BitsStored", "HighBit",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "PixelData", "SeriesDate", "InstanceCreationDate",
    "PixelPaddingValue", "SmallestImagePixelValue",
}  # fmt: skip


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda s: s.name)
def test_a_secondary_slice_has_new_pixels_and_all_else_of_its_source(tmp_path, syntax):
    series, values = dicom_series(tmp_path / "in", syntax=syntax), slices()[2] + 0.3
    image, source = written(tmp_path, series, 2, values), pydicom.dcmread(series.files[2])
    assert np.abs(hounsfield(image) - values).max() <= float(image.RescaleSlope) / 2 <= 0.5
    assert image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian and image.RescaleType == "HU"
    assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID != source.SOPInstanceUID
    assert list(image.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"] and image.SeriesDescription == "padis_lightning DDS"
    assert image.SeriesInstanceUID != source.SeriesInstanceUID and image.DerivationDescription == ORIGIN.description
    (reference,) = image.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID and reference.ReferencedSOPClassUID == CTImageStorage
    assert reference.SpatialLocationsPreserved == "YES"
    overlay = np.frombuffer(source[OVERLAY].value, ">u2" if syntax == ExplicitVRBigEndian else "<u2")
    np.testing.assert_array_equal(np.frombuffer(image[OVERLAY].value, "<u2"), overlay)
    for element in source:  # patient, study, frame of reference, geometry, private block, marks
        if element.keyword not in REPLACED and element.tag != OVERLAY:
            assert image[element.tag].value == element.value, element
    private = image[PRIVATE, 0x1001].value  # implicit files do not say that it is a text
    assert image.LossyImageCompression == "01" and private in ("kept as it is", b"kept as it is ")
    assert not {"PixelPaddingValue", "SmallestImagePixelValue", "SeriesDate", "InstanceCreationDate"} & set(image.dir())


def test_a_resized_slice_covers_the_same_field_of_view(tmp_path):
    series, values = dicom_series(tmp_path / "in"), slices(side=8)[1]
    image, source = written(tmp_path, series, 1, values), pydicom.dcmread(series.files[1])
    assert (image.Rows, image.Columns) == (8, 8) and list(image.PixelSpacing) == [1.6, 1.2]
    assert np.abs(hounsfield(image) - values).max() <= 0.5
    position, before = (np.array(i.ImagePositionPatient, dtype=float) for i in (image, source))
    np.testing.assert_allclose(position - before, 0.4 * ROW + 0.3 * COLUMN, atol=1e-6)  # half an old pixel inwards
    assert image.ImageOrientationPatient == source.ImageOrientationPatient
    assert image.SourceImageSequence[0].SpatialLocationsPreserved == "NO" and OVERLAY not in image  # another grid


def test_uids_follow_from_source_and_settings_and_a_series_hangs_together(tmp_path):
    series, values = dicom_series(tmp_path / "in"), slices()
    images = [written(tmp_path, series, k, values[k]) for k in range(COUNT)]
    again = written(tmp_path / "again", series, 0, values[0])
    other = written(tmp_path / "other", series, 0, values[0], ORIGIN._replace(settings="others"))
    assert len({i.SeriesInstanceUID for i in images}) == 1 and len({i.SOPInstanceUID for i in images}) == COUNT
    assert (again.SOPInstanceUID, again.SeriesInstanceUID) == (images[0].SOPInstanceUID, images[0].SeriesInstanceUID)
    assert (tmp_path / "out" / "0.dcm").read_bytes() == (tmp_path / "again" / "out" / "0.dcm").read_bytes()
    assert other.SOPInstanceUID != again.SOPInstanceUID and other.SeriesInstanceUID != again.SeriesInstanceUID
    assert all(uid.is_valid and int(uid.removeprefix("2.25.")) < 2**128 for uid in {i.SOPInstanceUID for i in images})
    steps = [np.subtract(b.ImagePositionPatient, a.ImagePositionPatient) for a, b in pairwise(images)]
    np.testing.assert_allclose(steps, [2.5 * NORMAL] * (COUNT - 1), atol=1e-6)


def test_settings_and_weights_name_a_run_and_its_folder_does_not(model):
    def key(config=None, **settings):
        solver = DDS(PatchPrior(model), Identity((1, 20, 20)), **settings)
        return origin(solver, settings_of(solver, config)).settings

    first = key(steps=3)
    assert key(steps=3) == first and key(steps=4) != first and key(steps=3, seed=1) != first
    placed = [
        {"output": name, "trainer": {"default_root_dir": name}, "results": {"window": [0, k]}} for k, name in enumerate("ab")
    ]
    assert key(placed[0]) == key(placed[1]) != key({**placed[0], "data": {"size": 8}})
    with torch.no_grad():
        next(model.denoiser.parameters()).flatten()[0] += 1e-3
    assert key(steps=3) != first


def test_values_beyond_the_range_are_kept_until_16_bits_end(tmp_path):
    series = dicom_series(tmp_path / "in")
    values = np.linspace(-1900, 1900, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    assert np.abs(hounsfield(written(tmp_path, series, 0, values)) - values).max() <= 0.5
    ends = hounsfield(written(tmp_path, series, 0, 100 * values))
    assert ends.min() == pytest.approx(-2048, abs=0.5) and ends.max() == pytest.approx(2048, abs=0.5)


# --- what is refused, and the way through a run


def test_formats_that_cannot_be_written_are_refused_before_anything_is_solved(tmp_path):
    series = dicom_series(tmp_path / "in")
    with pytest.raises(InputError, match="the data is 3 chest phantoms, seed 0; wanted slices read from DICOM"):
        check_formats(["dicom"], PhantomSource(3, 8, seed=0), (1, 8, 8))
    with pytest.raises(InputError, match="the data is drawn from the prior; wanted slices read from DICOM"):
        check_formats(["dicom"], None, None)
    with pytest.raises(InputError, match="chest has 4 slices from 0.dcm and 0 other files; wanted one DICOM file a slice"):
        check_formats(["dicom"], source_of(replace(series, files=series.files[:1])), (1, 16, 16))
    (tmp_path / "text").write_text("x" * 200)
    with pytest.raises(InputError, match="wanted one DICOM file a slice"):
        check_formats(["dicom"], source_of(replace(series, files=(tmp_path / "text",) * COUNT)), (1, 16, 16))
    with pytest.raises(InputError, match="the images have 3 channels; wanted 1 to be written as nifti"):
        check_formats(["nifti"], None, (3, 8, 8))
    with pytest.raises(InputError, match="formats has 'jpeg'; wanted some of nifti, dicom, png16, tiff"):
        check_formats(["jpeg"], None, None)
    check_formats(["dicom", "nifti", "png16", "tiff"], source_of(series), (1, 16, 16))


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("padis_lightning.results.formats.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs nibabel, which is not installed; wanted pip install 'padis_lightning\[nifti\]'"):
        check_formats(["nifti"], None, None)


def test_the_command_line_refuses_dicom_of_phantoms_and_leaves_nothing(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--config", "ct20.yaml", "--results.formats", "[dicom]", "--output", str(tmp_path / "out")])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("padis_lightning: ")]
    assert stop.value.code == 2 and len(said) == 1 and "wanted slices read from DICOM" in said[0]
    assert not (tmp_path / "out").exists()


class Slices(LightningDataModule):
    """Slices of a source, as ``predict`` takes them."""

    def __init__(self, source):
        super().__init__()
        self.whole, self.normalisation, self.image_shape = source, source.normalisation, source.image_shape
        self.item_labels, self.shards = [ItemLabel(k, source.name(k), source.groups[k]) for k in range(len(source))], 1

    def predict_dataloader(self):
        return Batches(self.whole, share(len(self.whole), 3)).loader()


def test_a_run_on_dicom_leaves_all_formats_and_they_say_the_same(tmp_path):
    """Denoising nothing: the estimate is the image."""
    series = dicom_series(tmp_path / "in", direction=-NORMAL)
    results = Results(formats=["nifti", "dicom", "png16", "tiff"], report_images=2)
    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[results], default_root_dir=tmp_path / "out", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    with torch.no_grad():
        trainer.predict(PseudoInverse(Identity((1, SIDE, SIDE))), Slices(source_of(series)), return_predictions=False)
    out = tmp_path / "out"
    volume = nibabel.load(out / "volumes" / "chest.nii.gz")
    for k, expected in enumerate(slices()):
        np.testing.assert_allclose(np.load(out / "arrays" / f"{k:04d}.npy"), expected, atol=1e-3)
        np.testing.assert_allclose(tifffile.imread(out / "pictures16" / f"{k:04d}.tiff"), expected, atol=1e-3)
        codes, _ = png(out / "pictures16" / f"{k:04d}.png")
        np.testing.assert_allclose(-1000 + 2000 * codes / 65535, expected, atol=0.02)
        image = pydicom.dcmread(out / "dicom" / "chest" / f"{k:04d}.dcm")
        np.testing.assert_allclose(hounsfield(image), expected, atol=0.04)
        assert "PseudoInverse" in image.DerivationDescription and "Identity" in image.DerivationDescription
        value, away = sampled(volume, np.array(image.ImagePositionPatient) + 3 * 0.8 * ROW + 5 * 0.6 * COLUMN)
        assert value == pytest.approx(expected[3, 5], abs=1e-3) and away < 1e-4
    assert sorted(p.name for p in (out / "panels").iterdir()) == ["0000.npz", "0002.npz"]
    assert isinstance(series.files[0], Path) and not list(out.rglob("*.part"))
