"""What comes with the package does what the docs say."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from benchmarks.samples import draw
from padis_lightning.cli import main
from padis_lightning.data.generators import ObjectSource, PhantomSource
from padis_lightning.messages.configs import CONFIGS
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import FixedTiling, PatchPrior, RandomTiling
from padis_lightning.random import Generators
from padis_lightning.solvers.dds import DDS

pytestmark = pytest.mark.slow


def expected(path):
    """The PSNR that a shipped config's head names, the number of items and the options that go with it; None without one."""
    found = re.search(r"^# Expected: ([\d.]+) dB with (--data.count (\d).*)$", path.read_text(), re.MULTILINE)
    return found and (float(found[1]), int(found[3]), found[2].split())


SHIPPED = {path.name: expected(path) for path in sorted(CONFIGS.glob("*.yaml"))}


def test_every_config_that_reconstructs_names_its_psnr():
    """One draws from the prior, and one asks for a scan."""
    without = {name for name, value in SHIPPED.items() if not value and "PatchDiffusion" not in (CONFIGS / name).read_text()}
    assert without == {"generate.yaml", "scan.yaml"}


LONG = {"ct20_padis.yaml", "cone.yaml"}  # minutes
#: least gain over total variation in dB and most evaluations, of the configs whose baselines are judged, too
GAINS = {
    "ct20.yaml": (2.0, 50),
    "sr4x.yaml": (0.1, 30),
    "deblur.yaml": (0.0, 30),
    "inpaint.yaml": (1.0, 24),
    "denoise.yaml": (1.5, 1),
    "mri8x.yaml": (5.0, 50),
}


def predicted(config, folder, *options):
    """The summary of a config that was run as it is but for these options, and one iteration of baselines that none judges."""
    words = ["--output", str(folder), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    if config not in GAINS and "tv: " in (CONFIGS / config).read_text():
        words += ["--results.baselines.tv.init_args.iterations", "1"]
    main(["predict", "--config", config, *options, *words])
    summary = json.loads((folder / "summary.json").read_text())
    assert (folder / "report.html").is_file()
    if config != "generate.yaml":
        assert len(summary["baselines"]) == 2 and 0 <= summary["residual"] < 1 and summary["psnr"] > 5
    return summary


@pytest.mark.parametrize("config", [name for name, value in SHIPPED.items() if value and name not in LONG])
def test_a_shipped_config_gives_what_its_head_says(config, tmp_path):
    """Within 0.02 dB, on as few items as the head names, with its baselines, and above them where it says so."""
    value, count, options = SHIPPED[config]
    summary = predicted(config, tmp_path, *options)
    assert summary["n"] == count and summary["psnr"] == pytest.approx(value, abs=0.02)
    assert config != "ct20.yaml" or summary["residual"] < 2e-3
    if config in GAINS:
        gain, evaluations = GAINS[config]
        assert summary["gain"]["tv"]["psnr"] > gain and summary["evaluations"] <= evaluations
        assert len(summary["gain"]) == 2 and all(other["psnr"] > 0 for other in summary["gain"].values())


@pytest.mark.parametrize("config", [*sorted(LONG), "generate.yaml"])
def test_the_other_configs_run_as_they_are_with_few_steps(config, tmp_path):
    steps = "10" if "padis" in config else "2"  # from sigma 10 two levels are too far apart
    assert predicted(config, tmp_path, "--model.steps", steps, "--data.count", "1")["n"] == 1


def test_draws_have_no_seams_at_tile_borders():
    images, found = draw("ct_phantoms", RandomTiling(), 12, 60)
    assert images.std() > 0.1 and images.mean() > 0.05  # there is something to see
    assert abs(sum(found) / len(found) - 1) < 0.1
    assert abs(sum(found[-10:]) / 10 - 1) < 0.1
    _, fixed = draw("ct_phantoms", FixedTiling(), 1, 60)
    assert fixed[-1] > 3  # a fixed grid leaves its seams, so the measure sees them


def test_together_equals_alone_in_single_precision():
    source = PhantomSource(3, 128, 7)
    solver = DDS(PatchPrior("ct_phantoms"), ParallelBeam(128, 20), steps=20)
    with torch.no_grad():
        y = solver.operator(torch.stack([source[k].image for k in range(3)]))
        together = solver.solve(y, Generators.keyed(0, range(3)))
        alone = torch.cat([solver.solve(y[k : k + 1], Generators.keyed(0, [k])) for k in range(3)])
    assert (together - alone).abs().max() < 1e-5


def test_a_noisy_scan_of_an_object_is_solved_by_one_command(tmp_path):
    """Nothing but the scan is given: its axis, its range and its noise are found, and the prior is above total variation."""
    size, noise = 96, 0.01
    operator = ParallelBeam(size, views=30, bins=150, pixel_spacing=1.0)
    truth = ObjectSource(9, size, 12).image(8)[None]
    y = operator(truth)
    y = y + noise * y.square().mean().sqrt() * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    about = {"angles": operator.geometry.angles, "size": size, "pixel_spacing": 1.0, "bin_spacing": 1.0}
    shifted = torch.roll(y, 7, -1)[:, 0].numpy()
    np.savez(tmp_path / "scan.npz", y=0.02 * shifted, **about)
    np.savez(tmp_path / "truth.npz", images=0.02 * truth[0].numpy(), range=[0, 0.02])
    args = ["predict", "--config", "scan.yaml", "--data.path", str(tmp_path / "scan.npz"), "--output", str(tmp_path / "out")]
    main([*args, "--data.reference", str(tmp_path / "truth.npz"), "--trainer.enable_progress_bar", "false"])
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["gain"]["tv"]["psnr"] > 0.5 and summary["gain"]["fbp"]["psnr"] > 5 and summary["psnr"] > 26
    found = json.loads((tmp_path / "out/geometry.json").read_text())
    assert found["bin_offset"] == pytest.approx(-7, abs=0.5)


def test_reconstructions_alone_bring_the_bundled_prior_nearer_to_objects(tmp_path):
    """A tenth of the steps of ``finetune.yaml`` on what was found of 12 objects, without their truth: others are found better."""
    scan = ["--config", "ct20.yaml", "--data.builtin", "objects", "--operator.views", "60", "--model.noise_std", "0.05"]
    scan += ["--model.steps", "10", "--results.baselines", "{}", "--results.report_images", "0"]
    ours = str(tmp_path / "own" / "prior.safetensors")

    def run(command, name, *words):
        quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
        main([command, *words, "--output", str(tmp_path / name), *quiet])

    run("predict", "found", *scan, "--data.count", "12")
    short = ["--trainer.max_steps", "60", "--trainer.val_check_interval", "60", "--export.reference", "0"]
    run("fit", "own", "--config", "finetune.yaml", "--data.path", str(tmp_path / "found"), *short)
    psnr = []
    for name, prior in (("theirs", "ct_phantoms"), ("ours", ours)):
        run("predict", name, *scan, "--data.seed", "1", "--data.count", "4", "--prior.checkpoint", prior)
        psnr.append(json.loads((tmp_path / name / "summary.json").read_text())["psnr"])
    assert psnr[1] > psnr[0] + 0.1
