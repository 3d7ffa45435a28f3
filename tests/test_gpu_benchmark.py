"""The benchmark for GPUs: tried without one, its rows follow from each other, and its contract tells a device that errs."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import carry, contract
from benchmarks.gpu.runner import Context, Part, Row, answers, rows_of, run
from padis_lightning.data.phantoms import ChestPhantoms

ROOT = Path(__file__).parent.parent
#: what a machine with a GPU may lack; part (c) fails
BARE = """
import sys
for name in "jsonargparse pydantic wandb typeshed_client astra torch_radon deepinv tifffile pydicom nibabel".split():
    sys.modules[name] = None
from benchmarks.gpu import __main__ as command
def broken(context):
    yield "a solve", lambda: 1 / 0
command.PARTS = [part._replace(measurements=broken) if part.letter == "c" else part for part in command.PARTS]
sys.exit(command.main(sys.argv[1:]))
"""


def read(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def context(tmp_path, device="cpu"):
    return Context(device, True, None, tmp_path)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """A folder with slices of four patients to train on and to test on."""
    folder, phantoms = tmp_path_factory.mktemp("data"), ChestPhantoms(12, seed=3)
    images = np.stack([phantoms.image(k, 64) for k in range(12)])
    patients = np.repeat(["a", "b", "c", "d"], 3)
    for name in command.FILES:
        np.savez_compressed(folder / name, images=images, patient=patients, range=[-1000, 1000])
    return folder


@pytest.mark.slow
def test_all_of_it_runs_on_a_processor_of_a_bare_machine_though_a_part_fails(slices, tmp_path):
    words = ["--minutes", "100", "--out", str(tmp_path), "--device", "cpu", "--tiny", "--data", str(slices)]
    done = subprocess.run([sys.executable, "-c", BARE, *words], cwd=ROOT, capture_output=True, text=True)
    rows = read(tmp_path)
    failed = [row for row in rows if row["status"].startswith("failed")]
    assert [(row["part"], row["status"]) for row in failed] == [("c", "failed: ZeroDivisionError: division by zero")], done.stderr
    assert done.returncode == 1
    assert list(dict.fromkeys(row["part"] for row in rows)) == list("abcdefg")
    found = {row["name"]: row for row in rows}
    skipped = {row["status"] for row in rows if row["status"].startswith("skipped")}
    assert {f"skipped: {name} is not installed" for name in ("astra", "torch_radon")} <= skipped
    assert not any("no time" in reason for reason in skipped)
    for row in rows:
        seconds, unit, details = row["details"].get("seconds"), row["unit"], row["details"]
        if row["status"] == "measured":
            assert math.isfinite(row["value"])
        for count, per in (("evaluations", "images/s"), ("patches", "patches/s"), ("bytes", "GB/s"), ("operations", "TFLOP/s")):
            if unit == per and seconds is not None:
                scale = {"GB/s": 1e9, "TFLOP/s": 1e12}.get(per, 1)
                assert row["value"] == pytest.approx(details[count] / seconds / scale), row["name"]
    one, two = (found[f"{name}, batch 1"] for name in ("published, float32", "bfloat16"))
    assert two["details"]["times_published"] == pytest.approx(two["value"] / one["value"])
    assert 0 < two["details"]["difference_from_published"] < 0.05
    assert found["float32, batch 2"]["details"]["difference_from_published"] < 1e-5
    rate = found["matrix products of 256x256, bfloat16"]["value"]
    assert two["details"]["share_of_bf16_rate"] == pytest.approx(two["details"]["tflops"] / rate)
    psnr = {name: found[f"20 views of 64x64, {name}"]["value"] for name in ("TV", "PnP-ADMM 50")}
    assert found["gain of the prior over TV"]["value"] == pytest.approx(psnr["PnP-ADMM 50"] - psnr["TV"])
    assert found["training of ct256.yaml"]["details"]["steps"] == 3 and (tmp_path / "prior.safetensors").is_file()
    table = (tmp_path / "table.md").read_text()
    assert all(f"## ({letter}) " in table for letter in "abcdefg") and "division by zero" in table


def test_a_part_ends_at_its_share_and_leaves_what_it_saves_to_the_rest(tmp_path):
    def slow(context):
        for k in range(100):
            yield f"nap {k}", lambda: [Row("a nap", time.sleep(0.1) or 1.0)]

    def quick(context):
        yield "left", lambda: [Row("left", context.left, "s")]

    parts = [Part("x", "naps", 1, slow), Part("y", "quick", 1, quick), Part("z", "last", 2, quick)]
    start = time.perf_counter()
    assert run(parts, context(tmp_path), minutes=4 / 60) == (True, ())
    rows = read(tmp_path)
    naps = Counter(row["status"] for row in rows if row["part"] == "x" and row["name"] != "the part")
    assert naps["measured"] <= 10 and naps["skipped: no time was left"] >= 90  # a second of four
    left = {row["part"]: row["value"] for row in rows if row["name"] == "left"}
    assert left["y"] <= 1.0 < left["z"] <= 3.0 and left["z"] > 2 * left["y"]
    assert time.perf_counter() - start < 4


def test_rows_are_written_at_once_and_those_of_other_parts_are_kept(tmp_path):
    def peeking(context):
        yield "first", lambda: [Row("first", 1.0)]
        yield "second", lambda: [Row("second", float(len(read(tmp_path))))]

    both = [Part("x", "one", 1, peeking), Part("y", "two", 1, peeking)]
    run(both, context(tmp_path), 1)
    assert [row["value"] for row in read(tmp_path) if row["name"] == "second"] == [1.0, 4.0]
    run(both[:1], context(tmp_path), 1)
    assert [row["part"] for row in read(tmp_path)] == ["y"] * 3 + ["x"] * 3
    assert (tmp_path / "table.md").read_text().count("| second |") == 2


def test_what_cannot_be_measured_is_a_row(tmp_path):
    def measurements(context):
        yield "a package", lambda: __import__("no_such_package")
        yield "an error", lambda: {}["key"]
        yield "the next", lambda: [Row("the next", 2.0)]
        raise RuntimeError("two\nlines")

    rows = list(rows_of(Part("x", "title", 1, measurements), context(tmp_path)))
    assert [(row.name, row.status) for row in rows] == [
        ("a package", "skipped: no_such_package is not installed"),
        ("an error", "failed: KeyError: 'key'"),
        ("the next", "measured"),
        ("title", "failed: RuntimeError: two lines"),
    ]


def test_a_device_that_no_longer_answers_is_left_to_another_process(tmp_path, monkeypatch):
    """The first part leaves the device dead; the command runs the rest anew, and the exit code is 1."""
    calls = []
    monkeypatch.setattr("benchmarks.gpu.runner.answers", lambda device: False)
    monkeypatch.setattr(command, "PARTS", [Part(letter, letter, 1, lambda context: []) for letter in "xyz"])
    monkeypatch.setattr(command.subprocess, "run", calls.append)
    assert answers("cpu")
    assert command.main(["--minutes", "1", "--out", str(tmp_path), "--device", "cpu", "--tiny"]) == 1
    ((*_, first, second, last),) = calls
    assert (first, second, last) == ("y", "z", "--tiny")
    assert [row["part"] for row in read(tmp_path)] == ["x"]


class Other(str):
    """A name of the processor that a test can tell from it."""


@pytest.fixture
def wrong_device(monkeypatch):
    """A device on which weights and constants are one percent off."""
    to = nn.Module.to

    def moved(self, *args, **options):
        out = to(self, *args, **options)
        if any(isinstance(arg, Other) for arg in args):
            with torch.no_grad():
                for value in (*out.parameters(), *out.buffers()):
                    if value.is_floating_point() and value.layout == torch.strided:
                        value.mul_(1.01)
        return out

    monkeypatch.setattr(nn.Module, "to", moved)
    return Other("cpu")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("UniformBlur, float32", "adjoint"), ("DDPMpp, random tiling, float32", "denoised"), ("training step, float32", "loss")],
)
def test_the_contract_tells_a_device_that_errs(name, kind, tmp_path, wrong_device):
    def rows(device):
        found = dict(contract.measurements(context(tmp_path, device)))
        return {row.name: row for row in found[name]()}

    wanted = f"{name.removesuffix(', float32')}, {kind}, float32"
    assert rows("cpu")[wanted].status == "measured" and rows("cpu")[wanted].value == 0
    wrong = rows(wrong_device)[wanted]
    assert wrong.status.startswith("failed: the relative error is ") and wrong.value > 1e-3


@pytest.mark.parametrize("factor", [1 + 2e-5, math.nan])
def test_an_operator_may_be_off_by_its_tolerance_and_no_more(factor):
    values, more = {"y": torch.ones(5, dtype=torch.float64)}, {"y": factor * torch.ones(5, dtype=torch.float64)}
    near = {"y": (1 + 5e-6) * values["y"]}
    assert next(contract.compared("A", "operator", lambda: values, lambda: near)).status == "measured"
    assert next(contract.compared("A", "operator", lambda: values, lambda: more)).status.startswith("failed: ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--minutes", "0"], "--minutes is 0; wanted a value above 0"),
        (["--data", "nowhere"], "--data is nowhere; wanted a folder with ct_train.npz and ct_test.npz"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(words, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["--out", str(tmp_path / "out"), "--device", "cpu", *words])
    assert caught.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="no checkout")
def test_what_travels_is_small():
    assert 1e6 < carry.tracked_bytes() < carry.MOST / 2


def test_slices_to_carry_come_from_all_patients_and_fit(slices, tmp_path):
    full = sum((slices / name).stat().st_size for name in command.FILES)
    written = carry.carry(slices, tmp_path, most=int(0.7 * full), tests=4)
    assert 0.3 * full < written <= 0.7 * full
    with np.load(tmp_path / "ct_train.npz") as train, np.load(tmp_path / "ct_test.npz") as test:
        assert set(train["patient"]) == set(test["patient"]) == set("abcd") and len(test["images"]) == 4
        assert len(train["images"]) == len(train["patient"]) and train["range"].tolist() == [-1000, 1000]
