"""Laws of magnetic resonance imaging: masks, coils, k-space in files, and solvers that keep the phase."""

from __future__ import annotations

import csv
import json

import h5py
import numpy as np
import pytest
import pywt
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity

import padis_lightning as pl
from padis_lightning import metrics
from padis_lightning.cli import main
from padis_lightning.commands.prepare import run as prepare
from padis_lightning.data.brains import brain
from padis_lightning.data.conventions import Named
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.drawing import smooth_phase
from padis_lightning.data.readers import open_series
from padis_lightning.data.readers.npz import open_arrays
from padis_lightning.data.sources.combined import require_full
from padis_lightning.data.sources.kspace import find_kspace
from padis_lightning.data.sources.open import open_source
from padis_lightning.data.sources.phases import PhaseSource
from padis_lightning.diffusion.model import PatchModel
from padis_lightning.errors import InputError
from padis_lightning.mri import fourier, inverse_fourier, to_channels, to_complex
from padis_lightning.mri.coils import calibration_sides, compression, espirit, normalised, whitening
from padis_lightning.mri.masks import equispaced, middle, poisson_disc, random_columns, throw
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.mri import CartesianMRI, MeasuredMRI, SimulatedMRI
from padis_lightning.priors import GaussianPrior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.results.scores import score
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.dpir import DPIR
from padis_lightning.solvers.plug_and_play import RED, PnPADMM
from padis_lightning.solvers.tv import TotalVariation
from padis_lightning.solvers.wavelet import WaveletL1
from padis_lightning.types import Batch, Reconstruction
from tests import making

SHAPE = (96, 368)
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.mark.parametrize("acceleration", [2, 3, 4, 6, 8, 12])
@pytest.mark.parametrize("draw", [equispaced, random_columns, poisson_disc])
def test_masks_have_their_acceleration_a_full_centre_and_a_seed(draw, acceleration):
    shape = (80, 90) if draw is poisson_disc else SHAPE
    mask = draw(shape, acceleration)
    assert mask.shape == shape and mask.size / mask.sum() == pytest.approx(acceleration, rel=0.03)
    share = 0.4 / np.sqrt(2 * acceleration) if draw is poisson_disc else 0.32 / acceleration  # a square in the ellipse
    assert mask[:, middle(shape[1], int(share * shape[1]))][middle(shape[0], int(share * shape[0]))].all()
    np.testing.assert_array_equal(draw(shape, acceleration), mask)
    assert not np.array_equal(draw(shape, acceleration, seed=1), mask)


def test_columns_are_whole_and_steps_even():
    even, drawn = equispaced(SHAPE, 8), random_columns(SHAPE, 8)
    for mask in (even, drawn):
        assert (mask == mask[0]).all()
    inner = middle(SHAPE[1], round(0.04 * SHAPE[1]))
    for mask, most in ((even, 1), (drawn, np.inf)):
        steps = [np.diff(np.flatnonzero(side)) for side in (mask[0, : inner.start], mask[0, inner.stop :])]
        assert all(np.ptp(side) <= most for side in steps)
        assert most == 1 or max(map(np.ptp, steps)) > 1


def test_points_of_a_disc_keep_their_distance_and_leave_no_room():
    """Each is at least the smaller of two radii from every other, and nowhere is there a place for one more."""
    radius = np.maximum(np.hypot(*np.meshgrid(np.linspace(-6, 6, 50), np.linspace(-4, 4, 40))), 1)
    points = np.argwhere(throw(radius, np.random.default_rng(0)))
    reach = radius[tuple(points.T)]
    apart = np.hypot(*(points[:, None] - points).transpose(2, 0, 1)) + np.diag(np.full(len(points), np.inf))
    assert (apart >= np.minimum(reach[:, None], reach)).all()
    every = np.argwhere(np.ones_like(radius, bool))
    assert (np.hypot(*(every[:, None] - points).transpose(2, 0, 1)) < reach).any(1).all()


def test_discs_thin_out_from_the_middle():
    mask = poisson_disc((120, 120), 6)
    away = np.hypot(*(np.indices(mask.shape) - 60)) / 60
    shares = [mask[(away >= low) & (away < low + 0.2)].mean() for low in (0.2, 0.4, 0.6, 0.8)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 3 * shares[-1]


def test_a_centre_that_is_more_than_all_samples_is_refused():
    for draw in (equispaced, random_columns):
        with pytest.raises(InputError, match=r"the centre has 184 of 368 columns; wanted at most 92"):
            draw(SHAPE, 4, 0.5)
    with pytest.raises(InputError, match="wanted at most 8832"):
        poisson_disc(SHAPE, 4, 0.9)


def coil_maps(coils, shape):
    """Return normalised maps of coils as soft discs around the image, each with a phase that rises somewhere."""
    y, x = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape)
    turn = 2 * torch.pi * torch.arange(coils, dtype=torch.float64)[:, None, None] / coils
    square = (x - 1.1 * turn.cos()) ** 2 + (y[:, None] - 1.1 * turn.sin()) ** 2
    return normalised(torch.polar((-square / 1.5).exp(), turn + 0.8 * (x * turn.sin() - y[:, None] * turn.cos())))


def object_of(shape):
    """Return a complex object within an ellipse, and the ellipse."""
    y, x = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape)
    y, away = y[:, None], torch.hypot(x / 0.7, y[:, None] / 0.85)
    inside = (away < 1).double()
    return torch.polar(inside * (1 + 0.4 * torch.cos(9 * x) * torch.sin(7 * y)), x + 2 * y**2), away < 1


