"""Sweeps: rows and their names, what a file may not decide, runs that fail, go on and are refused, tables, and W&B's form."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from itertools import product
from pathlib import Path

import pytest
import yaml

from padis_lightning.cli import main
from padis_lightning.commands.sweep import read_results, read_sweep, run, run_sweep, runner
from padis_lightning.commands.sweep.command import wandb_config
from padis_lightning.commands.sweep.rows import NAME_LENGTH
from padis_lightning.errors import InputError
from padis_lightning.messages.configs import CONFIGS
from padis_lightning.signals import Stopped
from tests.chaos.runner import wait_for

SHIPPED = sorted(path.name for path in (CONFIGS / "sweep").glob("*.yaml"))
BASE = {"command": "predict", "config": "ct20.yaml"}


def written(folder, **parts):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**BASE, **parts}, sort_keys=False))
    return path


def sweep_of(folder, variables=None, **parts):
    return read_sweep(written(folder, **parts), variables)


# Rows


def test_rows_and_a_grid_combine_as_a_product(tmp_path):
    sweep = sweep_of(
        tmp_path,
        settings={"data.count": 4},
        rows=[{"name": "a", "model.eta": 0.1}, {"name": "b", "model.eta": 0.2}],
        grid={"model.steps": [10, 20, 50], "model.iterations": [3, 4]},
    )
    keys = ["model.eta", "model.steps", "model.iterations"]
    assert [tuple(row.settings[key] for key in keys) for row in sweep.rows] == list(product([0.1, 0.2], [10, 20, 50], [3, 4]))
    assert len({row.name for row in sweep.rows}) == 12 and sweep.rows[-1].name == "b,steps=50,iterations=4"
    assert {row.settings["data.count"] for row in sweep.rows} == {4} and sweep.varying == keys
    assert [row.name for row in sweep_of(tmp_path).rows] == ["row"]


def test_names_are_safe_short_and_do_not_depend_on_the_other_rows(tmp_path):
    many = ["results/a b.pt", "results/a-b.pt", "/x/é", [24, 48], {"class_path": "UNet"}, -1, 1e-05, True, None, "x" * 300]
    names = {}
    for values in (many, many[::-1]):
        sweep = sweep_of(tmp_path, grid={"model.x": values, "model.noise.std": [1], "data.std": [2]})
        names[len(names)] = {json.dumps(row.settings["model.x"]): row.name for row in sweep.rows}
    assert names[0] == names[1] and len(set(names[0].values())) == len(many)
    assert all(re.fullmatch(r"[A-Za-z0-9_.+=,-]+", name) and len(name) <= NAME_LENGTH for name in names[0].values())
    assert names[0]["[24, 48]"] == "x=24-48,noise.std=1,data.std=2" and names[0]["1e-05"].startswith("x=1e-05,")
    for odd in ("..", ".", "../x", "/x"):
        (row,) = sweep_of(tmp_path, rows=[{"name": odd}]).rows
        assert re.fullmatch(r"x?-[0-9a-f]{8}", row.name)
    long = {f"model.key_number_{k}": [1, 2] for k in range(8)}
    cut = [row.name for row in sweep_of(tmp_path, grid=long).rows]
    assert len(set(cut)) == 256 and max(map(len, cut)) == NAME_LENGTH


def test_rows_replace_the_config_and_add_settings(tmp_path):
    rows = [{"config": ["ct8.yaml", "ct60.yaml"], "model.steps": 3}, {"name": "whole", "model.eta": 1}]
    first, second = sweep_of(tmp_path, rows=rows, settings={"model.steps": 9}).rows
    assert (first.name, first.configs, first.settings) == ("ct8+ct60,steps=3", ["ct8.yaml", "ct60.yaml"], {"model.steps": 3})
    assert (second.name, second.configs, second.settings) == ("whole", ["ct20.yaml"], {"model.steps": 9, "model.eta": 1})


def test_a_solver_is_named_before_its_settings(tmp_path):
    shared = {"model.steps": 3, "model.patch_sizes": [24, 48], "results.baselines": {}}
    row = sweep_of(tmp_path, settings=shared, grid={"model": ["DDS"]}).rows[0]
    assert row.arguments(Path("out")) == [
        "predict", "--config", "ct20.yaml", "--model=DDS", "--model.steps=3", "--model.patch_sizes=[24, 48]",
        "--results.baselines={}", "--output", "out",
    ]  # fmt: skip


def test_variables_are_replaced_everywhere(tmp_path):
    settings = {"data.path": "${DATA}/test.npz", "data.count": "${N}", "data.date": "${DAY}"}
    parts = {"settings": settings, "grid": {"model.steps": "${STEPS}"}, "rows": [{"name": "r${N}"}]}
    sweep = sweep_of(tmp_path, {"DATA": "/d", "N": "3", "STEPS": "[1, 2]", "DAY": "2026-01-02", "MORE": "x"}, **parts)
    shared = {"data.path": "/d/test.npz", "data.count": 3, "data.date": "2026-01-02"}
    assert [row.settings for row in sweep.rows] == [{**shared, "model.steps": steps} for steps in (1, 2)]
    assert sweep.rows[0].name == "r3,steps=1"
    with pytest.raises(InputError, match=r"\$\{STEPS\} has no value.*wanted --set STEPS=VALUE"):
        sweep_of(tmp_path, {"DATA": "/d", "N": "3", "DAY": ""}, **parts)


# What cannot be used

HUGE = {f"model.key{k}": list(range(10)) for k in range(12)}


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"gird": {}}, "'gird' is not a key of .*wanted one of command, config"),
        ({"random": {}}, "'random' is not a key of"),
        ({"command": "train"}, "command is 'train'.*wanted predict or fit"),
        ({"command": []}, r"command is \[\].*wanted predict or fit"),
        ({"config": "nope.yaml"}, "there is no config 'nope.yaml'"),
        ({"config": []}, r"config is \[\].*wanted the name"),
        ({"settings": 3}, "settings is 3; wanted keys with values"),
        ({"settings": {"output": "x"}}, "'output' is not a setting"),
        ({"settings": {"--data": "x"}}, "'--data' is not a setting"),
        ({"grid": {"model.steps": 3}}, "grid.model.steps is 3; wanted a list"),
        ({"grid": {"model.steps": [3, 3]}}, "two rows of .* are called 'steps=3'"),
        ({"grid": {"a": [1]}, "rows": [{"a": 1}]}, "a is in grid and in rows"),
        ({"grid": HUGE}, "has 1000000000000 rows; wanted at most 10000"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "two rows of .* are called 'a'"),
        ({"rows": [{"name": " "}]}, r"rows\[0\].name is empty"),
        ({"rows": []}, r"rows is \[\]; wanted a list"),
        ({"metric": {"name": "psnr", "goal": "up"}}, "wanted a name and the goal maximize or minimize"),
        ({"tuning": "yes"}, "tuning is 'yes'; wanted true or false"),
        ({"tuning": True}, "data.subset is None in the settings of row 'row', which tunes; wanted train or validation"),
    ],
)
def test_what_cannot_be_used_gets_one_sentence(tmp_path, parts, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        sweep_of(tmp_path, **parts)
    assert "\n" not in str(error.value)


BOMB = "settings: {model.x0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 0], " + ", ".join(
    f"model.x{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)
) + "}"  # fmt: skip


@pytest.fixture
def usual_recursion():
    """Python's own limit, which torch.compile raises for the rest of the process."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("settings: {model.x: 2026-01-02}", r"holds datetime.date\(2026, 1, 2\); wanted numbers"),
        ("settings: {model.x: [2026-01-02 03:04:05]}", r"holds datetime.datetime\(2026.*; wanted numbers"),
        ("grid: {model.x: [!!binary aGk=]}", "holds b'hi'; wanted numbers"),
        ("grid: {model.x: !!set {a, b}}", r"holds \{.*; wanted numbers"),
        ("settings: {model.x: {1: 2}}", r"holds \{1: 2\}; wanted numbers"),
        ("settings: {model.x: 2026-13-45}", "is not YAML .*; wanted a sweep"),
        ("settings: {model.x: !!python/name:os.system }", "is not YAML .*; wanted a sweep"),
        ("settings: {model.x: " + "[" * 500 + "]" * 500 + "}", "is not YAML .*; wanted a sweep"),
        ("settings: {model.x: &x [*x]}", "holds too many values; wanted at most 100000, 50 deep"),
        (BOMB, "holds too many values; wanted at most 100000, 50 deep"),
        ("- a list", r"is \['a list'\]; wanted keys with values"),
    ],
    ids=lambda value: value[:40],
)
def test_values_that_are_not_plain_get_one_sentence(tmp_path, text, sentence, usual_recursion):
    path = tmp_path / "mine.yaml"
    path.write_text(text if text.startswith("-") else f"command: predict\nconfig: ct20.yaml\n{text}\n")
    with pytest.raises(InputError, match=sentence) as error:
        read_sweep(path)
    assert "\n" not in str(error.value)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module that leaves a mark when it is imported; the mark."""
    (tmp_path / "own_module.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'mark')!r}).touch()\n"
        "from padis_lightning.solvers.dds import DDS\nclass Thing(DDS):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delenv("PADIS_LIGHTNING_ALLOW", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "--allow=own_module").write_text((CONFIGS / "ct20.yaml").read_text())  # a config of that name
    return tmp_path / "mark"


THING = {"model": "own_module.Thing"}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"settings": {"allow": "own_module", **THING}}, ()),
        ({"settings": {"allow.x": "own_module", **THING}}, ()),
        ({"grid": {"allow": ["own_module"]}, "settings": THING}, ()),
        ({"rows": [{"allow": "own_module", **THING}]}, ()),
        ({"config": ["ct20.yaml", "--allow=own_module"], "settings": THING}, ()),
        ({"rows": [{"config": "--allow=own_module", **THING}]}, ()),
        ({"settings": {"data.path": "--allow=own_module", **THING}}, ()),
        ({"grid": {"model": ["--allow", "own_module.Thing"]}}, ()),
        ({"settings": {"data.path": "${X}", **THING}}, ("--set", "X=--allow=own_module")),
        ({"settings": THING}, ("allow=own_module",)),
        ({"settings": THING}, ("data.path=--allow=own_module",)),
    ],
)
def test_a_sweep_permits_no_module(tmp_path, parts, words, own, capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(written(tmp_path, **parts)), "--output", str(tmp_path / "out"), *words])
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(said) == 1 and "; wanted " in said[0], said
    assert not own.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({}, "None"),
        ({"data.subset": "test"}, "'test'"),
        ({"data": {"class_path": "ImageData", "init_args": {"subset": "validation"}}}, "None"),
        ({"data.init_args": "{subset: test}", "data.subset": "validation"}, "'{subset: test}'"),
        ({"data.init_args": {"subset": "test"}, "data.subset": "validation"}, "{'subset': 'test'}"),
        ({"data.init_args.subset": "test", "data.subset": "validation"}, "'test'"),
        ({"data.subset": ["train", "validation"]}, r"\['train', 'validation'\]"),
    ],
)
def test_a_sweep_that_tunes_names_training_or_validation_images(tmp_path, settings, seen):
    sweep_of(tmp_path, settings=settings)
    with pytest.raises(InputError, match=f"data.subset is {seen} in the settings of row 'row', which tunes; wanted train or val"):
        sweep_of(tmp_path, settings=settings, tuning=True)


def test_a_sweep_that_tunes_takes_what_the_command_line_reads_last(tmp_path):
    over = {"data": {"init_args": {"subset": "test"}}}
    for part in ("train", "validation"):
        sweep_of(tmp_path, settings={**over, "data.subset": part}, tuning=True)
        sweep_of(tmp_path, settings={"data.subset": "test", "data.init_args.subset": part}, tuning=True)
    sweep_of(tmp_path, command="fit", config="ct.yaml", tuning=True)
    rows = [{"name": "a"}, {"name": "b", "data.subset": "test"}]
    with pytest.raises(InputError, match="data.subset is 'test' in the settings of row 'b'"):
        sweep_of(tmp_path, settings={"data.subset": "train"}, rows=rows, tuning=True)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sweeps_are_accepted_by_the_command_line(name):
    """The last row of each."""
    sweep, out = read_sweep(name), io.StringIO()
    row = sweep.rows[-1]
    with pytest.raises(SystemExit) as stop, redirect_stdout(out):
        main([*row.arguments(), "--print_config"])
    assert stop.value.code in (0, None)
    config = yaml.safe_load(out.getvalue())
    for key in set(sweep.varying) & set(row.settings):
        found = config
        for word in key.split("."):
            found = found.get("init_args", found)[word]
        assert found == row.settings[key] or found["class_path"].endswith(str(row.settings[key]))


# Runs


class Machine:
    """In place of processes, which end at the second look: a score from ``model.steps``, and failures."""

    def __init__(self):
        self.failing, self.calls, self.running, self.most = set(), [], 0, 0

    def start(self, words, log, jobs):
        steps = next(int(word.partition("=")[2]) for word in words if word.startswith("--model.steps="))
        self.calls.append(words)
        self.running += 1
        self.most = max(self.most, self.running)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("$ command\nsome output\n\npadis_lightning: error: it broke; wanted it whole\n")
        if steps not in self.failing:
            psnr = 30.0 - abs(steps - 20)
            gain = {"tv": {"psnr": 1.5, "interval": [1.0, 2.0]}}
            summary = {"psnr": psnr, "ssim": None, "n": 4, "intervals": {"psnr": [psnr - 1, psnr + 1]}, "gain": gain}
            (log.parent / "summary.json").write_text(json.dumps(summary))
        return Process(self, 2 if steps in self.failing else 0)

    @property
    def steps(self):
        return [int(word.partition("=")[2]) for words in self.calls for word in words if word.startswith("--model.steps=")]


class Process:
    def __init__(self, machine, code):
        self.machine, self.code, self.looks = machine, code, 0

    def poll(self):
        self.looks += 1
        if self.looks < 2:
            return None
        self.machine.running -= 1
        return self.code


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(runner, "start", made.start)
    monkeypatch.setattr(runner, "PAUSE", 0.0)
    return made


def test_a_failing_row_is_reported_and_the_others_run_and_only_it_runs_again(tmp_path, machine, capsys):
    machine.failing = {20}
    path = str(written(tmp_path, settings={"data.count": 4}, grid={"model.steps": [10, 20, 40, 25]}))
    words = [path, "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        run(words)
    assert stop.value.code == 1 and machine.steps == [10, 20, 40, 25]
    said = capsys.readouterr().out
    assert "row 1 of 4: steps=20: failed with exit code 2: it broke; wanted it whole" in said
    assert "25 [24, 26]" in said
    lines = list(csv.DictReader((tmp_path / "out" / "sweep.csv").open()))
    assert [line["status"] for line in lines] == ["done", "failed", "done", "done"]
    assert [line["psnr"] for line in lines] == ["20.0", "", "10.0", "25.0"]
    assert lines[0] | {"seconds": ""} == {
        "name": "steps=10", "model.steps": "10", "status": "done", "seconds": "", "psnr": "20.0", "psnr_low": "19.0",
        "psnr_high": "21.0", "n": "4", "gain_tv": "1.5", "gain_tv_low": "1.0", "gain_tv_high": "2.0",
    }  # fmt: skip
    machine.failing, machine.calls = set(), []
    run(words)
    said = capsys.readouterr().out
    assert machine.steps == [20] and "row 0 of 4: steps=10: psnr 20, done before" in said
    table = said[said.index("row  ") :].splitlines()
    assert [line.split()[0] for line in table[1:5]] == ["steps=20", "steps=25", "steps=10", "steps=40"]
    assert table[1].endswith("30 [29, 31]") and "failed" not in said
    assert not (tmp_path / "out" / "steps=20" / "failed.json").exists()


def test_other_settings_in_the_same_folder_are_refused_by_name_and_nothing_runs(tmp_path, machine):
    config = tmp_path / "own.yaml"
    config.write_text((CONFIGS / "ct20.yaml").read_text())
    parts = {"config": str(config), "settings": {"data.count": 4}, "grid": {"model.steps": [10, 20]}}
    out = tmp_path / "out"
    run_sweep(sweep_of(tmp_path, **parts), out, only=1)
    path = out / "steps=20" / "done.json"
    record = {"hash": "0", **json.loads(path.read_text())}  # as an earlier version wrote it
    del record["message"]
    path.write_text(json.dumps(record))
    assert run_sweep(sweep_of(tmp_path, **parts), out, only=1)[0].values["psnr"] == 30.0 and len(machine.calls) == 1
    done, machine.calls = path.read_bytes(), []
    for changed, seen in (
        ({"settings": {"data.count": 8}}, "data.count 4; wanted 8"),
        ({"settings": {}}, "data.count 4; wanted unset"),
        ({"settings": {"data.count": 4, "data.seed": 1}}, "data.seed unset; wanted 1"),
        ({"config": "ct8.yaml"}, "config .*own.yaml; wanted ct8.yaml"),
    ):
        with pytest.raises(InputError, match=f"steps=20 was finished with {seen} as now, or another --output"):
            run_sweep(sweep_of(tmp_path, **{**parts, **changed}), out)
    config.write_text(config.read_text() + "# changed\n")
    with pytest.raises(InputError, match="finished with the contents of .*own.yaml [0-9a-f]{12}; wanted [0-9a-f]{12}"):
        run_sweep(sweep_of(tmp_path, **parts), out)
    assert machine.calls == [] and path.read_bytes() == done
    whole = json.loads(done)
    others = [{**whole, key: other} for key in ("settings", "values") for other in ([], {"x": []}, "x")]
    others += [{**whole, "seconds": "x"}, {**whole, "exit_code": "x"}]
    for damaged in ("{", "[]", '{"settings": 3}', *map(json.dumps, others)):
        path.write_text(damaged)
        with pytest.raises(InputError, match="done.json is damaged; wanted what a sweep wrote, or no such file"):
            run_sweep(sweep_of(tmp_path, **parts), out)


def test_a_log_that_leads_elsewhere_is_not_written(tmp_path, machine):
    (tmp_path / "thesis").write_text("words")
    (tmp_path / "out" / "row").mkdir(parents=True)
    (tmp_path / "out" / "row" / "log.txt").symlink_to(tmp_path / "thesis")
    with pytest.raises(InputError, match="row/log.txt is a link to .*thesis; wanted a file of its own"):
        run_sweep(sweep_of(tmp_path, settings={"model.steps": 1}), tmp_path / "out")
    assert (tmp_path / "thesis").read_text() == "words" and machine.calls == []


def test_rows_run_one_by_one_as_an_array_does_and_the_table_is_that_of_all(tmp_path, machine, capsys):
    path = str(written(tmp_path, grid={"model.steps": [10, 20, 40]}))
    where = ["--output", str(tmp_path / "out")]
    run([path, "--count"])
    assert capsys.readouterr().out == "3\n"
    for row in (2, 0, 1):
        run([path, *where, "--row", str(row)])
    assert machine.steps == [40, 10, 20]
    rows_alone = (tmp_path / "out" / "sweep.csv").read_bytes()
    machine.calls = []
    run([path, *where, "--table"])
    run([path, *where])
    assert machine.calls == [] and (tmp_path / "out" / "sweep.csv").read_bytes() == rows_alone
    capsys.readouterr()
    run([path, *where, "--list"])
    assert capsys.readouterr().out.split() == "3 rows 0 done steps=10 1 done steps=20 2 done steps=40".split()
    for wrong in ("3", "-1"):
        with pytest.raises(InputError, match=f"row is {wrong}; wanted one of the 3 rows, from 0 to 2"):
            run([path, *where, "--row", wrong])


def test_jobs_run_at_once_and_leave_the_same_table(tmp_path, machine):
    sweep = sweep_of(tmp_path, grid={"model.steps": [10, 20, 30, 40, 50, 60]})
    results = run_sweep(sweep, tmp_path / "a", jobs=3)
    assert machine.most == 3 and [result.row for result in results] == sweep.rows
    machine.most = 0
    assert [r.values for r in run_sweep(sweep, tmp_path / "b")] == [r.values for r in results] and machine.most == 1
    assert [r.status for r in read_results(sweep, tmp_path / "a")] == ["done"] * 6


def test_settings_of_the_command_line_are_those_of_all_rows(tmp_path, machine):
    path = str(written(tmp_path, settings={"data.count": 4}, grid={"model.steps": [10, 20]}))
    run([path, "data.count=2", "--output", str(tmp_path / "out"), "data.path=a=b.npz", "--allow", "own_module"])
    assert all({"--data.count=2", "--data.path=a=b.npz"} <= set(words) for words in machine.calls)
    assert all(words[-1] == "--allow=own_module" for words in machine.calls)
    for words, sentence in (
        (["model.steps=3"], "model.steps differs from row to row"),
        (["count"], "'count' is no name with = and a value; wanted"),
        (["--set", "DATA=x"], r"--set names DATA; wanted a name that .* uses"),
        (["--jobs", "0"], "jobs is 0; wanted at least 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            run([path, "--output", str(tmp_path / "other"), *words])
    assert not (tmp_path / "other").exists()


def test_training_goes_on_and_its_last_scores_count(tmp_path, monkeypatch):
    seen = []
    machine = Machine()
    monkeypatch.setattr(runner, "start", lambda words, log, jobs: seen.append(words) or Process(machine, 0))
    monkeypatch.setattr(runner, "PAUSE", 0.0)
    for version, lines in (
        (9, "step,train/loss,val/loss\n3,0.5,\n3,,0.4\n7,0.4,\n"),
        (10, "step,train/loss,val/loss\n5,0.6,\n5,,0.25\n8,0.3,\n"),
    ):
        log = tmp_path / "out" / "lr=0.001" / "log" / f"version_{version}" / "metrics.csv"
        log.parent.mkdir(parents=True)
        log.write_text(lines)
    sweep = sweep_of(tmp_path, command="fit", config="ct.yaml", grid={"model.lr": [1e-3, 1e-4]})
    first, second = run_sweep(sweep, tmp_path / "out")
    assert first.values == {"val/loss": 0.25, "steps": 9} and second.values == {}
    assert all(words[-2:] == ["--ckpt_path", "auto"] for words in seen)
    assert sweep.rank(first.values) < sweep.rank({"val/loss": 0.3}) < sweep.rank(second.values)


def interpreter(folder, monkeypatch, lines):
    """Put a shell script in Python's place."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_signal_reaches_the_row_once_and_no_other_row_starts(tmp_path, monkeypatch):
    lines = "trap 'echo caught; sleep 0.2; exit 0' TERM\necho ready\nwhile :; do sleep 0.05; done"
    interpreter(tmp_path, monkeypatch, lines)
    sweep, out = sweep_of(tmp_path, grid={"model.steps": [10, 20]}), tmp_path / "out"
    log = out / "steps=10" / "log.txt"

    def send():
        wait_for(lambda: log.is_file() and "ready" in log.read_text())
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(Stopped, match="stopped by SIGTERM; the same command runs the rows that have not ended"):
        run_sweep(sweep, out)
    assert signal.getsignal(signal.SIGTERM) is before
    assert log.read_text().splitlines()[1:] == ["ready", "caught"]
    assert [result.status for result in read_results(sweep, out)] == ["missing"] * 2
    assert not (out / "steps=20").exists()


