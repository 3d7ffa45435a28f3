"""Volumes on the report's page and in its pictures: their voxels, planes and proportions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from padis_lightning.data.readers import PreparedSource, open_series
from padis_lightning.data.sources.arrays import read_arrays
from padis_lightning.data.sources.series import SeriesSource
from padis_lightning.data.sources.volumes import VolumeSource
from padis_lightning.errors import InputError
from padis_lightning.operators.cone import ConeBeam
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.slices import Slices
from padis_lightning.random import seeded
from padis_lightning.results.pictures import planes
from padis_lightning.results.report.page import report_page
from padis_lightning.results.report.panels import quantise, to_png
from padis_lightning.results.report.runs import read_run, read_runs
from padis_lightning.results.voxels import CUBES, average_to_fit, spacing_of
from tests.making import lps, prepared, rotation, write_stack
from tests.runs import Resources, data, noisy, pixels_of, write_run

SHAPE = (1, 7, 10, 13)


def volumes(count=2, shape=SHAPE, seed=0):
    """Noise in [0, 1]: every voxel differs from its neighbours."""
    return torch.rand(count, *shape, generator=seeded(seed))


def decoded(panel):
    """The voxels of a panel ``(D, H, W)`` or ``(D, H, W, 3)``, cut slice by slice out of its PNG."""
    pixels = pixels_of(panel)
    depth, height, width = panel["shape"]
    columns = pixels.shape[1] // width
    slices = [pixels[k // columns * height :, k % columns * width :][:height, :width] for k in range(depth)]
    return panel["lower"] + np.stack(slices) / 255 * (panel["upper"] - panel["lower"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two volumes of slices that are 2.5 mm apart, of pixels of 1.0 and 0.5 mm."""
    truth, operator = volumes(), Slices(Identity((1, 10, 13)), 7)
    rest = {"operator": operator, "spacing": (2.5, 1.0, 0.5), "deviation": 0.3 * volumes(seed=3)}
    folder = tmp_path_factory.mktemp("volumes") / "a"
    write_run(folder, truth, noisy(truth, 0.1, 1), {"tv": noisy(truth, 0.2, 2)}, ["p", "q"], **rest)
    return folder


def test_a_page_holds_every_voxel_of_every_volume_to_eight_bits(folder):
    truth = volumes()
    seen = {"truth": truth, "baseline": noisy(truth, 0.2, 2), "estimate": noisy(truth, 0.1, 1)}
    images = data(report_page([read_run(folder)]))["images"]
    for k, image in enumerate(images):
        kinds = [p["kind"] for p in image["panels"]]
        assert kinds == ["truth", "measurement", "baseline", "estimate", "error", "deviation"]
        panels = dict(zip(kinds, image["panels"], strict=True))
        for kind, expected in seen.items():
            values = 2000 * expected[k, 0].clamp(0, 1).double().numpy() - 1000
            assert np.abs(decoded(panels[kind]) - values).max() <= 2000 / 255 / 2 + 1e-3
            assert panels[kind]["extent"] == [17.5, 10.0, 6.5]
        spread = 2000 * 0.3 * volumes(seed=3)[k, 0].double().numpy()
        assert np.abs(decoded(panels["deviation"]) - spread).max() <= spread.max() / 255 / 2 + 1e-3
        assert panels["measurement"]["title"] == "measurement of slice 3" and "extent" not in panels["measurement"]
    assert len(images) == 2


@pytest.mark.parametrize("shape", [(1, 1, 5, 4), (1, 2, 9, 3), (1, 17, 4, 12), (3, 5, 6, 7)])
def test_slices_of_any_shape_and_colour_are_found_again(shape):
    volume = torch.randint(0, 256, shape, generator=seeded(0)).double()
    panel = quantise("x", "truth", volume, (0.0, 255.0))
    embedded = {"png": to_png(panel.codes), "shape": panel.codes.shape[:3], "lower": 0.0, "upper": 255.0}
    expected = volume[0] if shape[0] == 1 else volume.movedim(0, -1)
    np.testing.assert_array_equal(decoded(embedded), expected)
    np.testing.assert_array_equal(panel.values, volume.movedim(0, -1))


