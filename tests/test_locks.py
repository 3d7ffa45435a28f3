"""One writer a folder: who holds it is named, and a dead process holds nothing."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys

import pytest
from filelock import FileLock

from padis_lightning import locks
from padis_lightning.cli import main
from padis_lightning.errors import InputError
from padis_lightning.locks import WriteLock

HOLD = """
import sys, time
from pathlib import Path
from padis_lightning.locks import WriteLock
share = int(sys.argv[2]) if sys.argv[2:] else None
with WriteLock(Path(sys.argv[1]), share) as lock:
    lock.admit()
    print("held", flush=True)
    sys.stdin.read()
"""
HELD = r"is being written by process {} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d; wanted another --output"


@pytest.fixture
def hold():
    """Another process that holds a folder or a share of it; ends when its input does."""
    processes = []

    def start(path, *share):
        words = [sys.executable, "-c", HOLD, str(path), *map(str, share)]
        processes.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "held\n"
        return processes[-1]

    yield start
    for process in processes:
        process.communicate("")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(locks, "WAIT", 0.2)


def take(path, share=None):
    with WriteLock(path, share) as lock:
        lock.admit()


def test_a_second_writer_is_told_who_holds_the_folder_and_a_dead_one_holds_nothing(tmp_path, hold):
    folder = tmp_path / "out"
    process = hold(folder)
    for share in (None, 0):
        with pytest.raises(InputError, match=HELD.format(process.pid)):
            take(folder, share)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in folder.iterdir()] == [".lock"]
    take(folder)
    assert [*folder.iterdir()] == []  # it was there before
    take(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_shares_are_written_beside_each_other_and_by_one_process_each(tmp_path, hold):
    process = hold(tmp_path, 0)
    take(tmp_path, 1)
    for share in (None, 0):
        with pytest.raises(InputError, match=HELD.format(process.pid)):
            take(tmp_path, share)
    with WriteLock(tmp_path, 1) as lock, pytest.raises(InputError, match=HELD.format(process.pid)):
        lock.require_alone()
    process.communicate("")
    take(tmp_path)
    with WriteLock(tmp_path, 1) as lock:
        lock.require_alone()
        with pytest.raises(InputError, match=HELD.format(os.getpid())):
            take(tmp_path, 0)
    assert [*tmp_path.iterdir()] == []


def test_a_file_is_locked_beside_it(tmp_path):
    with WriteLock(tmp_path / "a.h5", file=True), pytest.raises(InputError, match=r"a.h5 is being written by process"):
        WriteLock(tmp_path / "a.h5", file=True).__enter__()
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("number", "lines"), [(errno.ENOLCK, 1), (errno.ENOSYS, 1), (errno.EROFS, 0), (errno.EACCES, 0)])
def test_where_there_are_no_locks_writing_goes_on(number, lines, tmp_path, monkeypatch, capsys):
    def fail(self):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", fail)
    take(tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines and all(re.search("has no locks .*; nothing else must write there now", line) for line in said)


def test_a_lock_file_that_is_a_link_is_not_written_through(tmp_path, capsys):
    (tmp_path / "thesis").write_text("words")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "thesis")
    take(tmp_path / "out")
    (tmp_path / "out" / ".lock").unlink()
    os.link(tmp_path / "thesis", tmp_path / "out" / ".lock")
    take(tmp_path / "out")
    assert (tmp_path / "thesis").read_text() == "words" and "has no locks" in capsys.readouterr().err


@pytest.mark.parametrize("share", [None, 1])
def test_a_folder_with_a_way_out_is_not_written_into(share, tmp_path):
    (tmp_path / "behind").mkdir()
    (tmp_path / "out" / "inner").mkdir(parents=True)
    (tmp_path / "out" / "own").symlink_to(tmp_path / "out" / "inner")
    (tmp_path / "way").symlink_to(tmp_path / "out")
    take(tmp_path / "way", share)  # the folder itself may be a link, and links within it lead nowhere
    (tmp_path / "out" / "inner" / "arrays").symlink_to(tmp_path / "behind")
    for folder in ("out", "way"):
        with pytest.raises(InputError, match="inner/arrays is a link to .*/behind; wanted a folder of its own"):
            take(tmp_path / folder, share)
        assert not [*(tmp_path / "out").glob(".lock*")]


PREDICT = ("predict", "--config", "ct20.yaml", "--model", "PseudoInverse", "--data.size", "32", "--data.count", "2",
           "--operator.size", "32", "--results.baselines", "null")  # fmt: skip


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main([*words])
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "error" in line)
    return stop.value.code, said


@pytest.mark.slow
def test_every_command_that_writes_takes_the_lock(tmp_path, hold, capsys, images, monkeypatch):
    folder = tmp_path / "out"
    main([*PREDICT, "--output", str(folder)])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    process = hold(folder)
    changed = ("--operator.views", "8", "--results.overwrite", "true", "--output", str(folder))
    (tmp_path / "s.yaml").write_text("command: predict\nconfig: ct20.yaml\ngrid: {model.seed: [0, 1]}\n")
    fit = ("fit", "--config", "ct.yaml", "--data.path", str(images), "--output", str(folder), "--trainer.max_steps", "1")
    for words in (
        (*PREDICT, *changed),
        (*PREDICT, *changed, "--data.shards", "2", "--data.shard", "1"),
        ("sweep", str(tmp_path / "s.yaml"), "--output", str(folder)),
        ("sweep", str(tmp_path / "s.yaml"), "--output", str(folder), "--row", "1"),
        fit,
    ):
        code, said = refusal(capsys, *words)
        assert code == 2 and re.search(HELD.format(process.pid), said), said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"} == before

    # a shard beside another one does not forget what that writes
    process.communicate("")
    process = hold(folder, 0)
    code, said = refusal(capsys, *PREDICT, *changed, "--data.shards", "2", "--data.shard", "1")
    assert code == 2 and re.search(HELD.format(process.pid), said), said
    process.communicate("")
    main([*PREDICT, *changed])
    assert not [*folder.glob(".lock*")]


def test_prepare_takes_the_lock(tmp_path, images, capsys):
    with WriteLock(tmp_path / "p.h5", file=True):
        code, said = refusal(
            capsys, "prepare", str(images), "--output", str(tmp_path / "p.h5"), "--workers", "1", "--split", "1", "0", "0"
        )
    assert code == 2 and re.search(HELD.format(os.getpid()), said) and not (tmp_path / "p.h5").exists()
