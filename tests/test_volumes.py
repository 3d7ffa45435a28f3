"""Volumes: slices on their own, held together, in groups, and in cubes; each against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear
from torch import nn

from padis_lightning.diffusion import Coordinates, Denoiser, PatchModel, coordinates, padding
from padis_lightning.errors import InputError
from padis_lightning.linalg import dot, norm
from padis_lightning.networks.unet import UNet
from padis_lightning.noise import GaussianNoise
from padis_lightning.operators import slices as slicewise
from padis_lightning.operators.blur import UniformBlur
from padis_lightning.operators.cone import ConeBeam
from padis_lightning.operators.ct import FanBeam, ParallelBeam
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.slices import Slices
from padis_lightning.operators.super_resolution import AveragePooling
from padis_lightning.operators.whitening import Whitening
from padis_lightning.priors import GaussianPrior, GroupPrior, OverlapTiling, PatchPrior, RandomTiling, SlicePrior
from padis_lightning.priors.groups import partition, spacing_channel
from padis_lightning.priors.slice_variation import differences, differences_adjoint, slice_tv_step
from padis_lightning.problem import Problem
from padis_lightning.random import Generators, seeded
from padis_lightning.solvers.ancestral import Ancestral
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.diffusion import DiffusionSolver
from padis_lightning.solvers.dps import DPS
from padis_lightning.solvers.langevin import Langevin
from padis_lightning.solvers.plug_and_play import PnPADMM
from padis_lightning.solvers.plug_and_play_slices import PnPSlices
from padis_lightning.solvers.predictor_corrector import PredictorCorrector
from padis_lightning.solvers.tv import TotalVariation, gradient, gradient_adjoint
from padis_lightning.types import Batch, Normalisation

from . import test_cone, test_ct
from .conftest import random_network
from .test_solvers import MEAN, STD, Matrix, subclasses
from .test_solvers import SOLVERS as EVERY_SOLVER


def test_measurement_and_proximal_step_of_a_volume_are_those_of_its_slices(rng):
    for inner in (ParallelBeam(9, views=5, bins=14), UniformBlur((2, 5, 7), 3)):
        operator = Slices(inner, 4)
        x = torch.randn(2, *operator.image_shape, generator=rng, dtype=torch.float64)
        y, weight = operator(x), torch.tensor([0.3, 2.0], dtype=torch.float64).reshape(2, 1, 1, 1, 1)
        v, precision = torch.randn(x.shape, generator=rng, dtype=torch.float64), torch.rand(y.shape, generator=rng).double() + 0.5
        near = operator.prox(v, y, weight, precision, iterations=200)  # until rounding stops it
        for b in range(2):
            for z in range(4):
                torch.testing.assert_close(y[b, z], inner(x[b, None, :, z])[0], rtol=1e-12, atol=1e-12)
                parts = v[b, None, :, z], y[b, z, None], float(weight[b]), precision[b, z, None]
                torch.testing.assert_close(near[b, :, z], inner.prox(*parts, iterations=200)[0], rtol=1e-9, atol=1e-9)


def section(part, z):
    """The ellipse that an ellipsoid (centre, half axes, turned by, value) has in the plane at z, or None."""
    centre, axes, turned, value = part
    root = np.diag(1 / np.array(axes)) @ test_cone.turn(*turned)
    form = root.T @ root  # the ellipsoid is d' form d < 1, with d from its centre
    plane, across, up = form[:2, :2], form[:2, 2], z - centre[2]
    shift = -np.linalg.solve(plane, across) * up
    left = 1 - form[2, 2] * up**2 + shift @ plane @ shift
    if left <= 0:
        return None
    values, vectors = np.linalg.eigh(plane)
    x, y = np.array(centre[:2]) + shift
    return (x, y), tuple(np.sqrt(left / values)), math.atan2(vectors[1, 0], vectors[0, 0]), value


def ellipsoid_slices(operator, thickness):
    """Ellipsoids as a volume, and the closed form of the line integrals through each of its slices."""
    inner = operator.operator.geometry
    size = operator.image_shape[1:]
    grid = ConeBeam(size, views=3, rows=1, pixel_spacing=inner.pixel_spacing, slice_spacing=thickness).geometry
    sinograms = []
    for z in test_cone.places(grid)[2].flatten():
        parts = [ellipse for part in test_cone.ELLIPSOIDS if (ellipse := section(part, z))]
        empty = torch.zeros(1, 1, *inner.shape, dtype=torch.float64)
        sinograms.append(test_ct.ellipses(inner, parts)[1] if parts else empty)
    return test_cone.ellipsoids(grid)[0], torch.stack(sinograms, 1)


BEAMS = {"parallel": ParallelBeam, "fan": FanBeam}


@pytest.mark.parametrize("beam", BEAMS)
def test_slices_of_ellipsoids_are_measured_as_the_ellipses_that_they_are(beam):
    errors = []
    for n in (24, 48, 96):
        operator = Slices(BEAMS[beam]((n, 3 * n // 4), views=9), n // 2)
        volume, sinograms = ellipsoid_slices(operator, thickness=36 / n)
        errors.append(float((operator(volume) - sinograms).norm() / sinograms.norm()))
    assert errors[-1] < 0.03 and errors[0] > 1.6 * errors[1] > 1.6**2 * errors[2], errors


def test_the_closed_form_of_a_slice_is_that_of_the_volume_in_its_plane():
    """A cone of one row around a source at the height of a slice is the fan of that slice."""
    operator, thickness = Slices(FanBeam((24, 18), views=9), 12), 1.5
    inner = operator.operator.geometry
    _, sinograms = ellipsoid_slices(operator, thickness)
    cone = ConeBeam(
        (12, 24, 18), angles=inner.angles, rows=1, bins=inner.bins, pixel_spacing=inner.pixel_spacing, slice_spacing=thickness,
        bin_spacing=inner.bin_spacing, source_distance=inner.source_distance, detector_distance=inner.detector_distance,
    ).geometry  # fmt: skip
    for k, z in enumerate(test_cone.places(cone)[2].flatten()):
        _, expected = test_cone.ellipsoids(replace(cone, heights=(float(z),) * 9))
        torch.testing.assert_close(sinograms[:, k], expected[:, :, :, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "inner",
    [ParallelBeam((9, 7), views=5, bins=14), FanBeam((7, 9), views=6, bins=13), UniformBlur((2, 5, 7), 3)],
    ids=["parallel", "fan", "blur"],
)
def test_slices_are_the_blocks_of_a_matrix_and_the_adjoint_its_transpose(inner, rng):
    depth, pixels = 3, math.prod(inner.image_shape)
    operator, eye = Slices(inner, depth), torch.eye(pixels, dtype=torch.float64)
    block = inner(eye.reshape(-1, *inner.image_shape)).flatten(1).t()
    x = torch.randn(2, *operator.image_shape, generator=rng, dtype=torch.float64)
    y = torch.randn(2, *operator.measurement_shape, generator=rng, dtype=torch.float64)
    forward, back = operator(x), operator.adjoint(y)
    expected = torch.einsum("mn,bdn->bdm", block, x.transpose(1, 2).flatten(2))
    torch.testing.assert_close(forward.flatten(2), expected, rtol=1e-12, atol=1e-12)
    expected = torch.einsum("mn,bdm->bdn", block, y.flatten(2))
    torch.testing.assert_close(back.transpose(1, 2).flatten(2), expected, rtol=1e-12, atol=1e-12)
    assert ((dot(forward, y) - dot(x, back)).abs() / (norm(forward) * norm(y))).max() < 1e-12


def test_slices_together_are_slices_alone_however_many_at_a_time(model, rng, monkeypatch):
    prior = SlicePrior(PatchPrior(model), 5).double()
    x = torch.randn(2, 1, *prior.canvas_shape[1:], generator=rng, dtype=torch.float64)
    sigma = torch.tensor([0.2, 0.7], dtype=torch.float64)
    together = prior(x, sigma, Generators.keyed(0, [3, 8]))
    streams = Generators.keyed(0, [3, 8]).split(5)
    for b in range(2):
        for z in range(5):
            alone = prior.prior(x[b, None, :, z], sigma[b], streams[5 * b + z : 5 * b + z + 1])
            torch.testing.assert_close(together[b, :, z], alone[0], rtol=1e-9, atol=1e-9)
    monkeypatch.setattr("padis_lightning.priors.slices.SLICES_AT_ONCE", 2)
    seen = []
    prior.prior.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    torch.testing.assert_close(prior(x, sigma, Generators.keyed(0, [3, 8])), together, rtol=1e-9, atol=1e-9)
    assert seen == [2] * 5  # so many slices are held at once, whatever the depth
    assert len({tuple(g.get_state().tolist()) for g in streams.generators}) == 10  # each slice has a partition of its own


SOLVERS = {
    "DDS": lambda p, a: DDS(p, a, noise_std=0.01, steps=4, sigma_max=1.0),
    "DDS, correlated": lambda p, a: DDS(p, a, noise_std=0.01, steps=4, sigma_max=1.0, sample=True, slice_correlation=0.7),
    "PnPADMM": lambda p, a: PnPADMM(p, a, steps=4),
    "PnPSlices": lambda p, a: PnPSlices(p, a, steps=4, weight=1e-3),
    "DPS": lambda p, a: DPS(p, a, steps=2, inner=2, guidance="norm"),
    "PredictorCorrector": lambda p, a: PredictorCorrector(p, a, steps=3),
    "Langevin": lambda p, a: Langevin(p, a, steps=2, inner=2),
    "TotalVariation": lambda p, a: TotalVariation(a, weight=1e-3, iterations=5),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_take_volumes_and_a_batch_is_a_set(model, name, rng):
    solver = SOLVERS[name](SlicePrior(PatchPrior(model)), Slices(ParallelBeam(20, views=5), 4)).double()
    images = torch.rand(2, 1, 4, 20, 20, generator=rng, dtype=torch.float64)
    images[1] *= 0.01
    with torch.no_grad():
        together = solver.predict_step(Batch(torch.tensor([4, 9]), ["a", "b"], ["a", "b"], images)).estimate
        alone = [
            solver.predict_step(Batch(torch.tensor([k]), ["a"], ["a"], images[i : i + 1])).estimate for i, k in enumerate((4, 9))
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)


def correlation(r, depth):
    """The matrix of r^|j - k|."""
    return torch.tensor([[float(r) ** abs(j - k) for k in range(depth)] for j in range(depth)], dtype=torch.float64)


@pytest.mark.parametrize("r", [0.3, 0.7, 0.99])
def test_noise_of_slices_has_the_correlation_that_is_asked_for(r):
    """The triangular root of r^|j - k|, times the numbers that r = 0 draws, for each volume of a batch."""
    streams, like = partial(Generators.keyed, 3, [4, 9]), torch.empty(2, 2, 6, 3, 5, dtype=torch.float64)
    fresh = torch.stack([torch.randn(like.shape[1:], generator=seeded(3, k, 0), dtype=like.dtype) for k in (4, 9)])
    root = torch.linalg.cholesky(correlation(r, 6))
    expected = torch.einsum("jk,bckhw->bcjhw", root, fresh)
    torch.testing.assert_close(streams().correlated(r).normal(like), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(streams().correlated(0).normal(like), fresh)
    assert torch.equal(streams().correlated(1).normal(like), fresh[:, :, :1].expand_as(fresh))
    images = torch.empty(2, 6, 3, 5, dtype=torch.float64)
    assert torch.equal(streams().correlated(r).normal(images), streams().normal(images))  # images have no slices


RENOISING = [name for name in EVERY_SOLVER if name.split()[0] in {cls.__name__ for cls in subclasses(DiffusionSolver)}]


@pytest.mark.parametrize("name", RENOISING)
def test_with_one_noise_for_all_slices_those_that_are_alike_stay_so(name):
    """For a prior that draws nothing, and measurements without noise, which is no slice's business but its own."""
    operator = Slices(ParallelBeam(20, views=5), 3)
    solver = EVERY_SOLVER[name](GaussianPrior(operator.image_shape, 0.5, 0.2), operator).double()
    solver.problem.noise = solver.canvas.noise = GaussianNoise(0.0)
    y = operator(torch.rand(1, 1, 1, 20, 20, generator=seeded(2), dtype=torch.float64).expand(1, 1, 3, 20, 20))
    gaps = []
    for solver.slice_correlation in (0.0, 1.0):
        found = solver.solve(y, Generators.keyed(0, [0]))
        gaps.append(float((found - found[:, :, :1]).abs().max()))
    assert gaps[0] > 1e-3 and gaps[1] < 1e-9, gaps


