"""Scans of other programs: each test writes a file as that program does, and holds what is read against what was written."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import h5py
import numpy as np
import pytest
import scipy.io
import tifffile
import torch
import yaml
from jsonargparse import Namespace

from padis_lightning.commands import main
from padis_lightning.commands.convert import run as convert
from padis_lightning.ct import Geometry
from padis_lightning.data.conventions import Named
from padis_lightning.data.scans import FORMATS
from padis_lightning.data.sources.axes import describe_scan
from padis_lightning.data.sources.open import open_source, read_geometry
from padis_lightning.errors import InputError
from padis_lightning.messages.configs import CONFIGS
from padis_lightning.messages.scans import take_scan
from padis_lightning.operators.ct import Scan
from tests.making import write

VIEWS, BINS, ROWS = 6, 20, 3
DEGREES = np.array([0.0, 31, 60, 92, 120, 155])
Y = np.random.default_rng(0).uniform(0, 2, (ROWS, VIEWS, BINS))
FLAT = np.random.default_rng(1).uniform(30000, 60000, (ROWS, 1, BINS))
DARK = np.random.default_rng(2).uniform(50, 150, (ROWS, 1, BINS))
COUNTS = np.round(DARK + (FLAT - DARK) * np.exp(-Y)).astype(np.uint16)
PARALLEL = Geometry((BINS, BINS), tuple(np.deg2rad(DEGREES).tolist()), BINS, 1.0, 1.0)
FAN = replace(PARALLEL, pixel_spacing=0.5 * 40 / 60, bin_spacing=0.5, source_distance=40.0, detector_distance=20.0)


def frames(values, repeats):
    """A field as so many frames (frames, rows, bins) of it, of which two are one above and below."""
    out = np.repeat(np.swapaxes(values, 0, 1), repeats, 0)
    out[0] += 1
    out[1] -= 1
    return out


def exchange(folder):
    with h5py.File(folder / "tomo.h5", "w") as file:
        file["exchange/data"] = COUNTS.transpose(1, 0, 2)
        file["exchange/data_white"], file["exchange/data_dark"] = frames(FLAT, 4), frames(DARK, 3)
        file.create_dataset("exchange/theta", data=DEGREES).attrs["units"] = "deg"
    return folder / "tomo.h5", PARALLEL, range(ROWS)


def nxtomo(folder):
    stacked = np.concatenate([frames(FLAT, 2), COUNTS.transpose(1, 0, 2), frames(DARK, 2)])
    with h5py.File(folder / "tomo.nxs", "w") as file:
        file["entry/instrument/detector/data"] = stacked
        file["entry/instrument/detector/image_key"] = [1, 1, *[0] * VIEWS, 2, 2]
        angles = file.create_dataset("entry/sample/rotation_angle", data=np.deg2rad([0, 0, *DEGREES, 180, 180]))
        angles.attrs["units"] = "rad"
        file["entry/data/data"] = h5py.SoftLink("/entry/instrument/detector/data")
    return folder / "tomo.nxs", PARALLEL, range(ROWS)


def helsinki(folder):
    parameters = {"distanceSourceOrigin": 40.0, "distanceSourceDetector": 60.0, "angles": DEGREES, "pixelSizePost": 0.5,
                  "numDetectorsPost": BINS, "distanceUnit": "mm"}  # fmt: skip
    scipy.io.savemat(folder / "htc.mat", {"CtDataLimited": {"type": "2d", "sinogram": Y[0], "parameters": parameters}})
    return folder / "htc.mat", FAN, [0]


def sinograms(folder):
    """As MATLAB's ``radon`` has it, a column a view."""
    told = {"bin_spacing": 0.5, "source_distance": 40.0, "detector_distance": 20.0}
    scipy.io.savemat(folder / "scan.mat", {"sino": Y[0].T, "theta": DEGREES, **told})
    return folder / "scan.mat", FAN, [0]


def tiffs(folder):
    (folder / "scan" / "projections").mkdir(parents=True)
    for k in range(VIEWS):
        tifffile.imwrite(folder / "scan" / "projections" / f"p{k + 5}.tif", COUNTS[:, k])  # p10 comes after p9
    tifffile.imwrite(folder / "scan" / "flats.tif", frames(FLAT, 4).astype(np.float32), photometric="minisblack")
    tifffile.imwrite(folder / "scan" / "dark.tif", DARK[:, 0].astype(np.float32))
    told = {"angles": DEGREES.tolist(), "angle_unit": "degrees", "bin_spacing": 1.0}
    (folder / "scan" / "scan.yaml").write_text(yaml.safe_dump(told))
    return folder / "scan", PARALLEL, range(ROWS)


