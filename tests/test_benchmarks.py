"""The benchmark of training runs, and what it counts obeys its laws."""

from __future__ import annotations

import argparse
import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import (
    adaptation,
    intervals,
    mri,
    operators,
    patients,
    preparing,
    resolution,
    settings,
    simulation,
    solvers,
    volumes,
)
from benchmarks.training.__main__ import main
from padis_lightning.ct import PROJECTORS
from padis_lightning.data.generators import BrainSource
from padis_lightning.data.phantoms import ChestPhantoms
from padis_lightning.data.sources.open import open_source, read_geometry
from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import InputError
from padis_lightning.mri import to_complex
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.networks.unet import UNet
from padis_lightning.noise import GaussianNoise
from padis_lightning.operators.ct import FanBeam, ParallelBeam
from padis_lightning.operators.finer_scan import FinerScan
from padis_lightning.operators.slices import Slices
from padis_lightning.priors import PatchPrior
from padis_lightning.solvers.adaptation import Adaptation
from padis_lightning.solvers.plug_and_play import PnPADMM
from padis_lightning.solvers.pseudo_inverse import PseudoInverse

FOLDER = Path(settings.__file__).parent

PROGRAMS = [path for path in sorted(FOLDER.rglob("*.py")) if "parse_args" in path.read_text()]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_programs_end_as_commands_do_where_input_cannot_be_used(path, monkeypatch, capsys):
    def refuse(parser, words=None):
        raise InputError("it is this; wanted that")

    if path.stem == "interop":
        pytest.importorskip("deepinv")
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", refuse)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 2 and capsys.readouterr().err == "padis_lightning: error: it is this; wanted that\n"


@pytest.mark.parametrize("network", [UNet(base=16), DDPMpp(base=16, blocks=1, dropout=0.0)], ids=["UNet", "DDPMpp"])
def test_operations_grow_with_the_pixels(network):
    few, many = network.operations(32), network.operations(64)
    assert many / few == pytest.approx(4, rel=0.05)  # attention in the bottleneck adds a little


def test_operations_of_a_convolution_are_the_closed_form():
    network = UNet(base=8, multipliers=[1], blocks=0, fold=1)
    head, tail = 2 * 3 * 8 * 9, 2 * 8 * 1 * 9  # of a pixel: products and sums of 3x3 kernels
    embedding = 2 * (9 * 8 + 8 * 8)
    assert network.operations(16) == (head + tail) * 256 + embedding


@pytest.mark.slow
def test_the_benchmark_leaves_finite_ratios_and_a_plot(tmp_path, capsys):
    main(["--quick", "--device", "cpu", "--output", str(tmp_path)])
    figures = json.loads((tmp_path / "training.json").read_text())
    assert "no GPU at hand" in capsys.readouterr().out or figures["machine"]["gpu"]
    ratios = [row["median"] for work in figures["speed"] for row in work["ratios"].values()]
    assert ratios and all(math.isfinite(r) and r > 0 for r in ratios)
    pictures = figures["memory"]["whole image / patch"]["one sample a step"]
    assert all(row["pixels"] == (row["image"] / row["patch"]) ** 2 for row in pictures)
    assert (tmp_path / "training_cost.png").read_bytes()[:4] == b"\x89PNG"


def test_the_benchmark_of_operators_times_every_backend_that_is_here(tmp_path, monkeypatch, capsys):
    output = tmp_path / "operators.json"
    arguments = ["operators", "--size", "24", "--batches", "1", "3", "--count", "2", "--device", "cpu", "--output", str(output)]
    monkeypatch.setattr("sys.argv", arguments)
    operators.main()
    figures = json.loads(output.read_text())
    cone = figures.pop("cone 60")["1"]
    assert cone["joseph"]["forward_ratio"] == 1 and cone["fan by slice"]["adjoint"] > 0
    installed = {name for name, cls in PROJECTORS.items() if cls.version() and cls.obstacle(FanBeam(24).geometry) is None}
    for rows in figures.values():
        assert set(rows) == {"1", "3"} and installed <= set(rows["3"])
        assert rows["3"]["sparse"]["forward_ratio"] == 1 and rows["3"]["sparse"]["adjoint"] > 0
    assert "the matrix and its transpose take" in capsys.readouterr().out


