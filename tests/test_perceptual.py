"""Perceptual scores, and a posterior sample beside the estimate: in the numbers and on the page."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn
from torchmetrics.functional.image import lpips as published

from padis_lightning import metrics
from padis_lightning.cli import main
from padis_lightning.errors import InputError
from padis_lightning.operators.identity import Identity
from padis_lightning.random import seeded
from padis_lightning.results.lpips import alexnet, read_lpips
from padis_lightning.results.pictures import ImageResult
from padis_lightning.results.report.page import report_page
from padis_lightning.results.report.panels import image_panels, save_panels
from padis_lightning.results.report.runs import read_run
from padis_lightning.results.scores import score, summarise, to_csv
from padis_lightning.types import Normalisation, Reconstruction
from tests.runs import data, noisy, smooth, write_run

UNIT = Normalisation(0.0, 1.0)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file like the published one: AlexNet's parameters with its classifier, random here."""
    torch.manual_seed(0)
    path, trunk = tmp_path_factory.mktemp("weights") / "alexnet.pth", alexnet()
    state = {f"features.{name}": parameter for name, parameter in trunk.named_parameters()}
    torch.save({**state, "classifier.6.bias": nn.Parameter(torch.zeros(1000))}, path)
    return path


@pytest.fixture(scope="module")
def lpips(file):
    return read_lpips(file)


def test_lpips_is_what_torchmetrics_computes_with_the_same_weights(lpips, monkeypatch):
    monkeypatch.setattr(published, "_get_tv_model_features", lambda net, pretrained: lpips.trunk)
    reference = published._NoTrainLpips(net="alex")
    truth = smooth(2, 48, 3)
    other = noisy(truth, 0.1, 1).clamp(0, 1)
    grey = truth.mean(1, keepdim=True), other.mean(1, keepdim=True)
    for a, b in ((other, truth), grey):
        wanted = reference(*(x.expand(-1, 3, -1, -1) for x in (a, b)), normalize=True).reshape(-1)
        torch.testing.assert_close(lpips(a, b), wanted, rtol=1e-4, atol=1e-7)


def test_lpips_is_a_distance_of_pictures_that_are_large_enough(lpips):
    a, b = smooth(2, 40, 3), smooth(2, 40, 3, seed=1)
    assert (lpips(a, a) == 0).all() and (lpips(a, b) > 0).all()
    torch.testing.assert_close(lpips(a, b), lpips(b, a))
    torch.testing.assert_close(lpips(a + 5 * (a == 1), b), lpips(a, b))  # clipped, as PSNR is
    assert lpips(a[..., :31, :], b[..., :31, :]).isfinite().all() and lpips(a[..., :30, :], b[..., :30, :]).isnan().all()


def broken(folder, case):
    path = folder / "alexnet.pth"
    if case == "other":
        torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, path)
    elif case == "shape":
        torch.save({f"features.{name}": x[:1].clone() for name, x in alexnet().state_dict().items()}, path)
    elif case == "old":
        torch.save(alexnet().state_dict(), path, _use_new_zipfile_serialization=False)
    elif case == "code":
        torch.save({"features.0.weight": nn.ReLU()}, path)
    return path


@pytest.mark.parametrize("case", ["missing", "other", "shape", "old", "code"])
def test_other_weights_get_one_sentence(case, tmp_path):
    with pytest.raises(InputError, match=r"alexnet.pth.*wanted AlexNet's published weights, alexnet-owt-7be5be79.pth") as raised:
        read_lpips(broken(tmp_path, case))
    assert "\n" not in str(raised.value)


def rows_of(reconstruction, truth, lpips=None, baselines=True):
    return [
        {"index": k, "name": f"{k:04d}", "group": f"{k}", **row, "baselines": {"tv": row} if baselines else {}}
        for k, row in enumerate(score(reconstruction, truth, lpips))
    ]