def test_a_row_that_dies_without_a_word_has_no_message(tmp_path, monkeypatch):
    interpreter(tmp_path, monkeypatch, "kill -9 $$")
    (result,) = run_sweep(sweep_of(tmp_path), tmp_path / "out")
    assert dict(runner.read_scores(result.row, tmp_path)) == {}  # it left none
    assert (result.status, result.exit_code, result.message) == ("failed", 137, "")


@pytest.mark.slow
def test_rows_are_runs_of_the_command_line(tmp_path, capsys):
    """A row with an unknown filter fails with the command line's sentence; the other leaves what predict leaves."""
    small = {"data.subset": "validation", "data.size": 16, "data.count": 2, "operator.size": 16, "operator.views": 6}
    grid = {"operator.filter": ["hann", "magic"]}
    path = written(tmp_path, tuning=True, settings={**small, "results.baselines": {}, "model": "PseudoInverse"}, grid=grid)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(path), "--output", str(tmp_path / "out"), "--jobs", "2"])
    assert ended.value.code == 1 and "filter=magic: failed with exit code 2" in capsys.readouterr().out
    line = next(csv.DictReader((tmp_path / "out" / "sweep.csv").open()))
    summary = json.loads((tmp_path / "out" / line["name"] / "summary.json").read_text())
    assert float(line["psnr"]) == summary["psnr"] > 5 and summary["n"] == 2


