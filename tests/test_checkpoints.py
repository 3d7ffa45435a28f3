"""Checkpoints, files and logs: whole or not at all, the newest is found, a finished run is left alone."""

from __future__ import annotations

import csv
import errno
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from padis_lightning.callbacks import PriorExport, WholeCheckpoints
from padis_lightning.callbacks import csv_log as log_module
from padis_lightning.callbacks.checkpoint_io import newest
from padis_lightning.callbacks.csv_log import Log
from padis_lightning.callbacks.resuming import Earlier, deciding
from padis_lightning.data.batches import STOPPING
from padis_lightning.data.datamodule import ImageData
from padis_lightning.errors import InputError
from padis_lightning.files import sweep_up, whole
from padis_lightning.training import PatchDiffusion
from tests.test_cli import fit


def write(path, steps):
    WholeCheckpoints().save_checkpoint({"global_step": steps, "weights": torch.arange(100.0)}, path)
    return path


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_the_newest_whole_checkpoint_is_found_by_step_then_by_time(tmp_path):
    said = []
    early, late, again = (write(tmp_path / f"{name}.ckpt", steps) for name, steps in (("c", 5), ("b", 10), ("a", 10)))
    os.utime(late, (1, 1))
    os.utime(early, (2**31, 2**31))
    assert newest([early, late, again], said.append) == (again, 10)
    flip(again, again.stat().st_size // 2)  # a weight: only the checksum knows
    assert newest([early, late, again], said.append) == (late, 10)
    late.write_bytes(late.read_bytes()[:-100])
    assert newest([early, late, again], said.append) == (early, 5)
    flip(early, 200)  # in what is unpickled
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "link.ckpt").symlink_to("nowhere")
    assert newest(tmp_path.glob("*.ckpt"), said.append) is None
    assert all(re.fullmatch(r".*/(a|b|c|empty|link)\.ckpt is damaged; it is skipped", line) for line in said)


def test_no_single_bit_of_a_checkpoint_flips_unseen(tmp_path):
    """Of those that matter: a checkpoint with a flipped bit is refused or holds what was written."""
    path = write(tmp_path / "a.ckpt", 7)
    good = path.read_bytes()
    for place in range(0, len(good), 13):
        flip(path, place)
        if newest([path], lambda line: None) is not None:
            read = torch.load(path, weights_only=True)
            assert read["global_step"] == 7 and torch.equal(read["weights"], torch.arange(100.0)), place
        path.write_bytes(good)


class Cut:
    """A number whose pickling fails half-way."""

    def __reduce__(self):
        raise OSError(errno.EIO, "cut off")


def test_a_checkpoint_is_replaced_by_a_whole_one_or_stays(tmp_path, monkeypatch):
    path = write(tmp_path / "last.ckpt", 1)
    before = path.read_bytes()
    with pytest.raises(OSError, match="cut off"):
        WholeCheckpoints().save_checkpoint({"weights": torch.arange(1e5), "x": Cut()}, path)
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{path}'")):
        write(path, 2)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.ckpt"]


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"global_step": 1, "x": Harm()}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match="mkdir; wanted .*nothing was run"):
        WholeCheckpoints().load_checkpoint(tmp_path / "a.ckpt")
    assert newest([tmp_path / "a.ckpt"], lambda line: None) is None and not (tmp_path / "harm").exists()


def test_leftovers_of_dead_processes_are_swept_up_and_nothing_else(tmp_path):
    code = "import os, sys; from pathlib import Path; from padis_lightning.files import whole\n"
    code += "with whole(Path(sys.argv[1])) as temporary: temporary.touch(); os._exit(9)"
    for name in ("a.npy", "deep/b-1.2-3.ckpt"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
    left = {path.name for path in tmp_path.rglob(".*.part")}
    assert len(left) == 2
    others = [".out.h5.part", ".out.h5.journal", "plain.part", f".a.npy.elsewhere-{2**22 + 1}.part", ".a.npy.part"]
    for name in others:
        (tmp_path / name).touch()
    with whole(tmp_path / "mine") as temporary:
        temporary.touch()
        sweep_up(tmp_path)
        assert temporary.exists()
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {*others, "mine"}
    sweep_up(tmp_path / "nowhere")
    sweep_up(tmp_path / "mine" / "below a file")


def test_the_log_gains_rows_and_columns_and_loses_none_on_a_full_disk(tmp_path, monkeypatch):
    log = Log(str(tmp_path), name="log")
    for step, row in enumerate([{"b": 1.0}, {"b": 2.0}, {"a": 3.0}, {"a": 4.0, "b": 5.0}]):
        log.log_metrics(row, step)
        log.save()
    path = tmp_path / "log" / "version_0" / "metrics.csv"
    rows = [{"a": "", "b": "1.0"}, {"a": "", "b": "2.0"}, {"a": "3.0", "b": ""}, {"a": "4.0", "b": "5.0"}]
    assert list(csv.DictReader(path.open())) == [row | {"step": str(k)} for k, row in enumerate(rows)]
    before = path.read_bytes()

    def full(self):
        with open(self.experiment.metrics_file_path, "ab") as handle:
            handle.write(b"6.0,")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log_module.CSVLogger, "save", full)
    for row in ({"a": 6.0}, {"c": 7.0}):  # of columns that are there, and of a new one
        log.log_metrics(row, 4)
        with pytest.raises(OSError, match=re.escape(f"No space left on device: '{path}'")):
            log.save()
        assert path.read_bytes() == before and os.listdir(path.parent) == ["metrics.csv"]


