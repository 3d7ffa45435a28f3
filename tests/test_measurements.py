"""Sinograms of files, and the scans that they were measured with."""

from __future__ import annotations

import csv
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
import yaml

from padis_lightning.cli import main
from padis_lightning.commands.convert import run as convert
from padis_lightning.ct import Geometry
from padis_lightning.data.sources.axes import describe_scan
from padis_lightning.data.sources.measurements import is_measured
from padis_lightning.data.sources.open import open_source, read_geometry
from padis_lightning.errors import InputError
from padis_lightning.messages.configs import CONFIGS
from padis_lightning.messages.scans import scan_settings
from padis_lightning.operators.ct import ParallelBeam, Scan
from tests.making import prepared, write

ANGLES = np.array([0.1, 0.2, 0.3])
SCAN = {"angles": ANGLES, "size": 16, "pixel_spacing": 0.5, "bin_spacing": 0.25}
CONE = {
    "angles": ANGLES, "size": [2, 4, 4], "pixel_spacing": 1.0, "slice_spacing": 1.0, "row_spacing": 1.5, "bin_spacing": 1.5,
    "source_distance": 30.0, "detector_distance": 9.0,
}  # fmt: skip
EXPECTED = Geometry((16, 16), (0.1, 0.2, 0.3), 40, 0.5, 0.25)


@pytest.mark.parametrize("attributes", [(), ("angles", "size", "pixel_spacing", "bin_spacing", "range")])
def test_hdf5_is_read_as_npz_is(tmp_path, attributes):
    y = np.random.default_rng(0).random((2, 3, 40))
    more = {"range": [0, 4.0], "patient": ["a", "b"]}
    both = [write(tmp_path / f"a{suffix}", attributes, y=y, **SCAN, **more) for suffix in (".npz", ".h5")]
    sources = [open_source(path) for path in both]
    assert [read_geometry(path) for path in both] == [EXPECTED, EXPECTED]
    assert sources[0].groups == sources[1].groups == ["a", "b"] and not sources[1].has_images
    for k in range(2):
        assert torch.equal(sources[0][k].measurement, sources[1][k].measurement)
        torch.testing.assert_close(sources[1][k].measurement[0], torch.from_numpy(y[k] / 4).float())
    fan = {"source_distance": 30.0, "detector_distance": 9.0, "curved": True}
    path = write(tmp_path / "fan.h5", ("curved",), y=y, **SCAN, **more, **fan)
    assert read_geometry(path) == replace(EXPECTED, **fan)
    path = write(tmp_path / "beside.h5", y=y, **more)
    replace(EXPECTED, **fan).save(tmp_path / "beside.json")
    assert read_geometry(path) == replace(EXPECTED, **fan)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_file_says_what_its_pixels_stand_for_and_a_flag_that_names_it_wins(tmp_path, suffix):
    y, volume = np.ones((1, 3, 40)), {"y": np.ones((3, 2, 5)), **CONE, "range": [0, 1.0]}
    for said in ({}, {"pixels": "points"}, {"pixels": "means"}):
        known = said.get("pixels")
        for arrays in ({"y": y, **SCAN}, volume):
            found = describe_scan(write(tmp_path / f"a{suffix}", **arrays, **said))
            assert found.pixels == known
            for given, expected in (({}, known), ({"pixels": None}, known), ({"pixels": "means"}, "means")):
                assert scan_settings(found.geometry, given, False, found.pixels)["init_args"].get("pixels") == expected
        convert([str(write(tmp_path / f"b{suffix}", y=y, **SCAN, **said)), "--output", str(tmp_path / "c.h5"), "--overwrite"])
        assert describe_scan(tmp_path / "c.h5").pixels == known
    for arrays in ({"y": y, **SCAN}, volume):
        with pytest.raises(InputError, match=f"d{suffix} has pixels 'squares'; wanted points or means"):
            describe_scan(write(tmp_path / f"d{suffix}", **arrays, pixels="squares"))
    for name, said in (("a", {"pixels": "points"}), ("b", {})):
        (tmp_path / "scans").mkdir(exist_ok=True)
        write(tmp_path / "scans" / f"{name}{suffix}", **volume, **said)
    with pytest.raises(InputError, match="has another pixels than a"):
        open_source(tmp_path / "scans")