@pytest.mark.parametrize("sample", [False, True], ids=["estimate", "draw"])
def test_results_of_slices_that_are_alike_have_the_correlation_of_their_noise(sample):
    """A solver of a Gaussian problem is affine in its noise; the law of each slice does not depend on r."""
    operator, depth = AveragePooling((1, 4, 4), 2), 5
    solver = DDS(GaussianPrior((1, depth, 4, 4), MEAN, STD), Slices(operator, depth), steps=5, clip=False, sample=sample)
    y = torch.rand(1, 1, 1, 2, 2, generator=seeded(1), dtype=torch.float64).expand(1, depth, 1, 2, 2)

    class Silent(Generators):
        def normal(self, like):
            return torch.zeros_like(like)

    mean = solver.solve(y, Silent(Generators.keyed(0, [0]).generators))
    alone = solver.solve(y, Generators.keyed(0, [0])) - mean
    solver.slice_correlation = 0.6
    found = solver.solve(y, Generators.keyed(0, [0])) - mean
    expected = torch.einsum("jk,bckhw->bcjhw", torch.linalg.cholesky(correlation(0.6, depth)), alone)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_draw_perturbs_the_measurement_of_each_slice_on_its_own():
    """The weighted mean of both, the image's noise correlated, the measurement's not."""
    problem = Problem(Identity((1, 3, 4, 4)), GaussianNoise(0.2))
    v, y = (torch.rand(1, 1, 3, 4, 4, generator=seeded(k), dtype=torch.float64) for k in range(2))
    found = problem.posterior_sample(v, y, 0.09, 1, Generators.keyed(0, [0]).correlated(1))
    stream = seeded(0, 0, 0)
    of_image, of_measurement = (torch.randn(1, 3, 4, 4, generator=stream, dtype=torch.float64) for _ in range(2))
    near, seen = v + 0.3 * of_image[:, :1], y + 0.2 * of_measurement
    torch.testing.assert_close(found, (near / 0.09 + seen / 0.04) / (1 / 0.09 + 1 / 0.04), rtol=1e-9, atol=1e-9)


