"""Every argument of sweep and report, every key of a sweep: functions, other roles, addresses, paths outside are refused."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from padis_lightning.cli import main
from padis_lightning.commands.report import _parser as report_parser
from padis_lightning.commands.sweep import read_sweep
from padis_lightning.commands.sweep.command import _parser as sweep_parser
from padis_lightning.commands.sweep.rows import KEYS, word
from padis_lightning.errors import InputError
from tests.test_keys import ADDRESSES, OUTSIDE, arguments, attacks, parsers, takes_class, takes_text

BASE = {"command": "predict", "config": "ct20.yaml", "settings": {"model": "PseudoInverse"}}


def words_of(parser: argparse.ArgumentParser, text: str) -> list[list[str]]:
    """Return, for each argument that takes a value, the words that give it this one."""
    out = []
    for action in parser._actions:
        if action.nargs != 0:
            named = [action.option_strings[0]] if action.option_strings else []
            rest = [] if action.dest in ("file", "folders") else ["mine.yaml"]
            out.append([*rest, *named, text])
    return out


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An inner folder to work in; nothing may start a process."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setattr(subprocess, "Popen", None)
    return home


def refused(capsys, *words: str) -> bool:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*words])
    said = capsys.readouterr().err.splitlines()
    return stop.value.code == 2 and len(said) == 1 and "; wanted " in said[0]


@pytest.mark.parametrize(("command", "make"), [("sweep", sweep_parser), ("report", report_parser)])
def test_no_argument_of_a_command_takes_a_function_or_an_address(command, make, here, capsys):
    Path("mine.yaml").write_text(yaml.safe_dump(BASE | {"settings": {"model": "os.system"}}))
    before, tried = {*here.parent.rglob("*")}, 0
    for text in [word(attack) for attack in attacks(here.parent / "mark")] + [*ADDRESSES]:
        for words in words_of(make(), text):
            if "--output" in words and text not in ADDRESSES:
                continue  # a file may have any name, and the command line is trusted with where it is
            tried += 1
            assert refused(capsys, command, *words), words
    assert tried >= 8 and {*here.parent.rglob("*")} == before


def test_no_key_of_a_sweep_takes_a_function_an_address_or_a_path_outside(here, capsys):
    mark, other = here.parent / "mark", {"settings": "model", "grid": "model", "rows": "model"}
    tried = [*attacks(mark), *ADDRESSES, *OUTSIDE, {"output": "../out"}, {"allow": "os"}, [{"output": "/out"}], [{"allow": "os"}]]
    for key in KEYS:
        for attack in tried:
            if key == "metric" or (key == "settings" and attack == attacks(mark)[2]):
                continue  # the name of a score, which nothing but the table reads
            Path("mine.yaml").write_text(yaml.safe_dump(BASE | {key: attack}))
            assert key in other or refused(capsys, "sweep", "mine.yaml"), (key, attack)
            with pytest.raises((InputError, AssertionError)):
                assert not [row.arguments() for row in read_sweep("mine.yaml").rows]
    assert not mark.exists() and [*here.parent.rglob("*")] == [here, here / "mine.yaml"]


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_a_row_says_what_the_command_line_is_tried_with_and_nothing_else(command, here):
    """So that the walk over the keys of fit and predict is one over the keys of a sweep."""
    keys = [key for key, hint in arguments(parsers(command)[1]).items() if takes_class(hint) or takes_text(hint)]
    values = [*attacks(here / "mark"), *ADDRESSES, *OUTSIDE]
    for number, key in enumerate(keys):
        value = values[number % len(values)]
        for made in ({"settings": {key: value}}, {"grid": {key: [value]}}, {"rows": [{key: value}]}):
            Path("mine.yaml").write_text(json.dumps({"command": command, "config": "ct20.yaml", **made}))
            if key in ("output", "config"):
                with pytest.raises(InputError):
                    read_sweep("mine.yaml")
                continue
            (row,) = read_sweep("mine.yaml").rows
            assert row.arguments() == [command, "--config", "ct20.yaml", f"--{key}={word(value)}"]
            assert "/" not in row.name and not row.name.startswith(".")


WHOLE = {
    "a function": {"results.baselines": {"y": {"class_path": "padis_lightning.files.write_text", "init_args": {"path": "mark"}}}},
    "a class of another role": {"model": "PatchPrior"},
    "a log outside": {"trainer.logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "../mark"}}},
    "a log elsewhere": {"trainer.logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "ftp://127.0.0.1:9/x"}}},
    "data elsewhere": {"data.path": "http://127.0.0.1:9/x.npz"},
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_row_is_refused_when_it_runs(name, here, capsys):
    Path("mine.yaml").write_text(yaml.safe_dump({"command": "predict", "config": "ct20.yaml", "settings": WHOLE[name]}))
    (row,) = read_sweep("mine.yaml").rows
    assert refused(capsys, *row.arguments(Path("out"))) and [*here.parent.rglob("*")] == [here, here / "mine.yaml"]