def test_ms_ssim_is_one_for_the_truth_falls_with_noise_and_is_absent_below_its_window(tmp_path):
    truth = smooth(1, 176)
    similar = [
        float(metrics.ms_ssim(truth + std * torch.randn(truth.shape, generator=seeded(0)), truth)) for std in (0, 0.1, 0.3)
    ]
    assert similar[0] == pytest.approx(1, abs=1e-6) and 0.999 > similar[1] > similar[2] > 0
    small = truth[..., :175]
    assert metrics.ms_ssim(small, small) is None
    rows = [rows_of(Reconstruction(x, None, None, 0.1, 1), x)[0] for x in (noisy(truth, 0.1, 1), small)]
    assert "ms_ssim" in rows[0] and "ms_ssim" not in rows[1]
    for few, known in ((rows[:1], True), (rows, False), (rows[::-1], False)):  # unknown where one of its values is
        assert (summarise(few)["ms_ssim"] is not None) == known and "ms_ssim" in to_csv(few).splitlines()[0]
    assert "ms_ssim" not in summarise(rows[1:]) and "ms_ssim" not in to_csv(rows[1:])


def test_estimate_and_sample_are_scored_and_shown_side_by_side(tmp_path, lpips):
    truth = smooth(2, 40, 3)
    samples = torch.stack([noisy(truth, 0.1, seed) for seed in range(4)], 1)
    found = Reconstruction(samples.mean(1), None, None, 0.1, 1, samples)
    rows = rows_of(found, truth, lpips)
    for key, function in (("psnr", metrics.psnr), ("lpips", lpips)):
        for name, image in ((key, found.estimate), (f"sample_{key}", samples[:, 0])):
            torch.testing.assert_close(torch.tensor([row[name] for row in rows]), function(image, truth))
    write_run(tmp_path, truth, found.estimate, {"tv": truth}, ["0", "1"], scale=UNIT, rows=rows)
    operator = Identity(truth.shape[1:])
    for k, row in enumerate(rows):
        one = ImageResult.of(k, truth, {"tv": truth}, found)
        save_panels(tmp_path / "panels" / f"{row['name']}.npz", image_panels(one, "DDS", operator, UNIT))
    page, summary = report_page([read_run(tmp_path)]), summarise(rows)
    shown = data(page)["images"][1]["panels"]
    assert [p["kind"] for p in shown] == ["truth", "baseline", "estimate", "sample", "error", "deviation"]
    assert [p["note"] for p in shown[2:4]] == [f"{rows[1][key]:.2f} dB" for key in ("psnr", "sample_psnr")]
    scores = f"PSNR: {summary['psnr']:.2f} dB and {summary['sample_psnr']:.2f} dB. "
    scores += f"LPIPS: {summary['lpips']:.3f} and {summary['sample_lpips']:.3f}."
    wanted = "The estimate has the least error; a sample shows how the image may look, and its detail is drawn, not known. "
    assert wanted + scores in page and ">LPIPS</th>" in page
    assert "sample_psnr" not in page.split('id="provenance"')[1].split("<script")[0]


def test_without_truth_a_sample_has_no_score_and_the_page_says_what_it_is_for(tmp_path):
    truth = smooth(2)
    found = Reconstruction(truth, None, None, 0.1, 1, truth[:, None].expand(-1, 3, -1, -1, -1))
    rows = rows_of(found, None, baselines=False)
    assert not {"sample_psnr", "ms_ssim", "lpips"} & rows[0].keys()
    write_run(tmp_path, truth, truth, {}, ["0", "1"], rows=rows)
    assert "its detail is drawn, not known.</p>" in report_page([read_run(tmp_path)])


def test_the_similarity_of_large_pictures_is_that_of_their_bands_and_takes_no_more_memory(monkeypatch, rng):
    truth = torch.rand(2, 3, 57, 40, generator=rng)
    estimate = (truth + 0.1 * torch.randn(truth.shape, generator=rng)).clamp(0, 1)
    whole = metrics.ssim(estimate, truth)
    monkeypatch.setattr(metrics, "MOST_PIXELS", 320)
    torch.testing.assert_close(metrics.ssim(estimate, truth), whole, rtol=1e-5, atol=0)
    assert metrics.ms_ssim(torch.rand(1, 1, 180, 180, generator=rng), torch.rand(1, 1, 180, 180, generator=rng)) is None


# Scores of slices that scanners measure


