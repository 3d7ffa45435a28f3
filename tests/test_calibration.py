"""Calibrated intervals: laws of errors that are known in closed form, and the runs that make and use a calibration."""

from __future__ import annotations

import json
import logging
from statistics import NormalDist

import nibabel
import numpy as np
import pytest
import torch

from padis_lightning.cli import main
from padis_lightning.errors import InputError
from padis_lightning.random import seeded
from padis_lightning.results.calibration import Calibration, count_errors
from padis_lightning.results.pictures import ImageResult
from padis_lightning.types import Normalisation

from .test_cli import QUIET

NORMAL = NormalDist()
STEP = 0.06  # a step of the grid of ratios is 19 %, within which errors are interpolated


def problem(count, seed, factors=(0.5, 3.0), level=0.02, side=96):
    """Estimates of two values, samples whose deviation is ``level``, and truths that are off by ``factors`` of it."""
    generator = seeded(seed)
    estimate = torch.full((count, 1, side, side), 0.3)
    estimate[..., side // 2 :] = 0.9
    samples = estimate[:, None] + level * torch.randn(count, 2000, 1, 1, 1, generator=generator)
    off = torch.full_like(estimate, level * factors[0])
    off[..., side // 2 :] = level * factors[1]
    return estimate, samples, estimate + off * torch.randn(estimate.shape, generator=generator)


def calibrated(estimate, samples, truth):
    counts = sum(count_errors(*one) for one in zip(estimate, samples, truth, strict=True))
    return Calibration(counts, {})


def small_samples(estimate, samples):
    """Samples of whole images that have the deviation of each pixel: two, symmetric."""
    spread = samples.std(1).expand_as(estimate)
    return torch.stack([estimate - spread / 2**0.5, estimate + spread / 2**0.5], 1)


@pytest.fixture(scope="module")
def known():
    estimate, samples, truth = problem(12, seed=1)
    return calibrated(estimate, small_samples(estimate, samples), truth)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.98])
def test_intervals_are_those_of_the_errors_kind_by_kind(known, level):
    """Where samples differ by half or by three times of what is wrong, the interval is still that of the normal errors."""
    estimate, samples, truth = problem(4, seed=2)
    for one, drawn, right in zip(estimate, small_samples(estimate, samples), truth, strict=True):
        half = known.half_width(one, drawn, level)
        for columns, factor in ((slice(2, 46), 0.5), (slice(50, 94), 3.0)):
            expected = factor * drawn.std(0)[..., columns] * NORMAL.inv_cdf((1 + level) / 2)
            torch.testing.assert_close(half[..., columns], expected, rtol=STEP, atol=0)
            held = ((right - one).abs() <= half)[..., columns].float().mean()
            assert float(held) == pytest.approx(level, abs=0.03)


def test_the_risk_is_the_tail_of_the_errors(known):
    estimate, samples, _ = problem(1, seed=3)
    risk = known.risk(estimate[0], small_samples(estimate, samples)[0], 0.03)
    for columns, factor in ((slice(2, 46), 0.5), (slice(50, 94), 3.0)):
        tail = 2 * (1 - NORMAL.cdf(0.03 / (0.02 * factor)))
        assert risk[..., columns].min() >= 0 and risk[..., columns].max() <= 1
        assert float(risk[..., columns].mean()) == pytest.approx(tail, abs=0.03)


def test_the_risk_at_the_end_of_the_interval_is_what_the_interval_leaves_out(known):
    estimate, samples, _ = problem(1, seed=4)
    drawn = small_samples(estimate, samples)[0]
    half = known.half_width(estimate[0], drawn, 0.9)
    for place in ((0, 40, 20), (0, 40, 80)):
        assert float(known.risk(estimate[0], drawn, float(half[place]))[place]) == pytest.approx(0.1, abs=2e-3)


