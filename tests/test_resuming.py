"""What predict has done is not done again, what it has not is done to the same bits, and what cannot be done is named."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors import safe_open
from safetensors.torch import save_file

from padis_lightning.callbacks import Results
from padis_lightning.cli import main
from padis_lightning.data.batches import share
from padis_lightning.data.datamodule import ImageData
from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import InputError
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.operators.identity import Identity
from padis_lightning.priors import GaussianPrior, PatchPrior
from padis_lightning.random import Generators
from padis_lightning.results.records import Records
from padis_lightning.signals import Signals, Stopped
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.dps import DPS
from padis_lightning.solvers.kept_state import KeptState
from padis_lightning.solvers.plug_and_play import PnPADMM
from padis_lightning.solvers.pseudo_inverse import PseudoInverse
from padis_lightning.solvers.tv import TotalVariation
from padis_lightning.types import Batch

from .conftest import small_model, write_images
from .test_solvers import SOLVERS

WALKING = [name for name in SOLVERS if not name.startswith("PseudoInverse")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, a prior, and the results ``whole`` of a run."""
    folder = tmp_path_factory.mktemp("place")
    write_images(folder / "images.npz")
    model = small_model()
    model.image_shape, model.pad = (1, 16, 16), (8, 8)
    model.save(folder / "prior.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(place):
    """A run of nine images in batches of two; a function of its folder and of what is to be otherwise."""

    def run(output, count=9, make=DDS, steps=4, shards=1, shard=0, overwrite=False, **trainer):
        data = ImageData(path=str(place / "images.npz"), count=count, batch_size=2, shards=shards, shard=shard)
        results = Results({"fbp": PseudoInverse}, report_images=3, keep_every=0, overwrite=overwrite)
        solver = make(PatchPrior(str(place / "prior.safetensors")), ParallelBeam(16, views=6), noise_std=0.01, steps=steps)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        Trainer(accelerator="cpu", callbacks=[results], default_root_dir=output, **quiet, **trainer).predict(
            solver, data, return_predictions=False
        )
        return results.lacking

    assert run(place / "whole") == ""
    return run


@pytest.fixture
def whole(run, place, tmp_path):
    """The results of a run that nothing has touched, and at ``out`` beside it a copy to go on with."""
    shutil.copytree(place / "whole", tmp_path / "out")
    return place / "whole"


@pytest.fixture(scope="module")
def command(place):
    """A run of two images from the command line; a function of its folder and further arguments."""

    def command(output, *extra):
        main([
            "predict", "--config", "ct20.yaml", "--model", "DDS", "--model.steps", "4", "--operator.size", "16",
            "--operator.views", "6", "--data.size", "null", "--data.path", str(place / "images.npz"), "--data.count", "2",
            "--prior.checkpoint", str(place / "prior.safetensors"), "--results.baselines", "{}", "--output", str(output),
            "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", *extra,
        ])  # fmt: skip

    command(place / "told")
    return command


def contents(folder):
    """Every file of a folder but those that say when and how long."""
    volatile = ("records", "metrics.csv", "summary.json", "report.json", "report.html", "run.json", "config.yaml")
    files = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] not in volatile]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def scores(folder):
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def forbid(*_args):
    raise AssertionError("something was solved")


def test_a_rerun_solves_nothing_and_makes_the_table_again(run, whole, tmp_path, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.joinpath("out", "arrays").iterdir()}
    first = scores(tmp_path / "out")
    (tmp_path / "out" / "metrics.csv").unlink()
    monkeypatch.setattr(DDS, "step", forbid)
    run(tmp_path / "out")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.joinpath("out", "arrays").iterdir()}
    assert scores(tmp_path / "out") == first and len(first) == 9
    assert "PSNR" in capsys.readouterr().out
    assert not list((tmp_path / "out" / "unfinished").glob("*"))