def off_by(found, maps, support):
    """Return the distance of maps from others in every pixel of the support, whatever their phases."""
    found, maps = found[:, support], maps[:, support]
    phase = torch.sgn((found.conj() * maps).sum(0))
    return torch.linalg.vector_norm(found * phase - maps, dim=0)


def test_espirit_finds_the_maps_of_a_phantom(rng):
    shape = (64, 50)
    maps, (image, support) = coil_maps(8, shape), object_of(shape)
    found = espirit(fourier(maps * image))
    away = off_by(found, maps, support)
    assert away.quantile(0.99) < 0.02 and away.mean() < 0.01
    assert torch.allclose(torch.linalg.vector_norm(found, dim=0)[support], torch.ones(()).double())
    noisy = fourier(maps * image) + 0.02 * torch.randn(
        8, *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)
    )
    found = espirit(noisy, (24, 16))
    assert off_by(found, maps, support).quantile(0.95) < 0.05
    assert (found[:, :3, :3] == 0).all() and (found[:, -3:, -3:] == 0).all()  # where there is only noise


def test_the_centre_of_a_mask_is_its_largest_full_rectangle():
    mask = np.zeros((40, 31), bool)
    mask[middle(40, 9), middle(31, 12)] = True
    assert calibration_sides(mask, 24) == (9, 12) and calibration_sides(mask, 5) == (5, 5)
    assert calibration_sides(np.tile(np.abs(np.arange(100) - 50) < 6, (64, 1)), 24) == (24, 11)
    with pytest.raises(InputError, match="fully sampled over 9x5 around its middle; wanted at least 8"):
        espirit(torch.ones(2, 40, 31, dtype=torch.complex128), (9, 5))


def test_a_small_centre_gives_rough_maps_and_a_line(caplog):
    """Better than coils that see all alike, worse than ESPIRiT of a larger centre; less than three points give none."""
    shape = (64, 50)
    maps, (image, support) = coil_maps(6, shape), object_of(shape)
    scan = CartesianMRI(equispaced(shape, 3.0, centre=0.12), maps.numpy())
    y = scan(to_channels(image[None, None]))
    operator = MeasuredMRI(shape, 6)
    found = torch.view_as_complex(operator.calibrated(y).maps)
    assert "fully sampled over 24x7 around its middle, too little for ESPIRiT" in caplog.text
    rough, fine = (off_by(one, maps, support).mean() for one in (found, espirit(fourier(maps * image))))
    alike = off_by(torch.full_like(maps, 6**-0.5), maps, support).mean()
    assert fine < rough < alike / 3
    few = CartesianMRI(equispaced(shape, 5.0, centre=0.04), maps.numpy())
    with pytest.raises(InputError, match="fully sampled over 24x2 around its middle; wanted at least 8"):
        operator.calibrated(few(to_channels(image[None, None])))


def test_whitened_noise_has_no_correlation_and_a_deviation_of_one(rng):
    mixed = torch.randn(5, 5, dtype=torch.complex128, generator=rng).numpy()
    noise = mixed @ torch.randn(5, 400, dtype=torch.complex128, generator=rng).numpy()
    white = whitening(noise) @ noise
    np.testing.assert_allclose(white @ white.conj().T / 400, 2 * np.eye(5), atol=1e-10)
    assert np.mean([white.real.std(), white.imag.std()]) == pytest.approx(1, rel=0.05)
    with pytest.raises(InputError, match="400 samples of 6 coils"):
        whitening(np.vstack([noise, noise[:1]]))


def test_compressed_coils_hold_most_and_are_orthonormal(rng):
    kspace = np.tensordot(np.arange(18).reshape(6, 3) ** 2 + 1j, torch.randn(3, 7, 8, generator=rng).numpy(), 1)
    for count in (1, 3, 6):
        rows = compression(kspace, count)
        np.testing.assert_allclose(rows @ rows.conj().T, np.eye(count), atol=1e-12)
        kept = np.linalg.norm(np.tensordot(rows, kspace, 1)) ** 2
        assert kept == pytest.approx(np.sum(np.linalg.svd(kspace.reshape(6, -1))[1][:count] ** 2))
    with pytest.raises(InputError, match="coils is 7 and k-space has 6"):
        compression(kspace, 7)


