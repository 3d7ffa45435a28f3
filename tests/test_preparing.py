"""One file for training: what goes into it, where its pixels lie, and that a kill leaves nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from padis_lightning.commands.prepare import command, run
from padis_lightning.commands.prepare import plan as planning
from padis_lightning.commands.prepare.grid import Grid
from padis_lightning.commands.prepare.plan import PARTS, Plan, split
from padis_lightning.data.readers.npz import open_arrays
from padis_lightning.data.sources.arrays import read_arrays
from padis_lightning.data.sources.series import Series, SeriesSource
from padis_lightning.errors import InputError
from padis_lightning.messages.sentences import explain

ALL = ("--split", "1", "0", "0")


def prepared(folder, *args, name="out.h5", workers=1):
    out = Path(folder) / name
    run([*map(str, args), "--output", str(out), "--workers", str(workers)])
    return out


def restored(path):
    with h5py.File(path) as file:
        return file["images"][()] * file.attrs["slope"] + file.attrs["intercept"]


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def series(values, name="scan", group="a", **options):
    """Return a series of float32 slices ``(n, H, W)`` or ``(n, H, W, C)``."""
    values = np.asarray(values, np.float32)
    return Series(name, group, len(values), values.shape[1:], values.__getitem__, **{"units": "HU", **options})


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """Give series to sources by name; each source is a file that exists."""
    known = {}
    monkeypatch.setattr(planning, "found_series", lambda path: known[path.name])

    def add(name, *members):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_bytes(name.encode())
        known[name] = list(members)
        return tmp_path / name

    return add


# ---- the split


def shares_of(draw):
    cuts = sorted(draw)
    return cuts[0] / 20, (cuts[1] - cuts[0]) / 20, (20 - cuts[1]) / 20


SHARES = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(shares_of)


def possible(count, shares):
    """Try all numbers of groups: can every share be met within one group, and none that has a share be empty?"""
    near = [[n for n in range(count + 1) if abs(n - share * count) <= 1 + 1e-6 and (n > 0) == (share > 0)] for share in shares]
    return any(sum(counts) == count for counts in itertools.product(*near))


@given(st.lists(st.text(max_size=3), min_size=1, max_size=40), SHARES, st.integers(0, 3), st.randoms())
@settings(max_examples=150, deadline=None)
def test_shares_are_met_within_one_group_wherever_they_can_be(groups, shares, seed, shuffle):
    names = set(groups)
    if not possible(len(names), shares):
        with pytest.raises(InputError, match="wanted enough for --split"):
            split(groups, shares, seed)
        return
    parts = split(groups, shares, seed)
    assert set(parts) == names and set(parts.values()) == {p for p, s in zip(PARTS, shares, strict=True) if s > 0}
    for part, share in zip(PARTS, shares, strict=True):
        assert abs(list(parts.values()).count(part) - share * len(names)) <= 1 + 1e-6
    again = groups * 2
    shuffle.shuffle(again)
    assert split(again, shares, seed) == parts


def test_the_seed_decides_who_is_held_back():
    groups = [f"P{i}" for i in range(30)]
    held = [frozenset(g for g, part in split(groups, (0.8, 0.1, 0.1), seed).items() if part == "test") for seed in range(40)]
    assert len(set(held)) > 30
    counted = [sum(group in one for one in held) for group in groups]
    assert max(counted) < 16 and sum(n > 0 for n in counted) > 25  # 4 expected; nobody is left out by name


def test_no_patient_is_in_two_parts_of_a_file_and_tables_in_any_language_come_back(tmp_path):
    patients = ["Ångström", "b", "周", "ok"] * 5
    source = write(tmp_path / "a.npz", images=np.arange(20, dtype=np.uint8)[:, None, None], patient=patients)
    with h5py.File(prepared(tmp_path, source, "--split", "0.5", "0.25", "0.25", "--seed", "3")) as file:
        groups, names, parts = (file[key].asstr()[()].tolist() for key in ("group", "name", "part"))
        assert np.isnan(file["affine"][()]).all() and file["affine"].shape == (20, 4, 4)
    assert groups == patients and len(set(names)) == 20 and restored(tmp_path / "out.h5")[:, 0, 0].tolist() == list(range(20))
    assert dict(zip(groups, parts, strict=True)) == split(patients, (0.5, 0.25, 0.25), 3)
    assert len({*zip(groups, parts, strict=True)}) == 4


# ---- the values


@pytest.mark.parametrize(("dtype", "step"), [("uint16", 2000 / 65535), ("uint8", 2000 / 255), ("float32", 0.0)])
def test_values_come_back_within_half_a_step(tmp_path, dtype, step):
    values = np.random.default_rng(0).uniform(-1, 2200, (5, 9, 7)).astype(np.float32)
    values[0], values[1, 0] = 1000, 0  # one slice much flatter than the others
    source = write(tmp_path / "a.npz", images=values, hu_window=np.array([-1000, 1000]))
    out = prepared(tmp_path, source, *ALL, "--dtype", dtype)
    hounsfield = (values - np.float32(1000)).clip(-1000, 1000)
    assert np.abs(restored(out) - hounsfield).max() <= step / 2 * (1 + 1e-9)
    with h5py.File(out) as file:
        assert file["images"].dtype == dtype and file["images"].chunks is None and file["images"].id.get_offset() is not None
        attributes = {key: file.attrs[key] for key in ("format", "version", "units")}
        assert attributes == {"format": "padis_lightning", "version": 1, "units": "HU"}
        assert file.attrs["window"].tolist() == file.attrs["range"].tolist() == [-1000, 1000]


def test_the_range_clips_and_a_window_is_for_hounsfield_units_only(tmp_path):
    source = write(tmp_path / "a.npz", images=np.array([[[10, 100, 240]]] * 2, np.uint8))
    out = prepared(tmp_path, source, *ALL, "--range", "20", "220")
    np.testing.assert_allclose(restored(out), [[[20, 100, 220]]] * 2, atol=0.5 * 200 / 65535)
    with h5py.File(out) as file:
        assert "window" not in file.attrs and file.attrs["units"] == ""


def test_colours_and_bytes_are_kept_exactly(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_allclose(restored(prepared(tmp_path, tmp_path / "a.npy", *ALL)), values, atol=1e-9)
    same = prepared(tmp_path, tmp_path / "a.npy", *ALL, "--dtype", "uint8", name="b.h5")
    with h5py.File(same) as file:
        assert np.array_equal(file["images"][()], values)


def test_colours_are_averaged_down_in_one_process_as_in_two(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), np.uint8)
    np.save(tmp_path / "a.npy", values)
    one, two = (prepared(tmp_path, tmp_path / "a.npy", *ALL, "--size", "6", name=f"{n}.h5", workers=n) for n in (1, 2))
    assert one.read_bytes() == two.read_bytes()
    means = values.reshape(4, 6, 2, 6, 2, 3).mean((2, 4))
    np.testing.assert_allclose(restored(one), means, atol=0.5 * 255 / 65535 + 1e-4)


@pytest.mark.parametrize("size", [None, 8, 6, 20])
def test_a_prepared_file_holds_what_the_reader_gives_to_training(images, tmp_path, size):
    source = SeriesSource(open_arrays(images), size, None, "a")
    out = prepared(tmp_path, images, *ALL, *(("--size", size) if size else ()))
    with h5py.File(out) as file:
        ours = torch.from_numpy(file["images"][()] / 65535)
    theirs = torch.stack([source[i].image[0] for i in range(len(source))])
    assert (ours - theirs).abs().max() <= 0.5 / 65535 + 1e-6
    known = read_arrays(images, size)
    assert (known.images[:, 0] - theirs).abs().max() < 1e-6 and known.groups == source.groups


def test_every_kth_slice_of_each_series(scans, tmp_path):
    values = np.arange(7.0)[:, None, None]
    source = scans("x", series(values, "s"), series(values[:2] + 100, "t"))
    out = prepared(tmp_path, source, *ALL, "--every", "3", "--dtype", "float32")
    with h5py.File(out) as file:
        assert file["images"][:, 0, 0].tolist() == [0, 3, 6, 100]
        assert file["name"].asstr()[()].tolist() == ["s_0000", "s_0003", "s_0006", "t_0000"]


# ---- where the pixels lie


OBLIQUE = np.array([[0.1, 0.69, 0.2, -12.0], [0.7, -0.1, 0.3, 35.0], [0.02, 0.03, 2.5, 8.0], [0, 0, 0, 1]])


def corners(affine, height, width):
    """Return the four corners of the field of view in millimetres."""
    places = np.array([[r, c, 0, 1] for r in (-0.5, height - 0.5) for c in (-0.5, width - 0.5)])
    return places @ affine.T


@pytest.mark.parametrize("size", [5, 8, 16, 40])
def test_a_resized_slice_has_the_corners_it_had(scans, tmp_path, size):
    source = scans("x", series(np.zeros((3, 16, 16)), affine=OBLIQUE))
    with h5py.File(prepared(tmp_path, source, *ALL, "--size", size)) as file:
        affines = file["affine"][()]
    for k, affine in enumerate(affines):
        shifted = OBLIQUE.copy()
        shifted[:, 3] = OBLIQUE @ [0, 0, k, 1]
        np.testing.assert_allclose(corners(affine, size, size), corners(shifted, 16, 16), atol=1e-9)


@pytest.mark.parametrize("size", [None, 12, 31, 90])
@pytest.mark.parametrize("spacing", [0.5, 1.0, 1.5, 0.83, 0.37])
def test_pixels_lie_where_the_affine_says(spacing, size):
    """An image whose values are its own millimetres is resampled, cut or bordered."""
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    affine[:3, 3] = -7, 3, 1
    rows, columns = (affine @ [1, 1, 0, 0])[:2]
    height, width = 61, 48
    for axis in (0, 1):
        ramp = np.broadcast_to(np.moveaxis(np.arange([height, width][axis])[None] * 0.5, -1, axis), (height, width))
        one = series(ramp[None] + affine[axis, 3], spacing=(rows, columns), affine=affine)
        grid = Grid.of(one, size, spacing)
        found = grid.resample(torch.from_numpy(one.read(0).copy())[None], -1000.0)[0].numpy()
        out = grid.slice_affine(affine, 0)
        np.testing.assert_allclose(np.linalg.norm(out[:3, :2], axis=0), spacing)
        assert found.shape == grid.after == ((size, size) if size else grid.after)
        places = np.stack([*np.meshgrid(*map(np.arange, found.shape), indexing="ij"), *np.zeros((2, *found.shape))], -1)
        places[..., 3] = 1
        at = (places @ out.T)[..., :2]
        low, high = affine[:2, 3] - 0.25, affine[:2, 3] + 0.5 * np.array([height, width]) - 0.25  # the field of view
        assert (found[((at < low) | (at > high)).any(-1)] == -1000).all()
        inside = ((at > low + 2 * spacing) & (at < high - 2 * spacing)).all(-1)
        assert inside.any() and np.abs(found - at[..., axis])[inside].max() < 0.06 * spacing


def test_whole_factors_are_means_of_boxes(scans, tmp_path):
    values = np.random.default_rng(0).uniform(-900, 900, (2, 12, 18)).astype(np.float32)
    boxes = values.reshape(2, 4, 3, 9, 2).mean((2, 4))
    source = scans("x", series(values, spacing=(0.4, 0.6)))
    out = prepared(tmp_path, source, *ALL, "--spacing", "1.2", "--dtype", "float32")
    np.testing.assert_allclose(restored(out), boxes, atol=1e-3)
    square = scans("y", series(values[:, :, :12]))
    out = prepared(tmp_path, square, *ALL, "--size", "4", "--dtype", "float32", name="b.h5")
    np.testing.assert_allclose(restored(out), values[:, :, :12].reshape(2, 4, 3, 4, 3).mean((2, 4)), atol=1e-3)


# ---- arrays, slice by slice


@pytest.fixture
def scattered(tmp_path):
    """Write the same images of scattered patients in every form of file."""
    values = np.random.default_rng(0).integers(0, 2001, (20, 8, 6)).astype(">u2")
    arrays = {"patient": np.array(list("aabbbacccaadddddbbee")), "hu_window": np.array([-1000, 1000])}
    np.savez(tmp_path / "stored.npz", images=values, **arrays)
    np.savez_compressed(tmp_path / "packed.npz", images=values, **arrays)
    np.savez_compressed(tmp_path / "columns.npz", images=np.asfortranarray(values), **arrays)
    return values, arrays["patient"], [tmp_path / f"{kind}.npz" for kind in ("stored", "packed", "columns")]


def test_every_form_of_file_gives_the_same_slices(scattered, tmp_path):
    values, patients, paths = scattered
    for path in paths:
        opened = open_arrays(path)
        assert len({one.name for one in opened}) == len(opened) == 8 and sum(one.count for one in opened) == len(values)
        assert [one.group for one in opened for _ in range(one.count)] == patients.tolist()
        forward = np.stack([one.read(k) for one in opened for k in range(one.count)])
        backward = np.stack([one.read(k) for one in opened[::-1] for k in range(one.count)[::-1]])[::-1]
        assert np.array_equal(forward, values.astype(np.float32) - 1000) and np.array_equal(backward, forward)
    np.save(tmp_path / "bare.npy", values.T)
    (one, *rest) = open_arrays(tmp_path / "bare.npy", (0, 2000))
    assert np.array_equal(one.read(0), values.T[0]) and len(rest) == 5 and len({r.group for r in rest}) == 5


def test_one_image_is_read_whichever_of_its_indices_runs_fastest(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
    for values, save in ((image, np.save), (image.T.copy().T, np.save), (image, np.savez), (image.T.copy().T, np.savez)):
        path = tmp_path / f"a.{'npy' if save is np.save else 'npz'}"
        save(path, values)  # a .npz has it as arr_0
        (one,) = open_arrays(path)
        assert one.count == 1 and np.array_equal(one.read(0), image)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes share nothing here")
def test_processes_that_read_the_same_compressed_file_do_not_disturb_each_other(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (30, 64, 64), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=values)
    opened = open_arrays(tmp_path / "a.npz")

    def wrong(start):
        return sum(not np.array_equal(one.read(0), image) for one, image in zip(opened[start:], values[start:], strict=True))

    assert np.array_equal(opened[0].read(0), values[0])  # the file is open, and its place in it inherited
    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(wrong(0)))
    child.start()
    child.join()
    assert (child.exitcode, wrong(1)) == (0, 0)


def test_stored_and_named_ranges_become_hounsfield_units(tmp_path):
    path = write(tmp_path / "a.npz", images=np.array([[[0.5, 1.5]]] * 2), range=[0.5, 1.5], hu_window=[-160, 240])
    one, _ = open_arrays(path)
    assert one.read(0).tolist() == [[-160, 240]] and (one.units, one.range) == ("HU", (-160, 240))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_file(tmp_path, save):
    patients = np.repeat([f"P{i}" for i in range(8)], 25)
    save(tmp_path / "a.npz", images=np.zeros((200, 192, 192), np.uint16), patient=patients, hu_window=[-1000, 1000])
    tracemalloc.start()
    try:
        prepared(tmp_path, tmp_path / "a.npz", *ALL)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 7e6  # of 15 MB, read and written


# ---- the manifest


def test_the_manifest_tells_where_the_values_come_from(images, tmp_path):
    values = np.full((3, 16, 16), 700, np.uint16)
    other = write(tmp_path / "more.npz", images=values, patient=["e", "e", "f"], hu_window=[-1000, 1000])
    options = "--size 8 --split 0.5 0.25 0.25 --range -900 900".split()
    out = prepared(tmp_path, images, other, *options, "--licence", "CC BY 4.0")
    with h5py.File(out) as file:
        manifest = json.loads(file.attrs["manifest"])
        stored, parts, groups = file["images"][()], file["part"].asstr()[()], file["group"].asstr()[()]
    for entry, path in zip(manifest["sources"], (images, other), strict=True):
        assert entry == {"name": path.name, "size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert manifest["images"]["sha256"] == hashlib.sha256(stored.tobytes()).hexdigest()
    assert (manifest["licence"], manifest["units"], manifest["window"]) == ("CC BY 4.0", "HU", [-900, 900])
    for part in PARTS:
        inside = parts == part
        assert manifest["counts"][part] == {"slices": inside.sum(), "groups": len(set(groups[inside]))}
    asked = {
        "size": 8,
        "spacing": None,
        "range": [-900, 900],
        "split": [0.5, 0.25, 0.25],
        "dtype": "uint16",
        "every": 1,
        "seed": 0,
    }
    assert manifest["settings"] == asked and manifest["padis_lightning"]
    assert str(tmp_path) not in json.dumps(manifest)


def test_files_of_a_folder_are_named_from_it(scans, tmp_path):
    inside = tmp_path / "study" / "head" / "1.bin"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"1")
    scans("study", series(np.zeros((1, 4, 4)), files=(inside,)))
    with h5py.File(prepared(tmp_path, tmp_path / "study", *ALL)) as file:
        (entry,) = json.loads(file.attrs["manifest"])["sources"]
    assert entry == {"name": "study/head/1.bin", "size": 1, "sha256": hashlib.sha256(b"1").hexdigest()}


def test_a_changed_file_is_found_out(images, tmp_path, capsys):
    out = prepared(tmp_path, images, *ALL)
    run(["--check", str(out)])
    assert "is whole: 12 slices, SHA-256" in capsys.readouterr().out
    with h5py.File(out) as file:
        place = file["images"].id.get_offset() + 777
    content = bytearray(out.read_bytes())
    content[place] ^= 1
    out.write_bytes(content)
    with pytest.raises(InputError, match=r"has images of SHA-256 \w+; wanted \w+, which its manifest names"):
        run(["--check", str(out)])


# ---- the work


def test_any_number_of_processes_gives_the_same_bits(scattered, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "BATCH", 200)  # two slices at a time
    _, _, paths = scattered
    one, two = (
        prepared(tmp_path, *paths[:2], "--split", "0.6", "0.2", "0.2", name=f"{n}.h5", workers=n).read_bytes() for n in (1, 2)
    )
    assert one == two


def test_nothing_is_said_where_nobody_looks(images, tmp_path, capsys):
    prepared(tmp_path, images, *ALL)
    said = capsys.readouterr()
    assert said.err == "" and said.out.startswith(f"wrote {tmp_path / 'out.h5'}: 12 slices of 16x16 uint16, 4 groups (train 12")


SLOW = """
import sys, time
from padis_lightning.commands.prepare import command, plan, run
command.BATCH, item = 600, plan.Plan.__getitem__
def slow(self, i):
    if i == 9:
        print("in the middle", flush=True)
        time.sleep(60)
    return item(self, i)
