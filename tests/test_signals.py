"""Signals end every command in every phase soon, with a sentence, the documented code and what had been done."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from padis_lightning.signals import GRACE, Signals, Stopped
from padis_lightning.solvers.pseudo_inverse import PseudoInverse
from tests.chaos.runner import Forker, wait_for
from tests.conftest import small_model, write_images

TICKS = os.sysconf("SC_CLK_TCK")
SOON = 5.0  # seconds of the processor's time, which do not depend on who else uses it


class Endless(PseudoInverse):
    """Conjugate gradients without an end."""

    def solve(self, y, generator):
        """Iterate."""
        return self.operator.pinv(y, iterations=10**9, tolerance=-1.0)


PREDICT = (
    "predict", "--config", "ct20.yaml", "--operator.size", 16, "--operator.views", 6, "--data.size", "null", "--data.count", 2,
    "--data.path", "images.npz", "--trainer.accelerator", "cpu", "--allow", "tests.test_signals",
)  # fmt: skip
QUICK = ("--model", "PseudoInverse", "--results.baselines")
FIT = (
    "fit", "--config", "ct.yaml", "--data.path", "images.npz", "--data.size", "null", "--data.batch_size", 3,
    "--model.patch_sizes", "[4,8]", "--model.patches", 6, "--model.network.base", 8, "--model.network.multipliers", "[1,2]",
    "--model.network.blocks", 1, "--trainer.max_steps", 10**6, "--trainer.log_every_n_steps", 1, "--throughput.peak", "false",
    "--trainer.precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
)  # fmt: skip
TV = "{tv: {class_path: TotalVariation, init_args: {iterations: 1000000}}}"
ENDLESS = "{pinv: tests.test_signals.Endless}"
SOLVER = ("--model", "DDS", "--model.steps", 10**6, "--prior.checkpoint", "prior.safetensors", "--results.baselines", "{}")
KEPT, AUTO = "the same command goes on where this one stopped", "run the same command with --ckpt_path auto to go on"

PHASES = {  # command, phase: words, the file (of the run's, or what it says) whose words show the phase, sentence, what is kept
    ("predict", "solver"): ((*PREDICT, *SOLVER), "DDS: ", f"; {KEPT}", "unfinished/*.safetensors"),
    ("predict", "baseline"): ((*PREDICT, *QUICK, TV), "TotalVariation: ", f"; {KEPT}", "unfinished/*.safetensors"),
    ("predict", "conjugate gradients"): (
        (*PREDICT, *QUICK, ENDLESS), "baseline pinv",
        " within a step; the same command goes on from the last state that was kept", None,
    ),
    ("fit", "step"): (
        (*FIT, "--samples.count", 0), "log/version_0/metrics.csv", f" at step {{step}}; {AUTO}", "checkpoints/last.ckpt",
    ),
    ("fit", "validation"): (
        (*FIT, "--trainer.val_check_interval", 2, "--samples.steps", 10**6), "checkpoints/last.ckpt",
        f" in the validation at step {{step}}; {AUTO}", "checkpoints/last.ckpt",
    ),
    ("prepare", "writing"): (
        ("prepare", "many.npz", "--size", "64", "--split", "1", "0", "0", "--workers", "1"), ".out.h5.*.part",
        "; the same command begins again or goes on where this one stopped", None,
    ),
    ("sweep", "row"): (("sweep", "s.yaml"), "*/log.txt", "; the same command runs the rows that have not ended", None),
}  # fmt: skip
TABLE = [
    (*phase, number)
    for phase in PHASES
    for number in (signal.SIGTERM, signal.SIGINT, *[signal.SIGUSR1] * (phase[0] == "fit"))
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, many images, a prior and a sweep."""
    folder = tmp_path_factory.mktemp("place")
    write_images(folder / "images.npz")
    np.savez(folder / "many.npz", images=np.zeros((30000, 16, 16), np.uint8))
    model = small_model()
    model.image_shape, model.pad = (1, 16, 16), (8, 8)
    model.save(folder / "prior.safetensors")
    words = [str(folder / word) if str(word).startswith(("images.", "prior.s")) else word for word in (*PREDICT, *SOLVER)]
    settings = "".join(f"  {key[2:]}: {value}\n" for key, value in zip(words[3::2], words[4::2], strict=True) if key != "--allow")
    (folder / "s.yaml").write_text(f"command: predict\nconfig: ct20.yaml\nsettings:\n{settings}grid: {{model.seed: [0]}}\n")
    return folder


@pytest.fixture(scope="module")
def table():
    """A forker, and a list of lines that are printed in the end."""
    lines = []
    yield Forker(), lines
    print("\ncommand  phase                signal   code  seconds  of the processor\n" + "\n".join(lines))


def used(pid: int) -> float:
    """Return the seconds of a processor that a process has used."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) / TICKS


def reached(child, folder: Path, mark: str) -> bool:
    found = next(folder.glob(mark), None) if "." in mark else None
    return mark in child.stderr + child.stdout or (found is not None and (found.suffix != ".txt" or "DDS: " in found.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize(("command", "phase", "number"), TABLE)
def test_a_signal_ends_a_phase_soon(command, phase, number, place, table, tmp_path):
    (forker, lines), (words, mark, sentence, kept) = table, PHASES[command, phase]
    out = tmp_path / "out"
    output = out.with_suffix(".h5") if command == "prepare" else out
    child = forker.start([*words, "--output", output], place)
    wait_for(lambda: reached(child, tmp_path if command == "prepare" else out, mark) or not child.alive, pause=0.05)
    assert child.alive, child.stderr
    before, since, last = used(child.pid), time.monotonic(), 0.0
    child.send(number)
    while child.alive:
        with suppress(ProcessLookupError, FileNotFoundError):  # it may end just now
            last = max(last, used(child.pid) - before)
        assert time.monotonic() - since < 20 * SOON
        time.sleep(0.01)
    seconds = time.monotonic() - since
    lines.append(f"{command:8} {phase:20} {number.name:8} {child.wait():4} {seconds:8.1f} {last:6.1f}")
    assert last < SOON
    assert child.wait() == (130 if number == signal.SIGINT else 1), child.stderr
    steps = [torch.load(path, weights_only=True)["global_step"] for path in out.glob("checkpoints/last.ckpt")]
    said = f"padis_lightning: error: stopped by {number.name}{sentence}".replace("{step}", str(*steps or [0]))
    assert child.stderr.rstrip().endswith(said), child.stderr  # a bar may have left its codes before it
    assert child.stderr.count("error: ") == 1 and "Traceback" not in child.stderr
    assert kept is None or len([*out.glob(kept)]) == 1
    assert not [*tmp_path.rglob(".*.part")] and not [*tmp_path.rglob(".lock*")]


def test_a_step_has_its_grace_and_no_more():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGALRM)}
    signals = Signals()
    signals.listen()
    try:
        signals.obey()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Stopped, match="stopped by SIGINT; ") as stop:
            signals.obey()
        assert stop.value.code == 130 and signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        signals.number = 0
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # from the terminal and from a launcher
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= GRACE
        with pytest.raises(Stopped, match="stopped by SIGTERM within a step; "):
            signal.raise_signal(signal.SIGALRM)
    finally:
        signals.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