def test_correlated_noise_does_not_depend_on_how_many_slices_are_computed_at_once(model, monkeypatch):
    solver = SOLVERS["DDS, correlated"](SlicePrior(PatchPrior(model)), Slices(ParallelBeam(20, views=5), 5)).double()
    y = solver.operator(torch.rand(1, 1, 5, 20, 20, generator=seeded(0), dtype=torch.float64))
    together = solver.solve(y, Generators.keyed(0, [7]))
    for module in ("operators", "priors"):
        monkeypatch.setattr(f"padis_lightning.{module}.slices.SLICES_AT_ONCE", 2)
    torch.testing.assert_close(solver.solve(y, Generators.keyed(0, [7])), together, rtol=1e-9, atol=1e-9)


def test_correlations_that_cannot_be_are_refused():
    prior, operator = GaussianPrior((1, 3, 20, 20)), Slices(ParallelBeam(20, views=5), 3)
    for value in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match=f"slice_correlation is {value:g}; wanted a value between 0 and 1"):
            DDS(prior, operator, slice_correlation=value)
    with pytest.raises(InputError, match=r"slice_correlation is 0.5 and images are \(1, 20, 20\); wanted volumes, or 0"):
        DDS(GaussianPrior((1, 20, 20)), operator.operator, slice_correlation=0.5)


