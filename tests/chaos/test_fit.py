"""Training that is killed, stopped and starved at random moments ends with the bits of an unbroken run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from padis_lightning.diffusion import PatchModel
from tests.chaos.runner import Forker, wait_for

pytestmark = pytest.mark.slow
STEPS, EVERY, VALIDATED = 150, 5, 50


def command(images, output, *extra):
    return [
        "fit", "--config", "ct.yaml", "--data.path", images, "--data.size", "null", "--data.batch_size", 3, "--output", output,
        "--model.patch_sizes", "[4,8]", "--model.patches", 6, "--model.network.base", 8, "--model.network.multipliers", "[1,2]",
        "--model.network.blocks", 1, "--trainer.max_steps", STEPS, "--trainer.val_check_interval", VALIDATED,
        "--samples.count", 1, "--samples.steps", 3, "--checkpoint.every_n_train_steps", EVERY, "--trainer.log_every_n_steps", 1,
        "--throughput.peak", "false", "--trainer.precision", "32-true", "--trainer.accelerator", "cpu",
        "--trainer.enable_progress_bar", "false", "--ckpt_path", "auto", *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def forker():
    return Forker()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npz"
    values = np.random.default_rng(0).integers(0, 2000, (12, 16, 16), np.uint16)
    np.savez(path, images=values, patient=np.repeat(["a", "b", "c", "d"], 3), hu_window=np.array([-1000, 1000]))
    return path


@pytest.fixture(scope="module")
def unbroken(forker, images):
    child = forker.start(command(images, "unbroken"), images.parent)
    assert child.wait() == 0, child.stderr
    assert "unbroken/checkpoints; training begins at step 0" in child.stderr
    return images.parent / "unbroken"


def saved(path):
    return torch.load(path, weights_only=True)


def assert_whole(folder):
    """Every file under a final name can be read to its end."""
    readers = {
        ".ckpt": saved, ".safetensors": PatchModel.load, ".png": lambda p: Image.open(p).load(),
        ".json": lambda p: json.loads(p.read_text()), ".yaml": lambda p: yaml.safe_load(p.read_text()) or 1 / 0,
    }  # fmt: skip
    for path in folder.rglob("*"):
        if path.suffix in readers and path.name != "hparams.yaml":  # Lightning's
            readers[path.suffix](path)


def assert_same(run, unbroken):
    """The prior to the byte; the weights, their average and the optimiser's state to the bit."""
    assert (run / "prior.safetensors").read_bytes() == (unbroken / "prior.safetensors").read_bytes()
    ours, theirs = (saved(folder / "checkpoints" / "last.ckpt") for folder in (run, unbroken))
    assert ours["global_step"] == theirs["global_step"] == STEPS
    for key in ("state_dict", "current_model_state"):
        assert ours[key].keys() == theirs[key].keys()
        assert all(torch.equal(ours[key][name], value) for name, value in theirs[key].items())
    moments = [one["optimizer_states"][0]["state"] for one in (ours, theirs)]
    assert all(torch.equal(moments[0][k][name], v) for k, state in moments[1].items() for name, v in state.items())
    for picture in (run / "samples").iterdir():
        assert picture.read_bytes() == (unbroken / "samples" / picture.name).read_bytes()
    assert not list(run.rglob(".*.part"))


#: what each kill waits for, and the longest pause after it: the start, a checkpoint, one being written, a picture, the last step
MOMENTS = {"start": 1.0, "train": 0.1, "write": 0.0, "picture": 0.05, "end": 0.0}
KILLS = ["start", "train", "write", "train", "picture", "start", "write", "end"]


