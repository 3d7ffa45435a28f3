"""The batch scripts on a real Slurm, of two nodes on this machine."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from padis_lightning.diffusion import PatchModel

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
MISSING = [name for name in NEEDED if not shutil.which(name)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed (slurm-wlm, munge)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a Slurm"),
]
SMALL = ["--ntasks-per-node=1", "--cpus-per-task=1"]
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


class Slurm:
    """The commands of a Slurm; jobs run from the repository's root with this Python, and with a copy of the scripts.

    Args:
        configuration: a path for ``SLURM_CONF``, or anything else for the Slurm that is there.
        scripts: where to copy them, without a ``site.env``.
    """

    def __init__(self, configuration: str, scripts: Path) -> None:
        shutil.copytree(ROOT / "slurm", scripts, ignore=shutil.ignore_patterns("site.env"))
        own = {"SLURM_CONF": configuration} if configuration.startswith("/") else {}
        here = {"PADIS_SLURM": str(scripts), "PYTHON": sys.executable, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        self.env = {**os.environ, **here, **own, "MASTER_ADDR": "127.0.0.1"}  # the nodes' names are Slurm's alone
        self.jobs: list[str] = []

    def call(self, *command):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, env=self.env, cwd=ROOT)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, *args):
        """The numbers of the jobs that ``slurm/submit`` names."""
        jobs = re.findall(r"submitted \w+ (\d+)", self.call(f"{self.env['PADIS_SLURM']}/submit", *args))
        self.jobs += jobs
        return jobs

    def job(self, job):
        """One dictionary a task."""
        lines = self.call("scontrol", "show", "job", job, "--oneliner").splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]

    def wait(self, *jobs, seconds=240):
        """The tasks of jobs when all have ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            tasks = [task for job in jobs for task in self.job(job)]
            if all(task["JobState"] in ENDED for task in tasks):
                return tasks
            time.sleep(0.5)
        raise AssertionError(self.call("squeue"))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    start = subprocess.run([HERE / "two_nodes.sh", "start"], capture_output=True, text=True)
    assert start.returncode == 0, start.stderr
    there = Slurm(start.stdout.strip(), tmp_path_factory.mktemp("job") / "slurm")
    yield there
    there.call("scancel", "--quiet", *there.jobs)  # what a test that failed has left
    subprocess.run([HERE / "two_nodes.sh", "stop"], check=True)


def logs(output):
    return "\n".join(path.read_text() for path in sorted((output / "slurm").glob("*.log")))


def states(tasks, output):
    assert {task["JobState"] for task in tasks} == {"COMPLETED"}, logs(output)


def test_a_job_that_is_put_back_into_the_queue_trains_to_the_bits_of_an_unbroken_one(slurm, images, tmp_path):
    """Two nodes; the signal that comes before the time limit comes after the first checkpoint."""
    settings = [
        "--nodes=2", *SMALL, "train", "--config", "ct.yaml", "--data.path", images, "--data.size", "null",
        "--data.batch_size", 2, "--model.patch_sizes", "[4,8]", "--model.patches", 6, "--samples.count", 0,
        "--model.network.base", 8, "--model.network.multipliers", "[1,2]", "--model.network.blocks", 1, "--export.half", "false",
        "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.precision", "32-true",
        "--trainer.max_steps", 150, "--trainer.val_check_interval", 75, "--checkpoint.every_n_train_steps", 10,
    ]  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    (job,) = slurm.submit(*settings, "--output", broken)
    end = time.monotonic() + 120
    while not list((broken / "checkpoints").glob("*.ckpt")) and time.monotonic() < end:
        time.sleep(0.1)
    slurm.call("scancel", "--batch", "--signal=USR1", job)
    (other,) = slurm.submit(*settings, "--output", whole)
    tasks = slurm.wait(job, other)
    states(tasks, broken)
    assert [task["Restarts"] for task in tasks] == ["1", "0"]
    (stopped,) = set(re.findall(r"stopped by SIGTERM at step (\d+)", logs(broken)))
    assert 10 <= int(stopped) < 150 and re.search(rf"going on from \S+ at step {stopped}\n", logs(broken))
    ours, theirs = (PatchModel.load(output / "prior.safetensors") for output in (whole, broken))
    assert ours.training == theirs.training
    for name, value in ours.weights().items():
        assert torch.equal(value, theirs.weights()[name]), name
    ours, theirs = (torch.load(output / "checkpoints" / "last.ckpt", weights_only=True) for output in (whole, broken))
    for name, value in ours["current_model_state"].items():
        assert torch.equal(value, theirs["current_model_state"][name]), name


PREDICT = [
    "--config", "ct20.yaml", "--operator.size", "16", "--operator.views", "6", "--model.steps", "3", "--data.size", "16",
    "--data.batch_size", "2", "--trainer.accelerator", "cpu", "--prior", "GaussianPrior", "--prior.image_shape", "[1,16,16]",
]  # fmt: skip


def test_an_array_of_shards_leaves_the_bits_of_one_run(slurm, images, tmp_path):
    one, four = tmp_path / "one", tmp_path / "four"
    settings = [*PREDICT, "--data.path", images]
    slurm.call(sys.executable, "-m", "padis_lightning", "predict", *settings, "--trainer.enable_progress_bar", "false",
               "--output", one)  # fmt: skip
    jobs = slurm.submit("--array=0-3", *SMALL, "predict", *settings, "--output", four)
    tasks = slurm.wait(*jobs)
    assert len(jobs) == 2 and len(tasks) == 5
    states(tasks, four)
    rows = [list(csv.DictReader((output / "metrics.csv").open())) for output in (one, four)]
    assert len(rows[0]) == 12
    for row in (*rows[0], *rows[1]):
        del row["seconds"]
    assert rows[0] == rows[1]
    for row in rows[0]:
        ours, theirs = ((output / "arrays" / f"{row['name']}.npy").read_bytes() for output in (one, four))
        assert ours == theirs, row["name"]


def test_a_row_of_a_sweep_that_fails_is_named_and_the_others_are_finished(slurm, images, tmp_path):
    settings = dict(zip((flag[2:] for flag in PREDICT[2::2]), PREDICT[3::2], strict=True))
    sweep = {
        "command": "predict", "config": "ct20.yaml",
        "settings": {**settings, "data.path": str(images), "data.count": 2, "results.baselines": {}},
        "grid": {"model.iterations": [1, 0, 3]},
    }  # fmt: skip
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(sweep))
    out = tmp_path / "out"
    rows, table = slurm.submit(*SMALL, "sweep", tmp_path / "rows.yaml", "--output", out)
    tasks = slurm.wait(rows, table)
    ended = {int(task["ArrayTaskId"]): task["JobState"] for task in tasks if "ArrayTaskId" in task}
    assert ended == {0: "COMPLETED", 1: "FAILED", 2: "COMPLETED"}, logs(out)
    lines = list(csv.DictReader((out / "sweep.csv").open()))
    assert [line["status"] for line in lines] == ["done", "failed", "done"]
    assert all((float(line["psnr"]) > 0) == (line["status"] == "done") for line in lines if line["psnr"])
    assert "iterations is 0; wanted" in logs(out)
