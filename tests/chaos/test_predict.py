"""Reconstruction that is killed, starved and shared out at random moments ends with the bits of an unbroken run."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors import safe_open

from padis_lightning.diffusion import Denoiser, PatchModel
from padis_lightning.types import Normalisation
from tests.chaos.runner import Child, Forker, wait_for
from tests.conftest import random_network

pytestmark = pytest.mark.slow
COUNT, STEPS = 10, 60


def command(folder, output, *extra, steps=STEPS):
    return [
        "predict", "--config", "ct20.yaml", "--model", "DDS", "--model.steps", steps, "--operator.size", 16,
        "--operator.views", 6, "--data.size", "null", "--data.path", folder / "images.npz", "--data.batch_size", 4,
        "--prior.checkpoint", folder / "prior.safetensors", "--output", output, "--results.keep_every", 0,
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def forker():
    return Forker()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images and a prior."""
    path = tmp_path_factory.mktemp("problem")
    values = np.random.default_rng(0).integers(0, 2000, (COUNT, 16, 16), np.uint16)
    np.savez(path / "images.npz", images=values, patient=[f"p{k // 3}" for k in range(COUNT)], hu_window=[-1000, 1000])
    model = PatchModel(Denoiser(random_network(), 0.3), (1, 16, 16), [8], (8, 8), Normalisation(0.0, 2000.0, (-1000.0, 1000.0)))
    model.save(path / "prior.safetensors")
    return path


@pytest.fixture(scope="module")
def unbroken(forker, folder):
    child = forker.start(command(folder, "unbroken"), folder)
    assert child.wait() == 0, child.stderr
    return folder / "unbroken"


def load(path):
    """Read a file to its end, whatever it is."""
    readers = {
        ".npy": np.load, ".npz": lambda p: [values.shape for values in np.load(p).values()],
        ".png": lambda p: Image.open(p).load(),
        ".json": lambda p: json.loads(p.read_text()), ".yaml": lambda p: yaml.safe_load(p.read_text()) or 1 / 0,
        ".safetensors": lambda p: safe_open(p, "pt").metadata()["about"], ".csv": lambda p: list(csv.DictReader(p.open())),
        ".html": lambda p: p.read_text().rstrip().endswith("</html>") or 1 / 0,
    }  # fmt: skip
    return readers[path.suffix](path)


def assert_whole(run: Path):
    """No file under a final name is partial."""
    for path in run.rglob("*"):
        if path.is_file() and not path.name.endswith((".part", ".lock")):
            load(path)


def scores(run):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in load(run / "metrics.csv")]


def assert_same(run: Path, unbroken: Path):
    """Arrays, pictures and panels to the byte, scores to the last digit, nothing left over."""
    written = ("arrays", "images", "panels")
    files = {path.relative_to(unbroken): path.read_bytes() for name in written for path in (unbroken / name).iterdir()}
    assert files == {path.relative_to(run): path.read_bytes() for name in written for path in (run / name).iterdir()}
    assert len(files) == 3 * COUNT and scores(run) == scores(unbroken) and len(scores(run)) == COUNT
    assert not list(run.rglob("*.part")) and not list((run / "unfinished").glob("*"))


def finished(run: Path) -> int:
    """Return how many images are done."""
    return len(list((run / "records").glob("[!.]*.json")))


def newer(paths, before: dict[Path, int]) -> bool:
    """Whether a file is new or was written again; one that is gone by now is not."""
    for path in paths:
        try:
            if path.stat().st_mtime_ns != before.get(path):
                return True
        except FileNotFoundError:
            continue
    return False


#: what each kill waits for, and the longest pause after it: the start, a kept state, a finished image, the last image
MOMENTS = {"start": 1.0, "solve": 0.15, "image": 0.05, "end": 0.05}
KILLS = ["start", "solve", "image", "solve", "start", "image", "solve", "end"]