def test_large_volumes_are_averaged_along_their_longest_axes_and_the_page_says_so(folder, tmp_path, monkeypatch):
    volume = torch.arange(2 * 4 * 6 * 8.0).reshape(2, 4, 6, 8)
    assert average_to_fit(volume, 192) is volume
    assert average_to_fit(volume, 191).shape[1:] == (4, 6, 7) and average_to_fit(volume, 4 * 5 * 5 + 20).shape[1:] == (4, 5, 5)
    small = average_to_fit(volume, 64)  # 4 x 4 x 4: pairs of columns, and rows whose windows overlap
    torch.testing.assert_close(small[:, :, 0], volume[:, :, :2].mean(2).unflatten(2, (4, 2)).mean(-1))
    torch.testing.assert_close(small.mean((2, 3)), volume.mean((2, 3)))
    page = report_page([read_run(folder)])
    assert "averaged" not in page and "Volumes are here in 256 steps between the ends of the data." in page
    monkeypatch.setattr("padis_lightning.results.report.panels.average_to_fit", lambda volume: average_to_fit(volume, 500))
    truth = volumes()
    write_run(tmp_path, truth, truth, {}, ["p", "q"], spacing=(2.5, 1.0, 0.5))
    page = report_page([read_run(tmp_path)])
    sizes = "from 7 × 10 × 13 to 7 × 8 × 8 voxels"
    assert f"To fit on the page they are averaged: 0000 {sizes}, 0001 {sizes}." in page
    panel = data(page)["images"][1]["panels"][0]
    assert panel["shape"] == [7, 8, 8] and panel["extent"] == [17.5, 10.0, 6.5]  # the field of view stays
    assert np.abs(decoded(panel) - (2000 * average_to_fit(truth[1], 500)[0].numpy() - 1000)).max() < 4