def test_what_is_lacking_or_damaged_is_solved_again_to_the_same_bits(run, whole, tmp_path):
    out = tmp_path / "out"
    names = sorted(path.stem for path in (out / "arrays").iterdir())
    (out / "records" / f"{names[0]}.json").unlink()  # never finished
    damaged = out / "arrays" / f"{names[3]}.npy"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (out / "images" / f"{names[4]}.png").unlink()
    (out / "records" / f"{names[5]}.json").write_text('{"row": {"ind')
    alone = out / "arrays" / f"{names[7]}.npy"
    kept = alone.stat().st_mtime_ns
    run(out)
    assert contents(out) == contents(whole) and scores(out) == scores(whole)
    assert alone.stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--model.steps", "5"], "holds results with model.init_args.steps 4 and this run has 5"),
        (["--trainer.precision", "bf16-true"], "holds results with trainer.precision null and this run has bf16-true"),
    ],
)
def test_other_settings_are_refused_by_the_first_difference(command, place, change, sentence, capsys):
    before = contents(place / "told"), (place / "told" / "config.yaml").read_bytes()
    with pytest.raises(SystemExit) as stop:
        command(place / "told", *change)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and sentence in said
    assert "wanted the same, another --output, or --results.overwrite true" in said
    assert before == (contents(place / "told"), (place / "told" / "config.yaml").read_bytes())


def test_another_solver_and_other_images_are_refused(run, whole):
    with pytest.raises(InputError, match="whole holds results with solver.* and this run has "):
        run(whole, make=DPS)
    with pytest.raises(
        InputError, match="whole holds results of 9 images and this run has 5, of which '.*' of '.*' .* is in one"
    ):
        run(whole, count=5)


def test_another_prior_is_refused_whatever_its_name_and_the_same_one_taken_under_another(command, place, tmp_path, capsys):
    copy = tmp_path / "copy.safetensors"
    shutil.copy(place / "prior.safetensors", copy)
    command(place / "told", "--prior.checkpoint", str(copy), "--prior.chunk_size", "3")
    model = PatchModel.load(copy)
    with torch.no_grad():
        next(model.denoiser.parameters())[0] += 1e-3
    model.save(copy)
    with pytest.raises(SystemExit):
        command(place / "told", "--prior.checkpoint", str(copy))
    assert "holds results with weights " in capsys.readouterr().err


def test_overwriting_leaves_nothing_of_the_other_run(run, whole, tmp_path):
    run(tmp_path / "out", count=4, overwrite=True)
    run(tmp_path / "fresh", count=4)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh") and len(scores(tmp_path / "out")) == 4
    kept = next((tmp_path / "out" / "arrays").iterdir())
    before = kept.stat().st_mtime_ns
    run(tmp_path / "out", count=4, overwrite=True)  # of the same settings: kept
    assert kept.stat().st_mtime_ns == before


class Killed(BaseException):
    """Ends a run as a signal does: nothing catches it."""


def kill(monkeypatch, number):
    """Let a solve die once, in a step counted from 1, and return the list of steps."""
    calls, step = [], DDS.step

    def counted(self, *args):
        calls.append(1)
        if len(calls) == number:
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(DDS, "step", counted)
    return calls


def test_a_run_that_is_killed_in_a_solve_goes_on_in_it(run, place, tmp_path, monkeypatch):
    whole = place / "whole"
    calls = kill(monkeypatch, 11)  # the third step of the third batch
    with pytest.raises(Killed):
        run(tmp_path / "out")
    assert len(list((tmp_path / "out" / "unfinished").iterdir())) == 1
    run(tmp_path / "out")
    assert len(calls) == 4 * 5 + 1  # five batches of four steps; only the killed one was tried twice
    assert contents(tmp_path / "out") == contents(whole) and scores(tmp_path / "out") == scores(whole)


def test_a_command_that_was_killed_takes_up_no_state_of_other_settings(command, tmp_path, monkeypatch):
    """Killed in the middle of a solve and run again with other views: as a clean run, and nothing of the first is left."""
    kill(monkeypatch, 3)
    with pytest.raises(Killed):
        command(tmp_path / "out", "--results.keep_every", "0")
    unfinished = tmp_path / "out" / "unfinished"
    assert len([*unfinished.iterdir()]) == 1
    changed = ["--operator.views", "8", "--results.overwrite", "true"]
    command(tmp_path / "out", *changed)
    command(tmp_path / "clean", *changed)
    assert not [*unfinished.iterdir()]
    assert contents(tmp_path / "out") == contents(tmp_path / "clean") and scores(tmp_path / "out") == scores(tmp_path / "clean")


