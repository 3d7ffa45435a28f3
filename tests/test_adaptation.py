"""Adaptation of a prior to one measurement: a copy that learns from it alone, and only where what was held out agrees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from padis_lightning.ct import Geometry
from padis_lightning.data.notes import note
from padis_lightning.errors import InputError
from padis_lightning.noise import CountedNoise, EstimatedNoise, GaussianNoise, PoissonNoise
from padis_lightning.operators.ct import ParallelBeam, Scan
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.non_cartesian import RadialMRI
from padis_lightning.priors import DenoiserPrior, GaussianPrior, PatchPrior
from padis_lightning.problem import Problem
from padis_lightning.solvers.adaptation import Adaptation
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.plug_and_play import PnPADMM
from padis_lightning.solvers.posterior_mean import PosteriorMean
from padis_lightning.solvers.tv import TotalVariation
from padis_lightning.types import Batch

KEPT = [0, 2, 3]


class Flat(nn.Module):
    """A network that finds the same grey image in everything."""

    channels = 1

    def __init__(self, grey):
        super().__init__()
        self.grey = nn.Parameter(torch.tensor(grey))
        self.calls = []  # shared with copies

    def __deepcopy__(self, memo):
        twin = Flat(float(self.grey))
        twin.calls = self.calls
        return twin

    def forward(self, x, sigma):
        self.calls.append(len(x))
        return self.grey.expand_as(x)


def solve(solver, y):
    index = torch.arange(len(y))
    names = list(map(str, index.tolist()))
    with torch.no_grad():
        return solver.reconstruct(Batch(index, names, names, measurement=y))


def flat_solver(grey, truth=0.8, **options):
    """Return a solver of a scan whose prior knows one grey, and what is measured of an image of another."""
    scan = ParallelBeam(12, views=10)
    y = scan(torch.full((1, 1, 12, 12), truth))
    solver = PnPADMM(DenoiserPrior(Flat(grey)), scan, noise_std=0.0, steps=3, sigma_max=0.1, sigma_min=0.05, **options)
    return solver, y


@pytest.mark.parametrize("cls", [PnPADMM, DDS])
def test_each_image_of_a_batch_begins_with_the_weights_of_the_prior_which_stay(model, rng, cls):
    prior, scan = PatchPrior(model), ParallelBeam(20, views=6)
    before = {key: value.clone() for key, value in prior.state_dict().items()}
    y = scan(torch.rand(2, 1, 20, 20, generator=rng))
    solver = cls(prior, scan, noise_std=0.05, steps=2, adaptation=Adaptation(steps=2, least=2))
    together = solve(solver, y)
    alone = solver.reconstruct(Batch(torch.tensor([1]), ["1"], ["1"], measurement=y[1:]))
    assert torch.equal(together.estimate[1:], alone.estimate)
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    assert all(torch.equal(value, before[key]) for key, value in prior.state_dict().items())


def test_a_prior_that_is_wrong_comes_to_what_is_measured():
    """Of a prior of one grey the last denoised image is that grey, so the estimate says what the weights are."""
    solver, y = flat_solver(0.2, adaptation=Adaptation(steps=60, lr=0.05, least=2))
    found = solve(solver, y).estimate
    assert float(found.max() - found.min()) < 1e-6
    assert 0.6 < float(found.mean()) < 0.81  # from 0.2; the truth is 0.8


def test_a_prior_that_is_right_loses_nothing():
    solver, y = flat_solver(0.8, adaptation=Adaptation(steps=20, least=2))
    assert (solve(solver, y).estimate - 0.8).abs().max() < 0.01


def test_a_prior_that_learnt_too_much_counts_as_far_as_what_was_held_out_asks():
    """The first step goes from 0.7 far beyond 0.8, so that four fifths of the way there are left, whatever was learnt."""
    spoilt, y = flat_solver(0.7, adaptation=Adaptation(steps=3, lr=3.0, least=2))
    torch.testing.assert_close(solve(spoilt, y).estimate, torch.full((1, 1, 12, 12), 0.78), atol=1e-4, rtol=0)


@pytest.mark.parametrize("lr, contrary", [(0.05, True), (1e38, False)])
def test_what_was_held_out_keeps_a_prior_that_learnt_the_wrong_thing_away(lr, contrary):
    """Views that were held out ask for another grey, or the steps end in infinity; the bits of the plain result come out."""
    options = Adaptation(steps=30, lr=lr, least=2)
    plain, y = flat_solver(0.7)
    if contrary:
        y[..., [2, 7], :] *= 0.7
    spoilt, _ = flat_solver(0.7, adaptation=options)
    assert torch.equal(solve(spoilt, y).estimate, solve(plain, y).estimate)


def test_samples_are_mixed_as_the_estimate_is(model, rng):
    scan = ParallelBeam(20, views=6)
    y = scan(torch.rand(1, 1, 20, 20, generator=rng))
    solver = DDS(PatchPrior(model), scan, noise_std=0.05, steps=2, samples=3, adaptation=Adaptation(steps=4, least=2))
    found = solve(solver, y)
    torch.testing.assert_close(found.samples.mean(1), found.estimate)
    torch.testing.assert_close(found.residual, solver.problem.residual(found.estimate, y))


def test_of_few_rows_nothing_is_learnt_and_a_line_says_so(caplog):
    note.cache_clear()
    few, y = flat_solver(0.2, adaptation=Adaptation(steps=3, least=11))
    plain, _ = flat_solver(0.2)
    found, expected = solve(few, y), solve(plain, y)
    assert torch.equal(found.estimate, expected.estimate) and found.evaluations == expected.evaluations
    assert "the measurement has 10 rows; wanted 11 to adapt the prior" in caplog.text


def test_of_one_coil_nothing_is_held_out_and_a_line_says_so(rng, caplog):
    """Both parts of a coil are held out together, so that nothing would be left of one."""
    note.cache_clear()
    scan = RadialMRI(8, coils=1, spokes=4)
    network = Flat(0.2)
    network.channels = 2
    options = {"noise_std": 0.05, "steps": 2, "sigma_max": 0.1, "sigma_min": 0.05}
    y = scan(torch.rand(1, 2, 8, 8, generator=rng))
    solver = PnPADMM(DenoiserPrior(network), scan, **options, adaptation=Adaptation(steps=2, least=2))
    assert torch.equal(solve(solver, y).estimate, solve(PnPADMM(DenoiserPrior(network), scan, **options), y).estimate)
    assert "the measurement has 2 rows; wanted 4 to adapt the prior" in caplog.text


def test_the_noise_of_each_measurement_is_said_once(rng, caplog):
    """Not again for each image of a batch, nor for what asks for the batch afterwards, as baselines do."""
    scan = ParallelBeam(12, views=10)
    y = scan(torch.rand(3, 1, 12, 12, generator=rng))
    y += 0.1 * torch.randn(y.shape, generator=rng)
    solver = PnPADMM(DenoiserPrior(Flat(0.2)), scan, steps=2, adaptation=Adaptation(steps=2, least=2))
    batch = Batch(torch.arange(3), ["a"] * 3, ["a"] * 3, measurement=y, weights=torch.ones(3, 1, 1, 1))
    with torch.no_grad():
        solver.reconstruct(batch)
    solver.problem.for_batch(batch)
    lines = [record.getMessage() for record in caplog.records if "estimated" in record.getMessage()]
    assert len(lines) == 3


def test_evaluations_are_counted():
    solver, y = flat_solver(0.2, adaptation=Adaptation(steps=7, least=2))
    calls = solver.prior.network.calls
    assert solve(solver, y).evaluations == len(calls) == 6 * 3 + 7


def test_a_prior_that_cannot_learn_is_refused():
    identity, y = Identity((1, 8, 8)), torch.zeros(1, 1, 8, 8)
    for solver, said in (
        (PnPADMM(GaussianPrior((1, 8, 8)), identity, adaptation=Adaptation()), "GaussianPrior has no weights"),
        (TotalVariation(identity, 1e-4, adaptation=Adaptation()), "TotalVariation has no prior"),
        (PosteriorMean(DenoiserPrior(Flat(0.2)), identity, adaptation=Adaptation()), "PosteriorMean holds no rows .* out"),
    ):
        with pytest.raises(InputError, match=f"{said}; wanted"):
            solve(solver, y)
    with pytest.raises(InputError, match="held_out is 1; wanted at least 2"):
        Adaptation(held_out=1)


@pytest.mark.parametrize("options", [{}, {"bin_offset": [0.1, 0.2, 0.3, 0.4, 0.5]}, {"channels": 2}])
def test_some_views_of_a_scan_are_a_scan_with_the_same_rows(options, rng):
    whole = ParallelBeam(9, views=5, **options)
    part, x = whole.of_rows(KEPT), torch.rand(2, *whole.image_shape, generator=rng)
    assert isinstance(part, Scan) and isinstance(part.geometry, Geometry)
    torch.testing.assert_close(part(x), whole(x)[..., KEPT, :])


def test_the_noise_of_rows_or_of_an_image_is_its_part_of_the_noise(rng):
    y, weights = torch.rand(2, 1, 5, 7, generator=rng), torch.rand(2, 1, 5, 7, generator=rng).round(decimals=1)
    for noise in (
        GaussianNoise(0.1),
        PoissonNoise(1e4),
        EstimatedNoise(torch.full((2, 1, 1, 1), 0.3), weights + 1),
        CountedNoise(PoissonNoise(1e4), weights + 0.1),
        CountedNoise(GaussianNoise(0.1), torch.tensor([1.0, 0.5])[:, None, None, None]),
    ):
        one = Problem(Identity((1, 5, 7)), noise).of_image(1)
        torch.testing.assert_close(one.noise.variance(y[1:]).expand_as(y[1:]), noise.variance(y).expand_as(y)[1:])
        part = Problem(Identity((1, 5, 7)), noise).of_rows(KEPT)
        whole = noise.variance(y).expand_as(y)[..., KEPT, :]
        torch.testing.assert_close(part.noise.variance(y[..., KEPT, :]).expand_as(whole), whole)