def test_without_chance_a_volume_is_solved_as_its_slices():
    """For a prior of independent pixels; residuals and steps of one slice must not reach another."""
    inner = ParallelBeam(12, views=5)
    truth = torch.rand(1, 1, 3, 12, 12, generator=seeded(0), dtype=torch.float64)
    truth[:, :, 1] *= 0.01

    class Sliced(GaussianPrior):
        pass

    options = {"steps": 6, "iterations": 200, "sigma_max": 0.08, "sigma_min": 0.015}
    volume = PnPADMM(GaussianPrior((1, 3, 12, 12), 0.4, 0.3), Slices(inner, 3), **options)
    plain = PnPADMM(Sliced((1, 12, 12), 0.4, 0.3), inner, **options)
    y = volume.operator(truth)
    found = volume.solve(y, Generators.keyed(0, [0]))
    for z in range(3):
        torch.testing.assert_close(found[:, :, z], plain.solve(y[:, z], Generators.keyed(0, [0])), rtol=1e-8, atol=1e-8)


def test_the_gradient_of_a_volume_has_three_directions_and_its_adjoint(rng):
    x = torch.randn(2, 3, 4, 5, 7, generator=rng, dtype=torch.float64)
    slope = gradient(x)
    for k in range(3):
        steps = x.diff(dim=2 + k)
        torch.testing.assert_close(slope[:, k].narrow(2 + k, 0, steps.shape[2 + k]), steps)
        assert slope[:, k].select(2 + k, -1).abs().max() == 0
    p = torch.randn(slope.shape, generator=rng, dtype=torch.float64)
    assert float((slope * p).sum()) == pytest.approx(float((x * gradient_adjoint(p)).sum()), rel=1e-12)


