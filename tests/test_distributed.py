"""Two processes on one machine do what one does."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time

import pytest
import torch

from padis_lightning.cli import main
from padis_lightning.diffusion import PatchModel
from padis_lightning.random import seeded
from padis_lightning.training.patch_diffusion import SIZE

pytestmark = pytest.mark.slow
ODDS = torch.tensor([0.3, 0.7], dtype=torch.float64)
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def run(*args):
    """Run a command on one thread a process, since bits depend on their number; on one device in this process."""
    words = [*map(str, args), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    if "ddp" not in words:
        torch.set_num_threads(1)
        main(words)
        return
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "padis_lightning", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-3000:]


def fit(images, output, *extra):
    run(*training(images, output, *extra))
    return output / "prior.safetensors"


def training(images, output, *extra):
    return (
        "fit", "--config", "ct.yaml", "--data.path", images, "--data.size", "null", "--data.batch_size", 2,
        "--model.patch_sizes", "[4,8]", "--model.patches", 6, "--output", output, "--samples.count", 0,
        "--model.network.base", 8, "--model.network.multipliers", "[1,2]", "--model.network.blocks", 1,
        "--trainer.precision", "32-true", "--export.half", "false", "--trainer.log_every_n_steps", 1, *extra,
    )  # fmt: skip


@pytest.fixture
def prior(images, tmp_path):
    return fit(images, tmp_path / "fit", "--trainer.max_steps", 3, *TWO)


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
    drawn = [int(torch.multinomial(ODDS, 1, generator=seeded(0, step, SIZE))) for step in range(3)]
    assert training["steps"] == 3 and training["patches"] == 2 * sum((24, 6)[k] for k in drawn)
    options = [
        "predict", "--config", "ct20.yaml", "--operator.size", 16, "--operator.views", 6, "--model.steps", 3,
        "--data.size", "null", "--data.path", images, "--data.count", 9, "--data.batch_size", 2,
        "--prior.checkpoint", prior,
    ]  # fmt: skip
    run(*options, "--output", tmp_path / "one")
    run(*options, "--output", tmp_path / "two", *TWO)
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


def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(images, tmp_path):
    """And the run that goes on ends with the bits of an unbroken one."""
    options = ["--trainer.max_steps", 100, "--checkpoint.every_n_train_steps", 1000, "--ckpt_path", "auto", *TWO]
    unbroken = fit(images, tmp_path / "unbroken", *options)
    arguments = [*training(images, tmp_path / "stopped", *options), "--trainer.accelerator", "cpu"]
    command = [sys.executable, "-m", "padis_lightning", *map(str, arguments), "--trainer.enable_progress_bar", "false"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        while first.poll() is None and not (tmp_path / "stopped" / "log" / "version_0" / "metrics.csv").exists():
            time.sleep(0.01)
        first.terminate()
        said = first.communicate(timeout=120)[1]
    assert first.returncode == 1 and said.count("error: stopped by SIGTERM at step ") == 1, said
    assert "Traceback" not in said
    assert fit(images, tmp_path / "stopped", *options).read_bytes() == unbroken.read_bytes()