def test_the_transform_of_an_impulse_in_the_middle_is_flat():
    for shape in ((6, 8), (5, 7)):
        image = torch.zeros(shape, dtype=torch.complex128)
        image[shape[0] // 2, shape[1] // 2] = 1
        torch.testing.assert_close(fourier(image), torch.full_like(image, 1 / np.sqrt(np.prod(shape))))
        torch.testing.assert_close(inverse_fourier(fourier(image)), image)


def test_full_k_space_of_any_coils_gives_the_image_back(rng):
    image = torch.randn(2, 2, 9, 12, dtype=torch.float64, generator=rng)
    operator = CartesianMRI(np.ones(12), coil_maps(5, (9, 12)).numpy())
    torch.testing.assert_close(operator.approximate_inverse(operator(image)), image)
    assert operator.norm_squared == pytest.approx(1) and not operator.closed_form
    alone = CartesianMRI(np.ones((9, 12)))
    assert alone.closed_form and torch.equal(alone.pinv(alone(image)), alone.adjoint(alone(image)))


@pytest.mark.slow
def test_operators_and_maps_are_those_of_sigpy(rng):
    from sigpy import mri

    maps, (image, support), mask = coil_maps(8, (64, 50)), object_of((64, 50)), poisson_disc((64, 50), 3)
    operator = CartesianMRI(mask, maps.numpy())
    sense = mri.linop.Sense(maps.numpy(), weights=mask.astype(float))
    found = to_complex(operator(to_channels(image[None, None])))[0]
    np.testing.assert_allclose(found, sense(image.numpy()), atol=1e-6)
    back = to_complex(operator.adjoint(to_channels(found[None])))[0, 0]
    np.testing.assert_allclose(back, sense.H(found.numpy()), atol=1e-6)
    kspace = fourier(maps * image)
    options = {"calib_width": 24, "thresh": 0.02, "kernel_width": 6, "crop": 0.9, "show_pbar": False}
    theirs = mri.app.EspiritCalib(kspace.numpy(), **options).run()
    assert off_by(espirit(kspace), torch.from_numpy(theirs), support).max() < 0.02


def brains(size, count=1):
    return torch.stack([torch.view_as_real(torch.from_numpy(brain(size, 5, k))).movedim(-1, 0) for k in range(count)])


@pytest.mark.parametrize(
    "build",
    [
        lambda a: TotalVariation(a, weight=1e-3, iterations=20),
        *(
            lambda a, kind=kind: kind(GaussianPrior(a.image_shape, 0.0, 0.3), Problem(a), steps=4)
            for kind in (PnPADMM, RED, DPIR, DDS)
        ),
    ],
    ids=["TotalVariation", "PnPADMM", "RED", "DPIR", "DDS"],
)
def test_solvers_keep_the_sign_of_complex_images(build):
    """Nothing on the way is clipped to positive values: the image of minus the measurement is minus the image."""
    operator = SimulatedMRI(24, 3, "random", 2)
    y = operator(brains(24))
    solver = build(operator)
    generator = Generators.keyed(0, [0])
    if isinstance(solver, DDS):
        solver.eta = 0.0
        generator.normal = lambda like: torch.zeros_like(like)
    found = solver.solve(y, generator)
    assert found.min() < -0.2
    torch.testing.assert_close(solver.solve(-y, generator), -found, rtol=0, atol=1e-5)


def measured(kspace):
    return Batch(torch.tensor([0]), ["a"], ["a"], None, kspace, torch.ones(1, 1, 1, 1))


def test_a_measurement_says_its_mask_its_maps_and_its_noise(rng):
    shape, noise = (80, 64), 0.06
    maps, (image, support), mask = coil_maps(6, shape), object_of(shape), poisson_disc((80, 64), 2, 0.3)
    known = CartesianMRI(mask, maps.numpy())
    truth = to_channels(image[None, None])
    y = known(truth)
    y = known.zero_unmeasured(y + noise * torch.randn(y.shape, generator=rng, dtype=torch.float64))
    problem = Problem(MeasuredMRI(shape, 6)).for_batch(measured(y))
    assert torch.equal(problem.operator.mask, torch.from_numpy(mask))
    assert off_by(torch.view_as_complex(problem.operator.maps), maps, support).quantile(0.9) < 0.1
    assert float(problem.noise.deviation) == pytest.approx(noise, rel=0.1)
    square, weights = problem.data_term(y)  # what is not sampled counts for nothing, and the rest as if it were all
    assert torch.equal(weights[0, 0] > 0, torch.from_numpy(mask)) and weights.max() == 1
    assert float(square) == pytest.approx(noise**2, rel=0.2)


def test_python_takes_mask_and_maps_from_the_measurement_too(rng):
    """As if the operator of the measurement had been given; several at once are refused."""
    shape = (40, 36)
    image = to_channels(object_of(shape)[0][None, None])
    y = CartesianMRI(equispaced(shape, 2.0, centre=0.3), coil_maps(4, shape).numpy())(image).float()
    options = {"solver": "TotalVariation", "noise_std": 0.0, "weight": 1e-4, "iterations": 5}
    found = pl.reconstruct(y[0], MeasuredMRI(shape, 4), **options).image
    same = pl.reconstruct(y[0], MeasuredMRI(shape, 4).calibrated(y), **options).image
    assert torch.equal(found, same)
    with pytest.raises(InputError, match="2 measurements are given and MeasuredMRI takes its maps from one"):
        pl.reconstruct(torch.cat([y, y]), MeasuredMRI(shape, 4), **options)
    pictured = pl.reconstruct(to_complex(y)[0], MeasuredMRI(shape, 4), **options).image
    assert pictured.is_complex() and torch.equal(torch.view_as_real(pictured).movedim(-1, 0), found)


def test_one_solver_takes_each_measurement_for_itself():
    """Another measurement of the same shape and place has another mask, other maps and another noise; the same has not."""
    shape = (40, 36)
    image = to_channels(object_of(shape)[0][None, None]).float()
    solver = TotalVariation(MeasuredMRI(shape, 4), weight=1e-3, iterations=2)
    found = []
    for k in range(2):
        y = CartesianMRI(equispaced(shape, 2.0, 0.3, k), coil_maps(4, shape).roll(k, 0).numpy())(image)
        for repeated in (y, y.clone()):
            batch = Batch(torch.tensor([0]), ["a"], ["a"], measurement=repeated, weights=torch.ones(1, 1, 1, 1))
            found.append(solver.for_batch(batch).operator)
        assert torch.equal(found[-1].mask, (y[0] != 0).any(0))
    assert found[0] is found[1] and found[2] is found[3] and not torch.equal(found[1].maps, found[2].maps)


def test_python_takes_and_gives_complex_arrays(rng):
    """An image (H, W) becomes k-space (coils, H, W) and comes back, alone and as several; its noise is seen."""
    head, scan = np.stack([brain(48, 3, k) for k in range(2)]), SimulatedMRI(48, 4, "poisson", 2.0)
    kspace = pl.simulate(head, scan, noise_std=0.1)
    assert kspace.shape == (2, 4, 48, 48) and kspace.dtype == np.complex64
    clean = to_complex(scan(to_channels(torch.from_numpy(head)[:, None])))
    off = kspace - clean.numpy()
    assert off.real[kspace != 0].std() == pytest.approx(0.1, rel=0.05) == off.imag[kspace != 0].std()
    found = pl.reconstruct(kspace, scan, solver="TotalVariation", weight=5e-2, iterations=20)
    one = pl.reconstruct(kspace[0], scan, solver="TotalVariation", weight=5e-2, iterations=20)
    np.testing.assert_allclose(one.image, found.image[0], atol=1e-5)
    assert one.image.shape == (48, 48) and one.noise_std == pytest.approx(0.1, rel=0.15)
    plain = pl.reconstruct(kspace[0], scan, solver="PseudoInverse").image
    assert np.linalg.norm(one.image - head[0]) < 0.8 * np.linalg.norm(plain - head[0])
    with pytest.raises(InputError, match=r"the measurement is complex; wanted real numbers \(1, 5, 96\)"):
        pl.reconstruct(np.ones((5, 96), complex), ParallelBeam(48, 5))


def write_bart(path, kspace):
    """Write k-space (slices, coils, H, W) as BART does: readout, phase, 1, coils, ..., slices, the first axis fastest."""
    slices, coils, height, width = kspace.shape
    sides = [height, width, 1, coils, *[1] * 9, slices, 1, 1]
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, sides)) + "\n")
    path.write_bytes(np.transpose(kspace, (2, 3, 1, 0)).astype("<c8").tobytes(order="F"))