def test_without_samples_the_error_follows_from_what_the_estimate_shows():
    """One sample has no deviation: values and slopes tell kinds apart, here errors of 0.01 and 0.06."""
    estimate, _, truth = problem(12, seed=5)
    found = calibrated(estimate, [None] * 12, truth).half_width(estimate[0], None)
    assert float(found[0, 40, 20]) == pytest.approx(0.01 * NORMAL.inv_cdf(0.95), rel=STEP)
    assert float(found[0, 40, 80]) == pytest.approx(0.06 * NORMAL.inv_cdf(0.95), rel=STEP)


@pytest.mark.parametrize("share", [0.03, 0.1])
def test_what_is_rare_and_looks_like_the_rest_counts_more(share):
    """A share p of the truth is bright by 0.2 to 0.3, which no estimate shows. It counts 3 times, the rest a third, so that of
    bright pixels 1 - 0.1 (1 + (1 - p) / 9p) are held, and all others; plain intervals would hold none of 3 %, 0.01 of 10 %."""
    generator = seeded(11)
    estimate = torch.full((1, 300, 300), 0.5)
    bright = torch.rand(estimate.shape, generator=generator) < share
    truth = estimate + torch.where(bright, 0.2 + 0.1 * torch.rand(estimate.shape, generator=generator), 0.01)
    half = Calibration(count_errors(estimate, None, truth), {}).half_width(estimate, None)
    held = (truth - estimate).abs() <= half
    expected = 1 - 0.1 * (1 + (1 - share) / (9 * share))
    assert float(held[bright].float().mean()) == pytest.approx(expected, abs=0.05)
    assert held[~bright].all()


def test_the_risk_counts_every_pixel_once():
    """One in ten is off by 0.25, whatever else counts more in intervals."""
    estimate = torch.full((1, 200, 200), 0.5)
    truth = torch.where(torch.rand(estimate.shape, generator=seeded(12)) < 0.1, 0.75, 0.51)
    risk = Calibration(count_errors(estimate, None, truth), {}).risk(estimate, None, 0.1)
    assert float(risk.mean()) == pytest.approx(float((truth > 0.6).float().mean()), abs=2e-3)


def test_kinds_that_were_never_seen_take_the_errors_of_wider_ones(known):
    """An estimate of values and slopes that no calibration image had still gets an interval, and a finite one."""
    other = torch.rand(1, 20, 20, generator=seeded(6))
    half = known.half_width(other, torch.stack([other, other + 0.5]))
    assert torch.isfinite(half).all() and float(half.min()) > 0


def test_volumes_are_calibrated_as_their_slices_are_where_nothing_differs_between_slices():
    estimate, samples, truth = problem(3, seed=7, side=24)
    volume, drawn = estimate.transpose(0, 1), small_samples(estimate, samples).permute(1, 2, 0, 3, 4)
    drawn, volume = drawn[:, :, :1].expand_as(drawn), volume[:, :1].expand_as(volume)
    calibration = calibrated(estimate, small_samples(estimate, samples), truth)
    flat = calibration.half_width(volume[:, 0], drawn[:, :, 0])
    torch.testing.assert_close(calibration.half_width(volume, drawn)[:, 1], flat)


def test_complex_images_have_the_intervals_of_their_magnitude(known):
    """A phase that is different in the truth is no error of the magnitude."""
    estimate, samples, truth = problem(1, seed=8)
    drawn = small_samples(estimate, samples)
    phase = 6.28 * torch.rand(estimate.shape, generator=seeded(9))
    turned = lambda image, angle: torch.cat([image * angle.cos(), image * angle.sin()], -3)  # noqa: E731
    plain = known.applied(ImageResult(estimate[0], truth[0], {}, None, None, drawn[0]), 0.03)
    images = turned(estimate, phase)[0], turned(truth.abs(), phase + 1)[0]
    found = known.applied(ImageResult(*images, {}, None, None, turned(drawn[0], phase)), 0.03)
    for name in ("interval", "risk"):
        assert getattr(found, name).shape == estimate[0].shape
        close = torch.isclose(getattr(found, name), getattr(plain, name), rtol=1e-3, atol=1e-6)
        assert float(close.float().mean()) > 0.99  # the rest lies at the edge of a kind
    assert found.held == pytest.approx(plain.held, abs=0.01)


