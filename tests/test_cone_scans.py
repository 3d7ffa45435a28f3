"""Measured cone-beam scans, from files to volumes."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

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

from .making import lps, write_stack
from .test_cone import ellipsoids, places
from .test_measurements import write

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


def solved(operator, y):
    """What the operator makes of a file's projections, called as it is."""
    return WATER * operator.approximate_inverse(torch.from_numpy(y)[None, None] / WATER)[0, 0]


def predict(path, out, *words):
    main(["predict", "--config", "cone.yaml", "--model", "PseudoInverse", "--data.path", str(path), "--output", str(out),
          *QUIET, *words])  # fmt: skip
    return {file.stem: np.load(file) for file in (out / "arrays").glob("*.npy")}


FILES = {  # of one volume: what is in the file, what is beside it
    ".npz": lambda folder, y: write(folder / "scan.npz", y=y, **described(CIRCLE.geometry)),
    "without heights": lambda folder, y: write(folder / "scan.npz", y=y, **described(CIRCLE.geometry, "heights")),
    "one of one": lambda folder, y: write(folder / "scan.npz", y=y[None], **described(CIRCLE.geometry)),
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


@pytest.mark.parametrize("unit", [None, "cm"])
def test_a_measured_scan_is_reconstructed_to_the_bit_and_lies_in_millimetres(unit, tmp_path, capsys):
    nibabel = pytest.importorskip("nibabel")
    y = projections(CIRCLE)
    arrays = {"y": y, **described(CIRCLE.geometry), "range": [0, WATER], **({"unit": unit} if unit else {})}
    path = write(tmp_path / "scan.h5", ("size", "unit"), **arrays)
    found = predict(path, tmp_path / "out", "--results.formats", "[nifti]", "--results.geometry", "true")
    assert [*found] == ["scan"] and np.array_equal(found["scan"], solved(CIRCLE, y).numpy())
    assert "is a measurement of 24 cone views; its geometry is used" in capsys.readouterr().err
    (row,) = csv.DictReader((tmp_path / "out" / "metrics.csv").open())
    assert row["psnr"] == "" and float(row["residual"]) < 0.5
    assert ConeGeometry.load(tmp_path / "out" / "geometry.json") == CIRCLE.geometry
    written = nibabel.load(tmp_path / "out" / "volumes" / "scan.nii.gz")
    np.testing.assert_allclose(written.get_fdata(), found["scan"].transpose(2, 1, 0), rtol=1e-6)
    if unit is None:
        assert np.array_equal(written.affine, np.eye(4)) and written.header.get_xyzt_units()[0] == "unknown"
        return
    assert written.header.get_xyzt_units()[0] == "mm"
    x, up, z = places(CIRCLE.geometry)
    for k, row, column in ((0, 0, 0), (5, 15, 0), (2, 3, 19)):
        place = 10 * np.array([x[column], up[row, 0], z[k, 0, 0]])
        np.testing.assert_allclose((written.affine @ [column, row, k, 1])[:3], place, rtol=1e-5, atol=1e-4)


def test_the_config_that_a_run_leaves_replays_it(tmp_path):
    path = write(tmp_path / "scan.npz", y=projections(HELIX), **described(HELIX.geometry), range=[0, WATER])
    found = predict(path, tmp_path / "out")
    main(["predict", "--config", str(tmp_path / "out" / "config.yaml"), "--output", str(tmp_path / "again")])
    assert np.array_equal(found["scan"], np.load(tmp_path / "again" / "arrays" / "scan.npy"))


def test_a_folder_of_helices_is_solved_volume_by_volume(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    measured = [projections(HELIX, turn) for turn in range(2)]
    for k, y in zip((10, 9), measured, strict=True):
        write(folder / f"foot {k}.npz", y=y, **described(HELIX.geometry), range=[0, WATER], patient="a")
    (folder / "notes.txt").write_text("a helix")
    found = predict(folder, tmp_path / "out", "--data.count", "null", "--data.batch_size", "2")
    listed = json.loads((tmp_path / "out" / "run.json").read_text())["images"]
    assert listed == [[0, "foot 9", "a"], [1, "foot 10", "a"]]
    both = WATER * HELIX.approximate_inverse(torch.from_numpy(np.stack(measured[::-1]))[:, None] / WATER)[:, 0]
    assert np.array_equal(found["foot 9"], both[0].numpy()) and np.array_equal(found["foot 10"], both[1].numpy())


def test_volumes_of_one_file_are_told_apart(tmp_path):
    y = np.stack([projections(CIRCLE, turn) for turn in range(3)])
    arrays = {"y": y, **described(CIRCLE.geometry), "patient": ["a", "b", "a"], "range": [0, WATER]}
    source = open_source(write(tmp_path / "scans.h5", **arrays))
    assert source.groups == ["a", "b", "a"] and [source.name(k) for k in range(3)] == ["scans_0000", "scans_0001", "scans_0002"]
    for k in range(3):
        assert torch.equal(source[k].measurement[0], torch.from_numpy(y[k]) / WATER)
    assert not torch.equal(source[0].measurement, source[1].measurement)
    data = ImageData(str(tmp_path / "scans.h5"), size=99, volumes=True, depth=4)  # what the geometry says is what holds
    data.setup("predict")
    assert data.image_shape == (1, 6, 16, 20) and len(data.item_labels) == 3


def test_simulated_scans_are_kept_as_files_that_are_solved_alike(tmp_path):
    """Of built-in phantoms, in HU; their files, as a folder, in the values that a prior sees."""
    first = predict_phantoms(tmp_path / "first")
    folder = tmp_path / "first" / "measurements"
    assert len([*folder.glob("*.npz")]) == 2
    second = predict(folder, tmp_path / "second", "--data.count", "null")
    scale = PhantomSource(1, 20, 2, depth=4).normalisation
    assert first.keys() == second.keys() and len(first) == 2
    for name, values in first.items():
        assert np.array_equal(values, scale.restore(torch.from_numpy(second[name])).numpy())


def predict_phantoms(out):
    main(["predict", "--config", "cone.yaml", "--model", "PseudoInverse", "--output", str(out), *QUIET, "--data.count", "2",
          "--data.size", "20", "--data.depth", "4", "--operator.size", "[4, 20, 20]", "--operator.views", "12",
          "--results.measurements", "true"])  # fmt: skip
    return {file.stem: np.load(file) for file in (out / "arrays").glob("*.npy")}


FLATS = {"one": (), "a row": (12, 1), "a pixel": (12, 16), "a view": (5, 1, 1), "each": (5, 12, 16)}


@pytest.mark.parametrize("shape", FLATS.values(), ids=FLATS)
def test_counts_become_the_line_integrals_that_made_them(shape, tmp_path):
    rng = np.random.default_rng(0)
    geometry = ConeBeam((3, 8, 8), views=5, rows=12, bins=16).geometry
    y = rng.uniform(-0.01, 3, (5, 12, 16))
    dark, flat = rng.uniform(5, 20, shape), rng.uniform(3000, 60000, shape)
    arrays = {"counts": dark + (flat - dark) * np.exp(-y), "flat": flat, "dark": dark, **described(geometry)}
    source = open_source(write(tmp_path / "scan.npz", **arrays), data_range=(0, 2))
    torch.testing.assert_close(source[0].measurement[0], torch.from_numpy(y / 2).float())


def test_projections_are_read_when_they_are_asked_for(tmp_path):
    y = projections(CIRCLE)
    y[3, 2, 1] = np.nan
    for suffix in (".npz", ".h5"):
        source = open_source(write(tmp_path / f"scan{suffix}", y=y, **described(CIRCLE.geometry), range=[0, 1]))
        with pytest.raises(InputError, match=r"has NaN in y\[0\]; wanted finite numbers"):
            source[0]


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
WRONG = {  # what is changed, None for what is left out; the sentence
    "a geometry of a slice": (
        {"y": np.ones((1, *SHAPE)), "slice_spacing": None, "row_spacing": None, "source_distance": None},
        "s.npz has y without slice_spacing, row_spacing, source_distance; wanted its geometry beside it",
    ),
    "no geometry": (
        {**dict.fromkeys(described(CIRCLE.geometry)), "y": np.ones((1, *SHAPE))},
        "s.npz has y without size, angles, pixel_spacing, slice_spacing, row_spacing, bin_spacing, source_distance, "
        "detector_distance; wanted its geometry beside it",
    ),
    "two axes": (
        {"y": np.ones(SHAPE[1:])}, "s.npz has y of shape (8, 26); wanted (views, rows, bins), or (n, views, rows, bins)",
    ),
    "rows first": (
        {"y": np.ones((SHAPE[1], SHAPE[0], SHAPE[2]))},
        "s.npz has y of shape (8, 24, 26) and 24 angles, so it looks transposed; wanted (views, rows, bins)",
    ),
    "a view too many": (
        {"y": np.ones((25, *SHAPE[1:]))},
        "s.npz has angles of type float64 and shape (24,); wanted real numbers, (25)",
    ),
    "heights of other views": (
        {"heights": np.zeros(3)}, "s.npz has heights of type float64 and shape (3,); wanted real numbers, (24)",
    ),
    "infinite heights": (
        {"heights": np.full(24, np.inf)}, "s.npz has infinity in heights[0]; wanted finite numbers",
    ),
    "a size of two": ({"size": [16, 20]}, "s.npz has size of type int64 and shape (2,); wanted real numbers, (3)"),
    "a source in the volume": (
        {"source_distance": 3.0}, "s.npz: source_distance is 3; wanted above 25.6125, half the image's diagonal",
    ),
    "no rows apart": ({"row_spacing": 0.0}, "s.npz: row_spacing is 0; wanted a value above 0"),
    "a distance of several": (
        {"detector_distance": np.ones(2)},
        "s.npz has detector_distance of type float64 and shape (2,); wanted real numbers, ()",
    ),
    "no range": (
        {"range": None},
        "s.npz has y and no 'range'; wanted the range (0, value that becomes 1) in the units of y per length",
    ),
    "patients": ({"patient": ["a", "b"]}, "s.npz has patient of shape (2,); wanted 1 entries, one a volume"),
    "a unit": ({"unit": "inch"}, "s.npz has unit 'inch'; wanted um, mm, cm, m"),
    "images too": ({"images": np.ones((6, 16, 20))}, "s.npz has images and y; wanted the projections of volumes alone"),
    "counts too": ({"counts": np.ones(SHAPE)}, "s.npz has counts and y; wanted the projections of volumes alone"),
    "degrees": (
        {"angles": np.arange(24) * 15.0},
        "s.npz has angles from 0 to 345 in steps of 15, which look like degrees; wanted radians "
        "(of several turns, their remainders)",
    ),
}  # fmt: skip


def refused(capsys, *words):
    """The sentence of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main([*words])
    lines = [line.removeprefix("padis_lightning: error: ") for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert stop.value.code == 2 and len(lines) == 1
    return lines[0]


def good_but_for(changes):
    """The file ``s.npz`` in this folder, a good scan but for ``changes``; what they make None is left out."""
    np.savez("s.npz", **{k: v for k, v in {**GOOD, **changes}.items() if v is not None})
    return "s.npz"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_sentence(name, tmp_path, monkeypatch):
    changes, sentence = WRONG[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        open_source(good_but_for(changes))
    assert str(error.value) == sentence


VALUES = {
    "NaN": ({"y": np.full(SHAPE, np.nan)}, "s.npz has NaN in y[0]; wanted finite numbers"),
    "complex numbers": ({"y": np.ones(SHAPE, complex)}, "s.npz has y of type complex128 and shape (1, 24, 8, 26); wanted real "
                        "numbers, (n, n, n, n)"),
    "no flat": ({"y": None, "counts": np.ones(SHAPE)},
                "s.npz has counts without flat; wanted the counts of a scan without an object beside them"),
    "a flat of another detector": ({"y": None, "counts": np.ones(SHAPE), "flat": np.ones(25)},
                                   "s.npz has flat of shape (25,); wanted one value, or (26), (8, 26), (24, 8, 26)"),
    "no photons": ({"y": None, "counts": np.zeros(SHAPE), "flat": 5},
                   "s.npz has 4992 bins of 4992 with counts not above 0; wanted photons in every one"),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_wrong_values_are_one_sentence_when_they_are_read(name, tmp_path, monkeypatch):
    changes, sentence = VALUES[name]
    monkeypatch.chdir(tmp_path)
    source = open_source(good_but_for(changes))
    with pytest.raises(InputError) as error:
        source[0]
    assert str(error.value) == sentence


@pytest.mark.parametrize(("changes", "sentence"), [WRONG["a view too many"], VALUES["NaN"]], ids=["at once", "when it is read"])
def test_a_command_that_is_given_a_wrong_file_says_so_and_writes_no_image(changes, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good_but_for(changes)
    command = ("predict", "--config", "cone.yaml", "--model", "PseudoInverse", "--data.path", "s.npz", "--output", "out", *QUIET)
    assert refused(capsys, *command) == sentence
    assert not [*tmp_path.rglob("*.npy")] and (changes is VALUES["NaN"][0] or not (tmp_path / "out").exists())


def test_files_that_do_not_go_together_are_refused(tmp_path, capsys):
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    np.savez(first, **GOOD)
    for change, sentence in (
        ({"range": [0, 2]}, "has another range than a.npz; wanted one for all, or one file"),
        ({"unit": "mm"}, "has another unit than a.npz; wanted one for all, or one file"),
        ({"row_offset": 0.5}, "has another geometry than a.npz; wanted one for all, or one file"),
    ):
        np.savez(second, **{**GOOD, **change})
        with pytest.raises(InputError, match=f"b.npz {sentence}"):
            open_source(tmp_path)
    np.savez(second, images=np.zeros((3, 4, 4)))
    with pytest.raises(InputError, match="has a.npz, a cone-beam scan, and b.npz; wanted cone-beam scans alone"):
        open_source(tmp_path)
    second.write_bytes(first.read_bytes()[:500])
    with pytest.raises(InputError, match="has a.npz, a cone-beam scan, and b.npz; wanted cone-beam scans alone"):
        open_source(tmp_path)
    second.unlink()
    assert len(open_source(tmp_path)) == 1
    sentence = refused(capsys, "fit", "--config", "ct_cubes.yaml", "--data.path", str(first), "--output", str(tmp_path / "out"))
    assert sentence == f"{first} has only measurements; wanted 'images' to train on"


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