def test_a_ball_stays_round():
    """The field radius - distance in mm, which is 0 on the surface: every pixel beyond one of it is on its right side."""
    spacing, shape, radius = (2.5, 1.0, 0.8), (30, 61, 77), 24.0
    axes = [step * (np.arange(n) - n // 2) for n, step in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    field = radius - np.sqrt(z**2 + y**2 + x**2)
    picture = planes(torch.from_numpy(field)[None].float(), spacing)[0].numpy()
    height, width, depth = round(61 / 0.8), 77, round(30 * 2.5 / 0.8)
    assert picture.shape == (height + depth, width + depth)

    def places(n, old, step, flip=False):
        """mm of n pixels over the field of view of ``old`` voxels."""
        mm = ((np.arange(n) + 0.5) / n * old - 0.5 - old // 2) * step
        return mm[::-1] if flip else mm

    across, down, up = places(width, 77, 0.8), places(height, 61, 1.0), places(depth, 30, 2.5, flip=True)
    parts = {
        "axial": (picture[:height, :width], down, across),
        "sagittal": (picture[:height, width:], down, up),
        "coronal": (picture[height:, :width], up, across),
    }
    for name, (part, rows, columns) in parts.items():
        expected = radius - np.hypot(rows[:, None], columns[None])
        sure = np.abs(expected) > 0.8
        assert ((part > 0) == (expected > 0))[sure].all(), name
        inside = part > 0
        sides = inside.any(1).sum(), inside.any(0).sum()
        assert max(abs(side - 2 * radius / 0.8) for side in sides) <= 1, (name, sides)


def test_the_proportions_of_voxels_are_those_of_the_patient(tmp_path):
    values = np.zeros((7, 32, 32), np.int16)
    affine = lps(rotation(0.1, 0.2, 0.3), (0.5, 0.75, 2.5), (1.0, 2.0, 3.0))
    write_stack(tmp_path / "scan", values, affine)
    scan = VolumeSource(SeriesSource(open_series(tmp_path / "scan"), 16, None, "slices"), 4)
    assert spacing_of(scan, 0, None) == pytest.approx((2.5, 1.0, 1.5), rel=1e-6)  # pixels of twice the size
    cone = ConeBeam((4, 16, 16), views=8, pixel_spacing=0.7, slice_spacing=1.4)
    assert spacing_of(scan, 0, cone) == spacing_of(scan, 0, None)

    names = [f"scan_{k:04d}" for k in (3, 5, 7)]  # every second slice of a series
    images, affines = np.zeros((3, 8, 8), np.uint16), np.broadcast_to(affine, (3, 4, 4))
    path = prepared(tmp_path / "p.h5", images, ["train"] * 3, ["a"] * 3, name=names, affine=affines)
    assert spacing_of(VolumeSource(PreparedSource(path)), 0, None) == pytest.approx((5.0, 0.5, 0.75), rel=1e-6)
    unplaced = np.full((3, 4, 4), np.nan)
    path = prepared(tmp_path / "q.h5", images, ["train"] * 3, ["a"] * 3, name=names, affine=unplaced)
    assert spacing_of(VolumeSource(PreparedSource(path)), 0, None) == CUBES

    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8)), patient=["a"] * 3, z=[0.0, 5.0, 10.0])
    heights = VolumeSource(read_arrays(tmp_path / "x.npz"))
    assert spacing_of(heights, 0, Slices(ParallelBeam(8, views=2), 3)) == CUBES  # mm apart, of pixels of no known size
    assert spacing_of(heights, 0, cone) == (1.4, 0.7, 0.7) and spacing_of(None, 0, None) == CUBES


@pytest.mark.parametrize("side", [1e-9, 1e6, math.inf])
def test_voxels_that_no_scanner_has_are_shown_as_cubes(side, tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8)), patient=["a"] * 3, z=[0.0, 5.0, 10.0])
    source = VolumeSource(read_arrays(tmp_path / "x.npz"))
    monkeypatch.setattr(VolumeSource, "spacing", lambda self, index: (side, 1.0, 1.0))
    assert spacing_of(source, 0, None) == CUBES


def test_runs_of_volumes_are_compared_and_other_truths_refused(folder):
    truth = volumes()
    other = {"operator": Slices(Identity((1, 10, 13)), 7), "spacing": (2.5, 1.0, 0.5)}
    write_run(folder.parent / "b", truth, noisy(truth, 0.3, 5), {}, ["p", "q"], **other)
    image = data(report_page(read_runs([folder, folder.parent / "b"])))["images"][1]
    assert [p["title"] for p in image["panels"]] == ["truth", "a", "b", "error of a", "error of b"]
    for place, expected in ((0, truth), (1, noisy(truth, 0.1, 1)), (2, noisy(truth, 0.3, 5))):
        values = 2000 * expected[1, 0].clamp(0, 1).double().numpy() - 1000
        assert np.abs(decoded(image["panels"][place]) - values).max() <= 2000 / 255 / 2 + 1e-3
    changed = truth.clone()
    changed[1, 0, 6, 9, 12] = 1 - changed[1, 0, 6, 9, 12].round()  # one voxel
    write_run(folder.parent / "c", changed, truth, {}, ["p", "q"], **other)
    with pytest.raises(InputError, match="c has another truth of image 0001; wanted that of .*a"):
        read_runs([folder, folder.parent / "c"])


def test_a_page_of_volumes_names_nothing_outside_and_every_slider_has_a_name(folder):
    page = report_page([read_run(folder)])
    assert Resources(page).found == []
    for view in ("axial", "coronal", "sagittal"):
        assert f'<label for="{view}">{view}</label><input id="{view}" type="range">' in page
