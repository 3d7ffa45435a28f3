"""Laws of MRI off the grid: the transform at any points, what samples stand for, spokes and spirals."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import h5py
import numpy as np
import pytest
import torch

from padis_lightning.cli import main
from padis_lightning.commands.prepare import run as prepare
from padis_lightning.data.brains import brain
from padis_lightning.data.sources.open import open_source
from padis_lightning.errors import InputError
from padis_lightning.linalg import norm
from padis_lightning.mri import to_channels, to_complex
from padis_lightning.mri.coils import ring_of_coils
from padis_lightning.mri.nufft import compensation
from padis_lightning.mri.trajectories import radial, spiral
from padis_lightning.operators.mri import CartesianMRI
from padis_lightning.operators.non_cartesian import MeasuredNonCartesianMRI, NonCartesianMRI, RadialMRI, SpiralMRI
from padis_lightning.operators.rows import Rows
from padis_lightning.problem import Problem
from padis_lightning.types import Batch

QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
TV = ["--model", "TotalVariation"]
SIDES = [(6, 8), (5, 7), (8, 5)]


def maps_of(coils, sides):
    return ring_of_coils(coils, sides).numpy()


def grid(sides):
    """Return the points of the grid, row by row."""
    axes = [(np.arange(n) - n // 2) / n for n in sides]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def draw(rng, *shape):
    return torch.randn(2, *shape, dtype=torch.float64, generator=rng)


def blob(side):
    """Return a smooth image with a phase, of which nothing is left in the corners of k-space, ``(1, 2, H, W)``."""
    y, x = np.indices((side, side)) - side // 2
    image = np.exp(-((y - 2) ** 2 + 2 * x**2) / (2 * (side / 10) ** 2) + 0.1j * x)
    return to_channels(torch.from_numpy(image)[None, None])


@pytest.mark.parametrize("density", [None, "compensation"])
def test_rows_of_whole_coils_are_an_operator_of_these_coils(density, rng):
    """It equals the rows of the whole one and its adjoint, and A'A, a convolution, is what it is of the rows."""
    whole = NonCartesianMRI(radial(8, 5), maps=maps_of(4, (7, 8)), density=density)
    kept = [0, 1, 4, 5, 6, 7]
    rows, part = Rows(whole.measurement_shape, kept) @ whole, whole.of_rows(kept)
    x, y = draw(rng, *part.image_shape), draw(rng, *part.measurement_shape)
    torch.testing.assert_close(part(x), rows(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(part.adjoint(y), rows.adjoint(y), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(part.normal(x), rows.normal(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((part(x) * y).sum(), (x * part.adjoint(y)).sum())
    assert part.norm_squared == pytest.approx(rows.norm_squared, rel=1e-4) and part.norm_squared < whole.norm_squared
    for odd in ([0, 1, 2], [1, 2], [1, 0]):
        mixed = whole.of_rows(odd)
        assert not isinstance(mixed, NonCartesianMRI) and torch.equal(mixed(x), whole(x)[:, odd])


@pytest.mark.parametrize("sides", SIDES)
def test_points_on_the_grid_have_the_values_of_the_grid(sides, rng):
    maps = maps_of(3, sides)
    known, operator = CartesianMRI(np.ones(sides), maps), NonCartesianMRI(grid(sides), maps=maps)
    x = draw(rng, 2, *sides)
    torch.testing.assert_close(operator(x), known(x).flatten(2), rtol=0, atol=1e-10)
    torch.testing.assert_close(operator.approximate_inverse(operator(x)), x, rtol=0, atol=1e-10)
    torch.testing.assert_close(operator.normal(x), x, rtol=0, atol=1e-10)
    assert operator.norm_squared == pytest.approx(1)


@pytest.mark.parametrize("sides", SIDES)
def test_the_transform_is_its_sum(sides, rng):
    """Term by term, with maps and weights; its adjoint as the conjugate of the matrix."""
    points, density = np.random.default_rng(0).uniform(-0.5, 0.5, (11, 2)), np.linspace(0.5, 2, 11)
    maps = maps_of(2, sides)
    operator = NonCartesianMRI(points, maps=maps, density=density)
    places = np.indices(sides).reshape(2, -1) - np.array(sides)[:, None] // 2
    matrix = np.sqrt(density)[:, None] * np.exp(-2j * np.pi * points @ places) / np.sqrt(np.prod(sides))
    x, y = draw(rng, 2, *sides), draw(rng, 4, 11)
    expected = np.einsum("sp,cp,bp->bcs", matrix, maps.reshape(2, -1), to_complex(x).reshape(2, -1))
    np.testing.assert_allclose(to_complex(operator(x)), expected, rtol=0, atol=1e-9)
    back = np.einsum("sp,cp,bcs->bp", matrix.conj(), maps.reshape(2, -1).conj(), to_complex(y)).reshape(2, 1, *sides)
    np.testing.assert_allclose(to_complex(operator.adjoint(y)), back, rtol=0, atol=1e-9)


CASES = [
    lambda: RadialMRI((24, 21), 3, 9),
    lambda: RadialMRI(20, 1, 40, golden=False, density="compensation"),
    lambda: SpiralMRI((17, 24), 4, 3, 2.5),
]


@pytest.mark.parametrize("make", CASES)
def test_adjoint_and_normal_are_exact(make, rng):
    operator = make()
    x, y = draw(rng, *operator.image_shape), draw(rng, *operator.measurement_shape)
    forward, back = operator(x), operator.adjoint(y)
    gap = (forward * y).sum() - (x * back).sum()
    assert abs(gap) < 1e-12 * forward.norm() * y.norm()
    expected = operator.adjoint(forward)
    assert (operator.normal(x) - expected).norm() < 1e-9 * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize("make", CASES)
def test_operators_are_those_of_sigpy(make, rng):
    """As near as its gridding is by default, and nearer where it is finer."""
    from sigpy import mri, nufft

    operator = make()
    maps, density = torch.view_as_complex(operator.maps).numpy(), operator.density.numpy()
    coordinates = operator.points * operator.sides
    sense = mri.linop.Sense(maps, coord=coordinates, weights=density)
    x, y = (to_complex(draw(rng, *shape)[:1])[0].numpy() for shape in (operator.image_shape, operator.measurement_shape))
    found, back = (
        to_complex(f(to_channels(torch.from_numpy(v)[None])))[0].numpy() for f, v in ((operator, x), (operator.adjoint, y))
    )
    assert np.linalg.norm(sense(x[0]) - found) < 0.01 * np.linalg.norm(found)
    assert np.linalg.norm(sense.H(y) - back[0]) < 0.01 * np.linalg.norm(back)
    finer = np.sqrt(density) * nufft(maps * x, coordinates, oversamp=2, width=8)
    assert np.linalg.norm(finer - found) < 1e-6 * np.linalg.norm(found)


def test_a_copy_measures_the_same(rng):
    operator = RadialMRI(12, 2, 3)
    x = draw(rng, *operator.image_shape)
    for other in (copy.deepcopy(operator), pickle.loads(pickle.dumps(operator))):
        assert torch.equal(other(x), operator(x))


def test_samples_of_full_spokes_stand_for_their_part_of_a_ring():
    """Between the middle and the end a sample has a step along the spoke and a part of half a circle."""
    side, spokes, oversampling = 32, 80, 2
    shares = compensation(radial(side, spokes, golden=False, oversampling=oversampling), (side, side))
    away = np.abs(np.arange(oversampling * side) - side) / oversampling  # in points of the grid
    expected, inner = away * np.pi / spokes / oversampling, (away > 2) & (away < side / 2 - 2)
    np.testing.assert_allclose(shares.numpy().reshape(spokes, -1)[:, inner] / expected[inner], 1, rtol=0.1)
    assert float(shares.sum()) == pytest.approx(np.pi * (side / 2) ** 2, rel=0.05)


def test_a_point_measured_twice_counts_once(rng):
    points = np.concatenate([grid((6, 5)), grid((6, 5))[:7]])
    shares = compensation(points, (6, 5))
    expected = torch.ones(37, dtype=torch.float64)
    expected[:7] = expected[30:] = 0.5
    torch.testing.assert_close(shares, expected)


@pytest.mark.parametrize("density", [None, "compensation", "given"])
@pytest.mark.parametrize("kind", ["radial", "spiral"])
def test_gridding_of_all_of_k_space_gives_the_image_back(kind, density):
    points = radial(32, 60) if kind == "radial" else spiral(32, 6, 4)
    weights = np.linspace(0.5, 2, len(points)) if density == "given" else density
    operator = NonCartesianMRI(points, maps=maps_of(4, (32, 32)), density=weights)
    image = blob(32)
    assert norm(operator.approximate_inverse(operator(image)) - image) < 0.02 * norm(image)
    if density == "compensation":
        assert operator.norm_squared == pytest.approx(1, abs=0.25)


def test_spokes_turn_by_the_golden_angle_through_the_middle():
    points = radial(16, 7, oversampling=3).reshape(7, 48, 2)
    assert not points[:, 24].any() and np.abs(points).max() <= 0.5
    np.testing.assert_allclose(np.diff(np.hypot(*points[:, 24:].transpose(2, 0, 1)), axis=1), 1 / 48)
    turns = np.degrees(np.diff(np.unwrap(np.arctan2(*points[:, -1].T)))) % 360
    np.testing.assert_allclose(turns, 90 * (np.sqrt(5) - 1))
    even = radial(16, 7, golden=False).reshape(7, 32, 2)
    np.testing.assert_allclose(np.degrees(np.arctan2(*even[:, -1].T)), np.arange(7) * 180 / 7)


@pytest.mark.parametrize(("interleaves", "turns"), [(1, 8.0), (4, 2.5), (16, 0.5)])
def test_spirals_run_at_one_speed_and_leave_no_gap(interleaves, turns):
    side = 32
    points = spiral(side, interleaves, turns, oversampling=2).reshape(interleaves, -1, 2)
    radius, steps = np.hypot(*points.transpose(2, 0, 1)), np.linalg.norm(np.diff(points, axis=1), axis=-1) * side
    assert not points[:, 0].any() and 0.48 < radius.max() <= 0.5 and (np.diff(radius) > 0).all()
    assert 0.4 < steps.min() and steps.max() <= 0.5  # chords of arcs of one length
    angles = np.unwrap(np.arctan2(points[..., 0], points[..., 1])[:, 1:])
    np.testing.assert_allclose(np.diff(radius[:, 1:]) / np.diff(angles), 1 / (4 * np.pi * turns))
    np.testing.assert_allclose(np.exp(1j * np.diff(angles, axis=0)), np.exp(2j * np.pi / interleaves) if interleaves > 1 else 1)


def test_noise_is_seen_far_from_the_middle(rng):
    operator = RadialMRI(48, 4, 60)
    y = operator(blob(48).double())
    y = y + 0.03 * torch.randn(y.shape, dtype=torch.float64, generator=rng)
    problem = Problem(operator).for_batch(Batch(torch.tensor([0]), ["a"], ["a"], None, y, torch.ones(1, 1, 1)))
    assert float(problem.noise.deviation) == pytest.approx(0.03, rel=0.1)


def test_without_finufft_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "finufft", None)
    with pytest.raises(InputError, match=r"need finufft, which is not installed; wanted pip install 'padis_lightning\[mri\]'"):
        RadialMRI(8, 1, 3)


def test_operators_refuse_what_does_not_fit(tmp_path):
    points = radial(8, 3)
    np.save(tmp_path / "points.npy", points)
    assert NonCartesianMRI(str(tmp_path / "points.npy"), 8).measurement_shape == (2, 48)
    for wrong, said in (
        (lambda: NonCartesianMRI(points.T, 8), r"trajectory is float64 of shape \(2, 48\); wanted real numbers \(samples, 2\)"),
        (lambda: NonCartesianMRI(np.zeros((0, 2)), 8), r"of shape \(0, 2\)"),
        (lambda: NonCartesianMRI(points + 0j, 8), "trajectory is complex128"),
        (lambda: NonCartesianMRI(8 * points, 8), r"trajectory reaches 4; wanted cycles per pixel, from -0\.5 to 0\.5"),
        (lambda: NonCartesianMRI(points), "neither size nor maps are given"),
        (lambda: NonCartesianMRI(points, 8, maps_of(2, (8, 7))), r"size is \(8, 8\) and the maps are \(2, 8, 7\)"),
        (lambda: NonCartesianMRI(points, 8, np.ones((8, 8))), r"the maps are \(8, 8\); wanted \(coils, H, W\)"),
        (lambda: NonCartesianMRI(points, 8, density=np.ones(3)), r"density is float64 of shape \(3,\), from 1 on; wanted"),
        (lambda: NonCartesianMRI(points, 8, density=np.zeros(48)), r"from 0 on; wanted real numbers above 0"),
        (lambda: NonCartesianMRI("none.npy", 8), "wanted numbers or an existing .npy file"),
        (lambda: RadialMRI(8, 1, 0), "spokes is 0; wanted at least 1"),
        (lambda: SpiralMRI(8, 1, 2, 0.0), "turns is 0; wanted a value above 0"),
    ):
        with pytest.raises(InputError, match=said):
            wrong()


def soft_maps(coils, side):
    """Return maps of soft discs around the image, with a sum of squares of 1, complex ``(coils, H, W)``."""
    y, x = np.indices((side, side)) * 2 / side - 1
    turn = 2 * np.pi * np.arange(coils)[:, None, None] / coils
    maps = np.exp(-((x - 1.1 * np.cos(turn)) ** 2 + (y - 1.1 * np.sin(turn)) ** 2) / 1.5 + 1j * (turn + x * np.sin(turn)))
    return maps / np.linalg.norm(maps, axis=0)


def heads(side, count):
    return torch.stack([torch.view_as_real(torch.from_numpy(brain(side, 5, k))).movedim(-1, 0) for k in range(count)]).double()


def test_maps_follow_from_the_middle_of_k_space(rng):
    side, image = 64, heads(64, 1)
    known = NonCartesianMRI(radial(side, 48), maps=soft_maps(5, side))
    y = known(image)
    operator = MeasuredNonCartesianMRI(known.points, side, 5)
    found = operator.calibrated(y + 0.003 * torch.randn(y.shape, dtype=y.dtype, generator=rng))
    inside = torch.linalg.vector_norm(image[0], dim=0) > 0.1
    maps, theirs = (torch.view_as_complex(one.maps)[:, inside] for one in (found, known))
    phase = torch.sgn((maps.conj() * theirs).sum(0))
    assert torch.linalg.vector_norm(maps * phase - theirs, dim=0).quantile(0.95) < 0.03
    assert not MeasuredNonCartesianMRI(known.points, side, 1).calibrated(y[:, :2]).maps[..., 1].any()  # one sees all alike
    with pytest.raises(InputError, match="2 measurements are given and MeasuredNonCartesianMRI takes its maps from one"):
        operator.calibrated(torch.cat([y, y]))
    few = MeasuredNonCartesianMRI(radial(side, 6), side, 5)
    with pytest.raises(InputError, match=r"covers \d+% of the 24 points around the middle of k-space; wanted at least 80%"):
        few.calibrated(torch.ones(1, *few.measurement_shape))


def test_samples_are_read_with_their_trajectory_and_written_again(tmp_path, rng):
    """Each slice with maps of its own: up to their phase it is the truth, in the units of the file."""
    side, scale, truth = 48, 7.0, heads(48, 2)
    known = [NonCartesianMRI(radial(side, 40), maps=np.roll(soft_maps(4, side), k, 0)) for k in range(2)]
    kspace = scale * torch.cat([to_complex(a(x[None])) for a, x in zip(known, truth, strict=True)]).numpy()
    rest = {"trajectory": known[0].points, "size": [side, side]}
    np.savez(tmp_path / "scan.npz", kspace=kspace, **rest)
    source = open_source(tmp_path / "scan.npz", data_range=(0, scale))
    assert source.image_shape == (2, side, side) and len(source) == 2
    np.testing.assert_allclose(to_complex(source[1].measurement[None])[0], kspace[1] / scale, rtol=1e-5, atol=1e-6)
    assert scale * 0.7 < open_source(tmp_path / "scan.npz").normalisation.upper < scale * 1.6
    words = ["--data.path", str(tmp_path / "scan.npz"), *TV, "--model.weight", "1e-5", "--model.iterations", "40"]
    main(["predict", "--config", "mri.yaml", *words, "--results.measurements", "true", "--output", str(tmp_path / "out"), *QUIET])
    for k in range(2):
        found = np.abs(np.load(tmp_path / "out" / "arrays" / f"scan_000{k}.npy"))
        expected = scale * torch.linalg.vector_norm(truth[k], dim=0).numpy()
        assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)
    again = open_source(tmp_path / "out" / "measurements" / "scan_0001.npz")
    upper = open_source(tmp_path / "scan.npz").normalisation.upper
    assert again.normalisation.upper == 1
    np.testing.assert_allclose(to_complex(again[0].measurement[None])[0] * upper, kspace[1], rtol=1e-4, atol=1e-4)
    np.savez(tmp_path / "one.npz", kspace=kspace[0], **rest)
    assert len(open_source(tmp_path / "one.npz", data_range=(0, 1))) == 1


def test_samples_that_cannot_be_used_are_refused_in_a_sentence(tmp_path):
    kspace, rest = np.ones((3, 32), complex), {"trajectory": radial(8, 2), "size": [8, 8]}
    for arrays, said in (
        ({"trajectory": radial(8, 3)}, r"k-space of shape \(3, 32\) and a trajectory of \(48, 2\); wanted \(coils, samples\)"),
        ({"size": [8, 8, 8]}, r"of shape \(3,\) in size; wanted height and width"),
        ({"size": [8.0, 8.0]}, "has float64 of shape"),
        ({"kspace": kspace.real}, "wanted complex numbers"),
        ({"kspace": 0 * kspace}, "k-space of 0 around its middle"),
        ({"size": None}, "off the grid and no size"),
    ):
        held = {key: value for key, value in {"kspace": kspace, **rest, **arrays}.items() if value is not None}
        np.savez(tmp_path / "scan.npz", **held)
        with pytest.raises(InputError, match=said):
            open_source(tmp_path / "scan.npz")[0]
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"], file["trajectory"] = kspace, rest["trajectory"]
    with pytest.raises(InputError, match="off the grid in HDF5; wanted kspace, trajectory and size in .npz"):
        open_source(tmp_path / "scan.h5")
    np.savez(tmp_path / "scan.npz", kspace=kspace, **rest)
    with pytest.raises(InputError, match=r"scan.npz has k-space off the grid; wanted k-space of whole columns and rows"):
        prepare([str(tmp_path / "scan.npz"), "--output", str(tmp_path / "images.h5"), "--workers", "1"])


@pytest.mark.parametrize("name", ["radial", "spiral"])
def test_the_configs_reconstruct(name, tmp_path):
    words = ["--operator", f"operator/{name}.yaml", "--operator.size", "32", "--data.size", "32", "--data.count", "1"]
    words += [*TV, "--model.iterations", "20", "--model.weight", "1e-4", "--results.measurements", "true"]
    main(["predict", "--config", "mri.yaml", *words, "--output", str(tmp_path), *QUIET])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["psnr"] > summary["baselines"]["zero_filled"]["psnr"] > 15 and summary["residual"] < 0.05