def snapshot(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_auto_begins_goes_on_and_leaves_a_finished_run_alone(images, tmp_path, capsys, recwarn):
    """Damaged checkpoints are passed over; a last step that no interval meets has a checkpoint, too."""
    run, auto = tmp_path / "run", ["--ckpt_path", "auto", "--checkpoint.every_n_train_steps", "3", "--samples.count", "0"]
    auto += ["--throughput.peak", "false", "--model.decay", "false"]  # the same law of the learning rate whatever the steps
    fit(images, run, *auto)
    assert f"there is no checkpoint in {run}/checkpoints; training begins at step 0" in capsys.readouterr().err
    before, prior = snapshot(run), run / "prior.safetensors"
    PriorExport().complete(run / "checkpoints" / "last.ckpt", run, ImageData(str(images)))
    assert snapshot(run) == before
    content, _ = before.pop(prior)
    prior.unlink()
    fit(images, run, *auto)
    assert f"{run}/checkpoints/last.ckpt is at step 4 of 4; training is finished" in capsys.readouterr().err
    assert snapshot(run).pop(prior)[0] == content and before.items() <= snapshot(run).items()
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "hpc_ckpt_1.ckpt")
    (run / "checkpoints" / "last.ckpt").write_bytes(b"damaged")
    capsys.readouterr()
    fit(images, run, *auto, "--trainer.max_steps", "6", "--trainer.enable_progress_bar", "true")
    bar, said = capsys.readouterr()
    assert "last.ckpt is damaged; it is skipped" in said and f"going on from {run}/hpc_ckpt_1.ckpt at step 4" in said
    assert "4/6 [" in bar and "6/6 [" in bar and not any("unreliable" in str(warning.message) for warning in recwarn)
    fit(images, tmp_path / "whole", *auto, "--trainer.max_steps", "6")
    assert (run / "prior.safetensors").read_bytes() == (tmp_path / "whole" / "prior.safetensors").read_bytes()
    before = snapshot(run)
    with pytest.raises(SystemExit) as stop:
        fit(images, run, *auto, "--trainer.max_steps", "9", "--model.patch_sizes", "[4,16]")
    assert stop.value.code == 2 and snapshot(run) == before
    assert f"{run} holds a run with model.init_args.patch_sizes [4, 8] and this run has [4, 16]; " in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        fit(images, run, *auto, "--ckpt_path", str(run / "hpc_ckpt_1.ckpt"), "--model.patch_sizes", "[4,16]")
    assert stop.value.code == 2 and snapshot(run) == before
    assert "the checkpoint's patch_sizes is [4, 8]; wanted [4, 16], the run's" in capsys.readouterr().err


def test_a_signal_amid_accumulated_gradients_waits_for_the_step(images, tmp_path, monkeypatch, capsys):
    """What stops in the middle of the second step has two steps, and goes on to the bits of an unbroken run."""
    options = ["--trainer.accumulate_grad_batches", "2", "--samples.count", "0", "--trainer.val_check_interval", "8"]
    options += ["--checkpoint.every_n_train_steps", "100", "--ckpt_path", "auto", "--throughput.peak", "false"]
    fit(images, tmp_path / "unbroken", *options)
    handlers = [signal.getsignal(number) for number in STOPPING]
    original = PatchDiffusion.training_step

    def signalled(self, batch, batch_idx):
        if batch_idx == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(PatchDiffusion, "training_step", signalled)
        fit(images, tmp_path / "run", *options)
    assert stop.value.code == 1 and "error: stopped by SIGTERM at step 2; " in capsys.readouterr().err
    assert not (tmp_path / "run" / "prior.safetensors").exists()
    assert [signal.getsignal(number) for number in STOPPING] == handlers
    fit(images, tmp_path / "run", *options)
    priors = [(tmp_path / run / "prior.safetensors").read_bytes() for run in ("unbroken", "run")]
    assert priors[0] == priors[1]


