"""Our operators and priors in other libraries, and theirs in ours: what they say is the same."""

from __future__ import annotations

import ast
import itertools
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator, lsqr
from torch import nn

import padis_lightning as pl
from padis_lightning.data.generators import PhantomSource
from padis_lightning.interop.scipy import MatrixOperator, as_linear_operator
from padis_lightning.solvers.base import SOLVE
from tests.conftest import small_model

ROOT = Path(pl.__file__).parent
REAL = find_spec("deepinv") is not None
needs_deepinv = pytest.mark.skipif(not REAL, reason="deepinv is not installed; docs/python.md says how to run these")
OPERATORS = {
    "scan": lambda: pl.ParallelBeam(9, views=5, bins=14),
    "blur": lambda: pl.GaussianBlur((2, 5, 7), 0.6, 5),
    "mask": lambda: pl.RandomInpainting((2, 5, 7)),
    "means": lambda: pl.AveragePooling((1, 6, 9), 3),
}


@pytest.fixture(params=OPERATORS)
def operator(request):
    return OPERATORS[request.param]()


@pytest.fixture
def deepinv(monkeypatch):
    """Our file for deepinv; without deepinv around the bare classes that ours are built on."""
    name = "padis_lightning.interop.deepinv"
    if not REAL:

        class LinearPhysics(nn.Module):
            def __init__(self, img_size=None):
                super().__init__()
                self.img_size = img_size

        denoisers = SimpleNamespace(Denoiser=type("Denoiser", (nn.Module,), {}))
        parts = {"": SimpleNamespace(), ".models": denoisers, ".physics": SimpleNamespace(LinearPhysics=LinearPhysics)}
        for suffix, part in parts.items():
            monkeypatch.setitem(sys.modules, f"deepinv{suffix}", part)
        sys.modules.pop(name, None)
    return import_module(name)


def test_nothing_imports_what_is_for_others():
    for path in ROOT.rglob("*.py"):
        if "interop" not in path.parts:
            named = [node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
            assert not any(name.startswith("padis_lightning.interop") for name in named), path


def test_scipy_sees_the_matrix_and_its_transpose(operator, rng):
    """Column by column, as vectors and as matrices, and in other precision."""
    ours = as_linear_operator(operator)
    dense = ours @ np.eye(ours.shape[1])
    image = torch.rand(3, *operator.image_shape, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(torch.from_numpy(dense @ image.flatten(1).numpy().T).T, operator(image).flatten(1))
    np.testing.assert_allclose(ours.H @ np.eye(len(dense)), dense.T, rtol=0, atol=1e-13)
    x, y = np.random.default_rng(0).normal(size=dense.shape[1]), np.random.default_rng(1).normal(size=len(dense))
    assert (ours @ x) @ y == pytest.approx(x @ (ours.H @ y), rel=1e-12)
    single = as_linear_operator(operator, np.float32)
    assert single.dtype == (single @ x).dtype == np.float32
    np.testing.assert_allclose(single @ x, dense @ x, rtol=0, atol=1e-4)


def test_scipys_least_squares_are_the_pseudo_inverse(operator, rng):
    y = torch.rand(1, *operator.measurement_shape, generator=rng, dtype=torch.float64)
    found = lsqr(as_linear_operator(operator), y.flatten().numpy(), atol=1e-14, btol=1e-14, iter_lim=2000)[0]
    wanted = operator.pinv(y, 2000, 1e-14).flatten().numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array, aslinearoperator])