def test_a_module_that_nobody_permits_is_not_imported(tmp_path, own, monkeypatch):
    """The same row with and without ``--allow`` on the command line, run in this process."""

    def start(words, log, jobs):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as out, redirect_stderr(out), pytest.raises(SystemExit) as stop:
            main(words)
        return Process(Machine(), stop.value.code)

    monkeypatch.setattr(runner, "start", start)
    path = str(written(tmp_path, settings={**THING, "data.path": "nowhere.npz"}))
    messages = []
    for words in ([], ["--allow", "own_module"]):
        assert not own.exists()
        with pytest.raises(SystemExit):
            run([path, "--output", str(tmp_path / "out"), *words])
        messages.append(read_results(read_sweep(path), tmp_path / "out")[0].message)
    assert "the config names own_module.Thing; wanted" in messages[0] and "nowhere.npz" in messages[1] and own.exists()
    sys.modules.pop("own_module")


# Elsewhere


def agents_words(config, values):
    """The command that an agent of W&B runs for a run's values, by wandb's own code but for the last step."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    command = create_sweep_command(list(config["command"]))
    flags = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    known = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": ["python"],
        "${program}": [config["program"]],
        "${args}": flags["args"],
    }
    return [word for part in command for word in known.get(part, [part])]


@pytest.mark.slow
def test_wandb_runs_what_the_rows_run(tmp_path, monkeypatch):
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    shared = {"results.baselines": {}, "model": "DDS", "data.path": "a b.npz"}
    grid = {"model.steps": [10, 20], "model.sample": [True], "model.x": [[24, 48], None], "model.eta": [0.5]}
    path = str(written(tmp_path, settings=shared, grid=grid, metric={"name": "ssim", "goal": "maximize"}))
    run([path, "--wandb", "--output", str(tmp_path / "out")])
    config = load_sweep_config(str(tmp_path / "out" / "wandb.yaml"))
    assert config["method"] == "grid" and config["metric"] == {"name": "ssim", "goal": "maximize"}
    assert list(config["parameters"]) == list(grid)
    (tmp_path / "bin").mkdir()
    interpreter(tmp_path / "bin", monkeypatch, 'printf "%s\\n" "$@"')  # prints what it is asked to run
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    rows = read_sweep(path).rows
    points = [dict(zip(grid, values, strict=True)) for values in product(*(p["values"] for p in config["parameters"].values()))]
    assert len(points) == len(rows) == 4
    for row, point in zip(rows, points, strict=True):
        words = agents_words(config, point)
        seen = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        wanted = ["-m", "padis_lightning", *row.arguments(tmp_path / "out" / "abc")]
        assert sorted(seen) == sorted([*wanted, "--trainer.logger=WandbLogger"])
        assert seen.index("--model=DDS") < seen.index(f"--model.steps={row.settings['model.steps']}")


def test_wandb_takes_grids_alone(tmp_path):
    grid = {"model.steps": [10, 20], "model.sample": [True], "model.x": [[24, 48], None]}
    config = wandb_config(sweep_of(tmp_path, settings={"model": "DDS"}, grid=grid), "out")
    values = {key: values["values"] for key, values in config["parameters"].items()}
    assert values == {"model.steps": [10, 20], "model.sample": ["true"], "model.x": ["[24, 48]", "null"]}
    assert config["metric"] == {"name": "psnr", "goal": "maximize"} and "--model=DDS" in config["command"]
    for parts, varying in (({"rows": [{"model.steps": 1}], "grid": {"b": [1]}}, "model.steps, b"), ({}, "nothing")):
        with pytest.raises(InputError, match=f"^{varying} varies in mine; wanted keys of a grid alone, which W&B has, too"):
            wandb_config(sweep_of(tmp_path, **parts), "out")


def test_submit_hands_an_array_to_slurm(tmp_path, monkeypatch):
    path = str(written(tmp_path, grid={"model.steps": [10, 20, 40]}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    script = tmp_path / "slurm" / "sweep.sbatch"
    script.parent.mkdir()
    script.write_text("")
    with pytest.raises(InputError, match="there is no sbatch here; wanted a machine that submits to SLURM"):
        run([path, "--submit"])
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    sbatch.chmod(0o755)
    run([path, "--submit", "--output", "here", "data.count=2", "--allow", "own_module"])
    words = (tmp_path / "words").read_text().splitlines()
    assert words == ["--array=0-2", "slurm/sweep.sbatch", path, "--output", "here", "data.count=2", "--allow", "own_module"]