@pytest.mark.parametrize("depth", [6, 7, 8, 11])
@pytest.mark.parametrize("spacing", [1, 2])
def test_groups_hold_each_slice_exactly_once(depth, spacing):
    seen = set()
    for offset in range(3):
        groups, places = partition(depth, spacing, offset)
        assert [groups[g][k] for g, k in places] == list(range(depth))  # each slice comes out of its own place
        assert len({*places}) == depth and {g for g, _ in places} == {*range(len(groups))}
        assert all(b - a == c - b == spacing and 0 <= a and c < depth for a, b, c in groups)
        seen |= {(z, places[z][1]) for z in range(depth)}
    inner = range(3 * spacing, depth - 3 * spacing)
    assert all((z, k) in seen for z in inner for k in range(3))  # away from the ends every place is taken in turn


COVARIANCE = 0.04 * torch.exp(-(torch.arange(8.0)[:, None] - torch.arange(8.0)).abs() / 4).double()


class GaussianGroups(nn.Module):
    """The exact denoiser of three slices of a Gaussian volume whose slices are correlated; it needs the spacing."""

    sigma_data, gain, context, positions = 0.2, 1.0, False, Coordinates(3)

    def forward(self, x, sigma, position):
        parts = torch.stack([COVARIANCE[: 2 * s + 1 : s, : 2 * s + 1 : s] for s in (1, 2)]).to(x.device)
        part = parts[position[:, 2, 0, 0].round().long()]  # log2 of the spacing
        noise = sigma[:, None, None] ** 2 * torch.eye(3, dtype=torch.float64, device=x.device)
        return 0.5 + torch.einsum("nij,njhw->nihw", part @ torch.linalg.inv(part + noise), x.double() - 0.5)


def group_prior(spacings=(1, 2), depth=8):
    model = PatchModel(GaussianGroups(), (3, 4, 4), [4], (0, 0), Normalisation(0.0, 1.0))
    return GroupPrior(PatchPrior(model), spacings, depth)


def closed_form(x, sigma, spacing, offset):
    """Each slice from those of its group, written slice by slice."""
    out = torch.empty_like(x)
    for z in range(x.shape[2]):
        chain = list(range(z % spacing, x.shape[2], spacing))
        place = chain.index(z)
        start = place - (place - offset) % 3
        begin = min(max(start, 0), len(chain) - 3)
        members = chain[begin : begin + 3]
        part = COVARIANCE[members][:, members]
        row = torch.linalg.solve(part + sigma**2 * torch.eye(3, dtype=torch.float64), COVARIANCE[members, z])
        out[:, :, z] = 0.5 + torch.einsum("j,bcjhw->bchw", row, x[:, :, members] - 0.5)
    return out


def test_groups_of_a_gaussian_volume_have_their_closed_form_and_its_mean(rng):
    prior, sigma = group_prior(), 0.3
    x = torch.randn(1, 1, 8, 4, 4, generator=rng, dtype=torch.float64)
    expected = [closed_form(x, sigma, spacing, offset) for spacing in (1, 2) for offset in range(3)]
    many = 900
    found = prior(x.expand(many, -1, -1, -1, -1), sigma, Generators.keyed(0, range(many)))
    gaps = torch.stack([(found - one).abs().flatten(1).amax(1) for one in expected])
    assert gaps.amin(0).max() < 1e-9  # each call is one of the partitions
    counts = torch.bincount(gaps.argmin(0), minlength=6)
    assert ((counts - many / 6) ** 2 / (many / 6)).sum() < 20.5  # chi-squared with 5 degrees, 99.9 %
    mean, spread = torch.stack(expected).mean(0), torch.stack(expected).std(0, correction=0)
    assert ((found.mean(0, keepdim=True) - mean).abs() <= 4.5 * spread / many**0.5 + 1e-9).all()


def test_volumes_are_drawn_from_priors_of_slices_and_of_groups(model):
    for prior, shape in ((SlicePrior(PatchPrior(model), 3), (1, 3, 20, 20)), (group_prior(), (1, 8, 4, 4))):
        solver = Ancestral(prior.double(), steps=3, sigma_max=5.0)
        drawn = solver.solve(torch.empty(2, 0, dtype=torch.float64), Generators.keyed(0, [0, 1]))
        alone = solver.solve(torch.empty(1, 0, dtype=torch.float64), Generators.keyed(0, [1]))
        assert drawn.shape[1:] == shape and prior.image_shape == shape
        torch.testing.assert_close(drawn[1:], alone, rtol=0, atol=1e-6)


