"""Posterior laws against closed forms, and that a batch is a set."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from padis_lightning.diffusion import Denoiser, NoPositions, PatchModel, geometric_sigmas
from padis_lightning.errors import InputError
from padis_lightning.linalg import norm
from padis_lightning.noise import GaussianNoise, PoissonNoise
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.super_resolution import AveragePooling
from padis_lightning.priors import GaussianPrior, PatchPrior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators, seeded
from padis_lightning.solvers import Solver
from padis_lightning.solvers.ancestral import Ancestral
from padis_lightning.solvers.daps import DAPS
from padis_lightning.solvers.ddnm import DDNM
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.diffpir import DiffPIR
from padis_lightning.solvers.diffusion import DiffusionSolver
from padis_lightning.solvers.dpir import DPIR, PublishedDenoiser
from padis_lightning.solvers.dps import DPS
from padis_lightning.solvers.langevin import Langevin
from padis_lightning.solvers.loop import WATCHED
from padis_lightning.solvers.mmps import MMPS
from padis_lightning.solvers.plug_and_play import RED, PlugAndPlay, PnPADMM
from padis_lightning.solvers.plug_and_play_slices import PnPSlices
from padis_lightning.solvers.pnp_dm import PnPDM
from padis_lightning.solvers.posterior_mean import PosteriorMean
from padis_lightning.solvers.predictor_corrector import PredictorCorrector
from padis_lightning.solvers.pseudo_inverse import PseudoInverse
from padis_lightning.solvers.red_diff import REDDiff
from padis_lightning.solvers.tv import TotalVariation, gradient, gradient_adjoint
from padis_lightning.solvers.wavelet import WaveletL1
from padis_lightning.types import Batch

from .conftest import random_network

MEAN, STD, NOISE = 0.4, 0.3, 0.2


class Matrix(LinearOperator):
    """A dense operator on 4x4 images."""

    image_shape, measurement_shape = (1, 4, 4), (6,)

    def __init__(self, values):
        super().__init__()
        self.register_buffer("values", values)

    def forward(self, x):
        return x.flatten(1) @ self.values.t().to(x)

    def adjoint(self, y):
        return (y @ self.values.to(y)).reshape(-1, *self.image_shape)


@pytest.fixture
def problem():
    """Six measurements of sixteen Gaussian pixels, and one y."""
    generator = seeded(3)
    operator = Matrix(torch.randn(6, 16, generator=generator) / 2)
    truth = MEAN + STD * torch.randn(1, 1, 4, 4, generator=generator)
    return operator, operator(truth), GaussianPrior((1, 4, 4), MEAN, STD)


def posterior(operator, y, noise):
    """Mean and covariance of a Gaussian image given ``y``."""
    a = operator.values.double()
    gain = STD**2 * a.t() @ torch.linalg.inv(STD**2 * a @ a.t() + noise**2 * torch.eye(len(a), dtype=torch.float64))
    mean = MEAN + gain @ (y[0].double() - a @ torch.full((16,), MEAN, dtype=torch.float64))
    return mean, STD**2 * (torch.eye(16, dtype=torch.float64) - gain @ a)


class OneStream(Generators):
    """Numbers of one stream for all images of a batch: the law of a sampler does not ask whose they are."""

    def __init__(self, count):
        self.count, self.stream = count, seeded(0)

    def __len__(self):
        return self.count

    def normal(self, like):
        return torch.randn(like.shape, generator=self.stream, dtype=like.dtype)


def draw(solver, y, count=2000):
    return solver.solve(y.expand(count, -1), OneStream(count)).flatten(1).double()


@pytest.mark.parametrize("noise", [NOISE, 0.0])
def test_dds_draws_from_the_gaussian_posterior(problem, noise):
    operator, y, prior = problem
    options = {"noise_std": noise, "steps": 40, "sigma_max": 20.0, "sigma_min": 0.01, "iterations": 30, "clip": False}
    samples = draw(DDS(prior, operator, **options, sample=True), y)
    mean, covariance = posterior(operator, y, noise)
    error = covariance.diagonal().clamp_min(0).sqrt() / math.sqrt(len(samples))
    assert ((samples.mean(0) - mean).abs() <= 3 * error + (0.0 if noise else 2e-3)).all()  # without noise part of it is certain
    found = torch.cov(samples.t())
    assert (found - covariance).abs().max() < 0.1 * STD**2
    assert float(found.trace()) == pytest.approx(float(covariance.trace()), rel=0.05)


SAMPLERS = {
    "DAPS": lambda prior, operator, **options: DAPS(prior, operator, steps=40, ode_steps=1, **options),
    "PnPDM": lambda prior, operator, **options: PnPDM(prior, operator, steps=100, prior_steps=25, **options),
    "MMPS": lambda prior, operator, **options: MMPS(prior, operator, steps=200, iterations=6, **options),
    "Langevin": lambda prior, operator, **options: Langevin(prior, operator, steps=60, inner=20, **options),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_draw_from_the_gaussian_posterior(problem, name):
    """2000 draws: means within three standard errors, deviations within a tenth, of the closed form."""
    operator, y, prior = problem
    samples = draw(SAMPLERS[name](prior, operator, noise_std=NOISE, sigma_max=20.0, sigma_min=0.01), y)
    mean, covariance = posterior(operator, y, NOISE)
    spread = covariance.diagonal().sqrt()
    assert ((samples.mean(0) - mean).abs() <= 3 * spread / math.sqrt(len(samples))).all()
    assert ((samples.std(0) / spread - 1).abs() < 0.1).all()
    assert (torch.cov(samples.t()) - covariance).abs().max() < 0.12 * STD**2


ESTIMATORS = {  # the spread of their results over that of the posterior, as their docstrings say: too small
    "DDNM": (lambda prior, operator, **o: DDNM(prior, operator, steps=60, clip=False, **o), 0.6, 0.8),
    "DiffPIR": (lambda prior, operator, **o: DiffPIR(prior, operator, steps=60, clip=False, iterations=30, **o), 0.7, 0.95),
    "DPS": (lambda prior, operator, **o: DPS(prior, operator, steps=40, **o), 0.7, 1.0),
    "REDDiff": (lambda prior, operator, **o: REDDiff(prior, operator, steps=200, **o), 0.15, 0.4),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_have_the_posterior_mean_and_spread_less(problem, name):
    operator, y, prior = problem
    make, low, high = ESTIMATORS[name]
    samples = draw(make(prior, operator, noise_std=NOISE, sigma_max=20.0, sigma_min=0.01), y)
    mean, covariance = posterior(operator, y, NOISE)
    spread = covariance.diagonal().sqrt()
    assert float((samples.mean(0) - mean).square().mean().sqrt()) < 0.12 * float(spread.mean())
    assert low < float((samples.std(0) / spread).mean()) < high


def test_plug_and_play_variants_solve_their_equations(problem):
    """For a Gaussian prior the denoiser is a line, and both fixed points have a closed form."""
    operator, y, prior = problem
    square, options = operator.norm_squared, {"noise_std": NOISE, "noise_weight": 0, "penalty": 0.1, "iterations": 10}
    pull = STD**2 / (STD**2 + 0.2**2)
    a = operator.values.double()
    for cls in (RED, PnPADMM):
        solver = cls(prior, operator, steps=250, sigma_max=0.2, sigma_min=0.2, **options)
        found = solver.solve(y, Generators.keyed(0, [0]))
        # RED: A'(Ax - y) / |A|^2 + rho (x - D(x)) = 0; ADMM: the same with rho (D^-1(x) - x), as D is a proximal step.
        slope = (1 - pull) if cls is RED else (1 / pull - 1)
        left = a.t() @ a / square + 0.1 * slope * torch.eye(16, dtype=torch.float64)
        right = a.t() @ y[0].double() / square + 0.1 * slope * MEAN
        torch.testing.assert_close(found.flatten().double(), torch.linalg.solve(left, right), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("relaxation", [0.7, 1.0, 1.6, 1.9])
def test_over_relaxed_iterates_follow_their_recursion(relaxation):
    """Of one pixel all steps are lines: w/(1 + w) pulls the data step, d the denoiser; the fixed point is the same for all."""
    y, s, weight, pull = 0.8, 0.2, 0.5, 0.4**2 / (0.4**2 + 0.2**2)
    options = {"sigma_max": s, "sigma_min": s, "penalty": weight, "noise_weight": 0, "relaxation": relaxation}
    for steps in (1, 2, 7, 60):
        v, u = y, 0.0
        for _ in range(steps):
            x = relaxation * (y + weight * (v - u)) / (1 + weight) + (1 - relaxation) * v
            v, u = 0.3 + pull * (x + u - 0.3), u + x - (0.3 + pull * (x + u - 0.3))
        solver = PnPADMM(GaussianPrior((1, 1, 1), 0.3, 0.4), Identity((1, 1, 1)), steps=steps, **options)
        found = solver.solve(torch.full((1, 1, 1, 1), y), Generators.keyed(0, [0]))
        assert found.item() == pytest.approx(v, abs=1e-5)
    slope = weight * (1 / pull - 1)
    assert v == pytest.approx((y + slope * 0.3) / (1 + slope), abs=1e-4)


@pytest.mark.parametrize("solver_class", [PnPADMM, RED])
@pytest.mark.parametrize("noise_std", [0.0, 0.1])
def test_what_the_operator_gets_wrong_adds_to_noise_alone(noise_std, solver_class, rng):
    """Squares add up; a measurement without noise is taken as exact."""
    y = torch.randn(2, 1, 4, 4, generator=rng) * torch.tensor([1.0, 30.0])[:, None, None, None]
    solver = solver_class(GaussianPrior((1, 4, 4)), Identity((1, 4, 4)), noise_std=noise_std, model_error=0.02)
    wrong = [sum(value**2 for value in image.flatten().tolist()) / 16 * 0.02**2 for image in y]
    expected = [noise_std**2 + error if noise_std else 0.0 for error in wrong]
    assert solver.noise(y).flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_a_relaxation_that_need_not_converge_is_refused():
    with pytest.raises(InputError, match="relaxation is 2; wanted a value below 2"):
        PnPADMM(GaussianPrior((1, 4, 4)), Identity((1, 4, 4)), relaxation=2)


def test_a_model_error_that_is_no_share_is_refused():
    with pytest.raises(InputError, match=r"model_error is 1e\+300; wanted a value between 0 and 1"):
        PnPADMM(GaussianPrior((1, 4, 4)), Identity((1, 4, 4)), model_error=1e300)


def test_plug_and_play_weighs_by_the_noise_whatever_the_levels(problem):
    """For a Gaussian prior and a noise weight of 1 the fixed point is the posterior mean, also where levels fall to it."""
    operator, y, prior = problem
    mean, _ = posterior(operator, y, NOISE)
    for levels in ((0.3, 0.3), (0.6, 0.2)):
        options = {"steps": 300, "sigma_max": levels[0], "sigma_min": levels[1], "penalty": 1e-9, "noise_weight": 1.0}
        options["model_error"] = 0
        found = PnPADMM(prior, operator, noise_std=NOISE, iterations=10, **options).solve(y, Generators.keyed(0, [0]))
        torch.testing.assert_close(found.flatten().double(), mean, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("levels", [{"sigma_max": 0.0}, {"sigma_max": 0.0, "sigma_min": None}, {"sigma_min": 0.0}])
def test_a_level_of_zero_is_named_and_refused(levels):
    with pytest.raises(InputError, match="wanted sigma_max >= sigma_min > 0"):
        PnPADMM(GaussianPrior((1, 4, 4)), Identity((1, 4, 4)), **levels)


class Halved(Identity):
    """The identity with a poor inverse: half of the measurement."""

    def approximate_inverse(self, y):
        return y / 2


@pytest.mark.parametrize("named", [{}, {"sigma_max": 0.3}, {"sigma_min": 0.02}])
def test_levels_that_are_not_named_follow_from_the_error_of_a_second_reconstruction(named, rng):
    """Of x, half of it is lost by the second: the first level is that error within 0.08 and 1, the last a twentieth of it."""
    x = torch.rand(3, 1, 4, 4, generator=rng) * torch.tensor([0.1, 0.9, 0.0])[:, None, None, None]
    solver = PnPADMM(GaussianPrior((1, 4, 4)), Halved((1, 4, 4)), steps=5, **named)
    levels = torch.stack(solver.levels(x))
    error = (x.double() / 2).square().flatten(1).mean(1).sqrt()
    first = torch.full((3,), named["sigma_max"]).double() if "sigma_max" in named else error.clamp(0.08, 1)
    last = torch.full((3,), named["sigma_min"]).double() if "sigma_min" in named else (error / 20).clamp_min(0.005)
    torch.testing.assert_close(levels[0], first, rtol=1e-6, atol=0)
    torch.testing.assert_close(levels[-1], last, rtol=1e-6, atol=0)
    ratios = levels[1:] / levels[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))


class Rows(Identity):
    """The means of the rows, and images of them: what varies along a row is not measured."""

    def forward(self, x):
        return x.mean(-1, keepdim=True).expand_as(x)


def test_what_one_direction_does_not_show_counts_as_an_error(rng):
    """A first image has nothing of what is not measured, and its second reconstruction is the same; turned, it has.

    Of an image that is not square, its middle square is meant, for both.
    """
    x = torch.rand(2, 1, 6, 10, generator=rng)[..., :1].expand(-1, -1, -1, 10)
    levels = PnPADMM(GaussianPrior((1, 6, 10)), Rows((1, 6, 10)), steps=3).levels(x)
    square = x[:, 0, :, 0]  # its rows are the columns of the middle 6x6 of the turned image, with zeros on either side
    varied = torch.nn.functional.pad(square, (2, 2)).std(1, correction=0)
    plain = (square.square().mean(1) * 0.6 * 0.4).sqrt()  # of rows that have one value in six of ten places
    factor = ((varied / plain) ** 4).minimum(13 * varied).clamp_min(1)
    torch.testing.assert_close(levels[0], (varied * factor).double().clamp(0.08, 1), rtol=1e-5, atol=0)


class OneDirection(Identity):
    """Images with half of what varies along a row lost; the inverse does not know."""

    def forward(self, x):
        return (x + x.mean(-1, keepdim=True)) / 2

    def approximate_inverse(self, y):
        return y


@pytest.mark.parametrize(("ratio", "factor"), [(0.8, 1.0), (1.05, 1.05**4), (1.5, 1.3), (30.0, 1.3), (math.inf, 1.3)])
def test_the_first_level_rises_by_what_turning_brings(ratio, factor):
    """What varies down rows is lost of the turned image alone: the factor is the ratio to the fourth, at most 13 e = 1.3."""
    wave = torch.tensor([1.0, -1.0, 1.0, -1.0])
    down, across = 0.2, 0.2 / ratio
    x = (0.5 + down * wave[:, None] + across * wave)[None, None]
    levels = PnPADMM(GaussianPrior((1, 4, 4)), OneDirection((1, 4, 4)), steps=3).levels(x)
    assert levels[0].item() == pytest.approx(factor * down / 2, rel=1e-5)
    assert levels[-1].item() == pytest.approx(down / 2 / 20, rel=1e-5)


@pytest.mark.parametrize("noise", [NOISE, 0.0])
def test_dds_estimates_have_the_posterior_mean(problem, noise):
    operator, y, prior = problem
    options = {"noise_std": noise, "steps": 40, "sigma_max": 20.0, "sigma_min": 0.01, "iterations": 30, "clip": False}
    samples = draw(DDS(prior, operator, **options), y)
    mean, covariance = posterior(operator, y, noise)
    assert ((samples.mean(0) - mean).abs() <= 4 * samples.std(0) / math.sqrt(len(samples)) + 2e-3).all()
    assert torch.cov(samples.t()).trace() < covariance.trace()  # means vary less than draws


def test_ancestral_draws_converge_on_the_prior_as_steps_become_small():
    """Each step is a map of Gaussians, so the spread has a closed recurrence; it nears the prior's in first order."""
    prior, count = GaussianPrior((1, 8, 8), MEAN, STD), 500

    def recurrence(levels):
        variance, mean = levels[0] ** 2, 0.0
        for s, t in zip(levels, (*levels[1:], 0.0), strict=True):
            pull, kept = STD**2 / (STD**2 + s**2), (t / s) ** 2
            mean = kept * mean + (1 - kept) * (pull * mean + (1 - pull) * MEAN)
            variance = (pull + kept * (1 - pull)) ** 2 * variance + t**2 * (1 - kept)
        return mean, math.sqrt(variance)

    gaps = []
    for steps in (50, 100, 200):
        solver = Ancestral(prior, steps=steps, sigma_max=20.0, sigma_min=0.01)
        x = solver.solve(torch.empty(count, 0), OneStream(count))
        mean, std = recurrence(solver.sigmas[:-1])
        assert float(x.mean()) == pytest.approx(mean, abs=4 * STD / math.sqrt(x.numel()))
        assert float(x.std()) == pytest.approx(std, rel=4 / math.sqrt(2 * x.numel()))
        gaps.append(abs(std - STD))
    assert (
        gaps[-1] < 0.03 * STD
        and gaps[0] / gaps[1] == pytest.approx(2, abs=0.3)
        and gaps[1] / gaps[2] == pytest.approx(2, abs=0.3)
    )


