"""Two processes on one machine do what one does."""

from __future__ import annotations

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch

from padis_lightning.diffusion import PatchModel
from padis_lightning.random import seeded
from padis_lightning.training import SIZE

pytestmark = pytest.mark.slow
ODDS = torch.tensor([0.3, 0.7], dtype=torch.float64)
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def run(*args):
    command = [sys.executable, "-m", "padis_lightning", *map(str, args)]
    common = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    done = subprocess.run([*command, *common], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def prior(images, tmp_path):
    run(
        "fit", "--config", "ct.yaml", "--data.path", images, "--data.size", "null", "--data.batch_size", 2,
        "--model.patch_sizes", "[4,8]", "--model.patches", 6, "--trainer.max_steps", 3, "--output", tmp_path / "fit",
        "--model.network.base", 8, "--model.network.multipliers", "[1,2]", "--model.network.blocks", 1, *TWO,
    )  # fmt: skip
    return tmp_path / "fit" / "prior.safetensors"


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
    rows = [list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("one", "two")]
    assert [r["index"] for r in rows[0]] == [r["index"] for r in rows[1]] and len(rows[0]) == 9
    for row in rows[0]:
        one, two = (np.load(tmp_path / name / "arrays" / f"{row['name']}.npy") for name in ("one", "two"))
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=0.02)