def nikon(folder):
    step, white = 36.0, 60000.0
    for k in range(VIEWS):
        values = np.round(white * np.exp(-Y[:, k]))[:, ::-1].astype(np.uint16)
        tifffile.imwrite(folder / f"shell_{k + 1:04d}.tif", values)
    told = {"Name": "shell", "SrcToObject": 40.0, "SrcToDetector": 60.0, "DetectorPixelsX": BINS, "DetectorPixelsY": ROWS,
            "DetectorPixelSizeX": 0.5, "Projections": VIEWS, "InitialAngle": 10, "AngularStep": step,
            "WhiteLevel": white}  # fmt: skip
    lines = "\n".join(f"{key}={value}" for key, value in told.items())
    (folder / "shell.xtekct").write_text(f"[XTekCT]\n{lines}\n[CTPro]\nFilter=1\n")
    angles = np.deg2rad(10 + step * np.arange(VIEWS) - 180)
    return folder / "shell.xtekct", replace(FAN, angles=tuple(angles.tolist())), [1]


WRITERS = {"exchange": exchange, "nxtomo": nxtomo, "helsinki": helsinki, "sinograms": sinograms, "tiffs": tiffs, "nikon": nikon}


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_written_is_read_and_converted_to_the_same_bits(tmp_path, name, capsys):
    path, expected, rows = WRITERS[name](tmp_path)
    geometry, source = read_geometry(path), open_source(path, data_range=(0, 1))
    np.testing.assert_allclose(geometry.angles, expected.angles, rtol=1e-12)
    assert replace(geometry, angles=expected.angles, pixel_spacing=expected.pixel_spacing) == expected
    assert geometry.pixel_spacing == pytest.approx(expected.pixel_spacing, rel=1e-12)
    assert len(source) == len(rows) and len(set(source.groups)) == 1
    for k, row in enumerate(rows):
        np.testing.assert_allclose(source[k].measurement[0], Y[row], atol=1.5e-3)  # counts are whole numbers
    convert([str(path), "--output", str(tmp_path / "ours.h5"), "--size", "10"])
    again = open_source(tmp_path / "ours.h5", data_range=(0, 1))
    assert all(torch.equal(again[k].measurement, source[k].measurement) for k in range(len(source)))
    named = read_geometry(path, Named(size=10))
    assert read_geometry(tmp_path / "ours.h5") == named and named.size == (10, 10)
    assert named.pixel_spacing == pytest.approx(2 * geometry.pixel_spacing)
    with h5py.File(tmp_path / "ours.h5") as file:
        assert file.attrs["converted_from"] == path.name and file.attrs["converted_format"] == FORMATS[name].kind


@pytest.mark.parametrize("key", ["sinogram", "projections", "data"])
@pytest.mark.parametrize("version", [5, 7.3])
def test_a_sinogram_of_matlab_is_read_by_the_count_of_its_angles(tmp_path, key, version, caplog):
    path = tmp_path / "a.mat"
    arrays = {key: Y[0], "angles": DEGREES[None]}
    if version == 5:
        scipy.io.savemat(path, arrays)
    else:
        write(tmp_path / "a.h5", **{name: values.T for name, values in arrays.items()}).rename(path)
    geometry, source = read_geometry(path), open_source(path, data_range=(0, 1))
    np.testing.assert_allclose(geometry.angles, PARALLEL.angles, rtol=1e-12)
    assert not geometry.fan and "rays are taken to be parallel" in caplog.text and "taken for degrees" in caplog.text
    np.testing.assert_allclose(source[0].measurement[0], Y[0], rtol=1e-6)


def test_what_a_sinogram_of_matlab_lacks_is_said(tmp_path):
    for arrays, sentence in (
        ({"sinogram": Y[0]}, "has sinogram without angles; wanted angles or theta beside it"),
        ({"sino": Y[0], "theta": DEGREES[1:]}, r"has sino of shape \(6, 20\) and 5 theta; wanted one angle a view"),
    ):
        scipy.io.savemat(tmp_path / "a.mat", arrays)
        with pytest.raises(InputError, match=sentence):
            read_geometry(tmp_path / "a.mat")
        (tmp_path / "a.mat").unlink()