def test_dps_without_noise_fits_the_data_and_keeps_the_prior_elsewhere(problem):
    operator, y, prior = problem
    operator = Matrix(torch.linalg.qr(operator.values.t()).Q.t().contiguous())
    y = operator(MEAN + STD * torch.randn(1, 1, 4, 4, generator=seeded(4)))
    solver = DPS(prior, operator, steps=40, inner=10, sigma_max=5.0, sigma_min=0.005, zeta=1.0, epsilon=0.5)
    samples = draw(solver, y)
    mean, covariance = posterior(operator, y, 1e-6)
    assert ((samples @ operator.values.t().double() - y.double()).abs().max()) < 0.05
    assert ((samples.mean(0) - mean).abs() <= 4 * STD / math.sqrt(len(samples)) + 0.01).all()
    assert float(torch.cov(samples.t()).trace()) == pytest.approx(float(covariance.trace()), rel=0.15)


@pytest.mark.parametrize("epsilon", [0.5, 1.0])
def test_langevin_steps_keep_the_spread_of_their_closed_form(epsilon):
    prior, sigma = GaussianPrior((1, 8, 8), MEAN, STD), 0.5
    solver = DPS(prior, Identity((1, 8, 8)), steps=1, inner=200, zeta=0.0, epsilon=epsilon)
    start = torch.zeros(200, 1, 8, 8)
    x = solver.step(start, start, sigma, 0.1, OneStream(200))
    pull = sigma**2 / (STD**2 + sigma**2)
    expected = sigma * math.sqrt((1 - epsilon / 4) / (pull * (1 - epsilon * pull / 4)))
    assert float(x.std()) == pytest.approx(expected, rel=0.02)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.02)
    without_image = GaussianPrior((1, 8, 8), 0.0, 1e-6)
    solver = DPS(without_image, Identity((1, 8, 8)), steps=1, inner=200, zeta=0.0, epsilon=epsilon)
    x = solver.step(start, start, sigma, 0.1, OneStream(200))
    assert float(x.std()) == pytest.approx(sigma, rel=0.01)