def test_images_and_their_measurement_in_one_hdf5_file(tmp_path):
    operator = Scan(EXPECTED)
    images = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    y = 4 * operator(torch.from_numpy(images)[:, None])[:, 0].numpy()
    source = open_source(write(tmp_path / "a.h5", y=y, images=4 * images, **SCAN, range=[0, 4.0]))
    assert source.has_images
    torch.testing.assert_close(operator(source[1].image[None])[0], source[1].measurement, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "suffix"), [((), ".npz"), ((40,), ".h5"), ((3, 40), ".npz"), ((2, 1, 40), ".h5"), ((2, 3, 40), ".npz")]
)
def test_counts_become_the_line_integrals_that_made_them(tmp_path, shape, suffix):
    """Beer and Lambert: the counts of known line integrals under uneven light, on top of a dark current."""
    rng = np.random.default_rng(0)
    y = rng.uniform(-0.01, 3, (2, 3, 40))
    dark, flat = rng.uniform(5, 20, shape), rng.uniform(3000, 60000, shape)
    counts = dark + (flat - dark) * np.exp(-y)
    more = {**SCAN, "range": [0, 2.0]}
    source = open_source(write(tmp_path / f"a{suffix}", counts=counts, flat=flat, dark=dark, **more))
    torch.testing.assert_close(torch.stack([source[k].measurement[0] for k in range(2)]), torch.from_numpy(y / 2).float())
    whole = np.maximum(np.exp(-y) * flat, 1).astype(np.uint16)  # no dark current; integers as detectors have them
    source = open_source(write(tmp_path / f"b{suffix}", counts=whole, flat=np.asarray(flat), **more))
    np.testing.assert_allclose(
        source[1].measurement[0], -np.log(whole[1] / np.broadcast_to(flat, y.shape)[1]) / 2, rtol=1e-4, atol=1e-6
    )
    assert read_geometry(tmp_path / f"b{suffix}") == EXPECTED


def lodopab(path, y):
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=y, maxshape=(128, *y.shape[1:]), chunks=True)
    return path


def test_lodopab_observations_lie_as_the_ground_truth_is_stored(tmp_path):
    """Its images are [x, y] and its detector at angle t sees a point at s = x cos t + y sin t: the place of a spot."""
    path = lodopab(tmp_path / "observation_test_003.hdf5", np.full((2, 1000, 513), 0.5, np.float32))
    geometry = read_geometry(path)
    assert (geometry.size, geometry.bins, len(geometry.angles), geometry.fan) == ((362, 362), 513, 1000, False)
    config = yaml.safe_load((CONFIGS / "operator" / "lodopab.yaml").read_text())["init_args"]
    for key in ("pixel_spacing", "bin_spacing"):
        assert getattr(geometry, key) == pytest.approx(config[key], rel=1e-12)
    views = [3, 140, 480, 730, 960]
    few = replace(geometry, angles=tuple(geometry.angles[k] for k in views))
    first, second = 100, 290  # along the first and the second axis of the array
    image = torch.zeros(1, 1, 362, 362)
    image[0, 0, first, second] = 1
    seen = Scan(few)(image)[0, 0]
    s = (seen * torch.from_numpy(few.detector).float()).sum(1) / seen.sum(1)
    x, y = ((k + 0.5) * 0.26 / 362 - 0.13 for k in (first, second))
    t = (np.array(views) + 0.5) * np.pi / 1000
    np.testing.assert_allclose(s, x * np.cos(t) + y * np.sin(t), atol=geometry.bin_spacing / 2)
    source = open_source(path)
    assert len(source) == 2 and source.image_shape == (1, 362, 362)
    torch.testing.assert_close(source[1].measurement, torch.full((1, 1000, 513), 0.5))  # stored over the value that is 1
    assert read_geometry(lodopab(tmp_path / "any.h5", np.zeros((1, 1000, 513), np.float32))) == geometry


def test_what_holds_no_measurement_has_no_geometry(tmp_path):
    for path in [
        prepared(tmp_path / "p.h5", np.zeros((1, 4, 4), np.uint8), ["test"], ["a"]),
        write(tmp_path / "a.h5", images=np.zeros((2, 4, 4))),
        lodopab(tmp_path / "ground_truth_test_000.hdf5", np.zeros((1, 362, 362), np.float32)),
    ]:
        assert read_geometry(path) is None and not is_measured(path)
    assert read_geometry(tmp_path) is None and read_geometry(tmp_path / "a.dcm") is None


