"""The process: what it imports, and how a signal ends each command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from padis_lightning import commands
from padis_lightning.signals import STOPPING, Stopped, stop

ROOT = Path(__file__).parent.parent
STAND_INS = ("argparse", "dataclasses", "h5py", "jinja2", "json", "lightning", "logging", "numpy", "torch", "tqdm", "yaml")


def run(folder, *words):
    command = [sys.executable, "-m", "padis_lightning", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("PYTHONSAFEPATH", None)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def stand_ins(folder, *names):
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'mark')!r} + __name__, 'w')\n")


def test_nothing_of_the_working_folder_is_imported(tmp_path):
    stand_ins(tmp_path, *STAND_INS)
    done = run(tmp_path, "report", "nothing")
    assert done.returncode == 2 and "error: " in done.stderr and not [*tmp_path.glob("mark*")]


@pytest.mark.slow
def test_what_is_allowed_is_found_in_the_working_folder_and_nothing_else(tmp_path):
    stand_ins(tmp_path, *STAND_INS, "own")
    with (tmp_path / "own.py").open("a") as file:
        file.write("from padis_lightning.solvers.dds import DDS\nclass Mine(DDS):\n    'One of the user\\'s own.'\n")
    done = run(tmp_path, "predict", "--config", "ct20.yaml", "--model", "own.Mine", "--allow", "own", "--print_config")
    assert done.returncode == 0 and "own.Mine" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.glob("mark*")] == ["markown"]


@pytest.mark.slow
def test_a_run_says_nothing_that_is_not_its_own(tmp_path):
    """Neither Lightning's lines nor warnings of libraries about what was chosen on purpose."""
    words = ["--data.size", "32", "--operator.size", "32", "--data.count", "1", "--trainer.enable_progress_bar", "false"]
    done = run(tmp_path, "predict", "--config", "ct20.yaml", "--model", "PseudoInverse", *words)
    assert done.returncode == 0 and all(line.startswith("padis_lightning: ") for line in done.stderr.splitlines()), done.stderr


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("command", commands.COMMANDS)
def test_a_signal_ends_every_command_with_a_sentence(command, number, monkeypatch, capsys):
    def work(words):
        try:
            signal.raise_signal(number)
        except Exception:  # what a command makes up for
            pytest.fail("a signal is no such error")

    before = signal.getsignal(number)
    monkeypatch.setitem(commands.COMMANDS, command, (f"{__name__}:work", ""))
    monkeypatch.setattr(sys.modules[__name__], "work", work, raising=False)
    with pytest.raises(SystemExit) as ended:
        commands.main([command])
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == (130 if number == signal.SIGINT else 1)
    assert said == [line for line in said if f"error: stopped by {number.name}; " in line] and said
    assert signal.getsignal(number) is before


def test_a_signal_is_no_error_that_a_command_makes_up_for():
    with pytest.raises(Stopped, match="stopped by SIGTERM; "):
        stop(signal.SIGTERM, None)
    assert not issubclass(Stopped, Exception)