SOLVERS = {
    "Ancestral": lambda prior, operator: Ancestral(prior, steps=6, sigma_max=5.0, sigma_min=0.02),
    "DDS": lambda prior, operator: DDS(prior, operator, noise_std=0.01, steps=6, sigma_max=2.0, sigma_min=0.02),
    "DDS drawing": lambda prior, operator: DDS(prior, operator, noise_std=0.01, steps=6, sigma_max=2.0, sample=True),
    "DPS": lambda prior, operator: DPS(prior, operator, noise_std=0.01, steps=4, inner=2, sigma_max=2.0, sigma_min=0.02),
    "DPS by ancestral sampling": lambda prior, operator: DPS(prior, operator, noise_std=0.01, inner=0, sigmas=[2.0, 0.5, 0.1]),
    "DPS with norms": lambda prior, operator: DPS(prior, operator, steps=4, inner=2, sigma_max=2.0, guidance="norm"),
    "DPS as published": lambda prior, operator: DPS(
        prior, operator, steps=4, inner=2, sigma_max=2.0, zeta=0.03, epsilon=1.0, paper=True
    ),
    "DDNM": lambda prior, operator: DDNM(prior, operator, eta=0.85, steps=6, sigma_max=2.0, iterations=5),
    "DDNM as published with PaDIS": lambda prior, operator: DDNM(
        prior, operator, paper=True, inner=2, steps=3, sigma_max=2.0, iterations=8
    ),
    "DiffPIR": lambda prior, operator: DiffPIR(prior, operator, noise_std=0.01, steps=6, sigma_max=2.0, confidence=4.0),
    "DAPS": lambda prior, operator: DAPS(prior, operator, noise_std=0.01, steps=4, ode_steps=3, sigma_max=2.0, iterations=8),
    "PnPDM": lambda prior, operator: PnPDM(prior, operator, noise_std=0.01, steps=3, prior_steps=3, sigma_max=2.0, iterations=8),
    "MMPS": lambda prior, operator: MMPS(prior, operator, noise_std=0.05, steps=4, sigma_max=2.0),
    "Langevin": lambda prior, operator: Langevin(prior, operator, noise=PoissonNoise(), steps=4, inner=2, sigma_max=2.0),
    "PredictorCorrector": lambda prior, operator: PredictorCorrector(prior, operator, steps=5, corrections=2, sigma_max=2.0),
    "REDDiff": lambda prior, operator: REDDiff(prior, operator, steps=6, sigma_max=2.0),
    "PnPADMM": lambda prior, operator: PnPADMM(prior, operator, noise_std=0.01, steps=4, iterations=10),
    "PnPADMM with named levels": lambda prior, operator: PnPADMM(
        prior, operator, steps=4, sigma_max=0.08, sigma_min=0.015, iterations=10
    ),
    "PnPSlices": lambda prior, operator: PnPSlices(prior, operator, noise_std=0.01, steps=4, iterations=10),
    "DPIR": lambda prior, operator: DPIR(prior, operator, noise_std=0.01, steps=4, iterations=10),
    "PublishedDenoiser": lambda prior, operator: PublishedDenoiser(operator, prior, noise_std=0.01, steps=4, iterations=10),
    "RED": lambda prior, operator: RED(prior, operator, noise=PoissonNoise(), steps=4),
    "TotalVariation": lambda prior, operator: TotalVariation(operator, weight=1e-3, iterations=5),
    "WaveletL1": lambda prior, operator: WaveletL1(operator, weight=1e-3, iterations=5, levels=2),
    "PseudoInverse": lambda prior, operator: PseudoInverse(operator),
    "PseudoInverse exact": lambda prior, operator: PseudoInverse(operator, exact=True),
}

