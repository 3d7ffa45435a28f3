"""One contract for every operator, found by its base class; sinograms and reconstructions of an analytic disk."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch

from padis_lightning import operators
from padis_lightning.errors import InputError
from padis_lightning.linalg import conjugate_gradient, dot, largest_eigenvalue, norm
from padis_lightning.operators.crop import Crop
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.operators.identity import Identity

# One small instance (or more) of each operator, odd where it can be.
EXAMPLES = {
    "ParallelBeam": [lambda: ParallelBeam(9, views=5, bins=14), lambda: ParallelBeam(8, angles=[0.0, 0.3, 2.0])],
    "Crop": [lambda: Crop((2, 5, 7), (3, 1))],
    "Identity": [lambda: Identity((1, 5, 7))],
    "Composition": [lambda: ParallelBeam(8, views=3) @ Crop((1, 8, 8), (2, 2))],
}


def subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


FOUND = sorted({c.__name__ for c in subclasses(operators.LinearOperator) if c.__module__.startswith("padis_lightning.")})
CASES = [pytest.param(make, id=f"{name}-{k}") for name in FOUND for k, make in enumerate(EXAMPLES.get(name, [None]))]


def test_every_operator_has_an_example():
    assert set(FOUND) <= set(EXAMPLES), "add an example of the new operator to EXAMPLES"


@pytest.fixture(params=CASES)
def operator(request):
    return request.param()


def draw(shape, rng, dtype=torch.float64, batch=3):
    return torch.randn(batch, *shape, generator=rng, dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_adjoint(operator, rng, dtype, tolerance):
    x, y = draw(operator.image_shape, rng, dtype), draw(operator.measurement_shape, rng, dtype)
    forward, back = operator(x), operator.adjoint(y)
    assert forward.dtype == back.dtype == dtype
    assert forward.shape[1:] == operator.measurement_shape and back.shape[1:] == operator.image_shape
    gap = (dot(forward, y) - dot(x, back)).abs() / (norm(forward) * norm(y))
    assert gap.max() < tolerance


def test_gradients(operator, rng):
    x = draw(operator.image_shape, rng, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(operator, x)
    assert torch.autograd.gradgradcheck(operator, x)


def test_linear_and_batch_equals_singles(operator, rng):
    a, b = draw(operator.image_shape, rng), draw(operator.image_shape, rng)
    torch.testing.assert_close(operator(2 * a - 3 * b), 2 * operator(a) - 3 * operator(b))
    torch.testing.assert_close(operator(a), torch.cat([operator(x[None]) for x in a]))


def matrix(operator):
    basis = torch.eye(math.prod(operator.image_shape), dtype=torch.float64)
    return operator(basis.reshape(-1, *operator.image_shape)).flatten(1).t()


def test_norm_and_pseudo_inverse_against_a_dense_svd(operator, rng):
    dense = matrix(operator)
    assert operator.norm_squared == pytest.approx(float(torch.linalg.matrix_norm(dense, 2)) ** 2, rel=1e-3)
    y = operator(draw(operator.image_shape, rng))
    expected = (torch.linalg.pinv(dense) @ y.flatten(1).t()).t().reshape(-1, *operator.image_shape)
    found = operator.pinv(y, iterations=500, tolerance=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(operator(found), y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("views", "expected"), [(8, 48.2), (20, 120.7), (60, 362.1)])
def test_norm_in_the_papers_geometry(views, expected):
    assert ParallelBeam(256, views).norm_squared == pytest.approx(expected, abs=0.1)


def disk(operator, centre, radius, samples=4):
    """A disk with anti-aliased edges, y pointing up, and its exact sinogram."""
    g = operator.geometry
    fine = (np.arange(g.size * samples) - (g.size * samples - 1) / 2) * g.pixel_spacing / samples
    inside = (fine[None] - centre[0]) ** 2 + (-fine[:, None] - centre[1]) ** 2 < radius**2
    image = inside.reshape(g.size, samples, g.size, samples).mean((1, 3))
    angles, s = np.array(g.angles)[:, None], g.detector[None]
    away = s - centre[0] * np.cos(angles) - centre[1] * np.sin(angles)
    sinogram = 2 * np.sqrt(np.clip(radius**2 - away**2, 0, None))
    return torch.from_numpy(image)[None, None], torch.from_numpy(sinogram)[None, None]


def test_sinogram_of_a_disk_is_exact_up_to_resolution():
    errors = []
    for size in (64, 128, 256):
        operator = ParallelBeam(size, views=24)
        image, sinogram = disk(operator, (5.0, 3.0), 8.0)
        errors.append(float((operator(image) - sinogram).norm() / sinogram.norm()))
    assert errors[-1] < 0.01 and errors[0] > 1.5 * errors[1] > 2.25 * errors[2]


def test_fbp_of_a_disk_has_its_value_its_place_and_nothing_else():
    operator = ParallelBeam(128, views=360)
    image, sinogram = disk(operator, (6.0, -4.0), 7.0)
    found = operator.fbp(sinogram)
    inside, outside = image == 1, image == 0
    assert float(found[inside].mean()) == pytest.approx(1.0, abs=0.01)
    assert float(found[outside].mean().abs()) < 0.01
    assert float((found - image).square().mean()) < 10**-2.5
    assert operator.fbp(2 * sinogram).equal(2 * found)


def test_fbp_keeps_its_scale_with_wider_bins_and_other_pixels():
    for options in ({"bins": 100, "pixel_spacing": 0.3125, "bin_spacing": 0.5}, {"pixel_spacing": 1.0}, {"arc": 2 * math.pi}):
        operator = ParallelBeam(128, views=180, **options)
        radius = 40 * operator.geometry.pixel_spacing
        image, sinogram = disk(operator, (0.0, 0.0), radius)
        assert float(operator.fbp(sinogram)[image == 1].mean()) == pytest.approx(1.0, abs=0.015)


def test_products_of_operators_that_do_not_meet_are_refused():
    with pytest.raises(ValueError, match=r"yields \(1, 5, 5\); wanted \(1, 8, 8\)"):
        ParallelBeam(8, views=3) @ Crop((1, 5, 5), (1, 1))


def test_wrong_shapes_are_refused_with_both():
    with pytest.raises(InputError, match=r"the image has the shape \(1, 9, 9\); wanted \(1, 8, 8\)"):
        ParallelBeam(8, views=3)(torch.zeros(1, 1, 9, 9))


def test_conjugate_gradient_solves_in_as_many_steps_as_unknowns(rng):
    square = torch.randn(6, 6, generator=rng, dtype=torch.float64)
    square = square @ square.t() + torch.eye(6)
    b = torch.randn(2, 6, generator=rng, dtype=torch.float64)
    found = conjugate_gradient(lambda x: x @ square, b, torch.zeros_like(b), 6)
    torch.testing.assert_close(found, torch.linalg.solve(square, b.t()).t())


def test_conjugate_gradient_leaves_a_solved_image_alone(rng):
    b = torch.randn(2, 6, generator=rng)
    b[0] = 0
    found = conjugate_gradient(lambda x: 2 * x, b, torch.zeros_like(b), 5)
    assert torch.equal(found[0], torch.zeros(6)) and torch.allclose(found[1], b[1] / 2)


def test_largest_eigenvalue():
    values = torch.tensor([3.0, 1.0, 0.5])
    assert largest_eigenvalue(lambda x: x * values, torch.zeros(1, 3)) == pytest.approx(3.0, rel=1e-4)


def test_examples_name_only_operators():
    assert set(EXAMPLES) <= set(FOUND) and all(inspect.isfunction(make) for v in EXAMPLES.values() for make in v)