def test_a_folder_that_is_removed_meanwhile_is_no_fault_of_the_input(command, tmp_path, monkeypatch, capsys):
    step = DDS.step
    monkeypatch.setattr(DDS, "step", lambda *args: shutil.rmtree(tmp_path / "out", ignore_errors=True) or step(*args))
    with pytest.raises(SystemExit) as stop:
        command(tmp_path / "out")
    said = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 1 and "out was removed while the run went on; wanted a folder that stays" in said


def test_a_command_begins_again_where_its_state_lacks_parts(command, place, tmp_path, monkeypatch):
    kill(monkeypatch, 3)
    with pytest.raises(Killed):
        command(tmp_path, "--results.keep_every", "0")
    state = next((tmp_path / "unfinished").iterdir())
    save_file({"x": torch.zeros(1)}, state, {"about": json.dumps({"steps": 2})})
    command(tmp_path)
    assert contents(tmp_path) == contents(place / "told") and not state.exists()


@pytest.mark.parametrize("name", WALKING)
def test_every_solver_goes_on_from_its_state_to_the_same_bits(model, name, tmp_path):
    solver = SOLVERS[name](PatchPrior(model), ParallelBeam(20, views=5))
    y = torch.empty(2, 0) if "Ancestral" in name else torch.ones(2, 1, 5, 40)
    steps: list[int] = []

    def die_at(last: int | None) -> list[int]:
        steps.clear()
        solver.loop.observers[:] = [lambda x: steps.append(1) or _die(len(steps) == last)]
        return steps

    def _die(now: bool) -> None:
        if now:
            raise Killed

    total = die_at(None)
    whole = solver.solve(y, Generators.keyed(0, [3, 4]))
    last = len(total) - 1
    solver.loop.attach(kept=KeptState(tmp_path, every=0))
    solver.loop.begin([3, 4])
    die_at(last)
    with pytest.raises(Killed):
        solver.solve(y, Generators.keyed(0, [3, 4]))
    left = die_at(None)
    assert torch.equal(solver.solve(y, Generators.keyed(0, [3, 4])), whole) and len(left) == 2
    left.clear()  # all steps are done, as where a signal comes in a baseline
    assert torch.equal(solver.solve(y, Generators.keyed(0, [3, 4])), whole) and not left


def test_a_state_of_other_settings_or_images_is_not_taken_up(tmp_path):
    """Killed with one level of noise and run with another: as if nothing had been kept."""

    def solver(noise, settings, indices):
        solver = DDS(GaussianPrior((1, 6, 6), 0.5, 0.2), Identity((1, 6, 6)), noise_std=noise, steps=6)
        solver.loop.attach(kept=KeptState(tmp_path, every=0, settings=settings))
        solver.loop.begin(indices)
        return solver

    y = torch.ones(1, 1, 6, 6)
    first = solver(0.1, "a", [0]).solve(y, Generators.keyed(0, [0]))
    assert torch.equal(solver(0.5, "a", [0]).solve(y, Generators.keyed(0, [0])), first)  # the settings are the key
    clean = DDS(GaussianPrior((1, 6, 6), 0.5, 0.2), Identity((1, 6, 6)), noise_std=0.5, steps=6)
    expected = clean.solve(y, Generators.keyed(0, [0]))
    assert torch.equal(solver(0.5, "b", [0]).solve(y, Generators.keyed(0, [0])), expected)
    assert torch.equal(solver(0.5, "a", [1]).solve(y, Generators.keyed(0, [0])), expected)