def test_auto_passes_over_checkpoints_of_other_settings(tmp_path):
    said = []
    for steps, run in ((9, "other"), (5, "mine"), (3, None)):
        WholeCheckpoints().save_checkpoint({"global_step": steps, **({"run": run} if run else {})}, tmp_path / f"{steps}.ckpt")
    assert newest(tmp_path.glob("*.ckpt"), said.append, "mine") == (tmp_path / "5.ckpt", 5)
    assert said == [f"{tmp_path}/9.ckpt is of a run with other settings; it is skipped"]
    (tmp_path / "5.ckpt").unlink()
    assert newest(tmp_path.glob("*.ckpt"), said.append, "mine") == (tmp_path / "3.ckpt", 3)  # written before there were names


def earlier(folder, **config):
    """What a run of some settings has left: a prior, a checkpoint, a picture, and a link to what is not its own."""
    for name in ("prior.safetensors", "checkpoints/last.ckpt", "samples/1.png", "mine.txt", "../precious.ckpt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "hpc_ckpt_1.ckpt").symlink_to(folder.parent / "precious.ckpt")
    return Earlier(folder, folder / "checkpoints", config)


def test_a_run_of_other_settings_is_refused_or_forgotten(tmp_path):
    config = {"model": {"init_args": {"lr": 1e-3}}, "trainer": {"max_steps": 4, "precision": None}, "samples": {"count": 2}}
    ours, folder = deciding(config), tmp_path / "run"
    assert ours == {"model.init_args.lr": "0.001", "trainer.precision": "null"}
    held = earlier(folder, **config)
    held.refuse_other(ours)
    held.forget_other(ours)
    assert (folder / "prior.safetensors").exists()
    for other, said in (
        ({**ours, "model.init_args.lr": "0.1"}, "run holds a run with model.init_args.lr 0.001 and this run has 0.1; wanted the"),
        ({**ours, "data": "x"}, "run holds a run with data not set and this run has x; .* or --overwrite true"),
    ):
        with pytest.raises(InputError, match=said):
            held.refuse_other(other)
    with pytest.raises(InputError, match="run holds prior.safetensors without the config.yaml of its run"):
        Earlier(folder, folder / "checkpoints", {}).refuse_other(ours)
    held.forget_other(other)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["mine.txt", "precious.ckpt"]
    Earlier(folder, folder / "checkpoints", {}).refuse_other(ours)  # nothing is left to lose


@pytest.mark.slow
def test_fit_overwrites_another_run_only_where_told_to(images, tmp_path, capsys):
    run, quick = tmp_path / "run", ["--samples.count", "0", "--throughput.peak", "false"]
    fit(images, run, *quick)
    before = snapshot(run)
    for words in (("--ema.half_life", "9"), ("--ema.half_life", "9", "--ckpt_path", "auto")):
        with pytest.raises(SystemExit) as stop:
            fit(images, run, *quick, *words)
        assert stop.value.code == 2 and snapshot(run) == before
        assert f"{run} holds a run with ema.half_life 20000 and this run has 9; " in capsys.readouterr().err
    fit(images, run, *quick, "--ema.half_life", "9", "--overwrite", "true", "--ckpt_path", "auto", "--trainer.max_steps", "2")
    fit(images, tmp_path / "fresh", *quick, "--ema.half_life", "9", "--trainer.max_steps", "2")
    assert (run / "prior.safetensors").read_bytes() == (tmp_path / "fresh" / "prior.safetensors").read_bytes()
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("every", ["2", "100"])
def test_a_signal_in_a_validation_breaks_it_off_and_the_run_goes_on_from_its_checkpoint(
    every, images, tmp_path, monkeypatch, capsys
):
    options = ["--samples.count", "0", "--trainer.val_check_interval", "2", "--checkpoint.every_n_train_steps", every]
    fit(images, tmp_path / "unbroken", *options)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(PatchDiffusion, "validation_step", lambda *rest: signal.raise_signal(signal.SIGTERM))
        fit(images, tmp_path / "run", *options)
    assert stop.value.code == 1 and "error: stopped by SIGTERM in the validation at step 2; " in capsys.readouterr().err
    fit(images, tmp_path / "run", *options, "--ckpt_path", "auto")
    assert "last.ckpt at step 2" in capsys.readouterr().err
    priors = [(tmp_path / run / "prior.safetensors").read_bytes() for run in ("unbroken", "run")]
    assert priors[0] == priors[1]