def test_there_and_back_is_the_same_operator(operator, kind, rng):
    dense = as_linear_operator(operator) @ np.eye(np.prod(operator.image_shape))
    back = MatrixOperator(kind(dense), operator.image_shape, operator.measurement_shape)
    x = torch.rand(2, *operator.image_shape, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(back(x), operator(x))
    torch.testing.assert_close(back.adjoint(back(x)), operator.adjoint(operator(x)))
    v, y = torch.rand_like(x), operator(x)
    torch.testing.assert_close(back.prox(v, y, 0.3, tolerance=1e-12), operator.prox(v, y, 0.3, tolerance=1e-12))


def test_a_solver_takes_a_sparse_matrix(rng):
    """What has a closed form without the matrix comes out the same by iterations with it."""
    blur = pl.GaussianBlur((1, 6, 7), 0.4, 3)
    matrix = scipy.sparse.csr_array(as_linear_operator(blur) @ np.eye(42))
    other = MatrixOperator(matrix, blur.image_shape, blur.measurement_shape)
    y = blur(torch.rand(1, 1, 6, 7, generator=rng))
    options = {"prior": pl.GaussianPrior((1, 6, 7), 0.4, 0.2), "solver": "DiffPIR", "noise_std": 0.1, "steps": 4}
    found, wanted = (pl.reconstruct(y, operator, **options).image for operator in (other, blur))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.fixture
def pylops():
    return pytest.importorskip("pylops")


def test_pylops_takes_our_operators_and_gives_them_back(pylops, operator, rng):
    """Its test of adjoints passes, its regularised inversion is our proximal step, and what comes back is what was given."""
    theirs = pylops.aslinearoperator(as_linear_operator(operator))
    assert pylops.utils.dottest(theirs, *theirs.shape, rtol=1e-12)
    y = torch.rand(1, *operator.measurement_shape, generator=rng, dtype=torch.float64)
    small, exact = pylops.Identity(theirs.shape[1]), {"atol": 1e-14, "btol": 1e-14, "iter_lim": 2000}
    invert = pylops.optimization.leastsquares.regularized_inversion
    found = invert(theirs, y.flatten().numpy(), [small], epsRs=[0.3**0.5], **exact)[0]
    wanted = operator.prox(torch.zeros(1, *operator.image_shape).double(), y, 0.3, tolerance=1e-14)
    np.testing.assert_allclose(found, wanted.flatten().numpy(), rtol=0, atol=1e-8)
    back = MatrixOperator(theirs, operator.image_shape, operator.measurement_shape)
    torch.testing.assert_close(back(wanted), operator(wanted))
    torch.testing.assert_close(back.adjoint(y), operator.adjoint(y))


def test_an_operator_of_pylops_is_one_of_ours(pylops, rng):
    """Differences along columns and blurred differences along rows, one below the other, against the same of torch."""
    blur = pl.GaussianBlur((1, 6, 7), 0.6, 5)
    down, right = (pylops.FirstDerivative((6, 7), axis=axis, kind="forward") for axis in (0, 1))
    ours = MatrixOperator(pylops.VStack([down, right @ pylops.aslinearoperator(as_linear_operator(blur))]), (1, 6, 7), (2, 6, 7))
    x = torch.rand(3, 1, 6, 7, generator=rng, dtype=torch.float64)
    expected = torch.zeros(3, 2, 6, 7, dtype=torch.float64)
    expected[:, 0, :-1], expected[:, 1, :, :-1] = x[:, 0].diff(dim=1), blur(x)[:, 0].diff(dim=2)
    torch.testing.assert_close(ours(x), expected)
    y = torch.rand(3, 2, 6, 7, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.functional.vjp(ours, x, y)[1], ours.adjoint(y))
    assert float((ours(x) * y).sum()) == pytest.approx(float((x * ours.adjoint(y)).sum()), rel=1e-12)


REFUSED = {
    "shape": (np.zeros((4, 9)), "the matrix is 4x9; wanted 4x8, measurements by images"),
    "complex": (np.zeros((4, 8), complex), "the matrix is of type complex128; wanted real numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_matrices_that_do_not_fit_are_refused(case):
    matrix, said = REFUSED[case]
    with pytest.raises(pl.InputError, match=said):
        MatrixOperator(matrix, (1, 2, 4))


def test_the_denoiser_is_the_prior_image_by_image(deepinv, rng):
    """Noise and stream of each image are its own, whatever else is in the batch; streams go on until they are begun anew."""
    prior = pl.PatchPrior(small_model())
    ours, x, sigma = deepinv.Denoiser(prior, seed=5), torch.rand(3, 1, 20, 20, generator=rng), torch.tensor([0.1, 0.2, 0.7])
    streams = pl.Generators.keyed(5, range(3), SOLVE)
    first, second = (prior.on_images(x, sigma, streams) for _ in range(2))
    assert not torch.equal(first, second)
    for level in (sigma, sigma.reshape(3, 1, 1, 1), sigma.tolist()):
        ours.restart()
        assert torch.equal(ours(x, level), first) and torch.equal(ours(x, level), second)
    ours.restart()
    torch.testing.assert_close(ours(x[:2], sigma[:2]), first[:2])
    assert len(ours(x, 0.3)) == 3
    ours.restart()
    one = ours(x, 0.2)
    ours.restart()
    assert torch.equal(one, ours(x, torch.tensor([0.2])))


def test_physics_has_the_operators_products_and_steps(deepinv, operator, rng):
    x, v = torch.rand(2, 2, *operator.image_shape, generator=rng, dtype=torch.float64)
    y, physics = operator(x), deepinv.Physics(operator)
    assert torch.equal(physics.A(x), y) and torch.equal(physics.A_adjoint(y), operator.adjoint(y))
    assert torch.equal(physics.A_dagger(y), operator.pinv(y))
    if operator.closed_form:
        found = physics.prox_l2(v, y, torch.tensor(3.0))
        torch.testing.assert_close(3 * physics.A_adjoint(physics.A(found) - y) + found - v, torch.zeros_like(v))


def test_physics_of_theirs_that_is_no_operator_is_refused(deepinv):
    class Odd(deepinv.LinearPhysics):
        def A(self, x):
            return [x]

    for physics, said in ((nn.Identity(), "is Identity; wanted a LinearPhysics"), (Odd(), "Odd has no img_size; wanted")):
        with pytest.raises(pl.InputError, match=said):
            deepinv.PhysicsOperator(physics)
    with pytest.raises(pl.InputError, match="Odd measures list; wanted real tensors"):
        deepinv.PhysicsOperator(Odd(), (1, 4, 4))


@needs_deepinv
def test_deepinv_agrees_that_the_adjoint_is_one(deepinv, operator, rng):
    x = torch.rand(2, *operator.image_shape, generator=rng, dtype=torch.float64)
    physics = deepinv.Physics(operator, tol=1e-12, max_iter=500)
    assert abs(physics.adjointness_test(x)) < 1e-10
    assert float(physics.compute_sqnorm(x[:1], tol=1e-8, verbose=False)) == pytest.approx(operator.norm_squared, rel=1e-3)
    y, v = physics.A(x), torch.rand_like(x)
    step = deepinv.LinearPhysics.prox_l2(physics, v, y, 3.0)
    torch.testing.assert_close(physics.prox_l2(v, y, 3.0), step, atol=2e-5, rtol=0)


def physics_of_theirs():
    import deepinv as dinv

    kernel = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return [
        dinv.physics.Blur(kernel, padding="circular", img_size=(1, 7, 9)),
        dinv.physics.Downsampling(img_size=(1, 8, 8), filter="gaussian", factor=2),
        dinv.physics.Inpainting((2, 5, 6), mask=0.5),
        dinv.physics.Tomography(8, 8, normalize=False, adjoint_via_backprop=True),
        dinv.physics.CompressedSensing(9, (1, 5, 5)),
    ]


@needs_deepinv
@pytest.mark.parametrize("k", range(5))
def test_their_physics_are_operators_of_ours(deepinv, k, rng):
    """Products, gradients, and a proximal step that solves its equations."""
    physics = physics_of_theirs()[k]
    shape = {1: (1, 8, 8), 3: (1, 8, 8), 4: (1, 5, 5)}.get(k)
    ours = deepinv.PhysicsOperator(physics, shape)
    x, y = torch.rand(2, *ours.image_shape, generator=rng), torch.rand(2, *ours.measurement_shape, generator=rng)
    assert torch.equal(ours(x), physics.A(x))
    assert float((ours(x) * y).sum()) == pytest.approx(float((x * ours.adjoint(y)).sum()), rel=1e-4)
    _, pulled = torch.autograd.functional.vjp(ours, x, y)
    torch.testing.assert_close(pulled, ours.adjoint(y), rtol=1e-4, atol=1e-5)
    found, weight = ours.prox(x, y, ours.norm_squared), ours.norm_squared
    left = ours.adjoint(ours(found) - y) + weight * (found - x)
    assert left.abs().max() < 1e-4 * max(1, weight)
    again = deepinv.Physics(ours).A_adjoint(y)
    torch.testing.assert_close(again, physics.A_adjoint(y))


@pytest.fixture
def task(rng):
    """Return a phantom, a blur, what it measures of the phantom with noise of 0.02, and the prior of such phantoms."""
    truth = PhantomSource(1, 128, 3, False)[0].image[None]
    blur = pl.GaussianBlur((1, 128, 128), 1.5, 9)
    y = blur(truth) + 0.02 * torch.randn(truth.shape, generator=rng)
    return truth, blur, y, pl.PatchPrior("ct_phantoms")


def psnr(x, truth):
    return float(-10 * (x - truth).square().mean().log10())


@needs_deepinv
def test_dpir_is_the_same_in_both(deepinv, task):
    """The same eight steps from the same start with the same partitions: the same image."""
    import deepinv as dinv

    truth, blur, y, prior = task
    start = blur.approximate_inverse(y).clamp(0, 1)
    ours = pl.reconstruct(y, blur, prior, "DPIR", noise_std=0.02, steps=8).image
    denoiser, physics = deepinv.Denoiser(prior), deepinv.Physics(blur)
    with torch.no_grad():
        theirs = dinv.optim.DPIR(sigma=0.02, denoiser=denoiser)(y, physics, init=start)
    torch.testing.assert_close(theirs, ours, atol=2e-4, rtol=0)
    assert psnr(ours, truth) > psnr(start, truth) + 3


class Clipped(pl.GaussianPrior):
    """A prior that stays in the range of images, as deepinv makes any in these two."""

    def forward(self, x, sigma, generator):
        return super().forward(x, sigma, generator).clamp(0, 1)


@needs_deepinv
def test_diffpir_is_the_same_in_both(deepinv, task, monkeypatch):
    """The same levels, constants and draws. Theirs ends with the noise of its last level."""
    import deepinv as dinv

    truth, blur, y, _ = task
    prior, physics = Clipped(truth.shape[1:], 0.5, 0.3), deepinv.Physics(blur)
    theirs = dinv.sampling.DiffPIR(deepinv.Denoiser(prior), dinv.optim.L2(), sigma=0.02, max_iter=12, zeta=0.3, lambda_=7.0)
    sigmas = (theirs.sigmas[theirs.seq.long()] / 2).tolist()
    start = sigmas[0] * pl.Generators.keyed(0, [0], SOLVE).normal(truth)
    streams = pl.Generators.keyed(0, [0], SOLVE)
    monkeypatch.setattr(torch, "randn_like", streams.normal)
    found = theirs(y, physics, x_init=torch.zeros_like(truth))
    options = {"sigmas": sigmas, "confidence": 7.0 / 2, "zeta": 0.3, "clip": False, "iterations": 50}
    solver = pl.DiffPIR(prior, blur, noise_std=0.02, **options)
    x, streams = start, pl.Generators.keyed(0, [0], SOLVE)
    streams.normal(truth)
    for sigma, after in itertools.pairwise(sigmas):
        x = solver.step(x, y, sigma, after, streams)
    kept = float(theirs.sqrt_alphas_cumprod[0])
    torch.testing.assert_close((found - 0.5) / kept + 0.5, x, atol=1e-3, rtol=0)
    shorter = pl.DiffPIR(prior, blur, noise_std=0.02, **options | {"sigmas": sigmas[:-1]})
    ours = shorter.solve(y, pl.Generators.keyed(0, [0], SOLVE))
    assert float((found - ours).std()) == pytest.approx(sigmas[-1], rel=0.1)


@needs_deepinv
@pytest.mark.parametrize("schedule", ["vp", "ve"])
def test_dps_is_the_same_in_both(deepinv, task, schedule, monkeypatch):
    """The same levels, weight and draws, by ancestral sampling."""
    import deepinv as dinv

    truth, blur, y, _ = task
    prior = Clipped(truth.shape[1:], 0.5, 0.3)
    physics = deepinv.Physics(blur, noise_model=dinv.physics.GaussianNoise(0.02))
    theirs = dinv.sampling.DPS(deepinv.Denoiser(prior), schedule, num_steps=12, weight=0.8, guidance="annealed")
    times = theirs.solver.timesteps
    sigmas = [float(theirs.sde.sigma_t(t)) / 2 for t in times[: len(times) - (schedule == "vp")]]
    streams = pl.Generators.keyed(0, [0], SOLVE)
    start = theirs.sde.scale_t(times[0]) * (2 * sigmas[0] * streams.normal(truth) - 1)
    monkeypatch.setattr(theirs.solver, "randn_like", lambda x: streams.normal(x.float()).to(x))
    found = theirs(y, physics, x_init=start).float()
    ours = pl.DPS(prior, blur, noise_std=0.02, sigmas=sigmas, inner=0, zeta=0.8 * blur.norm_squared)
    torch.testing.assert_close(found, ours.solve(y, pl.Generators.keyed(0, [0], SOLVE)), atol=1e-3, rtol=0)


@needs_deepinv
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["DiffPIR", "PnP", "RED", "DPS"])
def test_deepinvs_algorithms_take_the_prior(deepinv, task, algorithm):
    """They gain on the blurred image, of 23.7 dB; 40 steps of DPS come from noise to within 1 dB of it; the same bits again."""
    import deepinv as dinv

    truth, blur, y, prior = task
    denoiser, physics = deepinv.Denoiser(prior), deepinv.Physics(blur, noise_model=dinv.physics.GaussianNoise(0.02))
    build = {
        "DiffPIR": lambda: dinv.sampling.DiffPIR(denoiser, dinv.optim.L2(), sigma=0.02, max_iter=20, verbose=False),
        "PnP": lambda: dinv.optim.optim_builder(
            "ADMM", prior=dinv.optim.PnP(denoiser), data_fidelity=dinv.optim.L2(), max_iter=10,
            params_algo={"stepsize": 20.0, "g_param": 0.03},
        ),
        "RED": lambda: dinv.optim.optim_builder(
            "PGD", prior=dinv.optim.RED(denoiser), data_fidelity=dinv.optim.L2(), max_iter=20, g_first=True,
            params_algo={"stepsize": 0.5, "g_param": 0.03, "lambda": 0.3},
        ),
        "DPS": lambda: dinv.sampling.DPS(denoiser, num_steps=40, guidance="annealed"),
    }  # fmt: skip

    def run():
        denoiser.restart()
        torch.manual_seed(0)
        return build[algorithm]()(y, physics).detach()

    found = run()
    assert psnr(found, truth) > psnr(y, truth) + (-1 if algorithm == "DPS" else 1) and torch.equal(run(), found)
