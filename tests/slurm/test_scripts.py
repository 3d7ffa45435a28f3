"""What the batch scripts do before Slurm is asked for anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from padis_lightning.messages.configs import find_configs

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "slurm").glob("*.sbatch"))


def bash(code, *args, **env):
    environment = {**os.environ, "PADIS_SLURM": str(ROOT / "slurm"), **env}
    command = ["bash", "-c", code, "bash", *args]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=env.get("PWD"))


@pytest.mark.parametrize(
    "args",
    [
        ["fit", "--config", "ct.yaml", "--data.path", "--config-like.npz"],
        ["predict", "--config=ct20.yaml"],
        ["predict", "-c", "ct20.yaml", "--config", "denoise.yaml"],
        ["predict", "-c=ct20.yaml"],
        ["fit"],
    ],
)
def test_logs_go_where_the_command_writes_by_itself(args):
    assert bash('. "$PADIS_SLURM/job.sh"; output_folder "$@"', *args).stdout == f"results/{find_configs(args)[1]}\n"


@pytest.mark.parametrize(
    ("args", "folder"),
    [
        (["fit", "--output", "a b", "--config", "ct.yaml"], "a b"),
        (["predict", "--config", "ct20.yaml", "--output=runs/x"], "runs/x"),
        (["sweep", "sweep/steps.yaml", "--row", "3"], "results/steps"),
        (["sweep", "steps.yaml", "--output", "runs/steps"], "runs/steps"),
        (["gather", "runs/x"], "runs/x"),
    ],
)
def test_logs_go_to_the_folder_that_is_named(args, folder):
    assert bash('. "$PADIS_SLURM/job.sh"; output_folder "$@"', *args).stdout == f"{folder}\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_nothing_of_a_site_is_in_a_script(script):
    directives = [line.split()[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    site = ("--partition", "--account", "--time", "--qos", "--gres", "--gpus", "--constraint", "--mail")
    assert directives and not [one for one in directives if one.startswith(site)]


def fakes(folder):
    """Commands that write down how they were called, in the place of Slurm's and Python's."""
    for name in ("srun", "sbatch", "module", "scontrol"):
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "{name} $@" >>"{folder}/calls"\n[ {name} != sbatch ] || wc -l <"{folder}/calls"\n')
        path.chmod(0o755)
    return {"PATH": f"{folder}/bin:{os.environ['PATH']}", "PWD": str(folder)}


JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "padis", "SLURM_CLUSTER_NAME": "here"}


def test_each_task_of_an_array_has_its_share(tmp_path):
    """Arrays may start at any number, but a gap would leave images out without a word."""

    def share(**array):
        env = {**fakes(tmp_path), **JOB, "SLURM_ARRAY_JOB_ID": "5", **{f"SLURM_ARRAY_TASK_{k}": str(v) for k, v in array.items()}}
        done = bash('bash "$PADIS_SLURM/predict.sbatch" "$@"', "--config", "ct20.yaml", "--output", "out", **env)
        return done.returncode, (tmp_path / "calls").read_text().splitlines()[-1] if done.returncode == 0 else done.stderr

    code, call = share(ID=3, MIN=1, MAX=4, COUNT=4)
    assert code == 0 and call.endswith("--output out --data.shard 2 --data.shards 4")
    assert "--output=out/slurm/padis-5_3.log" in call
    code, error = share(ID=3, MIN=1, MAX=5, COUNT=3)
    assert code == 2 and "wanted one without gaps" in error


def test_a_site_is_described_in_one_file(tmp_path):
    """Options reach sbatch by the environment, and modules are loaded in the job."""
    (tmp_path / "slurm").mkdir()
    for path in (ROOT / "slurm").iterdir():
        (tmp_path / "slurm" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "slurm" / "site.env").write_text("export SBATCH_PARTITION=long\nMODULES='cuda gcc'\nPYTHON=theirs\n")
    env = {**fakes(tmp_path), **JOB, "PADIS_SLURM": str(tmp_path / "slurm"), "SLURM_JOB_NUM_NODES": "2"}
    (tmp_path / "bin" / "sbatch").write_text(f'#!/bin/sh\necho "$SBATCH_PARTITION $@" >>"{tmp_path}/calls"\necho 7\n')
    submit = bash('bash "$PADIS_SLURM/submit" "$@"', "--nodes=2", "train", "--config", "ct.yaml", "--output", "out", **env)
    assert submit.returncode == 0, submit.stderr
    job = bash('bash "$PADIS_SLURM/train.sbatch" "$@"', "--config", "ct.yaml", **env, SLURM_NTASKS_PER_NODE="4")
    assert job.returncode == 0, job.stderr
    submitted, loaded, started = (tmp_path / "calls").read_text().splitlines()
    assert submitted.startswith("long ") and "--output=out/slurm/%x-%j.log --nodes=2" in submitted
    assert loaded == "module load cuda gcc"
    assert "theirs -m padis_lightning fit --trainer.num_nodes 2 --trainer.devices 4" in started


@pytest.mark.parametrize("args", [[], ["--nodes=2"], ["fit", "--config", "ct.yaml"]])
def test_submitting_something_else_is_refused(args, tmp_path):
    done = bash('bash "$PADIS_SLURM/submit" "$@"', *args, **fakes(tmp_path))
    assert done.returncode == 2 and "wanted train, predict or sweep" in done.stderr
    assert not (tmp_path / "calls").exists()