def test_groups_look_beyond_their_slice_and_a_batch_is_a_set(rng):
    prior = group_prior()
    x = torch.randn(3, 1, 8, 4, 4, generator=rng, dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    together = prior(x, sigma, Generators.keyed(7, [4, 5, 6]))
    alone = [prior(x[k : k + 1], sigma[k : k + 1], Generators.keyed(7, [4 + k])) for k in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)
    error = (together - 0.5 - (x - 0.5) * (0.04 / (0.04 + sigma**2)).reshape(3, 1, 1, 1, 1)).abs()
    assert (error.amax((3, 4)) > 1e-4).all()  # a slice alone would be denoised otherwise
    with pytest.raises(InputError, match="the volumes have 5 slices; wanted at least 6 for groups 2 apart"):
        group_prior(depth=5)
    with pytest.raises(InputError, match="the prior has 1 channels; wanted 3, the slices of a group"):
        GroupPrior(PatchPrior("ct_phantoms"))


def test_neighbours_and_every_second_slice_are_told_apart():
    assert spacing_channel(1) == 0 and spacing_channel(2) == 1 and slicewise.SLICES_AT_ONCE > 1
    shape = (3, 20, 20)
    denoiser = Denoiser(random_network(channels=3, positions=3), 0.3, positions=Coordinates(3))
    prior = PatchPrior(PatchModel(denoiser, shape, [8], padding(shape[1:], 8), Normalisation(0.0, 1.0)))
    x = torch.rand(2, *prior.canvas_shape, generator=seeded(0))
    near, far, default = (prior(x, 0.3, Generators.keyed(0, [0, 1]), told) for told in (torch.zeros(2), torch.ones(2), None))
    assert torch.equal(near, default) and (near - far).abs().max() > 1e-3


class PositionedVolume(nn.Module):
    """Independent voxels whose mean follows their position: the exact denoiser of a cube of them."""

    sigma_data, gain, std, context, positions = 0.3, 1.0, 0.2, False, Coordinates(3)

    def mean(self, position):
        return 0.4 + 0.3 * position[:, :1] - 0.2 * position[:, 1:2] + 0.1 * position[:, 2:]

    def forward(self, x, sigma, position):
        level = sigma.reshape(-1, 1, 1, 1, 1)
        return (self.std**2 * x + level**2 * self.mean(position)) / (self.std**2 + level**2)


@pytest.mark.parametrize("depth", [6, 8, 12], ids=["flat", "one cube deep", "deep"])
@pytest.mark.parametrize("tiling", [RandomTiling(), OverlapTiling(3)], ids=lambda t: type(t).__name__)
def test_tiled_score_of_a_separable_gaussian_volume_is_the_whole_volumes(depth, tiling, rng):
    size = depth, 12, 14
    pad, denoiser = padding(size, 8), PositionedVolume()
    assert pad == ((0 if depth <= 8 else 4), 4, 2)
    prior = PatchPrior(PatchModel(denoiser, (1, *size), [8], pad, Normalisation(0.0, 1.0)), tiling)
    sigma = torch.tensor([0.05, 0.8], dtype=torch.float64)
    x = torch.randn(2, *prior.canvas_shape, generator=rng, dtype=torch.float64)
    score = prior.score(x, sigma, Generators.keyed(0, range(2)))
    mean = denoiser.mean(coordinates(*x.shape[2:])[None].double())
    whole = (mean - x) / (denoiser.std**2 + sigma.reshape(2, 1, 1, 1, 1) ** 2)
    inner = torch.zeros(x.shape[2:], dtype=torch.bool)
    inner[tuple(slice(m, m + n) for m, n in zip(pad, size, strict=True))] = True
    torch.testing.assert_close(score[..., inner], whole[..., inner], rtol=1e-6, atol=2e-5)  # single-precision places
    torch.testing.assert_close(score[..., ~inner], (-x / sigma.reshape(2, 1, 1, 1, 1) ** 2)[..., ~inner], rtol=1e-12, atol=0)


def test_a_network_of_volumes_sees_all_three_axes_and_its_file_keeps_it(tmp_path, rng):
    network = UNet(base=8, multipliers=[1, 2], blocks=1, axes=3, positions=3)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng)
    shape = (1, 12, 16, 16)
    model = PatchModel(Denoiser(network, 0.3), shape, [8], padding(shape[1:], 8), Normalisation(0.0, 1.0))
    model.save(tmp_path / "prior.safetensors")
    priors = [PatchPrior(model), PatchPrior(str(tmp_path / "prior.safetensors"))]
    x = torch.randn(2, *priors[0].canvas_shape, generator=rng)
    first, second = (prior(x, 0.3, Generators.keyed(0, [0, 1])) for prior in priors)
    assert torch.equal(first, second) and first.shape == x.shape
    patch = torch.randn(1, 4, 8, 8, 8, generator=rng)
    for axis in (2, 3, 4):
        moved = patch.clone()
        moved.select(axis, 4).add_(1.0)
        change = (network(moved, torch.zeros(1)) - network(patch, torch.zeros(1))).abs()
        assert change.select(axis, 2).max() > 1e-5  # what lies across each axis matters
    embedding = 2 * (9 * 8 + 8 * 8)  # of the noise label, whatever the patch
    modulation = 2 * 8 * 2 * (8 + 16 + 8)
    assert network.operations(8) - embedding - modulation == 2 * (network.operations(4, 8, 8) - embedding - modulation)


