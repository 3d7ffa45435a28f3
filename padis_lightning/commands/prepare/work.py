"""The work: processes that write slices into one file, a journal of what is done, and the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

import torch
from tqdm.auto import tqdm

from padis_lightning.commands.prepare.container import Block, create, seal, sha256
from padis_lightning.commands.prepare.journal import SEALING, Journal, Span, check_same, missing
from padis_lightning.commands.prepare.plan import Plan
from padis_lightning.errors import InputError

BATCH = 4 << 20  # bytes that a process writes at a time
INTERVAL = 0.5  # seconds from one entry of the journal to the next
AHEAD = 4  # jobs that are handed out, for each process

_task: tuple[Plan, Block] | None = None


def _do(job: Path | Span) -> tuple[Path | Span, str]:
    """Hash a file, or write the slices of a span; the job and the hash."""
    if isinstance(job, Path):
        return job, sha256(job)
    plan, block = _task
    values = block.map(*job)
    for place, i in enumerate(range(*job)):
        values[place] = plan.stored(i)
    return job, ""


def _begin(plan: Plan, block: Block) -> None:
    """Make a process ready: one thread, no ear for ctrl-C, and an end when its parent has one."""
    global _task
    _task = plan, block
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _alone(plan: Plan, block: Block, jobs: Iterable[Path | Span]) -> Iterator[tuple[Path | Span, str]]:
    """Do the jobs in this process."""
    global _task
    _task = plan, block
    try:
        yield from map(_do, jobs)
    finally:
        _task = None


def _together(plan: Plan, block: Block, jobs: Iterable[Path | Span], workers: int) -> Iterator[tuple[Path | Span, str]]:
    """Do the jobs in so many processes, as they come; few are handed out ahead, so that memory does not grow with them."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(workers, context, _begin, (plan, block))
    jobs, pending = iter(jobs), set()
    try:
        while pending := pending | {pool.submit(_do, job) for job in islice(jobs, AHEAD * workers - len(pending))}:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        pool.shutdown(cancel_futures=True)


def _fill(plan: Plan, block: Block, journal: Journal, done: list[Span], workers: int) -> list[str]:
    """Write what is not done; the hashes of the sources."""
    files = [file for _, file in plan.files]
    jobs = chain(files, missing(done, plan.count, max(1, BATCH // block.slice_bytes)))
    results = _alone(plan, block, jobs) if workers == 1 else _together(plan, block, jobs, workers)
    hashes: dict[Path, str] = {}
    written: list[Span] = []
    last, before = time.monotonic(), sum(stop - start for start, stop in done)
    with (
        closing(results),
        open(block.path, "rb+") as handle,
        tqdm(total=plan.count, initial=before, desc="prepare", unit="slice", leave=False, disable=None) as bar,
    ):
        for job, digest in results:
            if isinstance(job, Path):
                hashes[job] = digest
                continue
            written.append(job)
            bar.update(job[1] - job[0])
            if time.monotonic() - last > INTERVAL:
                os.fsync(handle.fileno())
                journal.add(*written)
                written, last = [], time.monotonic()
        os.fsync(handle.fileno())
        journal.add(*written)
    return [hashes[file] for file in files]


def prepare(plan: Plan, output: Path, workers: int, restart: bool = False) -> None:
    """Write the file of a plan, or go on with it where a run like this one was cut off.

    Args:
        plan: what to write.
        output: the file; until it is whole, ``.<name>.part`` and ``.<name>.journal`` lie beside its place.
        workers: processes.
        restart: begin anew.

    Raises:
        InputError: a slice cannot be used or the disk has no room, then nothing is left behind; or a part is there that was
            begun otherwise.
    """
    part, journal = output.with_name(f".{output.name}.part"), Journal(output.with_name(f".{output.name}.journal"))
    begun = journal.read() if part.is_file() and not restart else None
    if begun:
        check_same(begun[0], plan.header(), part)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        if begun:
            block, done = Block(part, begun[1], (plan.count, *plan.shape), plan.dtype), begun[2]
        else:
            journal.path.unlink(missing_ok=True)
            block, done = create(part, plan), []
        journal.begin(plan.header(), block.offset, done)
        manifest = plan.manifest(_fill(plan, block, journal, done, workers), block.digest())
        journal.add(SEALING)
        seal(block, manifest)
    except InputError:
        part.unlink(missing_ok=True)
        journal.path.unlink(missing_ok=True)
        raise
    part.replace(output)
    journal.path.unlink()