def test_scores_of_the_range_are_those_of_scikit_image(rng):
    truth = torch.rand(2, 1, 30, 41, generator=rng) * torch.tensor([0.3, 1.7])[:, None, None, None]
    estimate = truth + 0.1 * torch.randn(truth.shape, generator=rng)
    pairs = list(zip(truth[:, 0].double().numpy(), estimate[:, 0].double().numpy(), strict=True))
    psnr = [peak_signal_noise_ratio(x, y, data_range=np.ptp(x)) for x, y in pairs]
    ssim = [structural_similarity(x, y, data_range=np.ptp(x)) for x, y in pairs]
    np.testing.assert_allclose(metrics.psnr_of_range(estimate, truth), psnr, rtol=1e-6)
    np.testing.assert_allclose(metrics.ssim_of_range(estimate, truth), ssim, rtol=1e-6)


def test_haarpsi_is_what_its_paper_says_pixel_by_pixel(rng):
    truth = torch.rand(1, 1, 24, 33, generator=rng)
    estimate = truth + 0.2 * torch.randn(truth.shape, generator=rng)
    halves = [
        (255 * image[0, 0, :, :32].clamp(0, 1).double().numpy()).reshape(12, 2, 16, 2).mean((1, 3)) for image in (estimate, truth)
    ]
    above = below = 0.0
    for turn in (lambda image: image, np.transpose):
        sizes = []
        for scale in (1, 2, 3):
            kernel = np.full((2**scale, 2**scale), 2.0**-scale)
            kernel[: 2 ** (scale - 1)] *= -1
            middle = slice(2 ** (scale - 1), 2 ** (scale - 1) + 12), slice(2 ** (scale - 1), 2 ** (scale - 1) + 16)
            sizes.append([np.abs(convolve2d(half, turn(kernel))[middle]) for half in halves])
        similar = sum((2 * a * b + 30) / (a**2 + b**2 + 30) for a, b in sizes[:2]) / 2
        weight = np.maximum(*sizes[2])
        above, below = above + (weight / (1 + np.exp(-4.2 * similar))).sum(), below + weight.sum()
    expected = (np.log((above / below) / (1 - above / below)) / 4.2) ** 2
    assert float(metrics.haarpsi(estimate, truth)) == pytest.approx(expected, rel=1e-9)
    assert metrics.haarpsi(truth, truth) == pytest.approx(1.0) and metrics.haarpsi(
        *[torch.zeros(1, 1, 16, 16)] * 2
    ) == pytest.approx(1.0)
    assert bool(metrics.haarpsi(truth[..., :15], truth[..., :15]).isnan())


def test_the_error_in_the_body_counts_lungs_and_leaves_the_table_and_the_air_out():
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    radius = torch.hypot(rows - 30, columns - 32)
    truth = torch.where(radius < 20, 40.0, -1000.0)
    truth[radius < 8] = -850.0  # a lung
    truth[58:61] = 100.0  # the table
    inside = radius < 20
    error = torch.where(inside, torch.where(radius < 8, 30.0, 10.0), 500.0)
    share = float((radius < 8).sum() / inside.sum())
    found = metrics.body_error((truth + error)[None, None], truth[None, None])
    assert float(found) == pytest.approx(10 + 20 * share, rel=0.02)  # of the edge one pixel may count or not
    assert bool(metrics.body_error(truth[None, None], torch.full((1, 1, 64, 64), -1000.0)).isnan())


def test_slices_in_hu_get_them_all_and_the_page_defines_them(tmp_path):
    folder = tmp_path / "out"
    main([
        "predict", "--config", "ct20.yaml", "--model", "PseudoInverse", "--data.count", "2", "--output", str(folder),
        "--trainer.enable_progress_bar", "false", "--results.baselines", "{again: PseudoInverse}",
    ])  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    names = {"psnr_of_range", "ssim_of_range", "haarpsi", "error_hu"}
    assert names <= set(summary) and names <= set(summary["intervals"]) and 5 < summary["error_hu"] < 500
    assert summary["baselines"]["again"]["haarpsi"] == summary["haarpsi"] and 0 < summary["haarpsi"] < 1
    page = (folder / "report.html").read_text()
    assert "the convention of LoDoPaB-CT" in page and "HaarPSI" in page
