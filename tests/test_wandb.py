"""What W&B gets from a run without an account, read back from its files."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from padis_lightning import machine
from padis_lightning.callbacks.tracking import complete_wandb_options
from padis_lightning.training import PatchDiffusion
from tests.test_cli import fit, predict
from tests.wandb_runs import runs_in

WANDB, QUICK = ["--trainer.logger", "WandbLogger"], ["--throughput.peak", "false", "--samples.count", "1"]


@pytest.fixture(autouse=True)
def without_account(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_BASE_URL", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, "")  # so that it is put back whatever the test leaves
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def pixels(path):
    return np.asarray(Image.open(path))


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_fit_and_predict_tell_settings_metrics_pictures_and_the_prior(images, tmp_path):
    out = tmp_path / "mine"
    both = f"[{{class_path: WandbLogger}}, {{class_path: CSVLogger, init_args: {{save_dir: {out}, name: log}}}}]"
    fit(images, out, "--trainer.logger", both, *QUICK)
    (run,) = runs_in(out)
    assert (run.name, run.project, run.exit_code) == ("mine", "padis_lightning", 0)
    assert run.config["trainer"]["max_steps"] == 4 and run.config["data"]["init_args"]["path"] == str(images)
    for row in csv.DictReader((out / "log" / "version_0" / "metrics.csv").open()):
        values = {key: float(value) for key, value in row.items() if value and key not in ("step", "epoch")}
        (line,) = (line for line in run.history if values.items() <= line.items())
        assert line["trainer/global_step"] == int(row["step"])
    samples = sorted((out / "samples").glob("*.png"))
    assert len(samples) == 2
    for ours, theirs in zip(samples, run.media("samples"), strict=True):
        np.testing.assert_array_equal(pixels(ours), pixels(theirs))
    (content,) = run.artifacts["model"].manifest.contents
    assert digest(content.local_path) == digest(out / "prior.safetensors") == run.config["prior_file"]["sha256"]

    # predict: settings, summary, a table, pictures and the prior of fit
    trained, out = run, tmp_path / "out"
    prior = ["--prior.checkpoint", str(tmp_path / "mine" / "prior.safetensors")]
    predict(out, "--data.path", str(images), *prior, "--data.count", "3", "--tracking.pictures", "2", *WANDB)
    (run,) = runs_in(out)
    assert run.config["model"]["init_args"]["steps"] == 3 and run.exit_code == 0
    summary = json.loads((out / "summary.json").read_text())
    assert run.summary["psnr"] == summary["psnr"] and run.summary["baselines/tv/ssim"] == summary["baselines"]["tv"]["ssim"]
    assert run.summary["gain/tv/interval/low"] == summary["gain"]["tv"]["interval"][0]
    rows, kept = run.table("images"), list(csv.DictReader((out / "metrics.csv").open()))
    assert [row["name"] for row in rows] == [row["name"] for row in kept] and len(rows) == 3
    assert [row["psnr"] for row in rows] == [float(row["psnr"]) for row in kept]
    means = np.mean([row["tv psnr"] for row in rows])
    assert means == pytest.approx(summary["baselines"]["tv"]["psnr"])
    shown = [pixels(path) for path in run.media("examples")]
    assert len(shown) == 2
    for name, picture in zip((rows[0]["name"], rows[1]["name"]), shown, strict=True):
        np.testing.assert_array_equal(picture, pixels(out / "images" / f"{name}.png"))
    made, used = trained.artifacts["model"], run.artifacts["model"]
    assert (made.name, made.digest) == (used.name, used.digest)  # by which the server knows that it is the same


def test_a_run_that_breaks_off_is_marked_as_failed(images, tmp_path, monkeypatch):
    def break_off(self, batch, index):
        raise RuntimeError("broken")

    monkeypatch.setattr(PatchDiffusion, "training_step", break_off)
    with pytest.raises(SystemExit, match="1"):
        fit(images, tmp_path / "fit", *WANDB, *QUICK)
    (run,) = runs_in(tmp_path / "fit")
    assert run.exit_code == 1 and "model" not in run.artifacts


@pytest.mark.parametrize("answers", [False, True])
def test_a_key_without_a_network_keeps_the_run_offline(answers, monkeypatch, tmp_path):
    """A server that takes no connections, and one that takes them and says nothing; one that refuses is there."""
    monkeypatch.setattr(machine, "PATIENCE", 0.3)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if answers:
            server.listen()
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", address)
        options = SimpleNamespace(name=None, project=None, offline=False)
        said = complete_wandb_options(options, str(tmp_path / "out"))
    reason = "timed out|no answer in 0.3 s" if answers else "Connection refused"
    assert re.fullmatch(rf".*{address} cannot be reached \(.*({reason})\); W&B keeps the run in {tmp_path}/out/wandb, .*", said)
    assert os.environ["WANDB_MODE"] == "offline" and (options.name, options.project) == ("out", "padis_lightning")


def test_a_server_that_answers_anything_is_there(monkeypatch, tmp_path):
    class Forbidding(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Forbidding) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        (tmp_path / "settings").write_text(f"[default]\nbase_url = http://127.0.0.1:{server.server_port}\n")
        monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
        assert machine.why_unreachable(machine.wandb_server()) is None


def test_a_prior_that_is_bundled_is_known_by_its_bytes(images, tmp_path):
    out = tmp_path / "out"
    predict(out, "--operator.size", "128", "--data.size", "128", "--data.path", str(images), "--data.count", "1", *WANDB,
            "--model.steps", "2", "--results.baselines", "{}", "--prior.checkpoint", "ct_phantoms")  # fmt: skip
    (run,) = runs_in(out)
    assert digest(run.config["prior_file"]["path"]) == run.config["prior_file"]["sha256"]
    assert run.artifacts["model"].name == f"prior-{run.config['prior_file']['sha256'][:12]}"
