"""Measured cone-beam scans, from files to volumes."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from padis_lightning.cli import main
from padis_lightning.ct import ConeGeometry
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.generators import PhantomSource
from padis_lightning.data.sources.open import open_source, read_geometry
from padis_lightning.errors import InputError
from padis_lightning.operators.cone import ConeBeam

from .making import lps, write, write_stack
from .test_cone import ellipsoids, places

QUIET = ("--results.baselines", "{}", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")
CIRCLE = ConeBeam((6, 16, 20), views=24, row_offset=1.0)
HELIX = ConeBeam((6, 16, 20), views=60, pitch=12.0, arc=6 * math.pi)
WATER = 0.02


def described(geometry, *without):
    """The keys of a geometry as a file has them; rows and bins are those of the projections."""
    return {k: v for k, v in geometry.describe().items() if k not in ("rows", "bins", *without)}


def projections(operator, turn=0):
    """Those of ellipsoids, ``(views, rows, bins)``, float32; another volume for another turn."""
    volume, _ = ellipsoids(operator.geometry)
    return WATER * operator(volume.rot90(2 * turn, (-2, -1)).float())[0, 0].numpy()


def predict(path, out, *words):
    main(["predict", "--config", "cone.yaml", "--model", "PseudoInverse", *(["--data.path", str(path)] if path else []),
          "--output", str(out), *QUIET, *words])  # fmt: skip
    return {file.stem: np.load(file) for file in (out / "arrays").glob("*.npy")}


FILES = {  # of one volume: what is in the file, what is beside it
    ".npz": lambda folder, y: write(folder / "scan.npz", y=y, **described(CIRCLE.geometry)),
    "one of one without heights": lambda folder, y: write(
        folder / "scan.npz", y=y[None], **described(CIRCLE.geometry, "heights")
    ),
    "HDF5 with attributes": lambda folder, y: write(
        folder / "scan.h5", ("angles", "size", "row_spacing"), y=y, **described(CIRCLE.geometry)
    ),
    ".json beside it": lambda folder, y: (
        CIRCLE.geometry.save(folder / "scan.json"), write(folder / "scan.npz", y=y)
    )[1],
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_projections_is_its_scan_and_its_volume(kind, tmp_path):
    y = projections(CIRCLE)
    path = FILES[kind](tmp_path, y)
    source = open_source(path, data_range=(0, WATER))
    assert read_geometry(path) == CIRCLE.geometry and not source.has_images
    assert len(source) == 1 and source.image_shape == (1, 6, 16, 20) and source.name(0) == "scan"
    assert torch.equal(source[0].measurement, torch.from_numpy(y)[None] / WATER)


def test_a_measured_scan_is_reconstructed_to_the_bit_in_millimetres_and_its_config_replays_it(tmp_path, capsys):
    y = projections(CIRCLE)
    path = write(tmp_path / "scan.h5", ("size", "unit"), y=y, **described(CIRCLE.geometry), range=[0, WATER], unit="cm")
    found = predict(path, tmp_path / "out", "--results.formats", "[nifti]", "--results.geometry", "true")
    solved = WATER * CIRCLE.approximate_inverse(torch.from_numpy(y)[None, None] / WATER)[0, 0]  # called as it is
    assert [*found] == ["scan"] and np.array_equal(found["scan"], solved.numpy())
    assert "is a measurement of 24 cone views; its geometry is used" in capsys.readouterr().err
    (row,) = csv.DictReader((tmp_path / "out" / "metrics.csv").open())
    assert row["psnr"] == "" and float(row["residual"]) < 0.5
    assert ConeGeometry.load(tmp_path / "out" / "geometry.json") == CIRCLE.geometry
    written = nibabel.load(tmp_path / "out" / "volumes" / "scan.nii.gz")
    np.testing.assert_allclose(written.get_fdata(), found["scan"].transpose(2, 1, 0), rtol=1e-6)
    assert written.header.get_xyzt_units()[0] == "mm"
    x, up, z = places(CIRCLE.geometry)
    for k, row, column in ((0, 0, 0), (5, 15, 0), (2, 3, 19)):
        place = 10 * np.array([x[column], up[row, 0], z[k, 0, 0]])
        np.testing.assert_allclose((written.affine @ [column, row, k, 1])[:3], place, rtol=1e-5, atol=1e-4)
    main(["predict", "--config", str(tmp_path / "out" / "config.yaml"), "--output", str(tmp_path / "again")])
    assert np.array_equal(found["scan"], np.load(tmp_path / "again" / "arrays" / "scan.npy"))


def test_a_folder_of_helices_without_a_unit_is_solved_volume_by_volume(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    measured = [projections(HELIX, turn) for turn in range(2)]
    for k, y in zip((10, 9), measured, strict=True):
        write(folder / f"foot {k}.npz", y=y, **described(HELIX.geometry), range=[0, WATER], patient="a")
    (folder / "notes.txt").write_text("a helix")
    words = ("--data.count", "null", "--data.batch_size", "2", "--results.formats", "[nifti]")
    found = predict(folder, tmp_path / "out", *words)
    images = json.loads((tmp_path / "out" / "run.json").read_text())["images"]
    assert images == [[0, "foot 9", "a"], [1, "foot 10", "a"]]
    y = torch.from_numpy(np.stack(measured[::-1]))[:, None] / WATER
    both = WATER * HELIX.calibrated(y).approximate_inverse(y)[:, 0]
    assert np.array_equal(found["foot 9"], both[0].numpy()) and np.array_equal(found["foot 10"], both[1].numpy())
    written = nibabel.load(tmp_path / "out" / "volumes" / "foot 9.nii.gz")
    assert np.array_equal(written.affine, np.eye(4)) and written.header.get_xyzt_units()[0] == "unknown"


def test_volumes_of_one_file_are_told_apart(tmp_path):
    y = np.stack([projections(CIRCLE, turn) for turn in range(3)])
    arrays = {"y": y, **described(CIRCLE.geometry), "patient": ["a", "b", "a"], "range": [0, WATER]}
    source = open_source(write(tmp_path / "scans.h5", **arrays))
    assert source.groups == ["a", "b", "a"] and [source.name(k) for k in range(3)] == ["scans_0000", "scans_0001", "scans_0002"]
    for k in range(3):
        assert torch.equal(source[k].measurement[0], torch.from_numpy(y[k]) / WATER)
    data = ImageData(str(tmp_path / "scans.h5"), size=99, volumes=True, depth=4)  # what the geometry says is what holds
    data.setup("predict")
    assert data.image_shape == (1, 6, 16, 20) and len(data.item_labels) == 3


def test_simulated_scans_are_kept_as_files_that_are_solved_alike(tmp_path):
    """Of built-in phantoms, in HU; their files, as a folder, in the values that a prior sees."""
    first = predict(None, tmp_path / "first", "--data.count", "2", "--data.size", "20", "--data.depth", "4", "--operator.size",
                    "[4, 20, 20]", "--operator.views", "12", "--results.measurements", "true")  # fmt: skip
    folder = tmp_path / "first" / "measurements"
    assert len([*folder.glob("*.npz")]) == 2
    second = predict(folder, tmp_path / "second", "--data.count", "null")
    scale = PhantomSource(1, 20, 2, depth=4).normalisation
    assert first.keys() == second.keys() and len(first) == 2
    for name, values in first.items():
        assert np.array_equal(values, scale.restore(torch.from_numpy(second[name])).numpy())


@pytest.mark.parametrize("shape", [(12, 1), (12, 16), (5, 1, 1), (5, 12, 16)])
def test_counts_become_the_line_integrals_that_made_them(shape, tmp_path):
    rng = np.random.default_rng(0)
    geometry = ConeBeam((3, 8, 8), views=5, rows=12, bins=16).geometry
    y = rng.uniform(-0.01, 3, (5, 12, 16))
    dark, flat = rng.uniform(5, 20, shape), rng.uniform(3000, 60000, shape)
    arrays = {"counts": dark + (flat - dark) * np.exp(-y), "flat": flat, "dark": dark, **described(geometry)}
    source = open_source(write(tmp_path / "scan.npz", **arrays), data_range=(0, 2))
    torch.testing.assert_close(source[0].measurement[0], torch.from_numpy(y / 2).float())


def test_many_turns_are_those_of_a_helix_and_many_degrees_are_not(tmp_path):
    y = np.ones(HELIX.geometry.shape, np.float32)
    degrees = np.degrees(HELIX.geometry.angles)
    for suffix in (".npz", ".h5"):
        assert read_geometry(write(tmp_path / f"a{suffix}", y=y, **described(HELIX.geometry))) == HELIX.geometry
        for heights in (HELIX.geometry.heights, np.zeros(60)):
            arrays = {"y": y, **described(HELIX.geometry), "angles": degrees, "heights": np.asarray(heights)}
            with pytest.raises(InputError, match="in steps of 18, which look like degrees; wanted radians"):
                read_geometry(write(tmp_path / f"b{suffix}", **arrays))


SHAPE = CIRCLE.geometry.shape
GOOD = {"y": np.ones(SHAPE, np.float32), **described(CIRCLE.geometry), "range": [0, 1]}
ALL = "size, angles, pixel_spacing, slice_spacing, row_spacing, bin_spacing, source_distance, detector_distance"
WRONG = [  # what is changed in a good file, None for what is left out; the sentence
    ({"y": np.ones((1, *SHAPE)), "slice_spacing": None, "row_spacing": None, "source_distance": None},
     "s.npz has y without slice_spacing, row_spacing, source_distance; wanted its geometry beside it"),
    ({**dict.fromkeys(described(CIRCLE.geometry)), "y": np.ones((1, *SHAPE))},
     f"s.npz has y without {ALL}; wanted its geometry beside it"),
    ({"y": np.ones(SHAPE[1:])}, "s.npz has y of shape (8, 26); wanted (views, rows, bins), or (n, views, rows, bins)"),
    ({"y": np.ones((SHAPE[1], SHAPE[0], SHAPE[2]))},
     "s.npz has y of shape (8, 24, 26) and 24 angles, so it looks transposed; wanted (views, rows, bins)"),
    ({"y": np.ones((25, *SHAPE[1:]))}, "s.npz has angles of type float64 and shape (24,); wanted real numbers, (25)"),
    ({"heights": np.zeros(3)}, "s.npz has heights of type float64 and shape (3,); wanted real numbers, (24)"),
    ({"heights": np.full(24, np.inf)}, "s.npz has infinity in heights[0]; wanted finite numbers"),
    ({"size": [16, 20]}, "s.npz has size of type int64 and shape (2,); wanted real numbers, (3)"),
    ({"source_distance": 3.0}, "s.npz: source_distance is 3; wanted above 25.6125, half the image's diagonal"),
    ({"row_spacing": 0.0}, "s.npz: row_spacing is 0; wanted a value above 0"),
    ({"range": None}, "s.npz has y and no 'range'; wanted the range (0, value that becomes 1) in the units of y per length"),
    ({"patient": ["a", "b"]}, "s.npz has patient of shape (2,); wanted 1 entries, one a volume"),
    ({"unit": "inch"}, "s.npz has unit 'inch'; wanted um, mm, cm, m"),
    ({"images": np.ones((6, 16, 20))}, "s.npz has images and y; wanted the projections of volumes alone"),
    ({"angles": np.arange(24) * 15.0}, "s.npz has angles from 0 to 345 in steps of 15, which look like degrees; wanted radians "
     "(of several turns, their remainders), or the key angle_unit with degrees"),
]  # fmt: skip
VALUES = [  # those that are seen when the projections are read
    ({"y": np.full(SHAPE, np.nan)}, "s.npz has NaN in y[0]; wanted finite numbers"),
    ({"y": np.ones(SHAPE, complex)},
     "s.npz has y of type complex128 and shape (1, 24, 8, 26); wanted real numbers, (n, n, n, n)"),
    ({"y": None, "counts": np.ones(SHAPE), "flat": np.ones(25)},
     "s.npz has flat of shape (25,); wanted one value, or (26), (8, 26), (24, 8, 26)"),
    ({"y": None, "counts": np.zeros(SHAPE), "flat": 5},
     "s.npz has counts not above 0 in 4992 of 4992 bins with a beam; wanted photons in most"),
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize(("changes", "sentence"), WRONG + VALUES, ids=[case[1][10:40] for case in WRONG + VALUES])
def test_a_wrong_file_is_one_sentence_at_once_or_when_it_is_read(changes, sentence, suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / f"s{suffix}", **{**GOOD, **changes}).relative_to(tmp_path)
    if any(changes is late for late, _ in VALUES):
        source = open_source(path)
        with pytest.raises(InputError) as error:
            source[0]
    else:
        with pytest.raises(InputError) as error:
            open_source(path)
    assert str(error.value) == sentence.replace(".npz", suffix)


def test_a_command_that_reads_a_wrong_file_says_so_and_writes_no_image(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "s.npz", **{**GOOD, "y": np.full(SHAPE, np.nan)})
    with pytest.raises(SystemExit) as stop:
        predict("s.npz", tmp_path / "out")
    said = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert stop.value.code == 2 and said == ["padis_lightning: error: s.npz has NaN in y[0]; wanted finite numbers"]
    assert not [*tmp_path.rglob("*.npy")]


def test_files_that_do_not_go_together_are_refused(tmp_path):
    first, second = write(tmp_path / "a.npz", **GOOD), tmp_path / "b.npz"
    for change, sentence in (
        ({"range": [0, 2]}, "has another range than a.npz; wanted one for all, or one file"),
        ({"unit": "mm"}, "has another unit than a.npz; wanted one for all, or one file"),
        ({"row_offset": 0.5}, "has another geometry than a.npz; wanted one for all, or one file"),
    ):
        write(second, **{**GOOD, **change})
        with pytest.raises(InputError, match=f"b.npz {sentence}"):
            open_source(tmp_path)
    write(second, images=np.zeros((3, 4, 4)))
    with pytest.raises(InputError, match="has a.npz, a cone-beam scan, and b.npz; wanted cone-beam scans alone"):
        open_source(tmp_path)
    second.write_bytes(first.read_bytes()[:500])
    with pytest.raises(InputError, match="has a.npz, a cone-beam scan, and b.npz; wanted cone-beam scans alone"):
        open_source(tmp_path)
    second.unlink()
    assert len(open_source(tmp_path)) == 1
    with pytest.raises(InputError, match="a.npz has only measurements; wanted 'images' to train on"):
        ImageData(str(first)).setup("fit")


def test_a_broken_file_beside_slices_is_no_scan(tmp_path):
    write_stack(tmp_path / "scan", np.ones((3, 8, 8), np.int16), lps(np.eye(3), (1, 1, 1), (0, 0, 0)))
    for name in ("broken.npz", "broken.h5"):
        (tmp_path / "scan" / name).write_bytes(b"PK\x03\x04")
    assert len(open_source(tmp_path / "scan")) == 3 and read_geometry(tmp_path / "scan") is None


def test_a_geometry_beside_a_file_fits_its_projections(tmp_path):
    path = write(tmp_path / "scan.npz", y=GOOD["y"])
    replace(CIRCLE.geometry, rows=9).save(tmp_path / "scan.json")
    with pytest.raises(InputError, match="scan.json has 24 views of 9x26 bins; wanted 24 of 8x26, those of y"):
        read_geometry(path)