@pytest.fixture
def kspace(rng):
    return torch.randn(3, 4, 10, 12, dtype=torch.complex64, generator=rng).numpy()


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file[key] = values


def test_k_space_is_read_from_every_format(kspace, tmp_path):
    np.save(tmp_path / "a.npy", kspace)
    np.savez(tmp_path / "a.npz", kspace=kspace)
    write_hdf5(tmp_path / "a.h5", kspace=kspace, reconstruction_rss=np.zeros((3, 10, 12)))
    write_bart(tmp_path / "a.cfl", kspace)
    for suffix in ("npy", "npz", "h5", "cfl"):
        source = open_source(tmp_path / f"a.{suffix}", data_range=(0, 2.0))
        assert source.image_shape == (2, 10, 12) and len(source) == 3 and not source.has_images
        assert [source.name(k) for k in range(3)] == ["a_0000", "a_0001", "a_0002"] and set(source.groups) == {"a"}
        found = torch.stack([source[k].measurement for k in range(3)])
        np.testing.assert_allclose(to_complex(found), kspace / 2, rtol=1e-6)
    np.save(tmp_path / "one.npy", kspace[0])
    write_hdf5(tmp_path / "single.h5", kspace=kspace[:, 0])
    assert find_kspace(tmp_path / "one.npy").shape == (1, 4, 10, 12)
    assert find_kspace(tmp_path / "single.h5").shape == (3, 1, 10, 12)


def test_coils_are_whitened_by_a_noise_scan_and_combined(kspace, tmp_path, rng):
    noise = np.tri(4) @ torch.randn(4, 500, dtype=torch.complex64, generator=rng).numpy()
    np.savez(tmp_path / "a.npz", kspace=kspace, noise=noise, range=[0, 2.0])
    write_hdf5(tmp_path / "a.h5", kspace=kspace, noise=noise, range=[0, 2.0])
    for suffix in ("npz", "h5"):
        found = to_complex(open_source(tmp_path / f"a.{suffix}")[1].measurement[None])[0]
        np.testing.assert_allclose(found, np.tensordot(whitening(noise), kspace[1], 1) / 2, rtol=1e-5, atol=1e-5)
    np.savez(tmp_path / "b.npz", kspace=np.repeat(kspace[:, :2], 2, 1), range=[0, 1.0])  # two coils, twice each
    found = to_complex(open_source(tmp_path / "b.npz", named=Named(coils=2))[1].measurement[None])[0]
    total = np.linalg.norm(np.repeat(kspace[1, :2], 2, 0), axis=0)
    np.testing.assert_allclose(torch.linalg.vector_norm(found, dim=0), total, rtol=1e-5)


def bad_files(folder, kspace):
    """Yield files that cannot be used with a part of the sentence that says why."""
    np.savez(folder / "real.npz", kspace=kspace.real)
    yield "real.npz", "wanted complex numbers"
    np.save(folder / "nan.npy", np.where(np.arange(12) == 3, np.nan, kspace))
    yield "nan.npy", "not finite in slice"
    np.save(folder / "flat.npy", kspace[0, 0])
    yield "flat.npy", r"k-space of shape \(10, 12\)"
    np.save(folder / "zero.npy", 0 * kspace)
    yield "zero.npy", "k-space of 0 around its middle"
    np.savez(folder / "noise.npz", kspace=kspace, noise=kspace[0, :3, 0])
    yield "noise.npz", r"shape \(3, 12\) in noise; wanted complex numbers \(4 coils"
    np.savez(folder / "shifted.npz", kspace=kspace, range=[1.0, 2.0])
    yield "shifted.npz", "wanted 0 first"
    write_bart(folder / "short.cfl", kspace)
    (folder / "short.cfl").write_bytes(b"\0" * 80)
    yield "short.cfl", "has 80 bytes; wanted 11520"
    write_bart(folder / "volume.cfl", kspace)
    (folder / "volume.hdr").write_text("# Dimensions\n10 12 3 4\n")
    yield "volume.cfl", "wanted two of space, coils and slices"
    (folder / "alone.cfl").write_bytes(b"\0" * 80)
    yield "alone.cfl", "a .hdr beside the .cfl"