class Dense(Matrix):
    """A dense operator on volumes of four slices of two pixels."""

    image_shape, measurement_shape = (1, 4, 1, 2), (5,)


@pytest.mark.parametrize("weight", [1e-4, 0.02, 0.1, 10.0])
def test_variation_across_slices_is_the_least_of_its_objective(weight, rng):
    """For a Gaussian prior, whose denoiser is a line; the dense answer is that of the dual, a least-squares problem in a box."""
    operator = Dense(torch.randn(5, 8, generator=rng, dtype=torch.float64) / 2)
    y = torch.randn(1, 5, generator=rng, dtype=torch.float64)
    prior, level, penalty = GaussianPrior((1, 4, 1, 2), 0.4, 0.3), 0.2, 0.1
    levels = {"sigma_max": level, "sigma_min": level}
    solver = PnPSlices(prior, operator, weight=weight, slice_tv=0, steps=600, **levels, penalty=penalty, iterations=16)
    found = solver.solve(y, Generators.keyed(0, [0])).flatten()
    a, square = operator.values, operator.norm_squared
    eye = torch.eye(8, dtype=torch.float64)
    across = torch.stack([differences(row.reshape(1, 1, 4, 1, 2)).flatten() for row in eye], 1)
    pull = penalty * (level / 0.3) ** 2  # of the prior: penalty (1 / slope of the denoiser - 1)
    hessian, linear = a.t() @ a / square + pull * eye, a.t() @ y[0] / square + pull * 0.4
    root = torch.linalg.inv(torch.linalg.cholesky(hessian))
    dual = lsq_linear((weight / 2 * root @ across.t()).numpy(), (root @ linear).numpy(), (-1, 1), tol=1e-14)
    expected = torch.linalg.solve(hessian, linear - weight / 2 * across.t() @ torch.from_numpy(dual.x))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    gaps = (across @ found).abs()
    assert (gaps.max() < 1e-6) == (weight == 10.0)  # in the end all slices are one


def measured_slices(size=6, views=4, depth=3, std=0.01):
    """The problem of a scan that was not simulated here, and its measurement of random slices."""
    operator = Slices(ParallelBeam(size, views=views), depth)
    problem = Problem(operator, GaussianNoise(std, "relative"))
    problem.is_measured = True
    return problem, operator(torch.rand(1, *operator.image_shape, generator=seeded(0), dtype=torch.float64))


def test_without_weight_slices_of_a_scan_are_those_of_the_solver_without_variation():
    """In the limit, at one level: what is wrong is whitened and weighed alike."""
    problem, y = measured_slices()
    prior = GaussianPrior((1, 3, 6, 6), 0.4, 0.3)
    options = {"steps": 400, "sigma_max": 0.1, "sigma_min": 0.1, "iterations": 80}
    plain = PnPADMM(prior, problem, **options).solve(y, Generators.keyed(0, [0]))
    found = PnPSlices(prior, problem, weight=1e-14, slice_tv=0, **options).solve(y, Generators.keyed(0, [0]))
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-6)


