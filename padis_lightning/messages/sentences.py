"""Errors as one sentence and an exit code: 1 for a run that failed, 2 for usage or input that cannot be used."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from padis_lightning.errors import InputError, RunError, one_line

FAILED, UNUSABLE = 1, 2
AGAIN = "then the same command again (fit: with --ckpt_path auto), which goes on where this one stopped"
ROOM = {errno.ENOSPC: "no space left", errno.EDQUOT: "the quota is used up", errno.EFBIG: "the file is too large"}
FULL = re.compile(r"no space left|os error 28\b|os error 122\b|\d+ requested and \d+ written|PytorchStreamWriter failed", re.I)
WORKER = re.compile(r"DataLoader worker|terminated abruptly|process \d+ terminated with", re.I)


def explain(error: BaseException) -> tuple[str, int] | None:
    """Return one sentence and the exit code, however deep the error is wrapped; None for one that is nobody's input: a bug."""
    chain = list(_chain(error))
    for kind in (_own, _memory, _disk, _worker, _folder, _lightnings):
        for link in chain:
            sentence = kind(link)
            if sentence:
                return sentence
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _own(error: BaseException) -> tuple[str, int] | None:
    for kind, code in ((InputError, UNUSABLE), (RunError, FAILED)):
        if isinstance(error, kind):  # from a worker process it comes with the traceback there
            return str(error).strip().splitlines()[-1].removeprefix(f"{kind.__module__}.{kind.__name__}: "), code
    return (one_line(error), FAILED) if isinstance(error, FloatingPointError) else None


def _memory(error: BaseException) -> tuple[str, int] | None:
    from padis_lightning.memory import is_out_of_memory  # torch takes seconds, which a mistyped word need not wait for

    if not is_out_of_memory(error):
        return None
    device = "GPU" if type(error).__name__ == "OutOfMemoryError" else "machine"
    lower = "data.batch_size, prior.chunk_size (predict) or model.patches (fit)"
    return f"the memory of the {device} is used up; wanted a lower {lower}, {AGAIN}", FAILED


def _disk(error: BaseException) -> tuple[str, int] | None:
    if not isinstance(error, (OSError, RuntimeError)) and type(error).__name__ != "SafetensorError":
        return None
    number: Any = getattr(error, "errno", None)
    if number == errno.EIO:
        return f"{_path(error)} cannot be read or written (input/output error); wanted a disk that works, {AGAIN}", FAILED
    if number in ROOM or (number is None and FULL.search(str(error))):
        what = ROOM.get(number, "no space left")
        return f"{what} while writing {_path(error)}; wanted free space, {AGAIN}", FAILED
    return None


def _worker(error: BaseException) -> tuple[str, int] | None:
    if isinstance(error, RuntimeError) and (type(error).__name__ == "BrokenProcessPool" or WORKER.search(str(error))):
        wanted = "more memory, or fewer workers (data.num_workers, prepare --workers)"
        return f"a worker process was killed ({one_line(error)}); wanted {wanted}, {AGAIN}", FAILED
    return None


def _folder(error: BaseException) -> tuple[str, int] | None:
    if not isinstance(error, OSError):
        return None
    path = _path(error)
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        done, why = ("read", "file") if Path(path).is_file() else ("written", "folder")
        said = (error.strerror or "permission denied").lower()
        return f"{path} cannot be {done} ({said}); wanted a {why} that can be, see --output", UNUSABLE
    if isinstance(error, FileNotFoundError):
        return f"there is no {path}; wanted a path that exists", UNUSABLE
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f"{path} is a file or lies in one; wanted a folder, see --output", UNUSABLE
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder; wanted a file", UNUSABLE
    return f"{path}: {(error.strerror or one_line(error)).lower()}; wanted a path that can be used", UNUSABLE


def _path(error: BaseException) -> str:
    """Return the path that an error is about, as it is called once it is whole."""
    path = getattr(error, "filename", None)
    if path is None:
        return "a file"
    return re.sub(r"(^|/)\.([^/]+)\.\w+-\d+\.part$", r"\1\2", str(path))


def _lightnings(error: BaseException) -> tuple[str, int] | None:
    kind = type(error)
    if kind.__name__ == "MisconfigurationException" and kind.__module__.startswith("lightning."):
        return f"{one_line(error).rstrip('.')}; wanted another setting, see --help", UNUSABLE
    return None


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Take an error within the block that nothing explains for one of the input.

    Raises:
        InputError: in its place, with its message.
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "ArgumentError" or explain(error):
            raise
        raise InputError(f"{what} ({type(error).__name__}: {one_line(error)[:300]}); wanted other values, see --help") from error