def test_k_space_that_cannot_be_used_is_refused_in_a_sentence(kspace, tmp_path):
    for name, said in bad_files(tmp_path, kspace):
        with pytest.raises(InputError, match=said):
            open_source(tmp_path / name)[0]


def test_operators_refuse_what_does_not_fit(tmp_path):
    np.save(tmp_path / "mask.npy", np.ones((4, 5)))
    assert CartesianMRI(str(tmp_path / "mask.npy")).image_shape == (2, 4, 5)
    for wrong, said in (
        (lambda: CartesianMRI(np.ones(4)), r"the mask is \(4,\)"),
        (lambda: CartesianMRI(np.ones((4, 5)), np.ones((2, 5, 4))), r"maps are \(2, 5, 4\); wanted"),
        (lambda: CartesianMRI(np.zeros((4, 5))), "keeps 0 points"),
        (lambda: CartesianMRI(str(tmp_path / "none.npy")), "wanted numbers or an existing .npy file"),
        (lambda: CartesianMRI(np.full((4, 5), np.nan)), "not finite"),
        (lambda: SimulatedMRI(16, pattern="stars"), "wanted one of equispaced, random, poisson"),
    ):
        with pytest.raises(InputError, match=said):
            wrong()


def test_scores_are_those_of_the_magnitude(rng):
    truth = brains(32, 2)
    estimate = truth + 0.02 * torch.randn(truth.shape, generator=rng)
    turned = to_channels(to_complex(estimate) * torch.polar(torch.ones(()), torch.tensor(1.0)))
    rows = [score(Reconstruction(one, None, None, 0.0, 0), truth) for one in (estimate, turned)]
    expected = metrics.psnr(*(torch.linalg.vector_norm(one, dim=1, keepdim=True) for one in (estimate, truth)))
    for row in rows:
        torch.testing.assert_close(torch.tensor([one["psnr"] for one in row]), expected)
    size, near = (np.hypot(*one[0].numpy()) for one in (truth, estimate))
    square = np.sum((size - near) ** 2, dtype=float)
    for row in rows:
        assert row[0]["nmse"] == pytest.approx(square / np.sum(size**2, dtype=float), rel=1e-4)
        assert row[0]["psnr_of_range"] == pytest.approx(10 * np.log10(size.max() ** 2 / (square / size.size)), rel=1e-4)
        assert row[0]["ssim_of_range"] == pytest.approx(structural_similarity(size, near, data_range=size.max()), rel=1e-3)


def run(folder, *words):
    solver = [] if "--model" in words else ["--model", "TotalVariation", "--model.weight", "1e-3"]
    main(["predict", "--config", "mri.yaml", "--output", str(folder), *solver, *words, *QUIET])
    return json.loads((folder / "summary.json").read_text())


def test_a_scan_is_reconstructed_by_one_command(tmp_path):
    """Each slice with maps of its own: up to the phase of the maps it is the truth, in the units of the file."""
    truth, scale = brains(64, 2), 7.0
    known = [CartesianMRI(poisson_disc((64, 64), 2, 0.4, k), coil_maps(6, (64, 64)).roll(k, 0).numpy()) for k in range(2)]
    kspace = torch.cat([to_complex(a(x[None])) for a, x in zip(known, truth, strict=True)]) * scale
    write_hdf5(tmp_path / "scan.h5", kspace=kspace.to(torch.complex64).numpy())
    words = ["--data.path", str(tmp_path / "scan.h5")]
    summary = run(tmp_path / "out", *words, "--model.weight", "1e-4", "--results.formats", "[png16]")
    assert summary["n"] == 2 and summary["solver"] == "TotalVariation" and summary["residual"] < 0.02
    assert set(summary["baselines"]) == {"zero_filled", "cg_sense"}
    assert summary["residual"] < summary["baselines"]["zero_filled"]["residual"] / 3
    for k in range(2):
        found = np.load(tmp_path / "out" / "arrays" / f"scan_000{k}.npy")
        assert found.dtype == np.complex64 and found.shape == (64, 64)
        expected = scale * torch.linalg.vector_norm(truth[k], dim=0).numpy()
        assert np.linalg.norm(np.abs(found) - expected) < 0.05 * np.linalg.norm(expected)
    words += ["--model", "PnPADMM", "--model.steps", "3", "--prior", "GaussianPrior", "--prior.image_shape", "[2, 64, 64]"]
    summary = run(tmp_path / "gauss", *words, "--data.coils", "5", "--results.measurements", "true")
    assert summary["evaluations"] == 3 and summary["residual"] < 0.1
    again = open_source(tmp_path / "gauss" / "measurements" / "scan_0001.npz")
    assert again.normalisation.upper == 1 and again[0].measurement.shape == (10, 64, 64)


def test_complex_heads_are_built_in(tmp_path):
    summary = run(tmp_path, "--data.size", "32", "--operator.size", "32", "--data.count", "2", "--model.iterations", "30")
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert len(rows) == 2 and summary["psnr"] > summary["baselines"]["cg_sense"]["psnr"] > 15