RECONSTRUCTING = [n for n in SOLVERS if n.split()[0] not in ("Ancestral", "TotalVariation", "WaveletL1", "PseudoInverse")]


def subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


def test_every_solver_is_under_the_contract():
    found = {c.__name__ for c in subclasses(Solver) if c.__module__.startswith("padis_lightning.")}
    assert found - {"DiffusionSolver", "DenoisingSolver", "PlugAndPlay", "PosteriorMean", "BM3D"} == {
        name.split()[0] for name in SOLVERS
    }


@pytest.mark.parametrize("name", SOLVERS)
def test_solving_together_equals_solving_alone(model, name, rng):
    # In float64, where rounding cannot hide a coupling of images; many steps of conjugate gradients would make it look like one.
    solver = SOLVERS[name](PatchPrior(model), ParallelBeam(20, views=5)).double()
    images = torch.rand(3, 1, 20, 20, generator=rng, dtype=torch.float64)
    images[1] *= 0.01  # a faint one, which a norm over the batch would drown
    batch = Batch(torch.tensor([4, 9, 2]), ["a", "b", "c"], ["a", "b", "c"], images)
    with torch.no_grad():
        together = solver.predict_step(batch)
        parts = [[part[k : k + 1] for part in batch[:4]] for k in range(3)]
        alone = [solver.predict_step(Batch(*part)) for part in parts]
    for key in ("estimate", "measurement"):
        if getattr(together, key) is None:  # nothing is measured
            continue
        torch.testing.assert_close(getattr(together, key), torch.cat([getattr(a, key) for a in alone]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_same_seed_same_bits_other_seed_other_bits(model, name, rng):
    solver = SOLVERS[name](PatchPrior(model), ParallelBeam(20, views=5))
    batch = Batch(torch.tensor([0]), ["a"], ["a"], torch.rand(1, 1, 20, 20, generator=rng))
    with torch.no_grad():
        first, second = solver.predict_step(batch), solver.predict_step(batch)
        solver.seed = 1
        third = solver.predict_step(batch)
    assert torch.equal(first.estimate, second.estimate)
    assert (solver.prior is not None) != torch.equal(first.estimate, third.estimate)


@pytest.mark.parametrize("name", SOLVERS)
def test_evaluations_are_counted_right(model, name):
    prior = PatchPrior(model)
    calls = []
    prior.register_forward_hook(lambda *_: calls.append(1))
    solver = SOLVERS[name](prior, ParallelBeam(20, views=5))
    solver.solve(torch.zeros(1, 1, 5, 40), Generators.keyed(0, [0]))
    assert len(calls) == solver.evaluations


@pytest.mark.parametrize("name", SOLVERS)
def test_the_measurement_stays_as_it_was(model, name, rng):
    solver = SOLVERS[name](PatchPrior(model), ParallelBeam(20, views=5))
    y = torch.rand(2, 1, 5, 40, generator=rng)
    kept = y.clone()
    solver.solve(y, Generators.keyed(0, [0, 1]))
    assert torch.equal(y, kept)


@pytest.mark.parametrize("name", RECONSTRUCTING)
def test_divergence_names_the_solver_the_step_and_the_level(model, name):
    class Broken(GaussianPrior):
        def forward(self, x, sigma, generator):
            return super().forward(x, sigma, generator) + (float("inf") if float(sigma) < 1.99 else 0)

    solver = SOLVERS[name](Broken((1, 20, 20), 0.5, 0.2), ParallelBeam(20, views=5))
    with pytest.raises(
        FloatingPointError, match=rf"{name.split()[0]} diverged at step \d of \d, sigma \d.*: the image is not finite"
    ):
        solver.solve(torch.ones(1, 1, 5, 40), Generators.keyed(0, [0]))


class HostReads(TorchDispatchMode):
    """Counts numbers that the host waits for; whole numbers are offsets, which are drawn on the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype is not torch.int64:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", RECONSTRUCTING)
def test_the_host_waits_for_no_step(name):
    """One look at whether all was finite, at the end of so few steps, and whatever the number of evaluations."""
    solver = SOLVERS[name](GaussianPrior((1, 20, 20), 0.5, 0.2), ParallelBeam(20, views=5))
    assert solver.operator.norm_squared > 0  # once and for all
    with HostReads() as reads, torch.no_grad():
        solver.solve(torch.ones(2, 1, 5, 40), Generators.keyed(0, [0, 1]))
    assert reads.count == 1


def test_many_steps_are_looked_at_in_between(rng):
    """What diverges early does not run to the end, and the step that is named is the first that was not finite."""

    class Broken(GaussianPrior):
        calls = 0

        def forward(self, x, sigma, generator):
            Broken.calls += 1
            return super().forward(x, sigma, generator) / (0.0 if Broken.calls == 20 else 1.0)

    solver = DDS(Broken((1, 6, 6), 0.5, 0.2), Identity((1, 6, 6)), noise_std=0.1, steps=200, clip=False)
    with pytest.raises(FloatingPointError, match=r"DDS diverged at step 20 of 200, sigma 0\.5"):
        solver.solve(torch.rand(3, 1, 6, 6, generator=rng), Generators.keyed(0, range(3)))
    assert Broken.calls == 2 * WATCHED


@pytest.mark.parametrize("name", SOLVERS)
def test_the_network_alone_computes_in_half_precision(model, name, rng):
    """Under a trainer's autocast the operator sees float32 and the network bfloat16; the estimate is float32 and near."""
    prior, operator = PatchPrior(model), ParallelBeam(20, views=5)
    kinds = {"data": set(), "network": set()}
    convolution = next(part for part in prior.denoiser.modules() if isinstance(part, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda *args: kinds["network"].add(args[2].dtype))
    operator.register_forward_hook(lambda *args: kinds["data"].add(args[2].dtype))
    solver = SOLVERS[name](prior, operator)
    batch = Batch(torch.tensor([0, 1]), ["a", "b"], ["a", "b"], torch.rand(2, 1, 20, 20, generator=rng))
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            half = solver.predict_step(batch)
        assert kinds["network"] <= {torch.bfloat16}
        full = solver.predict_step(batch)
    assert kinds["data"] <= {torch.float32, torch.float64} and half.estimate.dtype == torch.float32
    if solver.prior is not None:
        assert kinds["network"] == {torch.bfloat16, torch.float32}
        assert 0 < float((half.estimate - full.estimate).norm() / full.estimate.norm()) < 0.15
    else:
        assert torch.equal(half.estimate, full.estimate)


def test_gradient_has_its_adjoint(rng):
    x = torch.randn(2, 3, 5, 7, generator=rng, dtype=torch.float64)
    p = torch.randn(2, 2, 3, 5, 7, generator=rng, dtype=torch.float64)
    assert float((gradient(x) * p).sum()) == pytest.approx(float((x * gradient_adjoint(p)).sum()), rel=1e-12)


def test_total_variation_of_a_step_is_its_closed_form():
    step = torch.full((1, 1, 6, 10), 0.2, dtype=torch.float64)
    step[..., 5:] = 0.8
    weight = 0.25
    found = TotalVariation(Identity((1, 6, 10)), weight=weight, iterations=400).solve(step, Generators.keyed(0, [0]))
    shift = torch.tensor(weight / 5, dtype=torch.float64)
    expected = torch.where(step < 0.5, step + shift, step - shift)  # each half moves by weight / its width
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_total_variation_of_ct_is_converged():
    """The default's objective is that of three times as many iterations, and no move of the image lowers it."""
    operator = ParallelBeam(24, views=6)
    truth = torch.zeros(1, 1, 24, 24)
    truth[..., 6:18, 8:15] = 0.7
    truth = truth.double()
    y = operator(truth)

    def objective(x):
        residual = (operator(x) - y).square().sum() / (2 * operator.norm_squared)
        return float(residual + 1e-4 * gradient(x).square().sum(1).sqrt().sum())

    found, longer = (TotalVariation(operator, weight=1e-4, iterations=k).solve(y, Generators.keyed(0, [0])) for k in (100, 300))
    best = objective(longer)
    assert objective(found) <= best * 1.005
    for seed in range(20):
        move = torch.randn(found.shape, generator=seeded(seed))
        assert objective((longer + 1e-3 * move / move.norm()).clamp(0, 1)) > best
    assert objective(truth) > best


def test_noise_has_its_standard_deviation():
    solver = PseudoInverse(Identity((1, 64, 64)), noise_std=0.3)
    noisy = solver.problem.measure(torch.zeros(4, 1, 64, 64), Generators.keyed(0, range(4)))
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.02)


def test_priors_of_another_size_are_refused(model):
    with pytest.raises(InputError, match=r"trained on images of \(1, 20, 20\).*; wanted \(1, 16, 16\)"):
        DDS(PatchPrior(model), ParallelBeam(16, views=5))


def test_solvers_of_two_sizes_share_a_prior_that_stays_as_it_was(model, rng):
    patches = PatchModel(Denoiser(random_network(positions=0), 0.3, NoPositions()), (1, 20, 20), [8], (4, 4), model.normalisation)
    prior = PatchPrior(patches)
    first = DDS(prior, ParallelBeam(20, views=5), steps=2, sigma_max=1.0)
    y = torch.rand(1, 1, 5, 40, generator=rng)
    expected = first.solve(y, Generators.keyed(0, [0]))
    second = DDS(prior, ParallelBeam(24, views=5), steps=2, sigma_max=1.0)
    assert second.solve(torch.rand(1, 1, 5, 48, generator=rng), Generators.keyed(0, [0])).shape == (1, 1, 24, 24)
    assert torch.equal(first.solve(y, Generators.keyed(0, [0])), expected) and prior.image_shape == (1, 20, 20)


def test_a_problem_is_shared_and_says_its_noise_alone(rng):
    problem = Problem(ParallelBeam(8, views=4), GaussianNoise(0.1))
    y = problem.operator(torch.rand(1, 1, 8, 8, generator=rng))
    one, other = (TotalVariation(p, iterations=5, **o) for p, o in ((problem, {}), (problem.operator, {"noise_std": 0.1})))
    assert one.problem is problem and torch.equal(*(s.solve(y, Generators.keyed(0, [0])) for s in (one, other)))
    for options in ({"noise_std": 0.1}, {"noise": PoissonNoise()}, {"oversampling": 2}):
        with pytest.raises(InputError, match="beside a problem; wanted it in the problem alone"):
            TotalVariation(problem, **options)


def test_reconstructions_of_other_images_do_not_matter_to_streams():
    a, b = Generators.keyed(0, [5]), Generators.keyed(0, [3, 5])
    assert torch.equal(a.normal(torch.zeros(1, 4))[0], b.normal(torch.zeros(2, 4))[1])
    assert not torch.equal(a.normal(torch.zeros(1, 4)), Generators.keyed(0, [5], 1).normal(torch.zeros(1, 4)))


def test_dds_puts_back_the_share_of_noise_that_is_asked_for(rng):
    operator, prior = Identity((1, 6, 6)), GaussianPrior((1, 6, 6), 0.5, 0.2)
    x, y = torch.rand(2, 1, 6, 6, generator=rng), torch.rand(2, 1, 6, 6, generator=rng)
    options = {"noise_std": 0.3, "steps": 3, "sigma_max": 1.0}
    none, some, full = (
        DDS(prior, operator, eta=eta, **options).step(x, y, 0.5, 0.2, Generators.keyed(0, [0, 1])) for eta in (0, 0.25, 1)
    )
    torch.testing.assert_close(full - none, 0.2 * Generators.keyed(0, [0, 1]).normal(x))
    torch.testing.assert_close(some - none, 0.25 * (full - none), atol=1e-6, rtol=1e-5)
    with pytest.raises(InputError, match="eta is 1.5; wanted a value between 0 and 1"):
        DDS(prior, operator, eta=1.5)


def test_a_direct_start_is_the_plain_reconstruction_and_noise(rng):
    """Seen by a solver that does nothing: the canvas that it gets at the first level, cropped."""

    class Nothing(DDS):
        def step(self, x, y, sigma, sigma_next, generator):
            return x

    operator, prior = ParallelBeam(8, views=4), GaussianPrior((1, 8, 8))
    y = operator(torch.rand(2, 1, 8, 8, generator=rng))
    noise = Generators.keyed(0, [0, 1]).normal(torch.empty(2, 1, 8, 8))
    for start, expected in (("noise", 0.7 * noise), ("direct", 0.7 * noise + operator.fbp(y).clamp(0, 1))):
        found = Nothing(prior, operator, steps=2, sigma_max=0.7, start=start).solve(y, Generators.keyed(0, [0, 1]))
        torch.testing.assert_close(found, expected)


def test_tv_of_three_equal_channels_is_that_of_one(rng):
    """Channels share their edges: three copies have sqrt(3) times the length of one, so every iterate is the same."""
    y = torch.rand(1, 1, 10, 12, generator=rng, dtype=torch.float64)
    options = {"iterations": 20}
    three = TotalVariation(Identity((3, 10, 12)), weight=0.1 * 3**0.5, **options)
    one = TotalVariation(Identity((1, 10, 12)), weight=0.1, **options)
    found = three.solve(y.expand(1, 3, 10, 12), Generators.keyed(0, [0]))
    torch.testing.assert_close(found, one.solve(y, Generators.keyed(0, [0])).expand(1, 3, 10, 12), atol=1e-9, rtol=0)


def test_dps_weighs_residuals_by_the_noise_model(rng):
    """In closed form for a Gaussian prior, whose denoiser is a line; the largest weight counts as 1."""
    y = 3 * torch.rand(2, 1, 5, 6, generator=rng, dtype=torch.float64)
    x = torch.rand(2, 1, 5, 6, generator=rng, dtype=torch.float64)
    noise = PoissonNoise(1000, 2)
    solver = DPS(GaussianPrior((1, 5, 6), 0.5, 0.2), Identity((1, 5, 6)), noise=noise, zeta=0.8, steps=3, sigma_max=1.0)
    denoised, ascent = solver.guide(x, y, 0.3, Generators.keyed(0, [0, 1]))
    precision = 1 / noise.variance(y)
    trust = precision / precision.flatten(1).amax(1).reshape(2, 1, 1, 1)
    slope = 0.2**2 / (0.2**2 + 0.3**2)
    torch.testing.assert_close(ascent, 0.8 * slope * trust * (y - denoised), rtol=1e-3, atol=1e-6)


def test_dps_as_published_is_the_papers_update(rng):
    """In closed form for a Gaussian prior, whose denoiser is a line; an operator of norm 3, which the step does not know."""
    operator = Matrix(3 * torch.linalg.qr(torch.randn(16, 6, generator=rng)).Q.t().contiguous())
    prior, y = GaussianPrior((1, 4, 4), 0.5, 0.2), torch.rand(2, 6, generator=rng)
    x, sigma = torch.rand(2, 1, 4, 4, generator=rng), 0.3
    solver = DPS(prior, operator, steps=3, inner=1, sigma_max=1.0, zeta=0.3, epsilon=0.8, paper=True)
    slope = 0.2**2 / (0.2**2 + sigma**2)
    denoised = slope * x + (1 - slope) * 0.5
    residual = y - operator(denoised)
    ascent = 0.3 * 2 * slope * operator.adjoint(residual) / norm(residual).reshape(2, 1, 1, 1)
    noise = math.sqrt(0.8) * sigma * Generators.keyed(0, [0, 1]).normal(x)
    for sigma_next in (0.1, 0.0):  # at the end, too
        found = solver.step(x, y, sigma, sigma_next, Generators.keyed(0, [0, 1]))
        torch.testing.assert_close(found, x + ascent + 0.4 * (denoised - x) + noise)


@pytest.mark.parametrize("sigma_next", [0.1, 0.0])
def test_dps_without_langevin_steps_is_an_ancestral_step_on_the_posteriors_score(sigma_next, rng):
    """In closed form for a Gaussian prior, of an operator of norm 3; weights count against the least variance."""
    operator = Matrix(3 * torch.linalg.qr(torch.randn(16, 6, generator=rng)).Q.t().contiguous())
    prior, y = GaussianPrior((1, 4, 4), 0.5, 0.2), 3 * torch.rand(2, 6, generator=rng)
    x, sigma, slope = torch.rand(2, 1, 4, 4, generator=rng), 0.3, 0.2**2 / (0.2**2 + 0.3**2)
    for noise in (GaussianNoise(0.2), PoissonNoise(1000, 2)):
        solver = DPS(prior, operator, noise=noise, steps=3, inner=0, sigma_max=1.0, zeta=0.7)
        variance = noise.variance(y).expand_as(y)
        least = variance.amin(1, keepdim=True)
        denoised = slope * x + (1 - slope) * 0.5
        residual = least / variance * (y - operator(denoised))
        strength = least.reshape(2, 1, 1, 1) + sigma**2
        wanted = Ancestral.ancestral(x, denoised, sigma, sigma_next, Generators.keyed(0, [0, 1]))
        wanted = wanted + 0.7 / operator.norm_squared * slope * (sigma**2 - sigma_next**2) / strength * operator.adjoint(residual)
        found = solver.step(x, y, sigma, sigma_next, Generators.keyed(0, [0, 1]))
        torch.testing.assert_close(found, wanted)
    assert solver.evaluations == 3


def test_levels_that_are_named_are_walked():
    levels = geometric_sigmas(2.0, 0.1, 4).tolist()
    prior, operator, y = GaussianPrior((1, 4, 4)), Identity((1, 4, 4)), torch.ones(1, 1, 4, 4)
    options = {"steps": 4, "sigma_max": 2.0, "sigma_min": 0.1}, {"sigmas": levels}
    found, wanted = (DDS(prior, operator, noise_std=0.1, **o).solve(y, Generators.keyed(0, [0])) for o in options)
    assert torch.equal(found, wanted) and DDS(prior, operator, sigmas=levels).evaluations == 4
    for odd in ([], [1.0, 1.0], [1.0, 0.0], [math.nan], [1e9]):
        with pytest.raises(InputError, match=r"sigmas are \[.*\]; wanted levels that fall, from at most 1e6 to above 0"):
            DDS(prior, operator, sigmas=odd)


def test_the_level_of_plug_and_play_falls_step_by_step():
    levels = []

    class Seen(GaussianPrior):
        def forward(self, x, sigma, generator):
            levels.append(sigma)
            return super().forward(x, sigma, generator)

    for cls in (RED, PnPADMM):
        levels.clear()
        solver = cls(Seen((1, 8, 8), 0.5, 0.2), ParallelBeam(8, views=4), steps=5, sigma_max=0.16, sigma_min=0.01)
        solver.solve(torch.ones(1, 1, 4, 16), Generators.keyed(0, [0]))
        assert levels == pytest.approx([0.16, 0.08, 0.04, 0.02, 0.01])
    with pytest.raises(InputError, match="penalty is 0; wanted a value above 0"):
        PnPADMM(GaussianPrior((1, 8, 8)), Identity((1, 8, 8)), penalty=0.0)


def test_samples_have_streams_of_their_own_and_their_mean_is_the_estimate(model, rng):
    images = torch.rand(2, 1, 20, 20, generator=rng, dtype=torch.float64)
    batch = Batch(torch.tensor([4, 9]), ["a", "b"], ["a", "b"], images)

    def run(samples):
        solver = DDS(
            PatchPrior(model), ParallelBeam(20, views=5), noise_std=0.01, steps=4, sigma_max=1.0, samples=samples
        ).double()
        with torch.no_grad():
            return solver.predict_step(batch)

    one, several = run(1), run(3)
    assert one.samples is None and several.samples.shape == (2, 3, 1, 20, 20)
    torch.testing.assert_close(several.samples[:, 0], one.estimate, rtol=0, atol=1e-6)  # the first is that of a single run
    torch.testing.assert_close(several.estimate, several.samples.mean(1))
    assert (several.samples[:, 0] - several.samples[:, 1]).abs().max() > 1e-3
    assert several.evaluations == 3 * one.evaluations and torch.equal(several.measurement, one.measurement)
    with pytest.raises(InputError, match="samples is 0; wanted at least 1"):
        PseudoInverse(Identity((1, 4, 4)), samples=0)
    with pytest.raises(InputError, match="samples is 2; wanted 1 for Ancestral, whose images are data.count"):
        Ancestral(GaussianPrior((1, 4, 4)), samples=2)


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "Ancestral"])
def test_the_residual_falls_far_below_that_of_what_was_known_before(name):
    """From that of the prior's mean, image by image, with enough steps; a disk and a square, one of them faint."""
    grid = torch.linspace(-1, 1, 20)
    disk, square = grid[:, None] ** 2 + grid**2 < 0.4, torch.maximum(grid[:, None].abs(), grid.abs()) < 0.6
    truth = torch.stack([disk.float(), 0.3 * square.float()])[:, None]
    operator = ParallelBeam(20, views=12)
    solver = SOLVERS[name](GaussianPrior((1, 20, 20), 0.5, 0.4), operator)
    if isinstance(solver, DiffusionSolver):
        solver.sigmas = (*geometric_sigmas(2.0, 0.01, 60).tolist(), 0.0)
    elif isinstance(solver, PlugAndPlay):
        solver.sigmas = tuple(geometric_sigmas(0.5, 0.05, 60).tolist())
    elif hasattr(solver, "iterations"):
        solver.iterations = 60
    y = operator(truth)
    found = solver.solve(y, Generators.keyed(0, range(2)))
    residual, before = (norm(operator(x) - y).flatten() for x in (found, torch.full_like(found, 0.5)))
    assert (residual < 0.5 * before).all()


