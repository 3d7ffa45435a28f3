"""What a real detector adds is found and taken off, and what is right is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from padis_lightning.data.corrections import (
    LineIntegrals,
    bad_bins,
    corrected,
    drift,
    fill,
    from_counts,
    sees_air,
    without_stripes,
)

VIEWS, BINS = 90, 120


def sinogram(noise=0.0, at=(14.0, 6.0), radius=25.0, views=VIEWS):
    """A disc and a smaller one in it, lines in closed form, (views, bins)."""
    angles, bins = np.arange(views) * np.pi / views, np.arange(BINS) - (BINS - 1) / 2
    total = np.zeros((views, BINS))
    for (x, y), r, value in ((at, radius, 0.02), ((at[0] + 8, at[1] - 9), radius / 4, 0.03)):
        away = bins[None] - (x * np.cos(angles) + y * np.sin(angles))[:, None]
        total += 2 * value * np.sqrt(np.clip(r**2 - away**2, 0, None))
    return total + noise * np.random.default_rng(0).standard_normal(total.shape)


def plain(y):
    return LineIntegrals(y, np.ones_like(y), [])


def test_counts_become_line_integrals_and_weights_are_those_of_photons():
    y, flat, dark = sinogram(), 4000.0 + np.arange(BINS), 100.0
    counts = dark + (flat - dark) * np.exp(-y)
    found = from_counts(counts, np.broadcast_to(flat, counts.shape), np.full_like(counts, dark))
    np.testing.assert_allclose(found.y, y, atol=1e-12)
    np.testing.assert_allclose(found.weights * (counts - dark).mean(), counts - dark, rtol=1e-12)
    assert not found.notes


def test_counts_of_no_photon_are_one_and_saturated_or_unlit_bins_do_not_count():
    counts, flat = np.full((3, 4), 50, np.uint16), np.full((3, 4), 200.0)
    counts[0, 1], counts[1, 2], flat[:, 3] = 0, 65535, 0
    found = from_counts(counts, flat, np.zeros((3, 4)))
    assert found.y[0, 1] == pytest.approx(np.log(200)) and found.weights[0, 1] == pytest.approx(found.weights[0, 0] / 50)
    assert (found.weights == 0).tolist() == [[False, False, False, True], [False, False, True, True], [False, False, False, True]]
    assert np.isfinite(found.y).all() and [note.split(" bins ")[0] for note in found.notes] == ["1 of 12", "3 of 12", "1 of 12"]


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("at", [(14.0, 6.0), (0.0, 0.0)], ids=["off centre", "centred"])
@pytest.mark.parametrize("views", [VIEWS, 15, 8])
def test_bad_bins_are_found_and_no_others(noise, at, views):
    y = sinogram(noise, at, views=views)
    assert not bad_bins(y).any()
    y[:, 50], y[:, 71] = 0.0, 6.0
    assert np.flatnonzero(bad_bins(y)).tolist() == [50, 71]


def test_bad_bins_count_and_are_told_where_views_are_too_few_to_be_sure():
    for views, counts in ((8, False), (7, True)):
        y = sinogram(0.01, views=views)
        assert not corrected(plain(y)).notes
        y[:, 50] = 0.0
        found = corrected(plain(y))
        assert (found.weights[:, 50] > 0).all() == counts and (np.delete(found.weights, 50, 1) == 1).all()
        assert ("look dead or hot and count, as 7 views do not tell" in found.notes[0]) == counts and ": 50" in found.notes[0]


def test_filling_is_exact_on_lines():
    y = np.linspace(1, 5, 9)[None] * np.array([[1.0], [-2.0]])
    valid = np.ones(y.shape, bool)
    valid[0, 3:5], valid[1, 7] = False, False
    np.testing.assert_allclose(fill(np.where(valid, y, 99.0), valid), y)


def test_a_drifting_beam_is_taken_off_and_a_steady_one_left():
    level = 0.05 * np.sin(np.arange(VIEWS) / 9)[:, None]
    for noise in (0.0, 0.01):
        np.testing.assert_allclose(drift(sinogram(noise) + level), level, atol=0.02 if noise else 1e-12)
        assert not drift(sinogram(noise)).any()
        np.testing.assert_allclose(corrected(plain(sinogram(noise) + level)).y, sinogram(noise), atol=0.02 if noise else 1e-12)


@pytest.mark.parametrize("ends", [(0, 0.12), (-0.1, 0.02), (-0.7, -0.7)], ids=str)
def test_a_beam_that_fades_or_a_flat_field_that_is_too_dark_is_no_wide_object(ends):
    found = corrected(plain(sinogram(0.005) + np.linspace(*ends, VIEWS)[:, None]))
    np.testing.assert_allclose(found.y, sinogram(0.005), atol=0.01)
    assert len(found.notes) == 1 and "the beam drifts from its flat field by up to" in found.notes[0]


def test_a_long_object_that_reaches_over_both_ends_in_some_views_is_no_drift():
    """A board, of which both ends are outside in a few of the views: nothing is taken off."""
    angles, bins = np.arange(VIEWS)[:, None] * np.pi / VIEWS, np.arange(BINS) - (BINS - 1) / 2
    width2 = (75 * np.cos(angles)) ** 2 + (25 * np.sin(angles)) ** 2  # an ellipse, in closed form
    y = 0.04 * 75 * 25 * np.sqrt(np.clip(width2 - bins**2, 0, None)) / width2
    y += 0.002 * np.random.default_rng(0).standard_normal(y.shape)
    assert all(sees_air(y)) and not all(sees_air(y[:9]))
    found = corrected(plain(y))
    np.testing.assert_array_equal(found.y, y)
    assert "wider than the detector in some views" in found.notes[0]


def test_hits_of_the_detector_do_not_count_and_bright_fringes_do():
    y, hits = sinogram(0.005), np.random.default_rng(1).random((VIEWS, BINS)) < 0.002
    found = corrected(plain(np.where(hits, -1.3, y)))
    assert (found.weights == 0).tolist() == hits.tolist() and np.abs(found.y - y).max() < 0.3
    assert f"{hits.sum()} of {y.size} bins have far more light than the beam" in found.notes[0]
    fringes = y - 0.4 * (np.abs(np.diff(sinogram() > 0, axis=1, prepend=False)) > 0)
    assert (corrected(plain(fringes)).weights == 1).all()


@pytest.mark.parametrize("light", [lambda y: np.exp(-y), lambda y: 30000 * np.exp(-y), lambda y: -y], ids=["1", "counts", "sign"])
def test_light_that_passes_is_told_from_line_integrals(light):
    assert "values are highest at the ends" in corrected(plain(light(sinogram(0.002)))).notes[0]


def test_whole_numbers_are_photons_however_few():
    counts = np.array([[0, 3, 5, 1]], np.uint8)
    assert from_counts(counts, np.full((1, 4), 5.0), np.zeros((1, 4))).y[0, 0] == pytest.approx(np.log(5))
    assert from_counts(counts / 5, np.ones((1, 4)), np.zeros((1, 4))).y[0, 0] == pytest.approx(np.log(1e4))


def test_an_object_that_is_wider_than_the_detector_is_told():
    assert sees_air(sinogram()) == (True, True)
    assert sees_air(sinogram()[:, 60:]) == (False, True)
    assert "wider than the detector; values" in corrected(plain(sinogram()[:, 60:75])).notes[0]
    for part, end in ((slice(60, None), "left"), (slice(None, 60), "right")):  # as a shifted detector sees it in a full turn
        assert f"wider than the detector at its {end} end" in corrected(plain(sinogram()[:, part])).notes[0]


def test_stripes_go_and_little_else_does():
    y, stripes = sinogram(0.002, views=720), np.zeros(BINS)
    stripes[[31, 44, 60, 77, 90]] = 0.05, -0.04, 0.03, 0.06, -0.05
    left = without_stripes(y + stripes) - y
    assert np.abs(left.mean(0)).max() < 0.4 * np.abs(stripes).max()
    assert (without_stripes(y) - y).std() < 0.02 * y.std()


def test_all_of_it_at_once():
    y = sinogram(0.005)
    spoilt = y + 0.04
    spoilt[:, 55] = 0.0
    found = corrected(plain(spoilt))
    assert (found.weights[:, 55] == 0).all() and (np.delete(found.weights, 55, 1) == 1).all()
    np.testing.assert_allclose(np.delete(found.y, 55, 1), np.delete(y, 55, 1), atol=0.02)
    assert np.abs(found.y[:, 55] - y[:, 55]).max() < 0.15 and len(found.notes) == 2
