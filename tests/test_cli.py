"""The command line from end to end, in process."""

from __future__ import annotations

import csv
import importlib.util
import inspect
import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from padis_lightning.cli import main
from padis_lightning.commands import COMMANDS
from padis_lightning.ct import Geometry
from padis_lightning.data.sources.open import read_geometry
from padis_lightning.diffusion import PatchModel
from padis_lightning.messages.configs import CONFIGS, find_config
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.registry import subclasses
from padis_lightning.solvers import Solver

from .conftest import write_images

CT = ["psnr_of_range", "ssim_of_range", "haarpsi", "error_hu"]
SMALL_NETWORK = ["--model.network.base", "8", "--model.network.multipliers", "[1,2]", "--model.network.blocks", "1"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]

BASELINES = "{fbp: PseudoInverse, tv: {class_path: TotalVariation, init_args: {weight: 2.0e-5, iterations: 5}}}"


def fit(images, output, *extra):
    main([
        "fit", "--config", "ct.yaml", "--data.path", str(images), "--data.size", "null", "--data.batch_size", "3",
        "--model.patch_sizes", "[4,8]", "--model.patches", "6", "--trainer.max_steps", "4", "--output", str(output),
        "--trainer.val_check_interval", "2", "--samples.steps", "3", "--trainer.log_every_n_steps", "1", "--export.half", "false",
        *SMALL_NETWORK, *QUIET, *extra,
    ])  # fmt: skip


