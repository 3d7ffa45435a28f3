"""Errors of the disk, the memory and the framework as sentences and exit codes."""

from __future__ import annotations

import errno
import os
import sys

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError

from padis_lightning.commands import main, report
from padis_lightning.errors import InputError, RunError
from padis_lightning.files import whole
from padis_lightning.messages.sentences import explain

AGAIN = "then the same command again (fit: with --ckpt_path auto), which goes on where this one stopped"
MEMORY = f"wanted a lower data.batch_size, prior.chunk_size (predict) or model.patches (fit), {AGAIN}"


def full(number: int) -> OSError:
    return OSError(number, os.strerror(number), "out/arrays/.a.npy.node_1-123.part")


ERRORS = {
    "input": (InputError("views is 0; wanted at least 1"), "views is 0; wanted at least 1", 2),
    "input in a worker": (
        InputError("Caught InputError in worker process 0.\nTraceback:\npadis_lightning.errors.InputError: a; wanted b"),
        "a; wanted b", 2,
    ),
    "run": (RunError("two images diverged; wanted finite values"), "two images diverged; wanted finite values", 1),
    "divergence": (FloatingPointError("not finite at step 3"), "not finite at step 3", 1),
    "disk": (full(errno.ENOSPC), f"no space left while writing out/arrays/a.npy; wanted free space, {AGAIN}", 1),
    "quota": (full(errno.EDQUOT), f"the quota is used up while writing out/arrays/a.npy; wanted free space, {AGAIN}", 1),
    "size": (full(errno.EFBIG), f"the file is too large while writing out/arrays/a.npy; wanted free space, {AGAIN}", 1),
    "numpy's disk": (
        OSError("65536 requested and 4096 written"), f"no space left while writing a file; wanted free space, {AGAIN}", 1,
    ),
    "torch's disk": (
        RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/3"),
        f"no space left while writing a file; wanted free space, {AGAIN}", 1,
    ),
    "safetensors' disk": (
        SafetensorError("I/O error: No space left on device (os error 28)"),
        f"no space left while writing a file; wanted free space, {AGAIN}", 1,
    ),
    "a broken disk": (
        full(errno.EIO), f"out/arrays/a.npy cannot be read or written (input/output error); wanted a disk that works, {AGAIN}", 1,
    ),
    "memory": (MemoryError(), f"the memory of the machine is used up; {MEMORY}", 1),
    "torch's memory": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ..."),
        f"the memory of the machine is used up; {MEMORY}", 1,
    ),
    "a GPU's memory": (torch.OutOfMemoryError("CUDA out of memory."), f"the memory of the GPU is used up; {MEMORY}", 1),
    "a worker": (
        RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."),
        "a worker process was killed (DataLoader worker (pid 3) is killed by signal: Killed.); wanted more memory, or fewer "
        f"workers (data.num_workers, prepare --workers), {AGAIN}", 1,
    ),
    "permission": (
        PermissionError(errno.EACCES, "Permission denied", "/nowhere/out"),
        "/nowhere/out cannot be written (permission denied); wanted a folder that can be, see --output", 2,
    ),
    "read-only": (
        OSError(errno.EROFS, "Read-only file system", "out/.config.yaml.node_1-9.part"),
        "out/config.yaml cannot be written (read-only file system); wanted a folder that can be, see --output", 2,
    ),
    "missing": (FileNotFoundError(errno.ENOENT, "No such file", "a.json"), "there is no a.json; wanted a path that exists", 2),
    "a file in the way": (
        FileExistsError(errno.EEXIST, "File exists", "out"), "out is a file or lies in one; wanted a folder, see --output", 2,
    ),
    "below a file": (
        NotADirectoryError(errno.ENOTDIR, "x", "out/a"), "out/a is a file or lies in one; wanted a folder, see --output", 2,
    ),
    "a folder in the way": (IsADirectoryError(errno.EISDIR, "x", "out"), "out is a folder; wanted a file", 2),
    "a long name": (
        OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), "aaa: file name too long; wanted a path that can be used", 2,
    ),
    "lightning": (MisconfigurationException("No GPU\n  found."), "No GPU found; wanted another setting, see --help", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_one_sentence_and_a_code_however_deep_it_lies(name):
    error, sentence, code = ERRORS[name]
    assert explain(error) == (sentence, code)
    try:
        try:
            raise error
        except BaseException as inner:
            raise RuntimeError("around it") from inner
    except RuntimeError as outer:
        assert explain(outer) == (sentence, code)


def test_a_disk_that_is_full_is_named_with_the_file(tmp_path):
    with pytest.raises(OSError) as found, whole(tmp_path / "a.npy"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert explain(found.value) == (f"no space left while writing {tmp_path / 'a.npy'}; wanted free space, {AGAIN}", 1)
    assert not list(tmp_path.iterdir())


def test_a_bug_is_not_explained_and_keeps_its_traceback(monkeypatch, capsys):
    assert explain(KeyError("a bug")) is None
    try:
        try:
            raise FileNotFoundError(2, "x", "y")
        except OSError:
            raise KeyError("a bug") from None
    except KeyError as error:
        assert explain(error) is None
    monkeypatch.setattr(report, "run", lambda args: {}["a bug"])
    with pytest.raises(SystemExit) as stop:
        main(["report"])
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and said[0].startswith("Traceback") and "KeyError" in said[-2]
    assert said[-1] == "padis_lightning: error: KeyError is a fault of padis_lightning; wanted a report with the lines above"


@pytest.mark.parametrize("lightnings", [False, True])
def test_an_interruption_has_the_shells_code(lightnings, monkeypatch, capsys):
    """Also where Lightning has caught it and ends the process with 1."""

    def interrupted(args: list[str]) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if lightnings:
                sys.exit(1)
            raise

    monkeypatch.setattr(report, "run", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["report"])
    assert stop.value.code == 130 and capsys.readouterr().err == "padis_lightning: interrupted\n"