@pytest.mark.parametrize(("value", "unit", "mm"), [(6.5, "um", 0.0065), (6.5e-6, "m", 0.0065), (0.5, None, 0.5)])
def test_the_width_of_nxtomo_s_pixels_is_that_of_the_bins(tmp_path, value, unit, mm):
    path = nxtomo(tmp_path)[0]
    with h5py.File(path, "a") as file:
        size = file.create_dataset("entry/instrument/detector/x_pixel_size", data=value)
        size.attrs.update({"units": unit} if unit else {})
    geometry = read_geometry(path)
    assert geometry.bin_spacing == pytest.approx(mm) and geometry.pixel_spacing == pytest.approx(mm)
    assert geometry.bins == BINS
    with h5py.File(path, "a") as file:
        file["entry/instrument/detector/x_pixel_size"].attrs["units"] = "inch"
    with pytest.raises(InputError, match="has x_pixel_size .* inch; wanted one above 0 in mm"):
        read_geometry(path)


def test_docs_list_every_format():
    page = (CONFIGS.parent / "docs" / "formats.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "`" in line]
    for one in FORMATS.values():
        assert any(line.startswith(f"| {one.kind}") for line in rows), one.kind


@pytest.mark.parametrize("name", ["exchange", "nxtomo", "tiffs"])
def test_rows_are_picked(tmp_path, name):
    path, _, _ = WRITERS[name](tmp_path)
    for rows in (2, [2, 0]):
        source = open_source(path, data_range=(0, 1), named=Named(rows))
        for k, row in enumerate(np.atleast_1d(rows)):
            np.testing.assert_allclose(source[k].measurement[0], Y[row], atol=1.5e-3)
    with pytest.raises(InputError, match="rows is 3 and .* has 3; wanted rows from 0 to 2"):
        open_source(path, named=Named(3))


def seen_at(geometry, y):
    """Where on the detector a spot is seen, (views,), from measured values (views, bins)."""
    return (y * geometry.detector).sum(-1) / y.sum(-1)


def expected_at(geometry, x, y):
    """Where on the detector a spot at x, y is seen by our fan: Kak and Slaney's formula as ``Geometry`` states it."""
    c, s = np.cos(geometry.angles), np.sin(geometry.angles)
    return geometry.reach * (x * c + y * s) / (geometry.source_distance + y * c - x * s)


def spot(at, bins, spacing):
    """Measured values of a spot that is seen at places (views,), (views, bins)."""
    return np.exp(-(((np.arange(bins) - (bins - 1) / 2) * spacing - at[:, None]) ** 2) / (2 * spacing**2))


@pytest.mark.parametrize("said", [{}, {"axis": 23.0}, {"bin_offset": 1.5}, {"centre": "pixel"}], ids=str)
def test_a_converted_scan_says_of_its_axis_what_its_file_did(tmp_path, said):
    """What a file does not say is looked for in both."""
    angles, bins = np.linspace(0, np.pi, 40, endpoint=False), np.arange(40) - 22.0
    away = bins - (3 * np.cos(angles) - 2 * np.sin(angles))[:, None]
    y = 2 * np.sqrt(np.clip(8.0**2 - away**2, 0, None))[None]
    path = write(tmp_path / "a.npz", y=y, angles=angles, size=30, pixel_spacing=1.0, bin_spacing=1.0, range=[0, 1], **said)
    convert([str(path), "--output", str(tmp_path / "ours.h5")])
    before, after = (describe_scan(p) for p in (path, tmp_path / "ours.h5"))
    assert before.geometry == after.geometry and before.axis == after.axis
    assert before.geometry.axis_bin == pytest.approx(said.get("axis", 19.5 - said.get("bin_offset", -2.5)), abs=0.2)


def test_nikon_turns_and_counts_bins_as_its_machine_does(tmp_path):
    """The object turns clockwise before a source below it; the first bin is the right one."""
    x, y, step = 1.3, 2.1, 60.0
    turn = -np.deg2rad(step * np.arange(6) - 180)
    right, up = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    values = spot(60 * right / (40 + up), 41, 0.5)[:, ::-1]
    for k, row in enumerate(values):
        tifffile.imwrite(tmp_path / f"a_{k:04d}.tif", np.exp(-row)[None].astype(np.float32))
    (tmp_path / "a.xtekct").write_text(
        "[XTekCT]\nName=a\nSrcToObject=40\nSrcToDetector=60\nDetectorPixelsX=41\nDetectorPixelsY=1\nDetectorPixelSizeX=0.5\n"
        f"Projections=6\nAngularStep={step}\nWhiteLevel=1\n"
    )
    geometry, source = read_geometry(tmp_path / "a.xtekct"), open_source(tmp_path / "a.xtekct", data_range=(0, 1))
    np.testing.assert_allclose(seen_at(geometry, source[0].measurement[0].numpy()), expected_at(geometry, x, y), atol=0.01)
    told = (tmp_path / "a.xtekct").read_text()
    for number in ("inf", "nan", "1e300", "six"):
        (tmp_path / "a.xtekct").write_text(told.replace("Projections=6", f"Projections={number}"))
        with pytest.raises(InputError, match=f"has Projections '{number}'; wanted a number"):
            read_geometry(tmp_path / "a.xtekct")


def test_tigre_has_its_images_upside_down(tmp_path):
    """Its source is at DSO (cos t, sin t), u runs along (-sin t, cos t), and image rows run along y."""
    x, y, t = 1.3, 2.1, np.array([0.0, 0.5, 2.0, 4.0])
    across, towards = -x * np.sin(t) + y * np.cos(t), x * np.cos(t) + y * np.sin(t)
    values = spot(60 * across / (40 - towards), 40, 0.5)
    path = write(tmp_path / "a.npz", convention="tigre", projections=values[:, None], angles=t, DSO=40.0, DSD=60.0,
                 nDetector=[1, 40], dDetector=[1.0, 0.5], nVoxel=[1, 32, 32], dVoxel=[1.0, 0.25, 0.25], range=[0, 1])  # fmt: skip
    geometry, source = read_geometry(path), open_source(path)
    assert (geometry.size, geometry.pixel_spacing, geometry.detector_distance) == ((32, 32), 0.25, 20)
    np.testing.assert_allclose(seen_at(geometry, source[0].measurement[0].numpy()), expected_at(geometry, x, -y), atol=0.01)


def blob(size):
    """A lopsided image that is smooth and 0 near its border."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return np.exp(-20 * ((x - 0.2) ** 2 + (y + 0.3) ** 2)) + 0.5 * np.exp(-30 * ((x + 0.35) ** 2 + (y - 0.1) ** 2))


def test_scikit_image_s_radon_is_what_our_operator_measures(tmp_path):
    from skimage.transform import radon

    image = blob(41)
    path = write(
        tmp_path / "a.npz", convention="skimage", sinogram=radon(image, DEGREES, circle=True), theta=DEGREES, range=[0, 1]
    )
    geometry, y = read_geometry(path), open_source(path)[0].measurement
    ours = Scan(geometry)(torch.from_numpy(image).float()[None, None])[0]
    assert (geometry.size, geometry.bins) == ((41, 41), 41)
    assert (ours - y).norm() < 0.01 * y.norm()


@pytest.mark.parametrize("kind", ["parallel", "fanflat"])
def test_astra_s_projection_is_what_our_operator_measures(tmp_path, kind):
    astra = pytest.importorskip("astra")
    image, radians = blob(40).astype(np.float32), np.deg2rad(DEGREES)
    far = (100.0, 60.0) if kind == "fanflat" else ()
    scan = astra.create_proj_geom(kind, 1.5, 50, radians, *far)
    weights = astra.create_projector({"parallel": "linear", "fanflat": "line_fanflat"}[kind], scan, astra.create_vol_geom(40, 40))
    identifier, y = astra.create_sino(image, weights)
    astra.data2d.delete(identifier)
    path = write(tmp_path / "a.h5", convention="astra", sinogram=y, size=40, pixel_spacing=1.0, range=[0, 1], **scan)
    geometry, found = read_geometry(path), open_source(path)[0].measurement
    ours = Scan(geometry)(torch.from_numpy(image)[None, None])[0]
    assert geometry.fan == (kind == "fanflat")
    assert (ours - found).norm() < 0.03 * found.norm()  # ASTRA has other weights for fans; a mirror image is off by more than 1


SCAN = {"size": 16, "pixel_spacing": 0.5, "bin_spacing": 0.25, "range": [0, 1]}


def test_pixels_of_another_side_than_the_file_names_are_refused(tmp_path):
    """Of our own files and of those in another convention."""
    y, angles = np.ones((1, 3, 40)), np.arange(3.0)
    for name, said in (("a", {}), ("b", {"convention": "astra"})):
        path = write(tmp_path / f"{name}.npz", y=y, angles=angles, **SCAN, **said)
        assert read_geometry(path, Named(pixel_spacing=0.5)) == read_geometry(path)
        with pytest.raises(InputError, match=f"pixel_spacing is 0.25 and .*{name}.npz names 0.5; wanted that of the file"):
            read_geometry(path, Named(pixel_spacing=0.25))


def test_angles_have_the_unit_that_is_named_and_many_turns_are_refused(tmp_path, caplog):
    degrees = np.delete(np.arange(180.0), [17, 18, 91])
    y = np.ones((1, 177, 40))
    path = write(tmp_path / "a.npz", y=y, angles=degrees, angle_unit="degrees", **SCAN)
    np.testing.assert_allclose(read_geometry(path).angles, np.deg2rad(degrees))
    path = write(tmp_path / "b.npz", y=y, angles=degrees, angle_unit="radians", **SCAN)
    assert read_geometry(path).angles == tuple(degrees.tolist())
    with pytest.raises(InputError, match="in uneven steps of 1.0.* look like degrees; wanted radians .* angle_unit with degrees"):
        read_geometry(write(tmp_path / "c.npz", y=y, angles=degrees, **SCAN))
    with pytest.raises(InputError, match="angles in 'gon'; wanted degrees or radians"):
        read_geometry(write(tmp_path / "d.npz", y=y, angles=degrees, angle_unit="gon", **SCAN))
    assert not caplog.messages
    read_geometry(write(tmp_path / "e.npz", y=y[:, :12], angles=np.arange(12.0), **SCAN))
    assert "angles from 0 to 11, taken for radians; the key angle_unit" in caplog.text


def test_keys_that_nobody_reads_are_named(tmp_path, caplog):
    y = np.ones((3, 40))
    for suffix, attributes in ((".npz", ()), (".h5", ("tilt",))):
        path = write(tmp_path / f"a{suffix}", attributes, y=y, angles=np.arange(3) / 2, tilt=3.0, colour="red", **SCAN)
        assert read_geometry(path).shape == (3, 40)  # one sinogram without an axis for several
        assert f"a{suffix} has colour, tilt, which is not read" in caplog.text


@pytest.mark.parametrize(("views", "noise"), [(90, 0.0), (15, 0.0), (90, 0.05)])
def test_the_range_is_found_in_units_of_the_object(tmp_path, views, noise):
    """A disk of 0.04 in a body half as dense: from many views, few, and noisy ones."""
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    image = 0.02 * (x**2 + y**2 < 0.7) + 0.02 * ((x - 0.2) ** 2 + y**2 < 0.1)
    geometry = Geometry((48, 48), tuple((np.arange(views) * math.pi / views).tolist()), 64, 0.5, 0.5)
    measured = Scan(geometry)(torch.from_numpy(image).float()[None, None])[:, 0].numpy()
    measured += noise * measured.max() * np.random.default_rng(0).standard_normal(measured.shape)
    keys = {k: v for k, v in geometry.describe().items() if v is not None and k not in ("bins", "curved", "centre", "bin_offset")}
    path = write(tmp_path / "a.npz", y=measured, **keys)
    low, high = describe_scan(path).range
    assert low == 0 and high == pytest.approx(0.04, rel=0.15)
    assert (
        open_source(path).normalisation.upper == high
        and describe_scan(write(tmp_path / "b.npz", y=measured, range=[0, 1], **keys)).range is None
    )


@pytest.mark.parametrize("named", [None, "auto", [0.0, 0.3]])
def test_a_range_that_is_named_is_not_looked_for(tmp_path, caplog, named):
    path, _, _ = exchange(tmp_path)
    config = Namespace(data=Namespace(init_args=Namespace(path=str(path), range=named)), operator=None)
    take_scan(config)
    looked = named in (None, "auto")
    assert ("1 stands for" in caplog.text) == looked and (config.data.init_args.range != named) == looked


def test_one_image_and_the_only_array_are_read(tmp_path):
    image = np.random.default_rng(0).random((8, 6)).astype(np.float32)
    np.save(tmp_path / "a.npy", image)
    np.savez(tmp_path / "b.npz", image[None])
    for name in ("a.npy", "b.npz"):
        assert np.array_equal(open_source(tmp_path / name)[0].image[0], image)


def run_command(*words):
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words)])
    return stop.value.code


WRONG = [
    ({"angle_step": 1.0, "projections": "../*.tif"}, r"has projections '../\*.tif'; wanted names below its own folder"),
    ({"angles": [0, 1]}, "has 2 angles for 1 projections; wanted as many numbers"),
    ({"angle_step": "x"}, "has angle_step 'x'; wanted a number"),
    ({}, "has no angles; wanted angles, or angle_step"),
    ([1], r"holds '\[1\]'; wanted keys and values"),
]


@pytest.mark.parametrize(("told", "sentence"), WRONG)
def test_a_wrong_description_is_one_sentence(tmp_path, told, sentence):
    tifffile.imwrite(tmp_path / "proj.tif", np.ones((2, 8), np.float32))
    (tmp_path / "scan.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=sentence):
        read_geometry(tmp_path)


@pytest.mark.parametrize("unit", ["deg", b"degrees", np.array([b"deg"]), np.array(["degrees"], dtype=object)], ids=str)
def test_a_field_of_one_frame_and_a_unit_in_an_array_are_read(tmp_path, unit):
    path, _, _ = exchange(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["exchange/data_white"], file["exchange/data_dark"]
        file["exchange/data_white"], file["exchange/data_dark"] = FLAT[:, 0], DARK[:, 0]
        file["exchange/theta"].attrs["units"] = unit
    np.testing.assert_allclose(open_source(path, data_range=(0, 1))[1].measurement[0], Y[1], atol=1.5e-3)
    assert read_geometry(path).angles == pytest.approx(np.deg2rad(DEGREES))


def test_fields_without_frames_are_none(tmp_path):
    path, _, _ = exchange(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["exchange/data_white"]
        file["exchange/data_white"] = np.zeros((0, ROWS, BINS))
    with pytest.raises(InputError, match="counts without flat; wanted .* beside them, or line integrals as y"):
        open_source(path)


def test_the_logarithm_of_projections_is_said_by_true_or_false(tmp_path):
    path, _, _ = tiffs(tmp_path)
    told = yaml.safe_load((path / "scan.yaml").read_text())
    (path / "scan.yaml").write_text(yaml.safe_dump({**told, "line_integrals": "no"}))
    with pytest.raises(InputError, match="has line_integrals 'no'; wanted true or false"):
        read_geometry(path)


@pytest.mark.parametrize("keys", [
    {"convention": "astra", "ProjectionAngles": np.arange(90.0), "DetectorWidth": 1.0},
    {"convention": "tigre", "angles": np.arange(90.0), "DSO": 300.0, "DSD": 400.0, "dDetector": [1.0], "dVoxel": [1.0]},
])  # fmt: skip
def test_degrees_are_refused_where_a_program_has_radians(tmp_path, keys):
    path = write(tmp_path / "scan.npz", sinogram=np.ones((90, 20)), **keys)
    with pytest.raises(InputError, match="look like degrees"):
        read_geometry(path)
    path = write(tmp_path / "scan.npz", sinogram=np.ones((90, 20)), angle_unit="degrees", **keys)
    assert np.ptp(read_geometry(path).angles) == pytest.approx(np.deg2rad(89))


def test_a_sinogram_of_radon_without_theta_is_refused_by_its_name(tmp_path):
    path = write(tmp_path / "scan.npz", convention="skimage", sinogram=np.ones((20, 9)))
    with pytest.raises(InputError, match="y without angles"):
        read_geometry(path)


def test_links_into_other_files_are_refused_and_a_result_is_not_written_over(tmp_path, capsys):
    path, _, _ = exchange(tmp_path)
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["exchange/data"] = h5py.ExternalLink(str(path), "/exchange/data")
    assert run_command("convert", tmp_path / "linked.h5", "--output", tmp_path / "x.h5") == 2
    assert "a link into the file" in capsys.readouterr().err
    assert run_command("convert", path, "--output", path) == 2
    assert "is there already; wanted another --output, or --overwrite" in capsys.readouterr().err
