"""Sweeps: points and names of rows, runs that fail, go on and are refused, tables, and W&B's form."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import qmc

from padis_lightning.commands.sweep import read_results, read_sweep, run, run_sweep
from padis_lightning.commands.sweep.exporting import wandb_config
from padis_lightning.commands.sweep.naming import LENGTH
from padis_lightning.commands.sweep.points import Choice, Draws, Range, drawn_points
from padis_lightning.commands.sweep.processes import Processes
from padis_lightning.commands.sweep.values import read_values
from padis_lightning.errors import InputError
from padis_lightning.messages.configs import CONFIGS

SHIPPED = sorted(path.name for path in (CONFIGS / "sweep").glob("*.yaml") if "${" not in path.read_text())
BASE = {"command": "predict", "config": "ct20.yaml"}


def written(folder, **parts):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**BASE, **parts}, sort_keys=False))
    return path


def sweep_of(folder, variables=None, **parts):
    return read_sweep(written(folder, **parts), variables)


def settings(sweep, *keys):
    return [tuple(row.settings[key] for key in keys) for row in sweep.rows]


# Points


def test_parts_combine_as_a_product(tmp_path):
    values = {"low": 0.0, "high": 1.0}
    sweep = sweep_of(
        tmp_path,
        settings={"data.count": 4},
        rows=[{"name": "a", "model.eta": 0.1}, {"name": "b", "model.eta": 0.2}],
        grid={"model.steps": [10, 20, 50], "model.iterations": [3, 4]},
        random={"samples": 5, "values": {"model.penalty": values}},
        sobol={"samples": 2, "values": {"model.sigma_max": values}},
    )
    drawn, even = (sorted(set(settings(sweep, key))) for key in ("model.penalty", "model.sigma_max"))
    assert (len(drawn), len(even)) == (5, 2)
    keys = ("model.eta", "model.steps", "model.iterations", "model.penalty", "model.sigma_max")
    wanted = product([0.1, 0.2], [10, 20, 50], [3, 4], [p for (p,) in drawn], [s for (s,) in even])
    assert sorted(settings(sweep, *keys)) == sorted(wanted)
    assert len({row.name for row in sweep.rows}) == len(sweep.rows) == 120
    assert set(settings(sweep, "data.count")) == {(4,)} and sweep.varying == list(keys)
    assert [row.name for row in sweep_of(tmp_path).rows] == ["row"]


SPACE = {"a": Range(1e-4, 1e-1, log=True), "b": Range(-2, 5), "c": Range(1, 9, integer=True), "d": Choice(("x", [24, 48]))}


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_draws_stay_in_their_ranges_and_are_decided_by_the_seed(kind):
    points = drawn_points(kind, Draws(64, 3, SPACE))
    assert points == drawn_points(kind, Draws(64, 3, SPACE)) != drawn_points(kind, Draws(64, 4, SPACE))
    assert points[:16] == drawn_points(kind, Draws(16, 3, SPACE))
    assert all(1e-4 <= p["a"] <= 1e-1 and -2 <= p["b"] <= 5 and p["d"] in ("x", [24, 48]) for p in points)
    assert {p["c"] for p in points} == set(range(1, 10)) and all(isinstance(p["c"], int) for p in points)
    assert all(float(f"{p['a']:.6g}") == p["a"] for p in points)


def test_sobol_points_lie_evenly_and_random_ones_do_not():
    """Of 64 scrambled points each 64th of every range holds one; their discrepancy is below that of independent ones."""
    space = {"a": Range(1e-4, 1e-1, log=True), "b": Range(-2, 5)}

    def shares(points):
        return np.array([[math.log(p["a"] / 1e-4) / math.log(1e3), (p["b"] + 2) / 7] for p in points])

    for seed in range(3):
        even, drawn = (shares(drawn_points(kind, Draws(64, seed, space))) for kind in ("sobol", "random"))
        # one point may lie on the other side of a border after rounding to six digits
        cells = [len(np.unique((64 * even[:, k]).astype(int))) for k in (0, 1)]
        assert min(cells) >= 62 and len(np.unique((64 * drawn[:, 0]).astype(int))) < 56
        assert qmc.discrepancy(even) < 0.3 * qmc.discrepancy(drawn)


def test_whole_numbers_are_equally_likely_ends_included_and_a_logarithm_halves_at_the_geometric_mean():
    shares = (np.arange(9000) + 0.5) / 9000
    counts = Counter(Range(1, 9, integer=True).at(share) for share in shares)
    assert counts == dict.fromkeys(range(1, 10), 1000)
    assert Range(1e-4, 1e-2, log=True).at(0.5) == pytest.approx(1e-3) and Range(2, 4).at(0.5) == 3
    low = [Range(1, 99, log=True, integer=True).at(share) for share in shares]
    assert (min(low), max(low)) == (1, 99) and np.mean(np.array(low) < 10) == pytest.approx(0.5, abs=0.001)
    assert Counter(Choice(("p", "q", "r")).at(share) for share in shares) == {"p": 3000, "q": 3000, "r": 3000}


def test_a_draw_that_repeats_is_one_row(tmp_path):
    values = {"model.steps": {"values": [10, 20]}}
    assert len(sweep_of(tmp_path, random={"samples": 50, "values": values}).rows) == 2


# Rows


def test_names_are_safe_short_and_do_not_depend_on_the_other_rows(tmp_path):
    many = ["results/a b.pt", "results/a-b.pt", "/x/é", [24, 48], {"class_path": "UNet"}, -1, 1e-05, True, None, "x" * 300]
    names = {}
    for values in (many, many[::-1]):
        sweep = sweep_of(tmp_path, grid={"model.x": values, "model.noise.std": [1], "data.std": [2]})
        names[len(names)] = {json.dumps(row.settings["model.x"]): row.name for row in sweep.rows}
    assert names[0] == names[1] and len(set(names[0].values())) == len(many)
    assert all(re.fullmatch(r"[A-Za-z0-9_.+=,-]+", name) and len(name) <= LENGTH for name in names[0].values())
    assert names[0]["[24, 48]"] == "x=24-48,noise.std=1,data.std=2" and names[0]["1e-05"].startswith("x=1e-05,")
    long = {f"model.key_number_{k}": [1, 2] for k in range(8)}
    cut = [row.name for row in sweep_of(tmp_path, grid=long).rows]
    assert len(set(cut)) == 256 and max(map(len, cut)) == LENGTH


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
    parts = {
        "settings": {"data.path": "${DATA}/test.npz", "data.count": "${N}"},
        "grid": {"model.steps": "${STEPS}"},
        "random": {"samples": "${N}", "values": {"model.penalty": {"low": "1e-4", "high": 1}}},
    }
    sweep = sweep_of(tmp_path, {"DATA": "/d", "N": "3", "STEPS": "[1, 2]"}, **parts)
    assert len(sweep.rows) == 6 and sweep.variables == {"DATA", "N", "STEPS"}
    assert set(settings(sweep, "data.path", "data.count")) == {("/d/test.npz", 3)}
    with pytest.raises(InputError, match=r"\$\{STEPS\} has no value.*wanted --set STEPS=VALUE"):
        sweep_of(tmp_path, {"DATA": "/d", "N": "3"}, **parts)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"gird": {}}, "'gird' is not a key of .*wanted one of command, config"),
        ({"command": "train"}, "command is 'train'.*wanted predict or fit"),
        ({"config": "nope.yaml"}, "there is no config 'nope.yaml'"),
        ({"config": []}, r"config is \[\].*wanted the name"),
        ({"settings": {"output": "x"}}, "'output' is not a setting"),
        ({"settings": {"--data": "x"}}, "'--data' is not a setting"),
        ({"grid": {"model.steps": 3}}, "grid.model.steps is 3; wanted a list"),
        ({"grid": {"model.steps": [3, 3]}}, "grid.model.steps holds 3 twice"),
        ({"grid": {"a": [1]}, "rows": [{"a": 1}]}, "a is in two parts"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "two rows of .* are called 'a'"),
        ({"rows": []}, r"rows is \[\]; wanted a list"),
        ({"random": {"values": {"a": {"low": 0, "high": 1}}}}, "random.samples is None; wanted a whole number of at least 1"),
        ({"sobol": {"samples": 1, "values": {"a": {"low": 2, "high": 1}}}}, "is from 2 to 1; wanted low below high"),
        ({"sobol": {"samples": 1, "values": {"a": {"low": 0, "high": 1, "log": True}}}}, "low is 0; wanted more than 0"),
        (
            {"sobol": {"samples": 1, "values": {"a": {"low": 0.5, "high": 2, "integer": True}}}},
            "low is 0.5; wanted a whole number",
        ),
        ({"metric": {"name": "psnr", "goal": "up"}}, "wanted a name and the goal maximize or minimize"),
        ({"tuning": "yes"}, "tuning is 'yes'; wanted true or false"),
        ({"tuning": True}, "data.subset is 'all' in row 'row' of a sweep that tunes; wanted train or validation"),
    ],
)
def test_what_cannot_be_used_gets_one_sentence(tmp_path, parts, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        sweep_of(tmp_path, **parts)
    assert "\n" not in str(error.value)


def test_tuning_looks_through_configs_and_settings(tmp_path):
    (tmp_path / "part.yaml").write_text("class_path: ImageData\ninit_args: {subset: validation}\n")
    (tmp_path / "held.yaml").write_text("data: part.yaml\n")
    (tmp_path / "test.yaml").write_text("data: {init_args: {subset: test}}\n")
    held, test = str(tmp_path / "held.yaml"), str(tmp_path / "test.yaml")
    for allowed in (
        {"config": ["ct20.yaml", held]},
        {"config": [test, held]},
        {"config": test, "settings": {"data.subset": "train"}},
        {"config": test, "settings": {"data": {"class_path": "ImageData", "init_args": {"subset": "validation"}}}},
        {"command": "fit", "config": "ct.yaml"},
    ):
        sweep_of(tmp_path, tuning=True, **allowed)
    for refused in ({"config": [held, test]}, {"config": held, "grid": {"data.subset": ["validation", "test"]}}):
        with pytest.raises(InputError, match="data.subset is 'test'"):
            sweep_of(tmp_path, tuning=True, **refused)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sweeps_are_accepted_by_the_command_line(name):
    """The first and the last row of each that needs no variable."""
    from padis_lightning.cli import main

    sweep = read_sweep(name)
    for row in (sweep.rows[0], sweep.rows[-1]):
        out = io.StringIO()
        with pytest.raises(SystemExit) as stop, redirect_stdout(out):
            main([*row.arguments(), "--print_config"])
        assert stop.value.code in (0, None)
        config = yaml.safe_load(out.getvalue())
        for key in sweep.varying:
            part, _, inner = key.partition(".")
            assert inner == "" or key not in row.settings or config[part]["init_args"][inner] == row.settings[key]


# Runs


class Machine:
    """In place of processes: a score from ``model.steps``, and failures."""

    def __init__(self, failing=()):
        self.failing, self.calls, self.most, self.now = set(failing), [], 0, 0
        self.lock = threading.Lock()

    def __call__(self, processes, words, log):
        steps = next(int(word.partition("=")[2]) for word in words if word.startswith("--model.steps="))
        folder = Path(words[words.index("--output") + 1])
        with self.lock:
            self.calls.append(words)
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        folder.mkdir(parents=True, exist_ok=True)
        log.write_text("$ command\nsome output\n\npadis_lightning: error: it broke; wanted it whole\n")
        if steps not in self.failing:
            psnr = 30.0 - abs(steps - 20)
            gain = {"tv": {"psnr": 1.5, "interval": [1.0, 2.0]}}
            summary = {"psnr": psnr, "ssim": None, "n": 4, "intervals": {"psnr": [psnr - 1, psnr + 1]}, "gain": gain}
            (folder / "summary.json").write_text(json.dumps(summary))
        with self.lock:
            self.now -= 1
        return 2 if steps in self.failing else 0

    @property
    def steps(self):
        return sorted(
            int(word.partition("=")[2]) for words in self.calls for word in words if "steps=" in word and "--model" in word
        )


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(Processes, "run", lambda *args: made(*args))
    return made


def test_a_failing_row_is_reported_and_the_others_run_and_only_it_runs_again(tmp_path, machine, capsys):
    machine.failing = {20}
    path = str(written(tmp_path, settings={"data.count": 4}, grid={"model.steps": [10, 20, 40, 25]}))
    words = [path, "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        run(words)
    assert stop.value.code == 1 and machine.steps == [10, 20, 25, 40]
    said = capsys.readouterr().out
    assert "row 1 of 4: steps=20: failed with exit code 2: it broke; wanted it whole" in said
    assert "best: steps=25, psnr 25 [24, 26]" in said
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
    assert "best: steps=20, psnr 30 [29, 31]" in table and "failed" not in said
    assert not (tmp_path / "out" / "steps=20" / "failed.json").exists()


def test_other_settings_in_the_same_folder_are_refused_by_name_and_nothing_runs(tmp_path, machine):
    config = tmp_path / "own.yaml"
    config.write_text((CONFIGS / "ct20.yaml").read_text())
    parts = {"config": str(config), "settings": {"data.count": 4}, "grid": {"model.steps": [10, 20]}}
    out = tmp_path / "out"
    run_sweep(sweep_of(tmp_path, **parts), out, only=[1])
    done = (out / "steps=20" / "done.json").read_bytes()
    machine.calls = []
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
    assert machine.calls == [] and (out / "steps=20" / "done.json").read_bytes() == done


def test_rows_run_one_by_one_as_an_array_does_and_the_table_is_that_of_all(tmp_path, machine, capsys):
    path = str(written(tmp_path, grid={"model.steps": [10, 20, 40]}))
    where = ["--output", str(tmp_path / "out")]
    run([path, "--count"])
    assert capsys.readouterr().out == "3\n"
    for row in (2, 0, 1):
        run([path, *where, "--row", str(row)])
    assert [words[-3] for words in machine.calls] == ["--model.steps=40", "--model.steps=10", "--model.steps=20"]
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
    run([path, "data.count=2", "--output", str(tmp_path / "out"), "data.path=a=b.npz"])
    assert all({"--data.count=2", "--data.path=a=b.npz"} <= set(words) for words in machine.calls)
    for words, sentence in (
        (["model.steps=3"], "model.steps differs from row to row"),
        (["count"], "an argument is 'count'; wanted a name, = and a value"),
        (["--set", "DATA=x"], r"--set names DATA; wanted a name that .* uses"),
        (["--jobs", "0"], "jobs is 0; wanted at least 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            run([path, "--output", str(tmp_path / "other"), *words])
    assert not (tmp_path / "other").exists()


def test_training_goes_on_and_its_last_scores_count(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Processes, "run", lambda self, words, log: seen.append(words) or 0)
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
    assert sweep.metric.rank(first.values) < sweep.metric.rank({"val/loss": 0.3}) < sweep.metric.rank(second.values)


def test_a_signal_reaches_the_row_once_and_no_other_row_starts(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\ntrap 'echo caught; sleep 0.2; exit 0' TERM\necho ready\nwhile :; do sleep 0.05; done\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    sweep, out = sweep_of(tmp_path, grid={"model.steps": [10, 20]}), tmp_path / "out"
    log = out / "steps=10" / "log.txt"

    def send():
        while not log.is_file() or "ready" not in log.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=send).start()
    with pytest.raises(SystemExit) as stop:
        run_sweep(sweep, out)
    assert stop.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    assert log.read_text().splitlines()[1:] == ["ready", "caught"]
    assert [result.status for result in read_results(sweep, out)] == ["missing"] * 2
    assert not (out / "steps=20").exists()


def test_a_row_that_dies_without_a_word_has_no_message(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    (result,) = run_sweep(sweep_of(tmp_path), tmp_path / "out")
    assert (result.status, result.exit_code, result.message) == ("failed", 137, "")


@pytest.mark.slow
def test_rows_are_runs_of_the_command_line(tmp_path):
    """A row with an unknown filter fails with the command line's sentence; the others leave what predict leaves."""
    small = {"data.subset": "validation", "data.size": 16, "data.count": 2, "operator.size": 16, "operator.views": 6}
    path = written(
        tmp_path,
        tuning=True,
        settings={**small, "results.baselines": {}, "model": "PseudoInverse"},
        grid={"operator.filter": ["hann", "magic", "cosine"]},
    )
    command = [sys.executable, "-m", "padis_lightning", "sweep", str(path), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "filter=magic: failed with exit code 2" in done.stdout
    lines = list(csv.DictReader((tmp_path / "out" / "sweep.csv").open()))
    for line in (lines[0], lines[2]):
        summary = json.loads((tmp_path / "out" / line["name"] / "summary.json").read_text())
        assert float(line["psnr"]) == summary["psnr"] > 5 and summary["n"] == 2
    assert lines[0]["psnr"] != lines[2]["psnr"]
    before = (tmp_path / "out" / "filter=hann" / "summary.json").stat().st_mtime_ns
    again = subprocess.run([*command, "--row", "0"], capture_output=True, text=True)
    assert again.returncode == 0 and "done before" in again.stdout
    assert (tmp_path / "out" / "filter=hann" / "summary.json").stat().st_mtime_ns == before


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


def test_wandb_runs_what_the_rows_run(tmp_path, monkeypatch):
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    shared = {"results.baselines": {}, "model": "DDS", "data.path": "a b.npz"}
    grid = {"model.steps": [10, 20], "model.sample": [True, False], "model.x": [[24, 48], None], "model.eta": [0.5]}
    path = str(written(tmp_path, settings=shared, grid=grid, metric={"name": "ssim", "goal": "maximize"}))
    run([path, "--wandb", "--output", str(tmp_path / "out")])
    config = load_sweep_config(str(tmp_path / "out" / "wandb.yaml"))
    assert config["method"] == "grid" and config["metric"] == {"name": "ssim", "goal": "maximize"}
    assert list(config["parameters"]) == list(grid)
    fake = tmp_path / "bin" / "python"  # writes down what it is asked to run
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    rows = read_sweep(path).rows
    points = [dict(zip(grid, values, strict=True)) for values in product(*(p["values"] for p in config["parameters"].values()))]
    assert len(points) == len(rows) == 8
    for row, point in zip(rows, points, strict=True):
        words = agents_words(config, point)
        seen = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        wanted = ["-m", "padis_lightning", *row.arguments(tmp_path / "out" / "abc")]
        assert sorted(seen) == sorted([*wanted, "--trainer.logger=WandbLogger"])
        assert seen.index("--model=DDS") < seen.index(f"--model.steps={row.settings['model.steps']}")


def test_wandb_draws_from_the_same_ranges(tmp_path):
    values = {
        "a": {"low": 1e-4, "high": 0.1, "log": True},
        "b": {"low": -1, "high": 1},
        "c": {"low": 1, "high": 9, "integer": True},
        "d": {"low": 1, "high": 9, "integer": True, "log": True},
        "e": {"values": [1, [2, 3]]},
    }
    config = wandb_config(sweep_of(tmp_path, random={"samples": 7, "values": values}), "out")
    assert (config["method"], config["run_cap"]) == ("random", 7)
    assert config["parameters"] == {
        "a": {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1},
        "b": {"distribution": "uniform", "min": -1.0, "max": 1.0},
        "c": {"distribution": "int_uniform", "min": 1, "max": 9},
        "d": {"distribution": "q_log_uniform_values", "q": 1, "min": 1, "max": 9},
        "e": {"values": [1, "[2, 3]"]},
    }
    drawn = {"samples": 2, "values": {"a": {"low": 0, "high": 1}}}
    for parts, given in (
        ({"sobol": drawn}, "sobol"),
        ({"grid": {"b": [1]}, "random": drawn}, "grid and random"),
        ({"rows": [{"name": "a"}]}, "rows"),
        ({}, "no varying key"),
    ):
        with pytest.raises(InputError, match=f"the sweep has {given}; wanted grid or random alone"):
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
    run([path, "--submit", "--output", "here", "data.count=2"])
    words = (tmp_path / "words").read_text().splitlines()
    assert words == ["--array=0-2", "slurm/sweep.sbatch", path, "--output", "here", "data.count=2"]


def test_scores_of_a_run_that_left_none_are_empty(tmp_path):
    assert read_values(sweep_of(tmp_path).rows[0], tmp_path) == {}