def predict(output, *extra):
    main([
        "predict", "--config", "ct20.yaml", "--output", str(output), "--operator.size", "16", "--operator.views", "6",
        "--model.steps", "3", "--data.size", "null", "--results.baselines", BASELINES, *QUIET, *extra,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.fixture(scope="module")
def prior(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    fit(images, folder)
    return folder / "prior.safetensors"


def test_fit_leaves_a_prior_checkpoints_a_log_and_its_config(prior):
    folder = prior.parent
    assert PatchModel.load(prior).training["steps"] == 4
    log = list(csv.DictReader((folder / "log" / "version_0" / "metrics.csv").open()))
    assert any(row["val/loss"] for row in log) and any(row["train/loss"] for row in log)
    shares = [float(row["train/share_of_peak"]) for row in log if row["train/share_of_peak"]]
    speeds = [float(row["train/patches_per_second"]) for row in log if row["train/patches_per_second"]]
    assert len(shares) == len(speeds) == 4 and 0 < min(shares) and max(shares) < 1 and min(speeds) > 0
    assert Image.open(folder / "samples" / "step_0000004.png").size == (4 * 20 - 4, 16)
    from_checkpoint = PatchModel.load(folder / "checkpoints" / "last.ckpt")
    for a, b in zip(from_checkpoint.denoiser.parameters(), PatchModel.load(prior).denoiser.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (folder / "config.yaml").is_file()


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_training_in_a_precision_that_the_device_imitates_says_that_it_is_slow(images, tmp_path, capsys, monkeypatch, precision):
    monkeypatch.setattr("padis_lightning.cli.has_bfloat16", lambda device: False)
    fit(images, tmp_path, "--trainer.precision", precision, "--trainer.max_steps", "2")
    said = capsys.readouterr().err
    assert f"training in {precision} precision" in said and ("imitates bfloat16" in said) == (precision != "32-true")


@pytest.mark.parametrize("solver", ["DDS", "DPS"])
def test_predict_leaves_arrays_pictures_scores_and_a_page(images, prior, tmp_path, solver):
    out = tmp_path / "out"
    predict(
        out, "--data.path", str(images), "--prior.checkpoint", str(prior), "--model", solver, "--model.steps", "3",
        "--data.batch_size", "5",
    )  # fmt: skip
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert list(rows[0]) == ["index", "name", "psnr", "ssim", "residual", "seconds", "evaluations", *CT, "distance"]
    assert [int(row["index"]) for row in rows] == list(range(12))
    truth = np.load(images)["images"].astype(float)
    for row in rows:
        estimate = np.load(out / "arrays" / f"{row['name']}.npy")
        error = np.square(estimate.clip(0, 2000) - truth[int(row["index"])]).mean() / 2000**2
        assert float(row["psnr"]) == pytest.approx(-10 * np.log10(error), abs=0.01)
        assert (out / "images" / f"{row['name']}.png").read_bytes()[:4] == b"\x89PNG"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["n"] == 12 and summary["groups"] == 4 and summary["solver"] == solver
    assert summary["psnr"] == pytest.approx(np.mean([float(row["psnr"]) for row in rows]))
    assert set(summary["baselines"]) == {"fbp", "tv"} and "interval" in summary["gain"]["tv"]
    assert {"psnr", "ssim", "residual", "seconds_per_image", "evaluations"} <= set(summary["baselines"]["tv"])
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 12 * 5  # truth, sinogram, fbp, tv, estimate
    assert "http" not in page.split("</style>")[1].split("<pre>")[0]
    assert not list(out.rglob("*.part"))


def test_results_do_not_depend_on_the_batch_and_the_config_replays_them(images, prior, tmp_path):
    options = ["--data.path", str(images), "--prior.checkpoint", str(prior), "--results.baselines", "{}"]
    predict(tmp_path / "a", *options, "--data.batch_size", "5")
    predict(tmp_path / "b", *options, "--data.batch_size", "1")
    main(["predict", "--config", str(tmp_path / "a" / "config.yaml"), "--output", str(tmp_path / "c")])
    for name in ("0000", "0006", "0011"):
        a, b, c = (np.load(tmp_path / run / "arrays" / f"{name}.npy") for run in "abc")
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=0.02)
        np.testing.assert_array_equal(a, c)


def test_a_measured_sinogram_is_solved_and_only_its_residual_scored(prior, images, tmp_path):
    operator = ParallelBeam(16, angles=[0.1 * k for k in range(9)], bins=30, pixel_spacing=0.5, bin_spacing=0.4)
    truth = torch.from_numpy(np.load(images)["images"].astype(np.float32))[:2, None] / 2000
    geometry = {"angles": [0.1 * k for k in range(9)], "size": 16, "pixel_spacing": 0.5, "bin_spacing": 0.4}
    y = 0.04 * operator(truth)[:, 0].numpy()  # attenuation: 1 stands for 0.04
    np.savez(tmp_path / "measured.npz", y=y, range=[0, 0.04], **geometry)
    out = tmp_path / "out"
    predict(out, "--data.path", str(tmp_path / "measured.npz"), "--prior.checkpoint", str(prior), "--model.steps", "9")
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert len(rows) == 2 and rows[0]["psnr"] == "" and float(rows[0]["residual"]) < 0.1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["psnr"] is None and summary["residual"] < 0.1
    assert np.load(out / "arrays" / "0000.npy").max() < 0.05


def test_a_fan_measurement_is_kept_with_its_scan_and_solved_from_the_file(images, tmp_path, capsys):
    """Photon noise, a finer grid to simulate on, and a second run that needs nothing but what the first one kept."""
    kept, out = tmp_path / "kept", tmp_path / "out"
    fan = ["--operator", "FanBeam", "--operator.size", "16", "--operator.views", "30", "--operator.curved", "true"]
    quick = ["--model", "TotalVariation", "--model.iterations", "30", "--results.baselines", "{}"]
    noise = ["--model.noise", "PoissonNoise", "--model.noise.photons", "1e6", "--model.oversampling", "2"]
    main(["predict", "--config", "ct20.yaml", "--output", str(kept), *quick,
          "--data.path", str(images), "--data.size", "null", "--data.count", "2", *fan, *noise, *QUIET,
          "--results.measurements", "true", "--results.geometry", "true"])  # fmt: skip
    summary = json.loads((kept / "summary.json").read_text())
    assert summary["noise"]["name"] == "PoissonNoise" and summary["oversampling"] == 2
    assert "projections by a sparse matrix of" in capsys.readouterr().err
    measured = sorted((kept / "measurements").glob("*.npz"))
    assert len(measured) == 2 and Image.open(kept / "geometry.png").size == (640, 680)
    scan = read_geometry(measured[0])
    assert scan == Geometry.load(kept / "geometry.json") and scan.curved and len(scan.angles) == 30
    main(["predict", "--config", "ct20.yaml", "--output", str(out), *quick,
          "--data.path", str(measured[0]), "--operator.backend", "sparse",
          *noise[:4], *QUIET])  # fmt: skip
    assert json.loads((out / "summary.json").read_text())["residual"] < 0.2
    again = 2000 * np.load(out / "arrays" / "0000.npy")
    first = np.load(kept / "arrays" / f"{measured[0].stem}.npy")
    np.testing.assert_allclose(again, first, atol=0.1)
    # what is measured elsewhere is of means over pixels, which its file says when it is kept
    np.savez(tmp_path / "other.npz", **{key: value for key, value in np.load(measured[0]).items() if key != "pixels"})
    main(["predict", "--config", "ct20.yaml", "--output", str(tmp_path / "third"), *quick, "--data.path",
          str(tmp_path / "other.npz"), *QUIET, "--results.measurements", "true"])  # fmt: skip
    (third,) = (tmp_path / "third" / "measurements").glob("*.npz")
    assert [str(np.load(path)["pixels"]) for path in (measured[0], third)] == ["points", "means"]


def test_several_samples_leave_their_mean_their_deviation_and_a_coverage(images, prior, tmp_path):
    out = tmp_path / "out"
    predict(out, "--data.path", str(images), "--prior.checkpoint", str(prior), "--model.samples", "3", "--data.count", "2")
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    columns = ["index", "name", "psnr", "ssim", "residual", "seconds", "evaluations", "deviation", "coverage", "sample_psnr"]
    assert list(rows[0]) == [*columns, *CT, "distance"]
    assert len(rows) == 2 and all(int(row["evaluations"]) == 9 and 0 <= float(row["coverage"]) <= 1 for row in rows)
    drawn = np.load(out / "samples" / f"{rows[0]['name']}.npy")
    assert drawn.shape == (3, 16, 16)
    np.testing.assert_allclose(drawn.mean(0), np.load(out / "arrays" / f"{rows[0]['name']}.npy"), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(drawn.std(0, ddof=1), np.load(out / "deviation" / f"{rows[0]['name']}.npy"), rtol=1e-3, atol=1e-2)
    assert json.loads((out / "summary.json").read_text())["coverage"] == pytest.approx(
        np.mean([float(row["coverage"]) for row in rows])
    )


PAPERS_NETWORK = [
    "--model.network", "DDPMpp", "--model.network.base", "16", "--model.network.multipliers", "[1,2]",
    "--model.network.blocks", "1", "--model.network.dropout", "0.2",
]  # fmt: skip


@pytest.mark.parametrize(
    "network",
    [pytest.param([], id="UNet"), pytest.param(PAPERS_NETWORK, id="DDPMpp with dropout", marks=pytest.mark.slow)],
)
def test_a_resumed_run_is_the_unbroken_one_to_the_bit(images, tmp_path, network):
    """Ten steps are three and seven, in the middle of the data, with averaged weights."""
    options = ["--trainer.val_check_interval", "5", "--checkpoint.every_n_train_steps", "3", "--checkpoint.save_top_k", "-1"]
    options += ["--trainer.max_steps", "10", "--samples.count", "1", "--samples.steps", "2", *network]
    fit(images, tmp_path / "whole", *options)
    broken_off = next((tmp_path / "whole" / "checkpoints").glob("*step=3.ckpt"))
    fit(images, tmp_path / "resumed", *options, "--ckpt_path", str(broken_off))
    whole, resumed = (PatchModel.load(tmp_path / run / "prior.safetensors") for run in ("whole", "resumed"))
    assert whole.training == resumed.training
    for a, b in zip(whole.denoiser.parameters(), resumed.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)
    last = [torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("whole", "resumed")]
    for name, value in last[0]["current_model_state"].items():  # the weights that are trained, besides their average
        assert torch.equal(value, last[1]["current_model_state"][name])
    assert (tmp_path / "whole/samples/step_0000010.png").read_bytes() == (
        tmp_path / "resumed/samples/step_0000010.png"
    ).read_bytes()


def test_a_resumed_run_follows_its_command_line(images, tmp_path):
    fit(images, tmp_path / "a")
    last = str(tmp_path / "a" / "checkpoints" / "last.ckpt")
    fit(images, tmp_path / "b", "--ckpt_path", last, "--trainer.max_steps", "6", "--model.lr", "1e-12")
    a, b = (torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in "ab")
    assert b["global_step"] == 6
    moved = max(float((v - b["current_model_state"][k]).abs().max()) for k, v in a["current_model_state"].items())
    assert moved < 1e-10  # at the checkpoint's rate it would be 1e-3


def bad_inputs(images, prior, tmp):
    wide = tmp / "wide.npz"
    np.savez(wide, images=np.zeros((3, 16, 16), np.uint16), hu_window=np.array([-1000, 3000]))
    last = str(prior.parent / "checkpoints" / "last.ckpt")
    fit_file, predict_file = ["fit", "--config", "ct.yaml"], ["predict", "--config", "ct20.yaml"]
    with_prior = [*predict_file, "--prior.checkpoint", str(prior), "--operator.size", "16"]
    return {
        "solver key": ([*predict_file, "--model.speed", "3"], "'speed' is not a key of PnPADMM; wanted one of .*steps.*seed"),
        "patch": ([*fit_file, "--model.patch_sizes", "[24,256]"], "patch size 256 is larger than the image of 128x128"),
        "window": (
            [*with_prior, "--data.path", str(wide), "--data.size", "16"],
            r"window is \(-1000.0, 3000.0\) HU; wanted \(-1000.0, 1000.0\) HU",
        ),
        "other checkpoint": (
            [
                *fit_file, "--data.path", str(images), "--data.size", "8", "--ckpt_path", last,
                "--model.patch_sizes", "[4,8]", *SMALL_NETWORK,
            ],
            r"the checkpoint's image_shape is \[1, 16, 16\]; wanted \[1, 8, 8\], the run's",
        ),
        "wrong model": ([*predict_file, "--model", "PatchDiffusion", "--model.network", "UNet"], "wanted a solver"),
        "sigma": ([*with_prior, "--model.sigma_min", "99"], "sigma_max is .* and sigma_min 99"),
        "inference": (
            [
                *with_prior, "--data.path", str(images), "--data.size", "null", "--model", "DPS",
                "--trainer.inference_mode", "true",
            ],
            "trainer.inference_mode is true; wanted false",
        ),
    }  # fmt: skip


def test_bad_input_gets_one_sentence_and_leaves_nothing(images, prior, tmp_path, capsys):
    problems = bad_inputs(images, prior, tmp_path)
    for name, (args, sentence) in problems.items():
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([*args, "--output", str(tmp_path / "out"), *QUIET])
        lines = capsys.readouterr().err.splitlines()
        said = [line for line in lines if line.startswith("padis_lightning: ")]  # a note would be another line
        assert stop.value.code == 2, name
        assert len(said) == 1, (name, said)
        assert re.search(sentence, said[0]), (name, said[0])
        assert not (tmp_path / "out").exists(), name


def test_generate_draws_from_any_prior_and_needs_nothing_measured(prior, tmp_path):
    out = tmp_path / "out"
    main(["predict", "--config", "generate.yaml", "--prior.checkpoint", str(prior), "--model.steps", "5", "--data.count", "3",
          "--data.batch_size", "2", "--output", str(out), *QUIET])  # fmt: skip
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert len(rows) == 3 and all(row["psnr"] == row["residual"] == "" for row in rows)
    drawn = [np.load(out / "arrays" / f"{row['name']}.npy") for row in rows]
    assert drawn[0].shape == (16, 16) and not np.array_equal(drawn[0], drawn[1])
    assert (out / "report.html").is_file() and json.loads((out / "summary.json").read_text())["residual"] is None


RUNS = {  # what keeps a run of a solver short where three steps do not, and its evaluations
    "DPS": (["--model.steps", "2", "--model.inner", "2"], 4), "DAPS": (["--model.steps", "2"], 4),
    "MMPS": (["--model.steps", "2"], 2), "PnPDM": (["--model.steps", "2", "--model.prior_steps", "2"], 4),
    "Langevin": (["--model.steps", "2", "--model.inner", "2"], 4), "PredictorCorrector": (["--model.steps", "3"], 5),
    "TotalVariation": (["--model.iterations", "5"], 0), "WaveletL1": (["--model.iterations", "5"], 0), "PseudoInverse": ([], 0),
}  # fmt: skip


OURS = (cls for cls in subclasses(Solver) if cls.__module__.startswith("padis_lightning.") and not inspect.isabstract(cls))


DENOISING = {"BM3D", "PosteriorMean", "PublishedDenoiser"}  # tests of their own run them


@pytest.mark.parametrize("solver", sorted({cls.__name__ for cls in OURS} - {"Ancestral"} - DENOISING))
def test_every_solver_runs_from_the_command_line(images, prior, tmp_path, solver):
    """By its name alone, in place of the config's; the table says how many evaluations were asked for."""
    words, evaluations = RUNS.get(solver, (["--model.steps", "3"], 3))
    main([
        "predict", "--config", "ct20.yaml", "--model", solver, *words, "--output", str(tmp_path / "out"),
        "--operator.size", "16", "--operator.views", "6", "--data.path", str(images), "--data.size", "null", "--data.count", "2",
        "--prior.checkpoint", str(prior), "--results.baselines", "{}", *QUIET,
    ])  # fmt: skip
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["solver"] == solver and summary["evaluations"] == evaluations and summary["psnr"] > 5


@pytest.mark.parametrize("solver", ["DDS", "PnPADMM"])
def test_an_animation_ends_with_the_estimate(images, prior, tmp_path, solver):
    """A frame a step; the last state of ``DDS`` is its result, that of a splitting is the denoised half, which is near."""
    predict(
        tmp_path / "out", "--data.path", str(images), "--prior.checkpoint", str(prior), "--model", solver, "--model.steps", "4",
        "--data.count", "3", "--data.batch_size", "2", "--results.baselines", "{}", "--trainer.callbacks+=Animation",
    )  # fmt: skip
    for path in (tmp_path / "out" / "arrays").glob("*.npy"):
        with Image.open(tmp_path / "out" / "animations" / f"{path.stem}.gif") as film:
            assert film.n_frames == 4
            film.seek(3)
            last = np.asarray(film.convert("L"), dtype=float)
        estimate = 255 * np.load(path).clip(0, 2000) / 2000
        assert np.abs(last - estimate).mean() < (2 if solver == "DDS" else 30)


def test_divergence_is_one_sentence_and_another_exit_code(images, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        fit(images, tmp_path / "fit", "--model.sigma_data", "1e30")
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 1 and "error: the gradient is not finite at step 0, patch size" in said
    assert not (tmp_path / "fit" / "prior.safetensors").exists()


def run_alone(code):
    """Run code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_help_of_commands_waits_for_no_library():
    calls = "".join(
        f"\nwith suppress(SystemExit): main([*{words!r}.split(), '--help'])"
        for words in ("", "report", "gather", "prepare", "doctor", "sweep", "import", "convert", "publish")
    )
    heavy = "[m for m in ('torch', 'numpy', 'lightning', 'jsonargparse') if m in sys.modules]"
    done = run_alone(
        f"import sys\nfrom contextlib import suppress\nfrom padis_lightning.commands import main{calls}\nprint({heavy})"
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert all(re.search(rf"^  {name} +\w+ .*\w$", done.stdout, re.M) for name in COMMANDS)
    assert {"fit", "predict", "convert", "doctor", "gather", "import", "prepare", "publish", "report", "sweep"} == set(COMMANDS)
    assert all(importlib.util.find_spec(place.partition(":")[0]) for place, _ in COMMANDS.values())


@pytest.mark.parametrize("flag", ["", "-u"])
def test_a_reader_that_goes_away_gets_no_complaint(flag):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, *flag.split(), "-m", "padis_lightning", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 141 and done.stderr == ""


@pytest.mark.parametrize("config", ["ct20.yaml", "cone.yaml"])
def test_a_copied_config_is_the_shipped_one_wherever_it_lies(config, tmp_path, monkeypatch):
    """Its parts are found among the shipped ones; one that lies beside it goes before."""
    (tmp_path / "mine").mkdir()
    copy = tmp_path / "mine" / "copy.yaml"
    copy.write_text((CONFIGS / config).read_text())
    monkeypatch.chdir(tmp_path)
    assert printed("--config", str(copy)) == printed("--config", config)
    (tmp_path / "mine" / "operator").mkdir()
    (tmp_path / "mine" / "operator" / f"{yaml.safe_load(copy.read_text())['operator'].split('/')[1]}").write_text("Identity")
    assert printed("--config", "mine/copy.yaml")["operator"]["class_path"].endswith("Identity")
    assert printed("--config", config, "--operator", "operator/ct8.yaml")["operator"]["init_args"]["views"] == 8


def printed(*args):
    """The settings of a command that ends before it runs."""
    text = io.StringIO()
    with pytest.raises(SystemExit), redirect_stdout(text):
        main(["predict", *args, "--print_config"])
    return yaml.safe_load(text.getvalue())


def test_another_solver_brings_its_own_settings_and_keeps_the_noise():
    """Levels of a splitting are no levels to start a diffusion from; what all solvers have stays."""
    given = ["predict", "--config", find_config("ct8.yaml"), "--model.noise_std", "0.1"]
    asked = {
        "as it is": [],
        "the same": ["--model", "PnPADMM", "--model.steps", "7"],
        "another": ["--model", "DDS", "--model.steps", "7"],
        "written otherwise": ["--model=padis_lightning.solvers.dds.DDS"],
    }
    found = {}
    for name, more in asked.items():
        found[name] = printed(*given[1:], *more)["model"]["init_args"]
    assert all(settings["noise_std"] == 0.1 for settings in found.values())
    same, another = found["the same"], found["another"]
    assert found["as it is"]["sigma_max"] is same["sigma_max"] is None and same["steps"] == 7
    assert another["sigma_max"] == 1.0 and another["sigma_min"] == 0.002 and another["steps"] == 7 and "penalty" not in another
    assert found["written otherwise"] == {**another, "steps": 100}


def test_options_win_over_configs_wherever_they_stand():
    asked = ["--data.batch_size", "3", "--model", "RED", "--model.steps", "7"]
    found = printed(*asked, "--config", "ct8.yaml")
    assert found == printed("--config", "ct8.yaml", *asked) and found["model"]["init_args"]["steps"] == 7
    assert found == printed("--config", "ct8.yaml", *asked[:2], *asked[4:], *asked[2:4])  # the model after its options
    later = printed("--config", "ct8.yaml", "--data.batch_size", "3", "--config", "ct20.yaml")
    assert later["data"]["init_args"]["batch_size"] == 3 and later["operator"]["init_args"]["views"] == 20


@pytest.mark.parametrize("config", sorted(p.name for p in CONFIGS.glob("*.yaml")))
def test_every_config_parses(config, capsys):
    text = (CONFIGS / config).read_text()
    command = "fit" if "PatchDiffusion" in text else "predict"
    with pytest.raises(SystemExit) as stop:
        main([command, "--config", config, "--print_config"])
    assert stop.value.code in (0, None) and "class_path" in capsys.readouterr().out


WANTS_A_SCAN = "scan.yaml"


def test_a_config_without_an_operator_asks_for_a_scan(tmp_path, capsys):
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 16, 16), np.float32))
    given = {"there is no data": [], "images.npz holds no scan": ["--data.path", str(tmp_path / "images.npz")]}
    for seen, words in given.items():
        with pytest.raises(SystemExit) as stop:
            main(["predict", "--config", WANTS_A_SCAN, "--output", str(tmp_path / "out"), *words])
        said = capsys.readouterr().err
        assert stop.value.code == 2 and f"{seen} and the config names no operator; wanted --data.path of a measured scan" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # test_wandb runs the same once
def test_wandb_is_one_flag_away_and_works_offline(images, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for _ in range(2):  # a second run into the same folder goes on
        fit(images, tmp_path / "fit", "--trainer.logger", "WandbLogger", "--trainer.max_steps", "1")
    assert list((tmp_path / "fit" / "wandb").glob("offline-run-*"))
