"""Two processes on one machine do what one does."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from padis_lightning.cli import main
from padis_lightning.diffusion import PatchModel
from padis_lightning.random import seeded
from padis_lightning.training.patch_diffusion import SIZE
from tests.chaos.runner import Forker
from tests.conftest import write_images

pytestmark = pytest.mark.slow
ODDS = torch.tensor([0.3, 0.7], dtype=torch.float64)
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def words(*args):
    return [*map(str, args), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


def run(*args):
    """Run a command on one thread a process, since bits depend on their number: here on one device, as torchrun does on two."""
    if TWO[-1] not in args:
        torch.set_num_threads(1)
        main(words(*args))
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {"TORCHELASTIC_RUN_ID": "tests", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    forker = Forker()
    ranks = [forker.start(words(*args), Path.cwd(), {**env, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    for rank in ranks:
        assert rank.wait(300) == 0, rank.stderr[-3000:]


def launched(*args):
    """The same by the launcher that starts the second process itself."""
    command = [sys.executable, "-m", "padis_lightning", *words(*args)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def training(images, output, *extra):
    return (
        "fit", "--config", "ct.yaml", "--data.path", images, "--data.size", "null", "--data.batch_size", 2,
        "--model.patch_sizes", "[4,8]", "--model.patches", 6, "--output", output, "--samples.count", 0,
        "--model.network.base", 8, "--model.network.multipliers", "[1,2]", "--model.network.blocks", 1,
        "--trainer.precision", "32-true", "--export.half", "false", "--trainer.log_every_n_steps", 1, *extra,
    )  # fmt: skip


def fit(images, output, *extra):
    run(*training(images, output, *extra))
    return output / "prior.safetensors"


STEPS = 100
LONG = ["--trainer.max_steps", STEPS, "--checkpoint.every_n_train_steps", 1000, "--ckpt_path", "auto", *TWO]


@pytest.fixture(scope="module")
def prior(images, tmp_path_factory):
    """Of an unbroken run of two processes."""
    return fit(images, tmp_path_factory.mktemp("fit"), *LONG)


def test_two_processes_train_like_one_on_the_same_patches(images, tmp_path):
    """The step of two devices is one step of twice the batch: weights, averaged weights, validation, all.

    In float64: in float32 Adam blows the rounding of a gradient that is nearly zero up to a step of 1e-6.
    """
    steps = ["--trainer.max_steps", 20, "--trainer.val_check_interval", 10, "--trainer.precision", "64-true"]
    one = fit(images, tmp_path / "one", *steps, "--data.batch_size", 4, "--model.patches", 12)
    two = fit(images, tmp_path / "two", *steps, *TWO)
    a, b = PatchModel.load(one), PatchModel.load(two)
    assert a.training["patches"] == b.training["patches"]
    for name, value in a.weights().items():
        assert (value - b.weights()[name]).abs().max() < 1e-6, name
    logs = [list(csv.DictReader((tmp_path / run / "log" / "version_0" / "metrics.csv").open())) for run in ("one", "two")]
    ours, theirs = ([float(row["val/loss"]) for row in log if row["val/loss"]] for log in logs)
    assert len(ours) == 2 and ours == pytest.approx(theirs, rel=1e-5)


def test_two_processes_train_and_reconstruct_like_one(images, prior, tmp_path):
    training = PatchModel.load(prior).training
    # Both devices drew the same sizes: patches are twice those of one device.
    drawn = [int(torch.multinomial(ODDS, 1, generator=seeded(0, step, SIZE))) for step in range(STEPS)]
    assert training["steps"] == STEPS and training["patches"] == 2 * sum((24, 6)[k] for k in drawn)
    options = [
        "predict", "--config", "ct20.yaml", "--operator.size", 16, "--operator.views", 6, "--model.steps", 3,
        "--data.size", "null", "--data.path", images, "--data.count", 9, "--data.batch_size", 2,
        "--prior.checkpoint", prior,
    ]  # fmt: skip
    run(*options, "--output", tmp_path / "one")
    with launched(*options, "--output", tmp_path / "two", *TWO) as first:
        said = first.communicate(timeout=300)[1]
    assert first.returncode == 0, said
    written = tmp_path / "two" / "arrays"
    before = {path: path.stat().st_mtime_ns for path in written.iterdir()}
    (written / f"{min(before).stem}.npy").unlink()  # one batch is left, and one of the two devices has nothing to do
    run(*options, "--output", tmp_path / "two", *TWO)
    assert sum(path.stat().st_mtime_ns != before[path] for path in written.iterdir()) == 1
    rows = [list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("one", "two")]
    assert [r["index"] for r in rows[0]] == [r["index"] for r in rows[1]] and len(rows[0]) == 9
    assert [{**row, "seconds": ""} for row in rows[0]] == [{**row, "seconds": ""} for row in rows[1]]
    for folder in ("arrays", "images", "panels"):
        one, two = ({path.name: path.read_bytes() for path in (tmp_path / name / folder).iterdir()} for name in ("one", "two"))
        assert one == two and len(one) == 9


def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(images, prior, tmp_path):
    """And the run that goes on ends with the bits of an unbroken one."""
    with launched(*training(images, tmp_path / "stopped", *LONG)) as first:
        while first.poll() is None and not (tmp_path / "stopped" / "log" / "version_0" / "metrics.csv").exists():
            time.sleep(0.01)
        first.terminate()
        said = first.communicate(timeout=120)[1]
    assert first.returncode == 1 and said.count("error: stopped by SIGTERM at step ") == 1, said
    assert "Traceback" not in said
    assert fit(images, tmp_path / "stopped", *LONG).read_bytes() == prior.read_bytes()