def test_a_run_killed_at_8_moments_ends_with_the_bits_of_an_unbroken_one(forker, images, unbroken, tmp_path):
    """The moments fall into all phases of a run; after each kill every file can be read."""
    pauses, folder = random.Random(0), tmp_path / "killed"
    last, killed, steps = folder / "checkpoints" / "last.ckpt", 0, []
    for moment in KILLS:
        before = last.stat().st_mtime_ns if last.exists() else 0
        pictures, parts = len(list(folder.glob("samples/*"))), set(folder.glob("checkpoints/.*.part"))
        child = forker.start(command(images, "killed"), tmp_path)
        reached = {
            "start": lambda: True,
            "train": lambda: last.exists() and last.stat().st_mtime_ns != before,  # noqa: B023
            "write": lambda: set(folder.glob("checkpoints/.*.part")) - parts,  # noqa: B023
            "picture": lambda: len(list(folder.glob("samples/*"))) > pictures,  # noqa: B023
            "end": lambda: (folder / "prior.safetensors").exists(),
        }
        wait_for(lambda: not child.alive or reached[moment](), pause=0.001)  # noqa: B023
        child._process.join(pauses.uniform(0, MOMENTS[moment]))
        killed += child.alive
        child.kill()
        assert_whole(folder)
        steps.append(saved(last)["global_step"] if last.exists() else 0)
    child = forker.start(command(images, "killed"), tmp_path)
    assert child.wait() == 0, child.stderr
    assert killed >= 6 and steps == sorted(steps) and steps[1] < STEPS
    assert_same(folder, unbroken)


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGUSR1, 0)])
def test_a_signal_stops_after_the_step_with_a_checkpoint_and_the_run_goes_on_from_there(
    forker, images, unbroken, tmp_path, number, workers
):
    """The signal reaches the processes that read the data, too."""
    folder, extra = tmp_path / "stopped", ["--checkpoint.every_n_train_steps", STEPS + 1]
    child = forker.start(command(images, "stopped", *extra, "--data.num_workers", workers), tmp_path)
    log = folder / "log" / "version_0" / "metrics.csv"
    wait_for(lambda: log.exists() or not child.alive)
    child.send(number)
    assert child.wait() == 1
    step = saved(folder / "checkpoints" / "last.ckpt")["global_step"]
    sentence = f"stopped by {number.name} at step {step}; run the same command with --ckpt_path auto to go on"
    assert child.stderr.splitlines()[-1] == f"padis_lightning: error: {sentence}" and 0 < step < STEPS
    logged = log.read_text()
    child = forker.start(command(images, "stopped", *extra), tmp_path)
    assert child.wait() == 0, child.stderr
    assert f"stopped/checkpoints/last.ckpt at step {step}" in child.stderr
    assert_same(folder, unbroken)
    assert log.read_text() == logged
    rows = [line.split(",") for k in (0, 1) for line in (folder / f"log/version_{k}/metrics.csv").read_text().splitlines()]
    column = rows[0].index("step")
    steps = {int(row[column]) for row in rows if row[column].isdigit()}
    assert steps >= set(range(STEPS)) - {step - 1}  # the row of the step that was stopped after is not there yet


def test_slurms_signal_requeues_between_two_steps(forker, images, unbroken, tmp_path):
    """With Lightning's own handler, called when the step is over; the job's next start finds the checkpoint by itself."""
    queue = tmp_path / "bin" / "scontrol"
    queue.parent.mkdir()
    queue.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/queued\n")
    queue.chmod(0o755)
    job = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS_PER_NODE": "1"}
    job |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "PATH": f"{queue.parent}:{os.environ['PATH']}"}
    folder, args = tmp_path / "queued_run", command(images, "queued_run", "--checkpoint.every_n_train_steps", STEPS + 1)
    args = [word for word in args if word not in ("--ckpt_path", "auto")]
    child = forker.start(args, tmp_path, job)
    wait_for(lambda: (folder / "samples").exists() or not child.alive)
    child.send(signal.SIGUSR1)
    wait_for(lambda: (tmp_path / "queued").exists() or not child.alive)
    child.kill()
    assert (tmp_path / "queued").read_text() == "requeue 7\n", child.stderr
    assert_whole(folder)
    assert VALIDATED <= saved(folder / "hpc_ckpt_1.ckpt")["global_step"] < STEPS
    child = forker.start(args, tmp_path, job)
    assert child.wait() == 0, child.stderr
    assert_same(folder, unbroken)


def test_a_full_disk_stops_training_with_one_sentence_and_the_last_checkpoint_stays(forker, images, tmp_path):
    """Room for some 300 KiB; the network's checkpoint has 230."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        filler = folder / "filler"
        child = forker.start(command(images, folder), tmp_path)
        wait_for(lambda: (folder / "checkpoints" / "last.ckpt").exists() or not child.alive)
        filler.write_bytes(bytes(shutil.disk_usage(folder).free // 4096 * 4096))
        assert child.wait() == 1, child.stderr
        errors = [line for line in child.stderr.splitlines() if line.startswith("padis_lightning: error: ")]
        assert len(errors) == 1 and "no space left" in errors[0] and str(folder) in errors[0], child.stderr
        assert "Traceback" not in child.stderr
        assert_whole(folder)
        assert saved(folder / "checkpoints" / "last.ckpt")["global_step"] >= EVERY
        assert not list(folder.rglob("*.part"))
        filler.unlink()
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_folder_that_cannot_be_written_is_refused_with_one_sentence(forker, images, tmp_path):
    below_a_file, sealed = tmp_path / "file" / "run", tmp_path / "sealed"
    below_a_file.parent.touch()
    sealed.mkdir()
    places = [below_a_file, below_a_file.parent]
    if not subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", sealed], capture_output=True).returncode:
        places.append(sealed / "run")
    try:
        for place in places:
            child = forker.start(command(images, place), tmp_path)
            assert child.wait() == 2, child.stderr
            errors = [line for line in child.stderr.splitlines() if line.startswith("padis_lightning: error: ")]
            assert len(errors) == 1 and str(tmp_path) in errors[0] and "Traceback" not in child.stderr, child.stderr
    finally:
        if len(places) == 3:
            subprocess.run(["umount", sealed], check=True)