def test_a_head_is_its_seed_and_its_index_at_any_size():
    heads = [brain(64, 3, k) for k in range(8)]
    np.testing.assert_array_equal(brain(64, 3, 5), heads[5])
    assert len({head.tobytes() for head in heads}) == 8 and not np.array_equal(brain(64, 4, 5), heads[5])
    for k in range(3):
        coarse = np.abs(brain(128, 3, k).reshape(64, 2, 64, 2).mean((1, 3)))
        assert np.corrcoef(coarse.ravel(), np.abs(heads[k]).ravel())[0, 1] > 0.99


def test_a_head_lies_in_air_with_a_smooth_phase():
    for k in range(8):
        head = brain(96, 1, k)
        size = np.abs(head)
        assert head.dtype == np.complex64 and size.max() == pytest.approx(1, abs=1e-3)
        assert not size[:2].any() and 0.25 < (size > 0).mean() < 0.7
        assert ndimage.label(size > 0)[1] == 1
        both = (size[:, 1:] > 0) & (size[:, :-1] > 0)
        steps = np.angle(head[:, 1:] * head[:, :-1].conj())[both]
        assert np.abs(steps).max() < 0.5 and np.abs(np.angle(head[size > 0])).std() > 0.02


WEIGHT = 0.05


def shrunk(x, weight, levels=2):
    """Return what minimises half the squared distance to complex images (B, 2, H, W) and the weighted moduli of coefficients."""
    axes = {"mode": "periodization", "axes": (-2, -1)}
    coarse, *fine = pywt.wavedec2(x[:, 0].numpy() + 1j * x[:, 1].numpy(), "db4", level=levels, **axes)
    fine = [tuple(c * np.maximum(0, 1 - weight / np.abs(c)) for c in level) for level in fine]
    return to_channels(torch.from_numpy(pywt.waverec2([coarse, *fine], "db4", **axes))[:, None])


def test_sparse_wavelets_of_a_noisy_image_are_its_shrunk_coefficients(rng):
    y = 0.2 * torch.randn(2, 2, 32, 48, generator=rng, dtype=torch.float64)
    solver = WaveletL1(Identity((2, 32, 48)), weight=WEIGHT, iterations=300, levels=2, shifts=False)
    solver.operator.signed = True
    expected = shrunk(y, WEIGHT)
    assert expected.abs().max() < 1 and (expected - y).abs().max() > WEIGHT / 4
    torch.testing.assert_close(solver.solve(y, Generators.keyed(0, [0, 1])), expected, rtol=0, atol=1e-6)


def test_sparse_wavelets_of_odd_sides_are_a_minimum(rng):
    """No small step from it lowers the sum of both terms, which is convex; of the image with zeros around."""
    mask = [1, 0, 1, 1, 0, 1, 1]
    operator, side = CartesianMRI(mask, coil_maps(3, (9, 7))), 16
    y = operator(0.3 * torch.randn(1, 2, 9, 7, generator=rng, dtype=torch.float64))
    x = WaveletL1(operator, weight=0.02, wavelet="haar", iterations=200, levels=2, shifts=False).solve(
        y, Generators.keyed(0, [0])
    )

    def cost(x):
        around = np.zeros((side, side), complex)
        around[:9, :7] = to_complex(x)[0, 0].numpy()
        _, *fine = pywt.wavedec2(around, "haar", "periodization", level=2)
        data = (operator(x) - y).square().sum() / (2 * operator.norm_squared)
        return float(data) + 0.02 * sum(np.abs(c).sum() for level in fine for c in level)

    least = cost(x)
    for step in (x, -x, *torch.randn(200, *x.shape, generator=rng, dtype=x.dtype)):
        assert cost(x + 1e-3 * step) > least - 1e-9
    assert cost(operator.pinv(y)) > least + 1e-3


def test_sparse_wavelets_keep_the_phase(rng):
    """An object whose phase is turned everywhere is reconstructed alike, turned; with shifts, too."""
    operator = SimulatedMRI(32, 4, acceleration=2)
    solver = WaveletL1(operator, weight=1e-3, iterations=20, levels=2)
    x = 0.1 * torch.randn(1, 2, 32, 32, generator=rng, dtype=torch.float64)
    turned = to_channels(to_complex(x) * np.exp(0.7j))
    plain, other = (solver.solve(operator(image), Generators.keyed(0, [0])) for image in (x, turned))
    torch.testing.assert_close(to_channels(to_complex(plain) * np.exp(0.7j)), other, rtol=0, atol=1e-8)


def magnitudes(tmp_path, shape=(6, 20, 26)):
    """A file of magnitudes with two slices a patient, and their values as normalised."""
    values = np.random.default_rng(0).uniform(1, 200, shape).astype(np.uint8)
    np.savez(tmp_path / "sizes.npz", images=values, patient=np.repeat(list("abc"), 2))
    return tmp_path / "sizes.npz", torch.from_numpy(values / 255).float()