def test_a_calibration_is_read_as_it_was_written_and_other_files_are_refused(known, tmp_path):
    Calibration(known.counts, {"weights": "abc"}).save(tmp_path / "calibration.npz")
    again = Calibration.read(tmp_path / "calibration.npz")
    np.testing.assert_array_equal(again.counts, known.counts)
    assert again.settings == {"weights": "abc"}
    np.savez(tmp_path / "other.npz", counts=known.counts[:2], settings="{}")
    np.savez(tmp_path / "words.npz", counts=known.counts, settings="[1]")
    for name in ("other.npz", "words.npz", "none.npz"):
        with pytest.raises(InputError, match=r"wanted the calibration\.npz of predict --results\.calibrate true"):
            Calibration.read(tmp_path / name)


def test_another_prior_is_refused_and_another_scan_said(known, caplog):
    settings = {"weights": "a", "solver": "DDS", "model.init_args.steps": "5", "data.init_args.path": "x"}
    calibration = Calibration(known.counts, settings)
    with pytest.raises(InputError, match="made with weights a and this run has b; wanted the same"):
        calibration.check({**calibration.settings, "weights": "b"})
    with caplog.at_level(logging.WARNING):
        calibration.check({**calibration.settings, "model.init_args.steps": "9", "data.init_args.path": "y"})
    assert "made with other model.init_args.steps; its intervals may not hold here" in caplog.text
    assert "the same images" not in caplog.text
    with caplog.at_level(logging.WARNING):
        calibration.check(calibration.settings)
    assert "the same images" in caplog.text


def test_predict_calibrates_on_some_images_and_says_intervals_of_others(images, tmp_path):
    """Counts of two shards add up to those of one run; a second run writes intervals, risks, NIfTI and a coverage."""
    run = ["predict", "--config", "ct20.yaml", "--operator.size", "16", "--operator.views", "6", "--data.size", "null",
           "--model", "TotalVariation", "--model.weight", "1e-4", "--model.iterations", "9", "--results.baselines", "{}",
           "--data.path", str(images), *QUIET]  # fmt: skip
    first = [*run, "--data.subset", "train", "--results.calibrate", "true"]
    main([*first, "--output", str(tmp_path / "one")])
    for shard in "01":
        main([*first, "--output", str(tmp_path / "two"), "--data.shards", "2", "--data.shard", shard])
    main(["gather", str(tmp_path / "two")])
    one, two = (Calibration.read(tmp_path / name / "calibration.npz") for name in ("one", "two"))
    np.testing.assert_array_equal(one.counts, two.counts)
    assert one.counts.sum() == 16 * 16 * len(list((tmp_path / "one" / "arrays").glob("*.npy")))
    out = tmp_path / "out"
    use = ["--results.calibration", str(tmp_path / "one" / "calibration.npz"), "--results.formats", "[nifti]"]
    main([*run, *use, "--data.subset", "validation", "--output", str(out)])
    summary = json.loads((out / "summary.json").read_text())
    names = sorted(path.stem for path in (out / "arrays").glob("*.npy"))
    estimate = (torch.from_numpy(np.load(out / "arrays" / f"{names[0]}.npy"))[None] / 2000).float()
    scale = Normalisation(0, 2000)
    half = scale.upper * one.half_width(estimate, None)[0]
    np.testing.assert_allclose(np.load(out / "interval" / f"{names[0]}.npy"), half, rtol=0.2)  # values on the edge of a kind
    assert np.median(np.load(out / "interval" / f"{names[0]}.npy") / half.numpy()) == pytest.approx(1, abs=1e-3)
    assert 0 <= summary["calibrated"] <= 1
    volume = nibabel.load(out / "volumes" / "images_interval.nii.gz")
    np.testing.assert_array_equal(volume.get_fdata()[..., 0].T, np.load(out / "interval" / f"{names[0]}.npy"))
    page = (out / "report.html").read_text()
    for said in ("half of the 90 % interval", "risk of an error above 50", "calibrated 90 % intervals hold"):
        assert said in page