@pytest.mark.parametrize("name", ["DDS", "PnPADMM", "TotalVariation"])
def test_a_batch_of_another_shape_is_solved_as_by_a_solver_of_that_shape(name, rng):
    def solver(shape):
        options = {} if name == "TotalVariation" else {"prior": GaussianPrior(shape, 0.5, 0.2)}
        return globals()[name](problem=AveragePooling(shape, 2), noise_std=0.05, **options)

    y = torch.rand(1, 3, 4, 6, generator=rng)
    batch = Batch(torch.tensor([5]), ["a"], ["a"], None, y)
    general, exact = solver((1, 6, 4)), solver((3, 8, 12))
    twin = general.for_batch(batch)
    assert exact.for_batch(batch) is exact and twin.loop is general.loop and general.operator.image_shape == (1, 6, 4)
    found, wanted = general.reconstruct(batch), exact.reconstruct(batch)
    torch.testing.assert_close(found.estimate, wanted.estimate, rtol=0, atol=0)
    torch.testing.assert_close(found.residual, wanted.residual, rtol=0, atol=0)


def test_the_posterior_mean_is_its_closed_form_at_the_noise_of_each_image(rng):
    """Named noise is alike for all; that of what was measured is estimated of each image alone."""
    prior, y = GaussianPrior((1, 40, 40), MEAN, STD), MEAN + torch.randn(2, 1, 40, 40, generator=rng)
    named = PosteriorMean(prior, Identity((1, 40, 40)), noise_std=NOISE)
    expected = (STD**2 * y + NOISE**2 * MEAN) / (STD**2 + NOISE**2)
    torch.testing.assert_close(named.solve(y, Generators.keyed(0, [0, 1])), expected, rtol=1e-5, atol=1e-6)
    y = 0.5 + torch.tensor([0.02, 0.2]).reshape(2, 1, 1, 1) * torch.randn(2, 1, 40, 40, generator=rng)
    measured = Batch(torch.tensor([0, 1]), ["a", "b"], ["a", "b"], None, y, torch.ones(2, 1, 1, 1))
    solver = PosteriorMean(prior, Identity((1, 40, 40)))
    together = solver.reconstruct(measured).estimate
    share = ((together - MEAN) / (y - MEAN)).flatten(1).median(1).values  # s^2 / (s^2 + noise^2)
    torch.testing.assert_close(share, STD**2 / (STD**2 + torch.tensor([0.02, 0.2]) ** 2), rtol=0.05, atol=0)
    alone = [solver.reconstruct(Batch(*(part[k : k + 1] if part is not None else None for part in measured))) for k in (0, 1)]
    torch.testing.assert_close(together, torch.cat([one.estimate for one in alone]), rtol=1e-6, atol=1e-6)


def test_partitions_of_the_posterior_mean_are_averaged(model, rng):
    y = torch.rand(1, 1, 20, 20, generator=rng)
    solver = PosteriorMean(PatchPrior(model), Identity((1, 20, 20)), partitions=3, noise_std=0.1)
    streams, sigma = Generators.keyed(0, [0]), torch.tensor([0.1])
    each = [solver.prior.on_images(y, sigma, streams) for _ in range(3)]
    assert solver.evaluations == 3 and not torch.equal(each[0], each[1])
    torch.testing.assert_close(solver.solve(y, Generators.keyed(0, [0])), sum(each) / 3, rtol=1e-6, atol=1e-6)


def test_the_posterior_mean_of_other_operators_is_refused():
    with pytest.raises(InputError, match="PosteriorMean was given AveragePooling; wanted Identity"):
        PosteriorMean(GaussianPrior((1, 4, 4)), AveragePooling((1, 4, 4), 2))