def test_simulated_phases_are_smooth_keep_magnitudes_and_belong_to_seed_and_image(tmp_path):
    path, expected = magnitudes(tmp_path)
    source = PhaseSource(open_source(path), 3)
    images = torch.stack([source[k].image for k in range(6)])
    assert source.image_shape == images.shape[1:] == (2, 20, 26) and source.groups == list("aabbcc")
    torch.testing.assert_close(torch.linalg.vector_norm(images, dim=1), expected)
    turns = to_complex(images)[:, 0] / expected
    steps = [(turns[..., 1:] / turns[..., :-1]).angle(), (turns[:, 1:] / turns[:, :-1]).angle()]
    assert all(step.abs().max() < 1 for step in steps)
    offsets = turns[:, 10, 13].angle()
    assert offsets.std() > 0.5 and turns.angle().std((1, 2)).min() > 0.05
    assert torch.equal(PhaseSource(open_source(path), 3)[4].image, images[4])
    assert not torch.equal(PhaseSource(open_source(path), 4)[4].image, images[4])


def test_phases_are_anything_in_the_middle_and_slope_as_they_bend_and_rise():
    across, down = np.meshgrid(*[np.linspace(-1, 1, 9, dtype=np.float32)] * 2)
    drawn = np.stack([smooth_phase(np.random.default_rng(k), across, down) for k in range(4000)])
    assert abs(np.exp(1j * drawn[:, 4, 4]).mean()) < 0.05
    rise, bend = 0.8**2, 1.2**2 / 3 / 2  # variance of a slope, and of half the difference of two ends of a texture
    for first, last in ((drawn[:, 4, 0], drawn[:, 4, 8]), (drawn[:, 0, 4], drawn[:, 8, 4])):
        assert np.var((last - first) / 2) == pytest.approx(rise + bend, rel=0.1)


def test_training_and_prediction_see_the_same_simulated_phases(tmp_path):
    path, _ = magnitudes(tmp_path)
    trained, predicted = (ImageData(str(path), random_phase=True, seed=5) for _ in range(2))
    trained.setup("fit")
    predicted.setup("predict")
    assert trained.image_shape == (2, 20, 26) and "simulated phases, seed 5" in trained.source
    whole = {item.index: item.image for item in predicted._parts["predict"]}
    seen = [item for part in ("fit", "validation") for item in trained._parts[part]]
    assert len(seen) == 6 and all(torch.equal(item.image, whole[item.index]) for item in seen)
    crops = ImageData(str(path), random_phase=True, crops=3, size=8)
    crops.setup("fit")
    squares = torch.stack([item.image for item in crops._parts["fit"]])
    assert squares.shape[1:] == (2, 8, 8) and len(squares) == 12
    offsets = to_complex(squares)[:, 0, 4, 4].angle()
    assert len(offsets.unique()) == 12