def test_a_run_killed_at_8_moments_ends_with_the_bits_of_an_unbroken_one(forker, folder, unbroken, tmp_path):
    """The moments fall into all phases of a run; after each kill every file can be read."""
    pauses, run = random.Random(0), tmp_path / "killed"
    counts, killed, states = [], 0, 0
    for moment in KILLS:
        kept = {path: path.stat().st_mtime_ns for path in run.glob("unfinished/*.safetensors")}
        done = finished(run)
        child = forker.start(command(folder, "killed"), tmp_path)
        reached = {
            "start": lambda: True,
            "solve": lambda: newer(run.glob("unfinished/*.safetensors"), kept),  # noqa: B023
            "image": lambda: finished(run) > done,  # noqa: B023
            "end": lambda: finished(run) == COUNT,
        }
        wait_for(lambda: not child.alive or reached[moment]())  # noqa: B023
        time.sleep(pauses.uniform(0, MOMENTS[moment]))
        killed += child.alive
        child.kill()
        assert_whole(run)
        counts.append(finished(run))
        states += len(list(run.glob("unfinished/[!.]*.safetensors")))
    child = forker.start(command(folder, "killed"), tmp_path)
    assert child.wait() == 0, child.stderr
    assert killed >= 6 and states >= 2 and counts == sorted(counts)
    assert_same(run, unbroken)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_a_solve_after_its_step_and_the_run_goes_on_there(forker, folder, unbroken, tmp_path, number):
    run, more = tmp_path / "stopped", ["--results.keep_every", 1000]
    child = forker.start(command(folder, "stopped", *more), tmp_path)
    wait_for(lambda: not child.alive or list(run.glob("records/[!.]*.json")))
    child.send(number)
    assert child.wait() == 1
    sentence = f"padis_lightning: error: stopped by {number.name}; the same command goes on where this one stopped"
    assert child.stderr.splitlines()[-1] == sentence
    assert 0 < finished(run) < COUNT
    child = forker.start(command(folder, "stopped", *more), tmp_path)
    assert child.wait() == 0, child.stderr
    assert_same(run, unbroken)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, and how to change it."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(*options: str) -> bool:
        return subprocess.run(["mount", *options, str(path)], capture_output=True).returncode == 0

    if not mount("-t", "tmpfs", "-o", "size=100k", "tmpfs"):
        pytest.skip("file systems cannot be mounted here")
    yield path, mount
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_stops_the_run_and_what_is_done_stays(forker, folder, unbroken, small_disk):
    disk, mount = small_disk
    child = forker.start(command(folder, disk / "run"), folder)
    assert child.wait() == 1
    said = child.stderr.splitlines()[-1]
    assert said.startswith("padis_lightning: error: no space left while writing ") and "the same command" in said
    assert_whole(disk / "run")
    assert finished(disk / "run") < COUNT
    assert mount("-o", "remount,size=64m")
    child = forker.start(command(folder, disk / "run"), folder)
    assert child.wait() == 0, child.stderr
    assert_same(disk / "run", unbroken)


def test_a_folder_that_cannot_be_written_is_named_and_left_as_it_is(forker, folder, unbroken, small_disk):
    disk, mount = small_disk
    assert mount("-o", "remount,ro")
    child = forker.start(command(folder, disk / "run"), folder)
    assert child.wait() == 2
    assert "cannot be written (read-only file system)" in child.stderr.splitlines()[-1].lower()
    assert not list(disk.iterdir())


def memory(child: Child) -> int:
    """Resident pages; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
    except OSError:
        return 0


def test_two_thousand_images_in_two_processes_hold_their_memory(forker, folder, tmp_path):
    """One of them is killed on the way and started again; together they leave every image once."""
    many = 2000
    values = np.random.default_rng(0).integers(0, 2000, (many, 16, 16), np.uint16)
    np.savez(tmp_path / "images.npz", images=values, patient=[f"p{k // 10}" for k in range(many)], hu_window=[-1000, 1000])
    (tmp_path / "prior.safetensors").write_bytes((folder / "prior.safetensors").read_bytes())
    options = ["--results.baselines", "{}", "--results.report_images", 0, "--results.keep_every", 60, "--data.shards", 2]
    commands = [command(tmp_path, "run", *options, "--data.shard", shard, steps=2) for shard in (0, 1)]
    children, run, seen = [forker.start(one, tmp_path) for one in commands], tmp_path / "run", []
    mine = {f"{index:04d}" for first in range(0, many, 8) for index in range(first, first + 4)}
    while any(child.alive for child in children):
        done = {path.stem for path in (run / "records").glob("[!.]*.json")} if (run / "records").is_dir() else set()
        seen.append((len(done & mine), memory(children[0])))
        if len(done) > many / 3 and len(children) == 2 and children[1].alive:
            children[1].kill()
            children.append(forker.start(commands[1], tmp_path))
        time.sleep(0.1)
    assert len(children) == 3 and [child.wait() for child in children] == [0, -9, 0], [child.stderr for child in children]
    quarters = [[pages for count, pages in seen if k < 8 * count / many <= k + 1 and pages] for k in range(4)]
    second, last = np.mean(quarters[1]), np.mean(quarters[3])
    print(f"memory of the last quarter over that of the second: {last / second:.4f}")
    assert last < 1.02 * second
    rows = load(run / "metrics.csv")
    assert [int(row["index"]) for row in rows] == list(range(many)) and all(row["psnr"] for row in rows)