plan.Plan.__getitem__ = slow
run(sys.argv[1:])
"""


def test_a_killed_run_leaves_the_old_file_and_the_next_one_sweeps_up(images, tmp_path):
    out = prepared(tmp_path, images, *ALL, "--size", "8")
    before = out.read_bytes()
    arguments = [str(images), *ALL, "--output", str(out), "--overwrite", "--workers", "1"]
    root = Path(__file__).parent.parent
    with subprocess.Popen([sys.executable, "-c", SLOW, *arguments], cwd=root, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.readline()
        process.kill()
    (part,) = set(tmp_path.iterdir()) - {images, out, tmp_path / f".{out.name}.lock"}
    assert said == "in the middle\n" and out.read_bytes() == before
    assert part.name.startswith(".") and part.suffix == ".part" and part.stat().st_size > 0
    run(arguments)
    assert set(tmp_path.iterdir()) == {images, out} and restored(out).shape == (12, 16, 16)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device"), InputError("a_0007 is broken")]
)
def test_a_run_that_fails_leaves_the_old_file_alone(images, tmp_path, monkeypatch, error):
    out = prepared(tmp_path, images, *ALL, "--size", "8")
    before, item = out.read_bytes(), Plan.__getitem__

    def fail(self, i):
        if i == 7:
            raise error
        return item(self, i)

    monkeypatch.setattr(command, "BATCH", 600)
    monkeypatch.setattr(Plan, "__getitem__", fail)
    for name in ("out.h5", "new.h5"):
        with pytest.raises(type(error)):
            prepared(tmp_path, images, *ALL, "--overwrite", name=name)
    assert out.read_bytes() == before and set(tmp_path.iterdir()) == {images, out}


# ---- what is refused


OPTIONS = {  # with a source of four patients
    "--output a.npy": "output is 'a.npy'; wanted a name that ends in .h5",
    "--sise 3": "unrecognized arguments: --sise 3; wanted what prepare --help lists",
    "--size x": "invalid int value: 'x'; wanted what prepare --help lists",
    "--size 0": "size is 0; wanted at least 1",
    "--every 0": "every is 0; wanted at least 1",
    "--seed -1": "seed is -1; wanted at least 0",
    "--workers 0": "workers is 0; wanted at least 1",
    "--dtype int8": "invalid choice: 'int8'",
    "--range 5 5": "range is 5 5; wanted two values, the lower first",
    "--range 0 nan": "range is 0 nan; wanted two values, the lower first",
    "--split .5 .5 .5": "split is 0.5 0.5 0.5; wanted three shares that add up to 1",
    "--split .8 .1 .1": "the sources have 4 groups; wanted enough for --split 0.8 0.1 0.1 to leave one in each part",
    "--spacing 0": "spacing is 0; wanted a value above 0",
    "--spacing 1": "a has no pixel spacing; wanted one for --spacing 1",
    "--check a.h5": "--check comes with sources or an output; wanted it alone",
    "none.npz": "there is no file or folder 'none.npz'; wanted data",
}


def four(folder):
    return write(folder / "four.npz", images=np.full((4, 8, 8), 1000, np.uint16), hu_window=[-1000, 1000], patient=list("abcd"))


def sources(**arrays):
    """Return a function that writes files named a.npz and so on with these images."""
    return lambda folder: [
        write(folder / f"{name}.npz", **(values if isinstance(values, dict) else {"images": values}))
        for name, values in arrays.items()
    ]


def pixels(*shape):
    return np.zeros(shape, np.uint8)


SOURCES = [
    (lambda folder: [], "sources are missing; wanted files or folders"),
    (lambda folder: [four(folder)] * 2, "four.npz belongs to two sources; wanted each slice once"),
    (lambda folder: [four(folder), *sources(a=pixels(1, 8, 8))(folder)], "the sources have the units HU and none; wanted one"),
    (sources(a=pixels(1, 8, 8), b=pixels(1, 8, 8, 3)), "the sources have the numbers of channels 1 and 3; wanted one"),
    (sources(a=pixels(1, 6, 8), b=pixels(1, 8, 8)), "the slices have the sizes 6x8, 8x8; wanted one, or --size"),
    (sources(a=pixels(1, 4, 6)), "slices of 4x6; wanted square ones for --size, or --spacing"),
    (sources(a=np.zeros((1, 4, 4), int)), "no range of values in common; wanted --range LOW HIGH, or --hu where they are HU"),
    (sources(a=np.full((1, 4, 4), 3.0)), "has values from 3 to 3 and no 'range'; wanted values from 0 to 1"),
    (sources(a=np.array([np.zeros((4, 4)), np.full((4, 4), np.nan)])), "a_0001 has values in slice 0 that are not finite"),
    (sources(a=np.array([[["a"]]])), r"has images of type <U1 and shape \(1, 1, 1\); wanted real numbers"),
    (sources(a=pixels(8)), r"has images of type uint8 and shape \(8,\); wanted real numbers"),
    (sources(a={"y": np.zeros((1, 2, 3))}), "a.npz has no array 'images'; wanted images"),
    (sources(a={"images": pixels(2, 4, 4), "patient": ["a"]}), r"patient of shape \(1,\); wanted 2 entries"),
    (sources(a={"images": pixels(2, 4, 4), "hu_window": [5, 5]}), "data range is 5 to 5; wanted the lower value first"),
]


def refused(folder, args, message):
    """Expect one sentence, exit code 2, and nothing but an empty folder left behind."""
    before = set(folder.rglob("*"))
    with pytest.raises(InputError) as raised:
        run([*map(str, args)])
    sentence, code = explain(raised.value)
    assert code == 2 and re.search(message, sentence) and "\n" not in sentence, sentence
    assert {path for path in folder.rglob("*") if not path.is_dir()} <= before


@pytest.mark.parametrize("options", OPTIONS)
def test_options_that_cannot_be_used_get_a_sentence(tmp_path, monkeypatch, options):
    source = four(tmp_path)
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, [source, *ALL, "--output", "new/out.h5", *options.split()], OPTIONS[options])


@pytest.mark.parametrize(("build", "message"), SOURCES, ids=[message for _, message in SOURCES])
def test_sources_that_cannot_be_used_get_a_sentence(tmp_path, build, message):
    workers = 2 if "finite" in message else 1  # what a worker process raises
    size = ["--size", "2"] if "square" in message else []
    refused(tmp_path, [*build(tmp_path), *ALL, *size, "--output", tmp_path / "new" / "out.h5", "--workers", workers], message)


def test_only_prepared_files_are_checked(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match="there is no file"):
        run(["--check", str(path)])
    path.write_bytes(b"text")
    with pytest.raises(InputError, match="cannot be read .*; wanted a file written by prepare"):
        run(["--check", str(path)])
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(3)
    with pytest.raises(InputError, match="wanted a file written by prepare"):
        run(["--check", str(path)])


def test_broken_files_are_refused(scattered, tmp_path):
    _, _, (stored, packed, _) = scattered
    for path, cut in ((stored, 200), (packed, 200)):
        path.write_bytes(path.read_bytes()[:-cut])
        with pytest.raises(InputError, match="cannot be read"):
            prepared(tmp_path, path, *ALL)
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-7])
    with pytest.raises(InputError, match=r"a.npy cannot be read \(313 bytes where .* take 320\); wanted arrays of numbers"):
        prepared(tmp_path, tmp_path / "a.npy", *ALL)


def test_a_finished_file_stays_unless_it_is_to_be_replaced(images, tmp_path):
    out = prepared(tmp_path, images, *ALL)
    before = out.read_bytes()
    with pytest.raises(InputError, match="out.h5 exists; wanted another --output, or --overwrite"):
        prepared(tmp_path, images, *ALL, "--seed", "1")
    assert out.read_bytes() == before
    assert prepared(tmp_path, images, *ALL, "--size", "8", "--overwrite").stat().st_size < len(before)


def test_a_source_is_never_overwritten(scans, tmp_path):
    source = scans("x.h5", series(np.zeros((1, 4, 4))))
    with pytest.raises(InputError, match="x.h5 is a source; wanted another --output"):
        run([str(source), *ALL, "--output", str(source), "--overwrite"])
    assert source.read_bytes() == b"x.h5"


def test_a_full_disk_is_noticed_before_the_work(images, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 6000, 6000))
    refused(tmp_path, [images, *ALL, "--output", tmp_path / "out.h5"], "has no space left; wanted room for 6.1e-06 GB")


def test_options_may_come_before_or_after_the_sources(images, tmp_path):
    run([*ALL, "--output", str(tmp_path / "a.h5"), str(images), "--size", "8"])
    run([str(images), *ALL, "--size", "8", "--output", str(tmp_path / "b.h5")])
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