@pytest.mark.parametrize("make", [TotalVariation, PnPADMM])
def test_loops_stop_at_a_signal_with_their_state_kept(make, tmp_path):
    prior, operator = GaussianPrior((1, 20, 20), 0.5, 0.2), ParallelBeam(20, views=5)
    y, signals = torch.ones(1, 1, 5, 40), Signals()
    solver = make(operator, iterations=9) if make is TotalVariation else make(prior, operator, steps=9)
    whole = solver.solve(y, Generators.keyed(0, [0]))
    solver.loop.attach(kept=KeptState(tmp_path, every=1e9), signals=signals)
    solver.loop.begin([0])
    seen = []
    solver.loop.observers.append(lambda x: seen.append(1) or setattr(signals, "number", 15 if len(seen) == 4 else 0))
    with pytest.raises(Stopped, match="stopped by SIGTERM; the same command goes on where this one stopped"):
        solver.solve(y, Generators.keyed(0, [0]))
    assert len(seen) == 4
    signals.number = 0
    assert torch.equal(solver.solve(y, Generators.keyed(0, [0])), whole) and len(seen) == 9


ABOUT = {"steps": 2, "seconds": 0.0, "diverged": {}}
STREAM = torch.Generator().get_state()
DAMAGED = {  # what a state says of itself, and its tensors
    "no header": None,
    "nothing said": ({}, {}),
    "text for numbers": (ABOUT | {"steps": "x"}, {}),
    "endless steps": (ABOUT | {"steps": float("inf")}, {}),
    "steps before the first": (ABOUT | {"steps": -1}, {}),
    "endless seconds": (ABOUT | {"seconds": float("inf")}, {}),
    "a list of what diverged": (ABOUT | {"diverged": [1]}, {}),
    "another image diverged": (ABOUT | {"diverged": {"7": "x"}}, {}),
    "no image": (ABOUT, {"x": None}),
    "another image": (ABOUT, {"x": torch.zeros(1, 1, 6, 5)}),
    "no stream": (ABOUT, {".streams": None}),
    "a number for streams": (ABOUT, {".streams": torch.tensor(1, dtype=torch.uint8)}),
    "a short stream": (ABOUT, {".streams": STREAM[None, :9].clone()}),
    "zeros for a stream": (ABOUT, {".streams": torch.zeros_like(STREAM)[None]}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_state_counts_as_none(name, tmp_path):
    solver = DDS(GaussianPrior((1, 6, 6), 0.5, 0.2), Identity((1, 6, 6)), noise_std=0.1, steps=6)
    y = torch.ones(1, 1, 6, 6)
    expected = solver.solve(y, Generators.keyed(0, [0]))
    solver.loop.attach(kept=KeptState(tmp_path, every=0))
    solver.loop.begin([0])
    solver.solve(y, Generators.keyed(0, [0]))
    with safe_open(solver.loop.kept.path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    about, changed = DAMAGED[name] or ({}, {})
    tensors = {key: value for key, value in {**tensors, **changed}.items() if value is not None}
    save_file(tensors, solver.loop.kept.path, {"about": json.dumps(about)})
    if DAMAGED[name] is None:
        solver.loop.kept.path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    assert torch.equal(solver.solve(y, Generators.keyed(0, [0])), expected)


class Poisoned(GaussianPrior):
    """Not finite for images that are bright, from a level on."""

    def forward(self, x, sigma, generator):
        broken = (x.flatten(1).mean(1) > 2)[:, None, None, None] & (sigma < 0.5)
        return torch.where(broken, torch.nan, super().forward(x, sigma, generator))


def test_an_image_that_diverges_is_named_and_the_others_are_as_without_it():
    solver = DDS(Poisoned((1, 6, 6), 0.5, 0.2), Identity((1, 6, 6)), noise_std=0.1, steps=20, clip=False)
    y = torch.stack([torch.full((1, 6, 6), value) for value in (0.3, 9.0, 0.6)])
    batch = Batch(torch.tensor([4, 5, 6]), list("abc"), list("abc"), None, y)
    found = solver.predict_step(batch)
    assert found.failures[0] is None and found.failures[2] is None
    level = next(k for k, sigma in enumerate(solver.sigmas, 1) if sigma < 0.5)
    assert found.failures[1].startswith(f"DDS diverged at step {level} of 20, sigma {solver.sigmas[level - 1]:.3g}")
    for place in (0, 2):
        alone = Batch(*(part[place : place + 1] if part is not None else None for part in batch))
        assert torch.equal(found.estimate[place], solver.predict_step(alone).estimate[0])


def test_images_that_diverge_are_named_and_tried_again(run, place, tmp_path, monkeypatch, capsys):
    forward = PatchPrior.forward

    def poisoned(self, x, sigma, generator):
        out = forward(self, x, sigma, generator)
        return torch.where((torch.arange(len(x)) == 1)[:, None, None, None] & (sigma < 0.1), torch.nan, out)

    monkeypatch.setattr(PatchPrior, "forward", poisoned)
    lacking = run(tmp_path / "out")
    said = capsys.readouterr().err
    whole, rows = scores(place / "whole"), scores(tmp_path / "out")
    failed = [row["name"] for row in whole][1::2]
    assert lacking.startswith(f"4 images failed ({', '.join(failed)}; {failed[0]}: DDS diverged at step ")
    assert all(f"image {name} failed: DDS diverged at step " in said for name in failed)
    assert [row["name"] for row in rows if row["psnr"] == ""] == failed and rows[::2] == whole[::2]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["n"] == 5 and list(summary["failed"]) == failed
    assert summary["psnr"] == pytest.approx(np.mean([float(row["psnr"]) for row in whole[::2]]))
    assert not list((tmp_path / "out").glob(f"*/{failed[0]}.np*"))
    assert f"In out 4 failed: {', '.join(failed)}." in (tmp_path / "out" / "report.html").read_text()
    monkeypatch.setattr(PatchPrior, "forward", forward)
    run(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(place / "whole") and scores(tmp_path / "out") == whole


def test_a_command_whose_image_failed_ends_with_exit_code_1(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(DDS, "solve", lambda self, y, generator: torch.full((len(y), 1, 16, 16), torch.nan))
    with pytest.raises(SystemExit) as stop:
        command(tmp_path / "out")
    said = capsys.readouterr().err
    assert stop.value.code == 1 and "error: 2 images failed (" in said and "tries the others again" in said


def test_shards_in_one_folder_make_what_one_run_makes(run, place, tmp_path, capsys):
    whole, out = place / "whole", tmp_path / "out"
    for shard in (2, 0):
        run(out, shards=3, shard=shard)
    assert not (out / "metrics.csv").exists()
    assert "6 of 9 images are in" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["gather", str(out)])
    missing = [row["name"] for row in scores(whole)][2:4] + [scores(whole)[8]["name"]]
    said = capsys.readouterr().err
    assert stop.value.code == 1 and f"3 images are missing ({', '.join(missing)})" in said
    run(out, shards=3, shard=1)
    assert contents(out) == contents(whole) and scores(out) == scores(whole)
    (out / "metrics.csv").unlink()
    main(["gather", str(out)])
    assert scores(out) == scores(whole)


def test_every_batch_is_solved_once_whatever_is_done():
    """Any shards and devices: each item that is not done comes once, in the batch that it has without them."""
    whole = share(23, 4)
    assert [place for batch in whole for place in batch] == list(range(23))
    for done in ((), {0, 1, 2, 3, 5, 20, 21, 22}):
        for shards in (1, 2, 4, 7):
            for world in (1, 3):
                parts = [share(23, 4, done, s, shards, r, world) for s in range(shards) for r in range(world)]
                solved = sorted(batch for part in parts for batch in part)
                assert solved == [batch for batch in whole if not set(batch) <= set(done)]


def test_a_record_cannot_make_a_run_remove_what_is_outside(tmp_path):
    (tmp_path / "precious").write_text("x")
    records = Records(tmp_path / "out")
    (tmp_path / "out" / "records").mkdir(parents=True)
    for name, path in {"a": "../precious", "b": str(tmp_path / "precious")}.items():
        (tmp_path / "out" / "records" / f"{name}.json").write_text(json.dumps({"row": {}, "files": {path: ""}}))
    records.forget()
    assert (tmp_path / "precious").exists()


def test_determinism_mode_is_the_trainers(run, tmp_path):
    """All operations have deterministic algorithms, the network's gradients in DPS included."""
    try:
        for folder in ("one", "two"):
            run(tmp_path / folder, count=2, make=DPS, steps=2, deterministic=True, inference_mode=False)
    finally:
        torch.use_deterministic_algorithms(False)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
