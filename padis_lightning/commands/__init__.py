"""The commands by name, and the call that runs one: each is imported when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import importlib
import os
import select
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from padis_lightning.errors import InputError
from padis_lightning.messages.allowed import FLAG
from padis_lightning.messages.quiet import quieten
from padis_lightning.signals import Stopped, stopping

COMMANDS = {  # the function that takes the arguments after the name, and what it does
    "fit": ("padis_lightning.cli:fit", "train a prior on images"),
    "predict": ("padis_lightning.cli:predict", "reconstruct images from measurements with a prior"),
    "convert": ("padis_lightning.commands.convert:run", "turn another program's scan into one file of measurements"),
    "doctor": ("padis_lightning.commands.doctor:run", "try what of this machine works"),
    "gather": (
        "padis_lightning.commands.report:gather",
        "make the table and the page of what several shards wrote",
    ),
    "import": ("padis_lightning.commands.snapshots:run", "turn a network of EDM, Patch-Diffusion or PaDIS into a prior"),
    "prepare": ("padis_lightning.commands.prepare:run", "turn images of any readable kind into one file for training"),
    "publish": ("padis_lightning.commands.publish:run", "give a prior to others by a name, on the Hugging Face Hub"),
    "report": ("padis_lightning.commands.report:run", "write the page of a result folder again, or compare several"),
    "sweep": ("padis_lightning.commands.sweep:run", "run fit or predict with many settings"),
}
UNUSED_PIPE = 141  # what the shell calls a program that SIGPIPE ended

_running = False


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: the command's name and its arguments (default: those of the process).

    Raises:
        SystemExit: with 2 where the input cannot be used, 1 where the run failed or a signal ended it, 130 where that was
            SIGINT, each after one sentence; with 141 where nobody reads what it prints.
    """
    global _running  # a config must not permit itself modules by calling this
    words = list(sys.argv[1:] if args is None else args)
    nested, _running = _running, True
    try:
        with explaining():
            if nested and any(word.partition("=")[0] == FLAG for word in words):
                raise InputError(f"{FLAG} comes from within a run; wanted it on the command line")
            _run(words)
    finally:
        _running = nested


@contextmanager
def explaining() -> Iterator[None]:
    """End the process as a command ends where the block cannot go on.

    Raises:
        SystemExit: as :func:`main` does.
    """
    try:
        with stopping():
            yield
    except BaseException as error:
        _end(error)
    if not _is_read():
        raise SystemExit(UNUSED_PIPE)


def _run(words: list[str]) -> None:
    name = words[0] if words else None
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        seen = "no command is given" if name is None else f"there is no command {name!r}"
        raise InputError(f"{seen}; wanted one of {', '.join(COMMANDS)}")
    module, _, function = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), function)
    quieten()  # after the import, which sets how much Lightning says
    command(words[1:])


def usage() -> str:
    """Return what ``--help`` says: every command with its line."""
    lines = [f"  {name:<9}{told}" for name, (_, told) in COMMANDS.items()]
    head = "usage: python -m padis_lightning COMMAND ...\n\nPatch diffusion priors for inverse problems.\n"
    return "\n".join([head, *lines, "\nCOMMAND --help lists what a command takes."])


def _end(error: BaseException) -> None:
    """End the process with the sentence and the code of an error."""
    if isinstance(error, KeyboardInterrupt) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)  # Lightning's way to end
    ):
        print("padis_lightning: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    if not _is_read(error):
        raise SystemExit(UNUSED_PIPE) from None
    if isinstance(error, Stopped):
        print(f"padis_lightning: error: {error}", file=sys.stderr)
        raise SystemExit(error.code) from None
    if not isinstance(error, Exception):
        raise error
    from padis_lightning.messages.sentences import explain

    explained = explain(error)
    if explained is None:
        traceback.print_exception(error)
        explained = f"{type(error).__name__} is a fault of padis_lightning; wanted a report with the lines above", 1
    sentence, code = explained
    print(f"padis_lightning: error: {sentence}", file=sys.stderr)
    raise SystemExit(code) from None


def _is_read(error: BaseException | None = None) -> bool:
    """Return whether somebody reads what is printed; where nobody does, the rest is thrown away in silence."""
    try:
        sys.stdout.flush()
        if not isinstance(error, BrokenPipeError) or not _has_no_reader(sys.stdout.fileno()):
            return True
    except BrokenPipeError:
        pass
    except ValueError:  # not a stream of the system's
        return True
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return False


def _has_no_reader(stream: int) -> bool:
    poll = select.poll()
    poll.register(stream, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