def test_the_step_of_slices_is_the_least_of_its_dense_objective_whitened(rng):
    problem, y = measured_slices(size=4)
    solver = PnPSlices(GaussianPrior((1, 3, 4, 4)), problem, weight=0.02, slice_tv=0.3, iterations=100, relaxation=1.5)
    v, b = (torch.randn(1, 1, n, 4, 4, generator=rng, dtype=torch.float64) for n in (3, 2))
    d, share, before, penalty = 0.3 * b.flip(2), *(torch.full((1, 1, 1, 1, 1), value).double() for value in (0.7, 0.1, 0.05))
    state = {"d": d, "b": b, "share": share, "weight": before}
    found = solver.explained(v, y, 0.4, penalty, state)
    b = 2 * b  # the weight has halved
    operator = Whitening(y.shape[1:], share) @ problem.operator
    eye = torch.eye(48, dtype=torch.float64).reshape(48, 1, 3, 4, 4)
    a, across = operator(eye).flatten(1).t() / problem.operator.norm_squared**0.5, differences(eye).flatten(1).t()
    white = Whitening(y.shape[1:], share)(y).flatten() / problem.operator.norm_squared**0.5
    rows = torch.cat([a, 0.05**0.5 * torch.eye(48).double(), 0.05**0.5 * across])
    wanted = torch.cat([white, 0.05**0.5 * v.flatten(), 0.05**0.5 * (d - b).flatten()])
    expected = torch.linalg.lstsq(rows, wanted[:, None]).solution.reshape(v.shape)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    moved = 1.5 * differences(expected) - 0.5 * d + b
    shrunk = max(0.02 / (2 * 0.05), 0.3 * 0.4)
    torch.testing.assert_close(state["d"], moved.sign() * (moved.abs() - shrunk).clamp_min(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(state["d"] + state["b"], moved, rtol=0, atol=1e-6)
    solver.weight = 1e-4
    state = {"d": d, "b": torch.zeros_like(d), "share": share, "weight": before}
    solver.explained(v, y, torch.tensor([0.4]), penalty, state)
    assert float(state["b"].abs().max()) == pytest.approx(0.3 * 0.4, rel=1e-6)  # over the level, where that is more


def test_steps_across_slices_have_their_adjoint(rng):
    x, p = (torch.randn(2, 1, n, 3, 4, generator=rng, dtype=torch.float64) for n in (5, 4))
    assert float((differences(x) * p).sum()) == pytest.approx(float((x * differences_adjoint(p)).sum()), rel=1e-12)


@pytest.mark.parametrize("depth", [2, 5, 12])
def test_smoothing_across_slices_is_the_least_of_its_objective(depth, rng):
    """The dual problem is least squares in a box; volumes have weights of their own."""
    v = torch.randn(2, 1, depth, 2, 1, generator=rng, dtype=torch.float64)
    weights = torch.tensor([0.05, 0.6], dtype=torch.float64).reshape(2, 1, 1, 1, 1)
    found = slice_tv_step(v, weights, 2000)
    across = np.diff(np.eye(depth), axis=0)
    for b, row in np.ndindex(2, 2):
        column, weight = v[b, 0, :, row, 0].numpy(), float(weights[b])
        dual = lsq_linear(weight * across.T, column, (-1, 1), tol=1e-14).x
        np.testing.assert_allclose(found[b, 0, :, row, 0].numpy(), column - weight * across.T @ dual, atol=1e-6)
    soon = slice_tv_step(v, weights)
    assert ((soon - found).square().mean((1, 2, 3, 4)).sqrt() < weights.flatten() / 30).all()


def test_a_prior_of_slices_held_together_is_the_prior_and_then_the_smoothing(model, rng, monkeypatch):
    patches, volumes_of = PatchPrior(model), lambda prior: torch.rand(2, *prior.canvas_shape, generator=rng)
    alone, together = SlicePrior(patches, 5), SlicePrior(patches, 5, slice_tv=0.1)
    x, sigma = volumes_of(alone), torch.tensor([0.1, 0.5])
    expected = slice_tv_step(alone(x, sigma, Generators.keyed(0, [0, 1])), 0.1 * sigma.reshape(2, 1, 1, 1, 1))
    assert torch.equal(together(x, sigma, Generators.keyed(0, [0, 1])), expected)
    assert differences(expected).abs().sum() < 0.9 * differences(alone(x, sigma, Generators.keyed(0, [0, 1]))).abs().sum()
    monkeypatch.setattr("padis_lightning.priors.slices.SLICES_AT_ONCE", 2)
    torch.testing.assert_close(together(x, sigma, Generators.keyed(0, [0, 1])), expected, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="slice_tv is -1; wanted at least 0"):
        SlicePrior(patches, 5, slice_tv=-1)