def test_images_that_are_no_magnitudes_get_no_phase(tmp_path):
    path, _ = magnitudes(tmp_path)
    np.savez(tmp_path / "colours.npz", images=np.zeros((4, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "signed.npz", images=np.full((4, 8, 8), -0.1), range=[0, 1.0])
    for options, said in (
        ({"path": tmp_path / "colours.npz"}, "have 3 channels"),
        ({"path": path, "hu": True}, "are in Hounsfield units"),
        ({"path": path, "range": (-5, 5)}, "have the range -5 to 5"),
        ({"path": path, "measured": True}, "are measurements"),
        ({"path": tmp_path / "signed.npz"}, "has values below 0; wanted magnitudes"),
    ):
        data = ImageData(str(options.pop("path")), random_phase=True, **options)
        with pytest.raises(InputError, match=said):
            data.setup("predict")
            data._parts["predict"][0]
    with pytest.raises(InputError, match="random_phase is given and path null"):
        ImageData(random_phase=True)


def test_priors_of_magnitudes_say_that_phases_were_simulated(tmp_path):
    sizes = np.abs(np.stack([brain(32, 5, k) for k in range(3)]))
    np.savez(tmp_path / "heads.npz", images=sizes.astype(np.float32))
    words = ["--data.path", str(tmp_path / "heads.npz"), "--data.random_phase", "true"]
    network = ["--model.network.channels", "2", "--model.network.base", "8", "--model.network.blocks", "1"]
    sides = ["--data.size", "null", "--data.batch_size", "2", "--model.patch_sizes", "[16,32]", "--export.reference", "0"]
    steps = ["--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--samples.steps", "2"]
    main(["fit", "--config", "demo.yaml", "--output", str(tmp_path / "fit"), *words, *network, *sides, *steps, *QUIET])
    model = PatchModel.load(tmp_path / "fit" / "prior.safetensors")
    assert model.image_shape == (2, 32, 32) and "with simulated phases, seed 0" in model.training["data"]
    prior = ["--prior", "PatchPrior", "--prior.checkpoint", str(tmp_path / "fit" / "prior.safetensors")]
    solver = ["--model", "PnPADMM", "--model.steps", "2", "--operator.size", "32", "--results.formats", "[nifti]"]
    summary = run(tmp_path / "out", *words, "--data.size", "null", *solver, *prior)
    assert summary["baselines"]["cg_sense"]["psnr"] > 15 and (tmp_path / "out/volumes/images_phase.nii.gz").is_file()


def write_scans(folder, scales, shape=(40, 36), keep=slice(None)):
    """Write scans of two slices of one object in noise, in files of their own units; return images of each as combined."""
    folder.mkdir()
    maps, (image, support) = coil_maps(5, shape), object_of(shape)
    slices = torch.stack([image, image * torch.polar(torch.ones(()).double(), torch.tensor(1.0).double())])
    mask = np.zeros(shape[1], bool)
    mask[keep] = True
    for k, scale in enumerate(scales):
        kspace = scale * fourier(maps * slices[:, None]) * torch.from_numpy(mask)
        write_hdf5(folder / f"s{k}.h5", kspace=kspace.to(torch.complex64).numpy())
    return maps, slices, support


def test_prepared_scans_are_images_as_coils_see_them_with_one_scale_a_scan(tmp_path):
    """Magnitudes are those of the object, and the phase is off by that of a combination of the maps alone."""
    scales = [1e-4, 3.0, 500.0]
    maps, slices, support = write_scans(tmp_path / "scans", scales)
    words = ["--output", str(tmp_path / "out.h5"), "--split", "0.34", "0.33", "0.33", "--workers", "1"]
    prepare([str(tmp_path / "scans"), *words])
    source = open_source(tmp_path / "out.h5")
    assert source.image_shape == (2, 40, 36) and all(source.parts.count(part) == 2 for part in ("train", "validation", "test"))
    with h5py.File(tmp_path / "out.h5") as file:
        ones = file["scale"][()]
    for k in range(6):
        found = to_complex(source[k].image.double()[None])[0, 0]
        scan, number = source.groups[k], int(source.name(k)[-1])
        expected = slices[number] * scales[int(scan[1])] / ones[k]
        assert (found.abs() - expected.abs())[support].abs().quantile(0.95) < 0.02 and found.abs().max() < 1
        measured = open_source(tmp_path / "scans" / f"{scan}.h5")
        assert measured.normalisation.upper == pytest.approx(ones[k])  # as predict takes it to be
    images = to_complex(torch.stack([source[k].image for k in range(2)]))[:, 0]
    turn = (images[1] / images[0])[support].angle()
    assert abs(turn.median()) == pytest.approx(1.0, abs=0.01) and turn.std() < 0.01


def test_folders_of_scans_are_trained_on_and_simulated_from(tmp_path):
    maps, slices, support = write_scans(tmp_path / "scans", [2.0, 5.0, 7.0])
    data = ImageData(str(tmp_path / "scans"))
    data.setup("fit")
    assert data.image_shape == (2, 40, 36) and len(data._parts["fit"]) == 4 and len(data._parts["validation"]) == 2
    np.savez(tmp_path / "one.npz", kspace=h5py.File(tmp_path / "scans" / "s0.h5")["kspace"][()])
    write_bart(tmp_path / "one.cfl", np.load(tmp_path / "one.npz")["kspace"])
    first = open_source(tmp_path / "scans")[1].image
    for name in ("one.npz", "one.cfl"):
        read = open_arrays if name.endswith("npz") else open_series
        np.testing.assert_allclose(read(tmp_path / name)[0].read(1), first.movedim(0, -1), atol=1e-6)
    with pytest.raises(InputError, match="only measurements; wanted a folder of scans of full k-space, or what prepare makes"):
        ImageData(str(tmp_path / "scans" / "s0.h5")).setup("fit")
    named = open_source(tmp_path / "scans", data_range=(0, 2.0))[1].image
    torch.testing.assert_close(2 * named, first)  # and no part below 0 is clipped
    with pytest.raises(InputError, match="real and imaginary part, and the range 1 to 2; wanted 0 first"):
        open_source(tmp_path / "scans", data_range=(1.0, 2.0))


@pytest.mark.parametrize("keep", [slice(None, None, 2), slice(0, 22), slice(15, 21)], ids=["gaps", "one side", "the middle"])
def test_only_full_k_space_is_trained_on(tmp_path, keep):
    write_scans(tmp_path / "scans", [1.0], keep=keep)
    with pytest.raises(InputError, match=r"s0.h5 at slice 0 has \d+ of 1440 points of k-space, with gaps or to one side"):
        open_source(tmp_path / "scans")[0]


def test_zeros_around_k_space_are_no_gaps():
    full = np.zeros((40, 36), bool)
    full[:, 4:33] = True
    require_full(full, "a")
    away = np.hypot(*(np.indices((40, 36)) - np.array([20, 18])[:, None, None]) / np.array([20, 18])[:, None, None])
    require_full(away <= 1, "an ellipse")
    with pytest.raises(InputError, match="a has 0 of 1440 points"):
        require_full(np.zeros((40, 36), bool), "a")


def test_a_prepared_file_keeps_the_phase_of_what_it_clips_and_the_pixels_of_a_header(tmp_path):
    write_scans(tmp_path / "scans", [1.0])
    header = making.scan_xml((40, 36), (80, 36))
    with h5py.File(tmp_path / "scans" / "s0.h5", "a") as file:
        file["ismrmrd_header"] = header
    words = [str(tmp_path / "scans"), "--split", "1", "0", "0", "--workers", "1", "--output"]
    prepare([*words, str(tmp_path / "a.h5"), "--dtype", "float32"])
    prepare([*words, str(tmp_path / "b.h5"), "--range", "0", "0.15"])
    prepare([*words, str(tmp_path / "c.h5"), "--spacing", "2", "--size", "40"])
    whole, clipped, resampled = (to_complex(open_source(tmp_path / f"{name}.h5")[0].image[None])[0, 0] for name in "abc")
    assert (whole.abs() > 0.35).any() and (whole.abs() < 0.25).any()  # twice the range is kept
    expected = whole / 0.15 * torch.clamp(2 / (whole.abs() / 0.15).clamp_min(1e-9), max=1)
    torch.testing.assert_close(clipped, expected, rtol=0, atol=5e-5)
    means = whole.unflatten(1, (18, 2)).mean(2)  # rows have 2 mm already, columns 1
    torch.testing.assert_close(resampled[:, 11:29], means, rtol=0, atol=5e-5)
    assert resampled[:, :11].abs().max() < 5e-5
