"""Noise models: what they add, what they say of it, and that solvers weigh by it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import avg_pool2d

from padis_lightning.ct import Projector
from padis_lightning.errors import InputError
from padis_lightning.noise import EstimatedNoise, GaussianNoise, PoissonNoise
from padis_lightning.noise_estimation import estimate_deviation
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.blur import UniformBlur
from padis_lightning.operators.ct import ParallelBeam, Scan
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.inpainting import Inpainting
from padis_lightning.operators.super_resolution import AveragePooling
from padis_lightning.operators.whitening import Whitening
from padis_lightning.priors import GaussianPrior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.solvers.dds import DDS
from padis_lightning.solvers.plug_and_play import PnPADMM, turned
from padis_lightning.solvers.pseudo_inverse import PseudoInverse
from padis_lightning.solvers.tv import TotalVariation
from padis_lightning.types import Batch

EVEN = torch.ones(1, 1, 1, 1)


@pytest.mark.parametrize(
    "noise",
    [
        GaussianNoise(0.2),
        GaussianNoise(51, "8-bit"),
        GaussianNoise(0.2, "relative"),
        PoissonNoise(4096, 0, 0.4),
        PoissonNoise(300, 6, 0.4),
    ],
    ids=lambda n: str(n.describe()),
)
def test_the_variance_that_is_said_is_the_one_that_is_added(noise):
    clean = torch.linspace(0.5, 5, 4, dtype=torch.float64).reshape(1, 4, 1).expand(2, 4, 20000).contiguous()
    noisy = noise.simulate(clean, Generators.keyed(0, [0, 1]))
    measured = (noisy - clean).square().mean((0, 2))
    said = noise.variance(noisy).expand_as(noisy).mean((0, 2))
    torch.testing.assert_close(said, measured, rtol=0.06, atol=0)
    bias = (noisy - clean).mean((0, 2)).abs() / measured.sqrt()  # the logarithm of few photons has one
    assert float(bias.max()) < 0.15


def test_units():
    assert GaussianNoise(25.5, "8-bit").std == pytest.approx(0.1)
    y = torch.full((1, 1, 4, 50000), 3.0)
    assert float((GaussianNoise(0.1, "relative").simulate(y, Generators.keyed(0, [0])) - y).std()) == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize("noise", [GaussianNoise(0.1, "relative"), PoissonNoise(500, 5)])
def test_noise_belongs_to_the_image(noise):
    y = torch.rand(3, 1, 4, 5)
    together = noise.simulate(y, Generators.keyed(0, [4, 5, 6]))
    for k in range(3):
        assert torch.equal(together[k : k + 1], noise.simulate(y[k : k + 1], Generators.keyed(0, [4 + k])))
    assert noise.simulate(y, Generators.keyed(0, [4, 5, 6])).dtype == y.dtype


def test_a_bin_without_photons_stays_finite():
    y = torch.full((1, 1, 2, 100), 60.0)
    noise = PoissonNoise(10, 3)
    noisy = noise.simulate(y, Generators.keyed(0, [0]))
    assert torch.isfinite(noisy).all() and torch.isfinite(noise.variance(noisy)).all()


def test_weights_have_the_mean_one_and_the_harmonic_mean_of_the_variances(rng):
    y = torch.rand(2, 1, 6, 9, generator=rng, dtype=torch.float64)
    noise = PoissonNoise(100, 2)
    variance, precision = noise.data_term(y)
    torch.testing.assert_close(precision / variance, 1 / noise.variance(y))
    torch.testing.assert_close(precision.mean((1, 2, 3)), torch.ones(2, dtype=torch.float64))
    variance, precision = GaussianNoise(0.5).data_term(y)
    assert precision is None and variance.flatten().tolist() == [0.25, 0.25]


@pytest.mark.parametrize("orders", [Scan.noise_orders, LinearOperator.noise_orders])
def test_the_noise_of_what_is_measured_is_found_beside_wide_margins_of_zeros(orders, rng):
    smooth = torch.linspace(0, 3, 120).sin()[:, None] * torch.linspace(1, 2, 120)
    y = (2 + smooth + 0.05 * torch.randn(2, 1, 120, 120, generator=rng)) * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    y[..., :90], y[1, :, 20:50] = 0, 0
    found = estimate_deviation(y.double(), orders, EVEN).flatten()
    torch.testing.assert_close(found, torch.tensor([0.05, 0.15], dtype=torch.float64), rtol=0.1, atol=0)


def test_where_no_noise_is_seen_is_said(caplog):
    PseudoInverse(Identity((1, 8, 8))).for_batch(measured(torch.ones(1, 1, 8, 8)))
    assert "no noise is seen in the measurement" in caplog.text


class Known(PoissonNoise):
    """Photon noise whose variances are said without looking: the closed forms below need them."""

    def variance(self, y):
        return torch.linspace(0.1, 3, y[0].numel(), dtype=y.dtype).reshape(1, *y.shape[1:]).expand_as(y) ** 2


def test_dds_weighs_every_ray_by_its_variance(rng):
    """One step is the mean of a Gaussian posterior whose variances differ from entry to entry."""
    operator = ParallelBeam(6, views=4)
    prior = GaussianPrior((1, 6, 6), mean=0.4, std=0.3)
    solver = DDS(prior, operator, noise=Known(), steps=2, sigma_max=0.7, sigma_min=0.1, iterations=200, clip=False)
    y = torch.rand(2, *operator.measurement_shape, generator=rng, dtype=torch.float64)
    denoised = torch.rand(2, 1, 6, 6, generator=rng, dtype=torch.float64)
    found = solver.canvas.posterior_mean(denoised, y, 1 / (1 / 0.7**2 + 1 / prior.sigma_data**2), 200)
    basis = torch.eye(36, dtype=torch.float64).reshape(-1, 1, 6, 6)
    dense = operator(basis).flatten(1).t()
    weights = 1 / Known().variance(y)[0].flatten()
    spread = 1 / 0.7**2 + 1 / prior.sigma_data**2
    left = dense.t() @ (weights[:, None] * dense) + spread * torch.eye(36, dtype=torch.float64)
    for k in range(2):
        right = dense.t() @ (weights * y[k].flatten()) + spread * denoised[k].flatten()
        torch.testing.assert_close(found[k].flatten(), torch.linalg.solve(left, right), rtol=1e-6, atol=1e-8)


def test_tv_trusts_what_is_measured_well(rng):
    """Half of an image is measured a thousand times as badly: there its values are smoothed away, elsewhere kept."""

    class Halves(GaussianNoise):
        def variance(self, y):
            out = torch.ones_like(y)
            out[..., : y.shape[-1] // 2] = 1e6
            return out

    y = 0.5 + 0.3 * (torch.rand(1, 1, 12, 12, generator=rng, dtype=torch.float64) - 0.5)
    found = TotalVariation(Identity((1, 12, 12)), weight=1e-3, noise=Halves(0.1)).solve(y, Generators.keyed(0, [0]))
    assert float(found[..., :5].std()) < 0.1 * float(y[..., :5].std()) and float((found - y)[..., 7:].abs().max()) < 0.01


def test_simulation_on_a_finer_grid_is_another_measurement_of_the_same_image(rng):
    operator = ParallelBeam(24, views=6)
    image = torch.rand(2, 1, 24, 24, generator=rng)
    generator = Generators.keyed(0, [0, 1])
    same, finer = (Problem(operator, oversampling=k).measure(image, generator) for k in (1, 3))
    assert torch.equal(same, operator(image)) and finer.shape == same.shape
    gap = float((finer - same).norm() / same.norm())
    assert 1e-3 < gap < 0.1
    assert float(finer.mean()) == pytest.approx(float(same.mean()), rel=2e-3)


def test_a_finer_grid_is_built_where_something_is_simulated_alone():
    """It takes four times the memory, which a measured scan has no use for."""
    problem = Problem(ParallelBeam(24, views=6), oversampling=2)

    def grids():
        return sum(isinstance(module, Projector) for module in problem.modules())

    PseudoInverse(problem).predict_step(
        Batch(torch.zeros(1, dtype=torch.long), ["a"], ["a"], measurement=torch.ones(1, 1, 6, 48))
    )
    assert grids() == 1
    problem.measure(torch.ones(1, 1, 24, 24), Generators.keyed(0, [0]))
    assert grids() == 2


def test_noise_that_cannot_be_is_refused():
    plain = Identity((1, 4, 4))
    for make, sentence in (
        (lambda: GaussianNoise(-1), "std is -1; wanted at least 0"),
        (lambda: PoissonNoise(0), "photons is 0; wanted a value above 0"),
        (lambda: PoissonNoise(10, -1), "electronic is -1; wanted at least 0"),
        (lambda: PoissonNoise(attenuation=float("nan")), "attenuation is nan; wanted a value above 0"),
        (lambda: PseudoInverse(plain, noise_std=-0.1), "noise_std is -0.1; wanted at least 0"),
        (
            lambda: PseudoInverse(plain, noise_std=0.1, noise=PoissonNoise()),
            "noise_std is 0.1 and noise is PoissonNoise; wanted one",
        ),
        (lambda: PseudoInverse(plain, oversampling=0), "oversampling is 0; wanted at least 1"),
        (lambda: PseudoInverse(plain, oversampling=2), "Identity has no finer grid to simulate on; wanted oversampling: 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            make()


def scans(noise, views=40, count=2, seed=0):
    """Sinograms of two discs, half of whose bins see air, with noise of so large a deviation, (n, 1, views, bins)."""
    angles, bins = torch.arange(views)[:, None] * math.pi / views, torch.arange(120) - 59.5
    clean = torch.zeros(views, 120)
    for x, y, radius in ((8.0, -5.0, 24.0), (-12.0, 10.0, 6.0)):
        away = bins - (x * angles.cos() + y * angles.sin())
        clean += 2 * (radius**2 - away**2).clamp_min(0).sqrt() / radius
    drawn = torch.Generator().manual_seed(seed)
    return clean + noise * torch.randn(count, 1, views, 120, generator=drawn)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03, 0.1])
def test_noise_is_estimated_from_the_finest_scale_of_a_sinogram(noise):
    found = estimate_deviation(scans(noise).double(), (5,), EVEN)
    assert found.shape == (2, 1, 1, 1) and (found >= 0).all()
    torch.testing.assert_close(found.flatten(), torch.full((2,), noise, dtype=torch.float64), rtol=0.15, atol=0.002)


def test_noise_of_a_picture_is_estimated_whatever_its_slope():
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 90), torch.linspace(0, 1, 70), indexing="ij")
    picture = (0.6 * rows + 0.3 * columns)[None, None].expand(1, 3, -1, -1)
    noisy = picture + 0.05 * torch.randn(1, 3, 90, 70, generator=torch.Generator().manual_seed(1))
    assert float(estimate_deviation(noisy, (2, 2), EVEN)) == pytest.approx(0.05, rel=0.1)
    assert float(estimate_deviation(picture.double(), (2, 2), EVEN)) < 1e-12  # bilinear pictures have no second differences


def test_noise_of_a_picture_is_found_beside_saturated_pixels():
    """Half of the picture is at its highest value, whichever that is, a tenth at the lowest."""
    rows = torch.linspace(-0.3, 2.5, 120)[:, None].expand(120, 90)
    noisy = rows + 0.05 * torch.randn(2, 1, 120, 90, generator=torch.Generator().manual_seed(1))
    clipped = noisy.clamp(0, 1).double() * torch.tensor([1, 0.3]).reshape(2, 1, 1, 1)
    assert float((noisy > 1).float().mean()) > 0.5
    assert estimate_deviation(clipped, (2, 2), EVEN).flatten().tolist() == pytest.approx([0.05, 0.015], rel=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 40), (3, 3)])
def test_in_what_is_too_small_no_noise_is_seen(shape):
    y = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(1))
    assert estimate_deviation(y, (2, 2), EVEN).flatten().tolist() == [0, 0]


@pytest.mark.parametrize("noise", [None, GaussianNoise(0.1)])
@pytest.mark.parametrize("operator", [Identity((3, 20, 30)), UniformBlur((3, 20, 30), 3), AveragePooling((3, 40, 60), 2)])
def test_grey_in_three_channels_is_one_measurement(noise, operator):
    """The grey of each pixel is what one channel alone says of it. A colour picture beside it keeps its weight."""
    drawn = torch.Generator().manual_seed(4)
    colour, v = torch.rand(1, 3, 20, 30, generator=drawn), torch.rand(1, 1, *operator.image_shape[1:], generator=drawn)
    grey = torch.rand(1, 1, 20, 30, generator=drawn)
    one = Problem(operator.for_measurement((1, 20, 30)), noise).for_batch(measured(grey))
    both = Problem(operator, noise).for_batch(measured(torch.cat([grey.expand(-1, 3, -1, -1), colour])))
    variance = both.data_term(both.operator(torch.cat([v.expand(-1, 3, -1, -1)] * 2)))[0].flatten()
    expected = one.data_term(grey)[0].flatten()
    torch.testing.assert_close(variance[0], 3 * expected[0], rtol=0.05, atol=0)  # which quartile, three times as many say
    alone = Problem(operator, noise).for_batch(measured(colour))
    torch.testing.assert_close(variance[1:], alone.data_term(colour)[0].flatten())
    # of independent channels the mean has a third of the variance
    mean = both.posterior_mean(v.expand(2, 3, -1, -1), torch.cat([grey.expand(-1, 3, -1, -1), colour]), 0.3, 50)[:1].mean(1)
    torch.testing.assert_close(mean, one.posterior_mean(v, grey, 0.1, 50)[0], rtol=0, atol=1e-6 if noise else 0.01)


def test_the_estimate_scales_with_the_measurement_and_leaves_out_what_does_not_count():
    y = scans(0.02).double()
    weights = torch.ones_like(y)
    weights[..., 50:60] = 0

    def estimate(y):
        return estimate_deviation(y, (5,), weights)

    torch.testing.assert_close(estimate(7 * y), 7 * estimate(y))
    spoilt = torch.where(weights > 0, y, 1e6)
    assert torch.equal(estimate(spoilt), estimate(y))


def test_noise_by_photons_is_estimated_as_one_scale():
    """With weights of the photons the deviation is that of a weight of 1."""
    photons = 3e4 * torch.exp(-scans(0.0).double())
    y = scans(0.0).double() + torch.randn(photons.shape, generator=torch.Generator().manual_seed(2)).double() / photons.sqrt()
    found = EstimatedNoise(estimate_deviation(y, (5,), photons / 3e4), photons / 3e4)
    assert found.deviation.flatten().tolist() == pytest.approx([3e4**-0.5] * 2, rel=0.2)
    square, precision = found.data_term(y)
    torch.testing.assert_close((square / precision), found.variance(y))
    assert float(precision[0].mean()) == pytest.approx(1.0)


def measured(y, weights=EVEN):
    return Batch(torch.arange(len(y)), ["a"] * len(y), ["a"] * len(y), None, y, weights)


def test_measured_data_has_estimated_noise_and_simulated_data_what_was_named():
    operator, y = ParallelBeam(16, views=8, bins=40), torch.rand(2, 1, 8, 40)
    for solver, kind in (
        (PseudoInverse(operator), EstimatedNoise),
        (PseudoInverse(operator, noise_std=0.1), GaussianNoise),
        (PseudoInverse(operator, noise=PoissonNoise()), PoissonNoise),
    ):
        assert type(solver.for_batch(measured(y)).problem.noise) is kind
        assert solver.for_batch(measured(y)._replace(weights=None)) is solver  # as baselines get what was simulated


@pytest.mark.parametrize(
    "noise", [None, GaussianNoise(0.0), GaussianNoise(0.1), PoissonNoise(1e4)], ids=lambda n: str(n and n.describe())
)
def test_bins_that_do_not_count_change_no_proximal_step(noise):
    operator, drawn = ParallelBeam(16, views=8, bins=40), torch.Generator().manual_seed(3)
    y, v = (torch.rand(1, *shape, generator=drawn) for shape in (operator.measurement_shape, operator.image_shape))
    weights = torch.ones_like(y)
    weights[..., 11], weights[..., 2, 20:24] = 0, 0
    other = torch.where(weights > 0, y, 3 * y + 1)
    found = [Problem(operator, noise).for_batch(measured(z, weights)).proximal_step(v, z, 5.0, 60) for z in (y, other)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4)
    plain = [Problem(operator, noise).for_batch(measured(z)).proximal_step(v, z, 5.0, 60) for z in (y, other)]
    assert float((plain[0] - plain[1]).abs().max()) > 0.05


def test_plug_and_play_takes_what_is_left_over_for_noise_up_to_nine_times_the_estimate():
    operator, y = ParallelBeam(16, views=8, bins=40), scans(0.05, views=8)[..., 40:80]
    prior = GaussianPrior((1, 16, 16))
    solver = PnPADMM(prior, operator, model_error=0).for_batch(measured(y))
    estimate = solver.noise(y)
    exact, far = operator.pinv(y), torch.zeros(2, 1, 16, 16)
    assert (solver.noise(y, far) == 9 * estimate).all() and (estimate > 0).all()
    left = (operator(exact) - y).square().flatten(1).mean(1).double()
    expected = torch.minimum(torch.maximum(left, estimate.flatten()), 9 * estimate.flatten())
    torch.testing.assert_close(solver.noise(y, exact).flatten(), expected)
    named = PnPADMM(prior, operator, noise_std=0.05, model_error=0).for_batch(measured(y))
    assert named.noise(y, far).flatten().tolist() == pytest.approx([0.05**2] * 2)


def test_a_scan_that_was_given_is_never_exact_and_other_operators_are():
    """The share that the model gets wrong counts without noise, too, of scans; one that is simulated here is exact."""
    for operator, share in ((ParallelBeam(16, views=8, bins=32), 0.02), (Identity((1, 16, 16)), 0.0)):
        y = (
            torch.rand(2, *operator.measurement_shape, generator=torch.Generator().manual_seed(3))
            * torch.tensor([1.0, 9.0])[:, None, None, None]
        )
        solver = PnPADMM(GaussianPrior((1, 16, 16)), operator, noise_std=0, model_error=0.02)
        expected = (share**2 * y.double().square().flatten(1).mean(1)).tolist()
        assert solver.for_batch(measured(y)).noise(y).flatten().tolist() == pytest.approx(expected)
        assert solver.noise(y).tolist() == [[[[0.0]]]] * 2


def test_what_pixels_cannot_show_is_an_error_of_the_image_that_views_do_not_make_smaller():
    """With many views the weight of the model alone is that of m of the image, whatever their number, and of y with few."""
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(4)) * torch.tensor([0.2, 1.0])[:, None, None, None]
    weights, shares = [], []
    for views in (2, 120, 480):
        operator = ParallelBeam(16, views=views)
        y = operator(x)
        simulated = PnPADMM(GaussianPrior((1, 16, 16)), operator, noise_weight=0.5, penalty=1e-12)
        solver = simulated.for_batch(measured(y))
        assert torch.equal(simulated.model_variance(y, x), simulated.model_variance(y))
        weights.append(solver.penalty_at(0.1, solver.model_variance(y, x)).flatten())
        shares.append(solver.penalty_at(0.1, solver.model_variance(y)).flatten())
    expected = 0.5 * 0.005**2 * x.double().square().flatten(1).mean(1) / 0.1**2
    torch.testing.assert_close(weights[0], shares[0])
    for many, of_y in zip(weights[1:], shares[1:], strict=True):
        torch.testing.assert_close(many, expected)
        assert (of_y < expected).all()


@pytest.mark.parametrize("deviation", [0.0, 0.01, 0.3])
def test_the_last_level_of_a_scan_is_higher_by_the_share_that_is_noise(deviation, rng):
    """Nothing higher of exact scans and of pictures. Where noise is all that is wrong, it is nearly twice as high, and the least
    one nearly three times.
    """
    operator, x = ParallelBeam(16, views=4), torch.rand(2, 1, 16, 16, generator=rng)
    y = operator(x)
    solver = PnPADMM(GaussianPrior((1, 16, 16)), operator, noise_std=deviation, steps=3)
    model = 0.005**2 * y.double().square().flatten(1).mean(1)
    share = deviation / (deviation**2 + model).sqrt()
    torch.testing.assert_close(solver.noise_share(solver.model_share(y, solver.noise(y))), share)
    plain, higher = (torch.stack(solver.levels(x, part))[-1] for part in (0.0, share))
    torch.testing.assert_close(higher, (1 + share) * plain)
    torch.testing.assert_close(solver.levels(0 * x, share)[-1], 0.005 * (1 + 2 * share))
    assert torch.equal(*(solver.levels(x, part)[0] for part in (0.0, share)))
    picture = PnPADMM(GaussianPrior((1, 16, 16)), Identity((1, 16, 16)), noise_std=0.1)
    assert picture.noise_share(picture.model_share(x, picture.noise(x))).tolist() == [0.0, 0.0]


def test_the_least_weight_of_a_scan_grows_with_its_views_and_is_none_of_what_is_exact(rng):
    """It is that of a level of what an inverse of the first image gets wrong, which many views make small."""
    disc = (torch.hypot(*torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 2, indexing="ij")) < 0.6).float()[None, None]
    least = []
    for views in (6, 20, 60):
        operator = ParallelBeam(32, views=views)
        options = {"penalty": 1e-12, "noise_std": 0, "steps": 5}
        solver, y = PnPADMM(GaussianPrior((1, 32, 32)), operator, **options), operator(disc)
        square, given = turned(disc, 0), solver.for_batch(measured(y))
        scan = given.operator
        error = (scan.clip(scan.approximate_inverse(scan(square))) - square).double().square().mean().sqrt()
        expected = 0.5 * given.model_variance(y, disc) / (error**2 * scan.norm_squared)
        share = given.model_share(y, given.noise(y))
        torch.testing.assert_close(given.least_penalty(y, disc, share), expected)
        assert solver.least_penalty(y, disc, share).tolist() == [[[[0.0]]]]
        least.append(float(expected))
        plain = PnPADMM(solver.prior, operator, model_error=0, **options)
        assert torch.equal(*(one.solve(y, Generators.keyed(0, [0])) for one in (solver, plain)))
        assert not torch.equal(*(one.solve(y, Generators.keyed(0, [0])) for one in (given, plain)))
    assert least[0] < least[1] < least[2]
    image = Identity((1, 4, 4))
    y = torch.rand(1, 1, 4, 4, generator=rng)
    share = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    assert PnPADMM(GaussianPrior((1, 4, 4)), image, noise_std=0.1).least_penalty(y, y, share).tolist() == [[[[0.0]]]]


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_whitening_weighs_each_frequency_along_bins_by_what_is_wrong_there(share):
    """In the middle of long rows, where waves do not see their ends; the norm is that of the lowest frequency."""
    bins, middle = 512, slice(200, 312)
    whitening = Whitening((1, 1, bins), torch.full((1, 1, 1, 1), share, dtype=torch.float64))
    for frequency in (0.0, 0.25, 0.5, 0.9):
        wave = torch.cos(math.pi * frequency * torch.arange(bins, dtype=torch.float64))[None, None, None]
        expected = wave / (1 - share + share * (0.2 + 2.4 * frequency**2))
        torch.testing.assert_close(whitening.normal(wave)[..., middle], expected[..., middle], rtol=0, atol=5e-3)
    gain = float(Whitening.gain(torch.tensor(share)))
    assert gain == pytest.approx(whitening.norm_squared, rel=1e-3) and gain == pytest.approx(1 / (1 - 0.8 * share))


def test_the_data_step_of_a_scan_solves_the_whitened_equations_and_others_as_they_are(rng):
    y = 1 + torch.rand(2, 1, 8, 32, generator=rng, dtype=torch.float64)
    v, counted = torch.rand(2, 1, 16, 16, generator=rng, dtype=torch.float64), torch.ones_like(y)
    counted[0, :, 2, 7:9] = 0
    simulated = PnPADMM(GaussianPrior((1, 16, 16)), ParallelBeam(16, views=8), noise_std=0.01, iterations=400)
    solver = simulated.for_batch(measured(y, counted))
    penalty = torch.tensor([0.01, 0.1], dtype=torch.float64)[:, None, None, None]
    share, weight = solver.model_share(y, solver.noise(y)), penalty * solver.operator.norm_squared
    assert ((share > 0) & (share < 1)).all()
    assert torch.equal(*(simulated.data_step(v, y, penalty, part) for part in (share, None)))
    u = solver.data_step(v, y, penalty, share)
    whitening = Whitening((1, 8, 32), share, solver.problem.data_term(y)[1])
    left = solver.operator.adjoint(whitening.normal(solver.operator(u) - y)) + weight * (u - v)
    assert float(left.abs().max()) < 1e-8 * float(y.abs().max()) * solver.operator.norm_squared
    plain = solver.data_step(v, y, penalty)
    assert float((u - plain).abs().max()) > 1e-3
    assert (solver.least_penalty(y, v, share) >= 0.001 * Whitening.gain(share)).all()


@pytest.mark.parametrize(("named", "said"), [(0.05, []), (0.2, ["0.2"]), (0.0, ["0"])])
def test_noise_that_is_named_is_held_against_what_is_seen(named, said, caplog):
    y = scans(0.05, views=8)[..., 40:80]
    PseudoInverse(ParallelBeam(16, views=8, bins=40), noise_std=named).for_batch(measured(y[:1]))
    assert [record.getMessage().split()[3] for record in caplog.records] == said


def test_several_samples_of_a_measurement_have_its_noise_and_its_weights():
    operator, y = ParallelBeam(16, views=8, bins=40), scans(0.05, views=8)[..., 40:80]
    weights = torch.ones_like(y)
    weights[1, ..., 7] = 0
    for noise in (None, GaussianNoise(0.1)):
        problem = Problem(operator, noise).for_batch(measured(y, weights))
        twice = problem.noise.variance(y.repeat_interleave(2, 0))
        torch.testing.assert_close(twice, problem.noise.variance(y).repeat_interleave(2, 0))
        assert len(problem.data_term(y.repeat_interleave(2, 0))[1]) == 4


def pictured(texture, noise, shared=False, channels=3, seed=5):
    """A picture ``(1, C, 160, 160)`` in slowly varying colours, with grain that its channels share in all but its left third."""
    drawn = torch.Generator().manual_seed(seed)
    slow = torch.linspace(0.3, 0.7, 160)[:, None] * torch.tensor([1.0, 0.8, 0.6])[:channels, None, None]
    grain = texture * torch.randn(1, 160, 160, generator=drawn) * (torch.arange(160) >= 53)
    added = noise * torch.randn(1 if shared else channels, 160, 160, generator=drawn)
    return (slow.expand(-1, -1, 160) + grain + added)[None].double()


@pytest.mark.parametrize("texture", [0.0, 0.02, 0.03])
def test_texture_that_colours_share_is_no_noise(texture):
    assert float(estimate_deviation(pictured(texture, 0.01), (2, 2), EVEN)) == pytest.approx(0.01, rel=0.1)


def test_noise_of_a_grey_picture_is_that_of_its_quiet_blocks():
    grey = pictured(0.03, 0.01, channels=1)
    found = float(estimate_deviation(grey, (2, 2), EVEN))
    assert found == pytest.approx(0.01, rel=0.2)
    assert float(estimate_deviation(grey.expand(-1, 3, -1, -1), (2, 2), EVEN)) == found


def test_noise_in_brightness_alone_is_noise():
    """JPEG leaves next to none in colours."""
    y = pictured(0.0, 0.05, shared=True) + pictured(0.0, 0.001, seed=6)
    assert float(estimate_deviation(y, (2, 2), EVEN)) == pytest.approx(0.05, rel=0.1)


def test_a_picture_has_the_estimate_that_it_has_alone():
    several = torch.cat([pictured(0.02, 0.01), pictured(0.0, 0.1), pictured(0.0, 0.05, shared=True)])
    alone = [float(estimate_deviation(one[None], (2, 2), EVEN)) for one in several]
    assert estimate_deviation(several, (2, 2), EVEN).flatten().tolist() == alone


def test_noise_of_inpainting_is_that_of_the_known_pixels(rng):
    """So few are known that hardly any has all its neighbours."""
    for share in (0.9, 0.5, 0.3):
        operator = Inpainting((3, 160, 160), mask=(torch.rand(160, 160, generator=rng) < share).numpy())
        y = operator(pictured(0.02, 0.05).float())
        found = Problem(operator).for_batch(measured(y)).noise.deviation
        assert float(found) == pytest.approx(0.05, rel=0.2), share


@pytest.mark.parametrize(
    ("kind", "said"), [("white", False), ("grey", False), ("brightness", True), ("smooth", True), ("little", False)]
)
def test_noise_that_does_not_look_white_is_said(kind, said, caplog):
    y = {
        "white": pictured(0.02, 0.05),
        "grey": avg_pool2d(pictured(0.0, 0.1, channels=1), 3, 1, 1),
        "brightness": pictured(0.0, 0.05, shared=True) + pictured(0.0, 0.001),
        "smooth": avg_pool2d(pictured(0.0, 0.1), 3, 1, 1),
        "little": avg_pool2d(pictured(0.0, 0.01), 3, 1, 1),
    }[kind].float()
    PseudoInverse(Identity(tuple(y.shape[1:]))).for_batch(measured(y))
    assert ("does not look white" in caplog.text) == said and "estimated" in caplog.text


def test_the_residual_of_a_measurement_of_zeros_is_the_root_mean_square():
    x, y = torch.full((3, 1, 4, 5), 0.5), torch.tensor([0.0, 0.5, 0.25])[:, None, None, None].expand(3, 1, 4, 5)
    assert Problem(Identity((1, 4, 5))).residual(x, y).tolist() == pytest.approx([0.5, 0, 1])