@pytest.mark.slow
def test_the_benchmark_of_solvers_ranks_what_it_runs(tmp_path, capsys):
    methods = ["FBP", "TV", "PnP-ADMM 20"]
    solvers.main(["--views", "20", "--count", "2", "--only", *methods, "--device", "cpu", "--output", str(tmp_path)])
    rows = json.loads((tmp_path / "solvers.json").read_text())["20"]
    assert rows["FBP"]["psnr"] + 3 < rows["TV"]["psnr"] < rows["PnP-ADMM 20"]["psnr"] - 1
    assert rows["PnP-ADMM 20"]["evaluations"] == 20 and len(rows["PnP-ADMM 20"]["each"]) == 2
    assert "PnP-ADMM 20" in capsys.readouterr().out and (tmp_path / "solvers.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_benchmark_of_patients_trains_both_kinds_and_compares_them(tmp_path, capsys):
    """Two steps each, on two of five patients; what is trained already is not trained again."""
    phantoms = ChestPhantoms(5, seed=3)
    images = np.stack([phantoms.image(k, 128) for k in range(5)])
    np.savez(tmp_path / "slices.npz", images=images, patient=list("abcde"), range=[-1000, 1000])
    output = tmp_path / "out"
    output.mkdir()
    (output / "plan.json").write_text(json.dumps({"steps": {"patches": 2, "whole images": 3}}))
    data = ["--train", str(tmp_path / "slices.npz"), "--test", str(tmp_path / "slices.npz"), "--subset", "validation"]
    rest = ["--patients", "2", "--views", "20", "--count", "1", "--solvers", "DDS 20", "--output", str(output)]
    patients.main([*data, *rest])
    written = (output / "patches-2" / "prior.safetensors").stat().st_mtime_ns
    rows = json.loads((output / "patients.json").read_text())["20 views, 2 patients, DDS 20"]
    assert set(rows) == {"patches", "larger tiles", "whole images"} and all(row["evaluations"] == 20 for row in rows.values())
    assert PatchModel.load(output / "patches-2" / "prior.safetensors").pad == (16, 16)
    whole = PatchModel.load(output / "whole-2" / "prior.safetensors")
    assert whole.patch_sizes == [128] and whole.pad == (0, 0) and whole.training["steps"] == 3
    gain = rows["patches"]["psnr"] - rows["whole images"]["psnr"]
    assert f"{gain:+.2f}" in capsys.readouterr().out
    patients.main([*data, *rest])
    assert (output / "patches-2" / "prior.safetensors").stat().st_mtime_ns == written


@pytest.mark.slow
def test_the_benchmark_of_preparing_agrees_with_the_plain_loop(images, tmp_path, capsys):
    arguments = ["--data", str(images), "--slices", "200", "--size", "8", "--turns", "1", "--output", str(tmp_path)]
    preparing.main([*arguments, "--folder", str(tmp_path)])
    figures = json.loads((tmp_path / "preparing.json").read_text())
    assert figures["largest difference in steps"] <= 1
    assert figures["prepare"]["peak"] > 1e8 and figures["plain"]["peak"] > 1e7
    assert "largest difference" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.npz", "preparing.json"]


@pytest.mark.slow
def test_the_benchmark_of_volumes_ranks_what_it_has_priors_of_and_measures_memory(tmp_path, capsys):
    sizes = ["--views", "20", "--depth", "3", "--count", "1", "--depths", "2"]
    arguments = [*sizes, "--device", "cpu", "--output", str(tmp_path)]
    volumes.main([*arguments, "--only", "FBP", "slice by slice", "slices, TV in the prior", "cubes"])
    figures = json.loads((tmp_path / "volumes.json").read_text())
    rows = figures["scores"]["20"]
    assert set(rows) == {"FBP", "slice by slice", "slices, TV in the prior"}  # there is no prior of cubes
    assert all(rows["FBP"]["psnr"] + 8 < rows[name]["psnr"] for name in rows if name != "FBP")
    assert rows["FBP"]["consistency"] > rows["slice by slice"]["consistency"] > rows["slices, TV in the prior"]["consistency"]
    assert set(figures["memory"]) == {"in turn", "at once"}
    assert all(set(found) == {"2"} and found["2"] > 1e8 for found in figures["memory"].values())
    assert "peak memory" in capsys.readouterr().out


def test_tuning_settings_takes_the_best_of_each_given_those_before():
    """Of a score with one top, which lies among what is tried, it finds the top."""
    top = {"sigma_max": 0.15, "sigma_min": 0.01, "penalty": 0.003}

    def score(**named):
        return -sum(abs(math.log(value / top[key])) for key, value in named.items())

    found, chosen = settings.tuned(score)
    assert chosen == top and found == pytest.approx(0)


def test_a_row_of_settings_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        settings.main(["--scans", "0", "12"])
    assert ended.value.code == 2 and "--scans: invalid choice: 12" in capsys.readouterr().err


@pytest.mark.slow
def test_the_benchmark_of_settings_leaves_no_tuned_solver_below_what_it_names(tmp_path, monkeypatch):
    """Each row's scores are those of its settings."""
    monkeypatch.setattr(settings, "WEIGHTS", [1e-5])
    settings.main(["--count", "1", "--evaluations", "2", "--scans", "2", "--output", str(tmp_path / "settings.json")])
    (row,) = json.loads((tmp_path / "settings.json").read_text())
    prior, operator, exact = PatchPrior("ct_phantoms"), ParallelBeam(128, 20), GaussianNoise(0.0, "relative")
    data = simulation.measured(simulation.images(None, "all", 128, 1, "cpu", False), operator, exact, False)
    named = {key: row[key] for key in settings.TRIED}
    for key, options in (("tuned", named), ("default", {})):
        found = solvers.measure(PnPADMM(prior, operator, noise=exact, steps=2, **options), data, 1)
        assert row[key] == pytest.approx(found["psnr"], abs=1e-6)
    assert (row["views"], row["arc"], row["noise"]) == (20, 180, 0)


@pytest.mark.slow
def test_the_benchmark_of_adaptation_says_what_solvers_give_and_measures_a_slice_once(tmp_path, capsys):
    words = ["--count", "2", "--evaluations", "2", "--steps", "1", "--views", "8", "--noise", "0.01", "--output", str(tmp_path)]
    adaptation.main(words)
    said, path = capsys.readouterr().out, tmp_path / "adaptation.json"
    rows = json.loads(path.read_text())["8 views, 1 % noise"]
    operator, noise = ParallelBeam(128, 8), GaussianNoise(0.01, "relative")
    data = simulation.measured(simulation.images(None, "all", 128, 2, "cpu", False), operator, noise, False)
    for kind, option in (("plain", None), ("adapted", Adaptation(steps=1))):
        found = solvers.measure(PnPADMM(PatchPrior("ct_phantoms"), operator, noise=noise, steps=2, adaptation=option), data, 2)
        assert [row["psnr"] for row in rows[kind]] == pytest.approx(found["each"], abs=1e-4)
    before = path.stat().st_mtime_ns
    adaptation.main(words)
    assert capsys.readouterr().out == said and path.stat().st_mtime_ns == before


def test_tissues_are_told_by_their_values_inside_the_body(rng):
    """A disc of soft tissue with a lung and a bone in air: each tissue is where it was drawn, edges are between them."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    disc = lambda a, b, r: (y - a).square() + (x - b).square() < r * r  # noqa: E731
    slice_hu = torch.full((64, 64), -1000.0)
    for inside, value in ((disc(32, 32, 28), 40.0), (disc(32, 22, 8), -800.0), (disc(32, 46, 4), 700.0)):
        slice_hu[inside] = value
    found = intervals.tissues(slice_hu[None, None])
    assert torch.equal(found["lung"][0, 0], disc(32, 22, 8)) and torch.equal(found["bone"][0, 0], disc(32, 46, 4))
    assert torch.equal(found["soft tissue"][0, 0], slice_hu == 40)
    assert found["edges"][0, 0, 32, 30] and not found["edges"][0, 0, 32, 22]  # at the border of the lung, and in its middle


def test_a_tissue_without_pixels_has_no_share():
    where = intervals.tissues(torch.full((1, 1, 16, 16), 40.0))
    found = intervals.shares(torch.arange(256).reshape(1, 1, 16, 16) < 192, where)
    assert found["all"] == 0.75 and found["lung"] is found["bone"] is found["edges"] is None


@pytest.mark.slow
def test_the_benchmark_of_intervals_holds_about_what_it_says(tmp_path):
    """On phantoms, with few steps, calibrated intervals hold nine of ten pixels within what four images allow."""
    arguments = ["--steps", "3", "--samples", "2", "--counts", "4", "4", "--output", str(tmp_path / "intervals.json")]
    intervals.main(arguments)
    rows = json.loads((tmp_path / "intervals.json").read_text())
    assert [row["intervals"].split(",")[0] for row in rows] == ["PnPADMM", "DDS", "DDS"]
    assert all(0.75 < row["all"] < 0.98 for row in rows if "calibrated" in row["intervals"])


def sampled(ellipse, size, fine=6):
    """The mean of an ellipse over each pixel of an image that is as wide as the default scan."""
    place = (torch.arange(size * fine, dtype=torch.float64) + 0.5) * 40 / (size * fine) - 20
    across, down = (place - ellipse.centre[0]) / ellipse.axes[0], (-place - ellipse.centre[1]) / ellipse.axes[1]
    inside = (across.square() + down[:, None].square() < 1).float()
    return ellipse.value * inside.unflatten(0, (size, fine)).unflatten(2, (size, fine)).mean((1, 3))


@pytest.mark.parametrize("scan", [ParallelBeam(48, 9), FanBeam(48, 9)], ids=["parallel", "fan"])
def test_scans_on_finer_grids_come_near_to_line_integrals_in_closed_form(scan):
    """Twice as near with twice the pixels, at least: pixels, rays and ellipse agree on where they are."""
    ellipse = resolution.Ellipse(0.4, (6.0, 3.5), (-5.2, 2.3))
    exact, errors = ellipse.projections(scan.geometry), []
    for factor in (1, 2, 4):
        simulator = FinerScan(scan, factor, coarse=False)
        errors.append(float((simulator(sampled(ellipse, 48 * factor)[None, None])[0, 0] - exact).norm() / exact.norm()))
    assert errors[0] < 0.06 and errors[1] < errors[0] / 1.8 and errors[2] < errors[1] / 1.8


def test_benchmarks_measure_detail_that_they_do_not_reconstruct(tmp_path, rng):
    """What is measured is the file's own pixels on the finer grid, the truth their means; without so many, squares."""
    stored = torch.rand(3, 32, 32, generator=rng).numpy()
    np.savez(tmp_path / "slices.npz", images=stored, patient=list("abc"), z=np.arange(3.0), range=[0, 1])
    exact = GaussianNoise(0.0, "relative")
    for size, finer in ((16, True), (32, False)):
        operator = ParallelBeam(size, 7)
        items = simulation.images(str(tmp_path / "slices.npz"), "all", size, 3, "cpu", False)
        assert {item.image.shape[-1] for item in items} == {32}
        simulator = FinerScan(operator, 2, coarse=not finer)
        for item, image in zip(simulation.measured(items, operator, exact, False), stored, strict=True):
            truth = image.reshape(size, 32 // size, size, 32 // size).mean((1, 3))
            assert np.allclose(item.image[0], truth, atol=1e-6)
            assert torch.equal(item.measurement, simulator(torch.from_numpy(image)[None, None])[0])
    (volume,) = (item for item in simulation.measured(
        [items[0]._replace(image=torch.stack([item.image for item in items], 1))], Slices(ParallelBeam(16, 7), 3), exact, False
    ))  # fmt: skip
    alone = simulation.measured(items, ParallelBeam(16, 7), exact, False)
    assert torch.equal(volume.image, torch.stack([item.image for item in alone], 1))
    assert torch.allclose(volume.measurement, torch.stack([item.measurement for item in alone]), atol=1e-5)


def test_the_noise_of_a_benchmark_is_the_share_that_it_names(rng):
    items = simulation.images(None, "all", 64, 2, "cpu", False)
    operator = ParallelBeam(64, 30)
    clean, noisy = (simulation.measured(items, operator, GaussianNoise(s, "relative"), False) for s in (0.0, 0.02))
    for one, other in zip(clean, noisy, strict=True):
        share = (other.measurement - one.measurement).std() / one.measurement.square().mean().sqrt()
        assert float(share) == pytest.approx(0.02, rel=0.05)


def test_simulated_measurements_and_their_truth_are_read_as_they_are(rng, tmp_path):
    np.savez(tmp_path / "slices.npz", images=torch.rand(5, 32, 32, generator=rng).numpy(), patient=["a", "a", "b", "b", "c"])
    asked = ["--data", str(tmp_path / "slices.npz"), "--count", "4", "--size", "16", "--views", "7", "--noise", "0.02"]
    simulation.main([*asked, "--output", str(tmp_path / "measured.npz")])
    items = simulation.images(str(tmp_path / "slices.npz"), "all", 16, 4, "cpu", False)
    expected = simulation.measured(items, ParallelBeam(16, 7), GaussianNoise(0.02, "relative"), False)
    source = open_source(tmp_path / "measured.npz")
    assert len(source) == 4 and read_geometry(tmp_path / "measured.npz") == ParallelBeam(16, 7).geometry
    for item, wanted in zip((source[k] for k in range(4)), expected, strict=True):
        assert item.group == wanted.group and torch.equal(item.image, wanted.image)
        assert torch.equal(item.measurement, wanted.measurement)


def test_with_the_inverse_crime_the_operator_that_reconstructs_simulates():
    """Least squares explains its own measurements; those of a finer grid it does not."""
    operator, exact = ParallelBeam(32, 40), GaussianNoise(0.0, "relative")
    left = {}
    for crime in (True, False):
        data = simulation.measured(simulation.images(None, "all", 32, 1, "cpu", crime), operator, exact, crime)
        solver = PseudoInverse(operator, exact=True, iterations=300, noise=exact)
        left[crime] = solvers.measure(solver, data, 1)["residual"]
    assert left[True] < 1e-3 and left[False] > 10 * left[True]


def test_filtered_back_projection_has_the_resolution_and_the_noise_that_are_known():
    """Bins are as wide as pixels and back-projection interpolates between them: sinc^3. Noise is that of the scan, scaled."""
    operator = ParallelBeam(128, 180)
    spread = []
    for share in (0.005, 0.01):
        noise = GaussianNoise(share, "relative")
        found = resolution.evaluate(PseudoInverse(operator, noise=noise), noise, [800], 4, 2000.0)
        spread.append(found["noise"])
    assert spread[1] == pytest.approx(2 * spread[0], rel=1e-3)
    at, value = (torch.tensor(part) for part in found["edges"]["800"]["curve"])
    pixel = 10 * operator.geometry.pixel_spacing
    seen = at <= 0.3 / pixel
    assert float((value - torch.sinc(at * pixel) ** 3)[seen].abs().max()) < 0.05
    assert found["edges"]["800"]["contrast"] == pytest.approx(800, rel=0.03)
    ring, power = found["spectrum"]
    low = sum(power[:3]) / 3
    assert low < 0.5 * max(power) and found["mean"] > 0.4 * ring[-1]  # a ramp: little noise at low frequencies


@pytest.mark.slow
def test_the_benchmark_of_resolution_sees_what_a_prior_does_to_noise(tmp_path, capsys):
    arguments = ["--count", "3", "--contrasts", "400", "--only", "FBP", "PnP-ADMM 10", "--output", str(tmp_path)]
    resolution.main(arguments)
    rows = json.loads((tmp_path / "resolution.json").read_text())["methods"]
    assert rows["PnP-ADMM 10"]["noise"] < 0.5 * rows["FBP"]["noise"]
    assert all(row["edges"]["400"]["contrast"] == pytest.approx(400, rel=0.15) for row in rows.values())
    assert "PnP-ADMM 10" in capsys.readouterr().out and (tmp_path / "resolution.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_benchmark_of_mri_scores_magnitudes_and_points_that_were_held_out(tmp_path, capsys):
    rows = ["--only", "zero-filled", "TV 0.001", "PnP-ADMM 20", "--output", str(tmp_path)]
    mri.main(["--size", "64", "--count", "1", "--accelerations", "4", *rows])
    simulated = json.loads((tmp_path / "mri.json").read_text())["4"]
    assert simulated["PnP-ADMM 20"]["psnr"] > simulated["TV 0.001"]["psnr"] > simulated["zero-filled"]["psnr"] + 3
    scan, head = mri.operator(64, 2.0), BrainSource(1, 64, 0).image(0)[None]
    y = scan(head) + 0.002 * torch.randn(1, *scan.measurement_shape, generator=torch.Generator().manual_seed(0)) * scan.mask
    np.save(tmp_path / "kspace.npy", to_complex(y)[0].numpy())
    mri.main(["--kspace", str(tmp_path / "kspace.npy"), *rows])
    held_out = json.loads((tmp_path / "mri.json").read_text())
    assert held_out["PnP-ADMM 20"]["error"] < held_out["TV 0.001"]["error"] < held_out["zero-filled"]["error"]
    assert (tmp_path / "kspace.png").stat().st_size > 1000
    points = mri.held_out(scan.mask, 24)
    assert scan.mask[points].all() and 0.4 < points.sum() / scan.mask.sum() < 0.6
    assert "held out" in capsys.readouterr().out