def test_angles_of_few_turns_are_radians(tmp_path):
    for angles in ([0.0, 6.0, 12.0], np.linspace(0, 4 * np.pi, 3), [0.1, 0.2, -0.3]):
        path = write(tmp_path / "a.npz", y=np.ones((1, 3, 40)), **{**SCAN, "angles": np.asarray(angles)}, range=[0, 1])
        assert read_geometry(path).angles == tuple(np.asarray(angles).tolist())


def test_a_square_sinogram_is_not_taken_for_a_transposed_one(tmp_path):
    path = write(tmp_path / "a.npz", y=np.ones((1, 3, 3)), **SCAN, range=[0, 1])
    assert read_geometry(path).bins == 3


def test_a_stack_with_its_views_first_and_data_of_another_shape_are_named(tmp_path):
    scan = {"size": 9, "pixel_spacing": 1.0, "bin_spacing": 1.0}
    path = write(tmp_path / "stack.npz", y=np.zeros((7, 4, 9)), angles=np.linspace(0, 3, 7), **scan)
    with pytest.raises(InputError, match=r"\(7, 4, 9\) and 7 angles, so it looks transposed; wanted \(n, views, bins\)"):
        read_geometry(path)
    path = write(tmp_path / "data.npz", data=np.zeros((7, 9)), angles=np.linspace(0, 3, 7), **scan)
    with pytest.raises(InputError, match=r"data of shape \(7, 9\); wanted \(n, 1000, 513\)"):
        read_geometry(path)


def test_a_line_about_many_scans_is_written_once(tmp_path, caplog):
    y = np.random.default_rng(0).uniform(1, 2, (6, 20, 30))
    path = write(tmp_path / "y.npz", y=y, angles=np.linspace(0, 3, 20), size=30, pixel_spacing=1.0, bin_spacing=1.0, range=[0, 1])
    open_source(path)
    said = [line for line in caplog.messages if "wider than the detector" in line]
    assert len(said) == 1 and "scan 0: " in said[0] and said[0].endswith("(scans 1, 2, 3 ... alike)")


def test_raw_counts_in_hdf5_are_solved_from_the_command_line(tmp_path):
    """The scan and the logarithm come from the file, the range is found; the values come back in its units."""
    angles = (np.arange(90) + 0.5) * np.pi / 90
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    image = 0.04 * np.exp(-4 * ((x - 0.2) ** 2 + y**2))
    operator = ParallelBeam(16, angles=angles, bins=40, pixel_spacing=0.5, bin_spacing=0.4)
    integrals = operator(torch.from_numpy(image).float()[None, None])[:, 0].numpy()
    flat = np.random.default_rng(0).uniform(1e4, 2e4, 40)
    path = write(
        tmp_path / "counts.h5", ("size",), counts=flat * np.exp(-integrals) + 7, flat=flat + 7, dark=7, angles=angles,
        size=16, pixel_spacing=0.5, bin_spacing=0.4,
    )  # fmt: skip
    out = tmp_path / "out"
    main(["predict", "--config", "ct20.yaml", "--model", "PseudoInverse", "--data.path", str(path), "--output", str(out),
          "--results.baselines", "{}", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"])  # fmt: skip
    (row,) = csv.DictReader((out / "metrics.csv").open())
    assert row["psnr"] == "" and float(row["residual"]) < 0.1
    found = np.load(out / "arrays" / "0000.npy")
    assert np.abs(found - image).mean() < 0.05 * image.max()
    settings = yaml.safe_load((out / "config.yaml").read_text())
    low, high = settings["data"]["init_args"]["range"]
    assert low == 0 and high == pytest.approx(image.max(), rel=0.25)
    main(["predict", "--config", str(out / "config.yaml"), "--output", str(tmp_path / "again")])  # which names scan and range
    assert np.array_equal(np.load(tmp_path / "again" / "arrays" / "0000.npy"), found)


def test_measurements_are_not_images_of_a_folder(tmp_path):
    lodopab(tmp_path / "observation_test_000.hdf5", np.zeros((1, 1000, 513), np.float32))
    with pytest.raises(InputError, match="observation_test_000.hdf5 holds measurements; wanted images, or this file alone"):
        open_source(tmp_path)
