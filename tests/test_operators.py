"""One contract for every operator, found by its base class; sinograms and reconstructions of an analytic disk."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from padis_lightning import operators
from padis_lightning.ct import ConeGeometry, Geometry
from padis_lightning.errors import InputError
from padis_lightning.linalg import conjugate_gradient, dot, largest_eigenvalue, norm
from padis_lightning.operators import Stack
from padis_lightning.operators.blur import Blur, GaussianBlur, MotionBlur, UniformBlur
from padis_lightning.operators.cone import ConeBeam, ConeScan
from padis_lightning.operators.crop import Crop
from padis_lightning.operators.ct import FanBeam, FinerScan, ParallelBeam, Scan
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.inpainting import BoxInpainting, Inpainting, IrregularInpainting, RandomInpainting
from padis_lightning.operators.slices import Slices
from padis_lightning.operators.super_resolution import AveragePooling, BicubicDownsampling

# One small instance (or more) of each operator, odd where it can be.
EXAMPLES = {
    "ParallelBeam": [
        lambda: ParallelBeam(9, views=5, bins=14),
        lambda: ParallelBeam((7, 10), angles=[0.0, 0.3, 2.0], channels=2),
    ],
    "FanBeam": [lambda: FanBeam((9, 6), views=7, bins=14), lambda: FanBeam(8, views=5, curved=True, arc="short")],
    "Scan": [lambda: Scan(Geometry((5, 8), (0.1, 1.2, 2.9, 4.0), 11, 0.7, 0.9))],
    "FinerScan": [
        lambda: FinerScan(ParallelBeam((6, 5), views=4), 3),
        lambda: FinerScan(ConeBeam((2, 4, 3), views=3, rows=2, bins=5), 2),
    ],
    "ConeBeam": [
        lambda: ConeBeam((3, 5, 4), views=4, rows=3, bins=7, slice_spacing=11.0, bin_offset=1.5),
        lambda: ConeBeam((2, 3, 4), views=5, rows=3, bins=6, pitch=8.0, arc=9.0, channels=2),
    ],
    "ConeScan": [
        lambda: ConeScan(ConeGeometry((2, 3, 5), (0.1, 1.2, 2.9), (-1.0, 0.0, 2.0), 3, 5, 1.0, 1.5, 1.8, 1.7, 9.0, 4.0))
    ],
    "Crop": [lambda: Crop((2, 5, 7), (3, 1))],
    "Identity": [lambda: Identity((1, 5, 7))],
    "Blur": [
        lambda: Blur((2, 5, 7), kernel=[[0.1, 0.2, 0.0], [0.3, 0.1, 0.1], [0.0, 2.0, 0.1], [0.1, -0.1, 0.2]]),
        lambda: Blur((1, 5, 6), kernel=[[0.1, 0.2], [0.1, 1.5]], border="reflect"),
    ],
    "UniformBlur": [lambda: UniformBlur((2, 5, 7), 3), lambda: UniformBlur((1, 6, 9), 3, "reflect")],
    "GaussianBlur": [lambda: GaussianBlur((2, 5, 7), 0.6, 5), lambda: GaussianBlur((1, 7, 6), 0.6, 5, "reflect")],
    "MotionBlur": [lambda: MotionBlur((2, 7, 9), 3, 20), lambda: MotionBlur((1, 9, 7), 1.5, 60, "reflect")],
    "AveragePooling": [lambda: AveragePooling((2, 6, 9), 3)],
    "BicubicDownsampling": [lambda: BicubicDownsampling((2, 6, 9), 3)],
    "Inpainting": [lambda: Inpainting((2, 2, 3), mask=[[1, 0, 1], [0, 1, 1]])],
    "BoxInpainting": [lambda: BoxInpainting((2, 5, 7), (2, 3))],
    "RandomInpainting": [lambda: RandomInpainting((2, 5, 7))],
    "IrregularInpainting": [lambda: IrregularInpainting((2, 5, 7), width=2)],
    "Slices": [lambda: Slices(ParallelBeam((6, 5), views=4), 3), lambda: Slices(UniformBlur((2, 5, 7), 3), 2)],
    "Stack": [lambda: Stack([ParallelBeam((6, 7), views=3), Crop((1, 2, 5), (2, 1))])],
    "Composition": [
        lambda: ParallelBeam(8, views=3) @ Crop((1, 8, 8), (2, 2)),
        lambda: Crop((1, 3, 4), (1, 1)) @ Crop((1, 5, 6), (1, 2)),
    ],
}


def subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


FOUND = sorted({c.__name__ for c in subclasses(operators.LinearOperator) if not inspect.isabstract(c) and c.__module__.startswith("padis_lightning.")})
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
    gap = (dot(forward, y).flatten() - dot(x, back).flatten()).abs() / (norm(forward) * norm(y)).flatten()
    assert gap.max() < tolerance


def test_adjoint_is_the_gradient(operator, rng):
    x, y = draw(operator.image_shape, rng), draw(operator.measurement_shape, rng)
    _, pulled = torch.autograd.functional.vjp(operator, x, y)
    torch.testing.assert_close(pulled, operator.adjoint(y), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weight", [0.0, 0.3, "per image"])
@pytest.mark.parametrize("weighted", [False, True])
def test_prox_solves_its_equations(operator, rng, weight, weighted):
    """Against a dense solve; without a weight, what is nearest to v among all least-squares solutions."""
    v, y = draw(operator.image_shape, rng), operator(draw(operator.image_shape, rng))
    precision = draw(operator.measurement_shape, rng).abs() + 0.5 if weighted else None
    weight = (
        torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64).reshape(3, *[1] * (v.ndim - 1)) if weight == "per image" else weight
    )
    found = operator.prox(v, y, weight, precision, iterations=500, tolerance=1e-12)
    dense = matrix(operator)
    for k in range(3):
        root = torch.ones(len(dense), dtype=torch.float64) if precision is None else precision[k].flatten().sqrt()
        w = float(torch.as_tensor(weight).flatten().expand(3)[k])
        a, b = root[:, None] * dense, root * (y[k].flatten() - dense @ v[k].flatten())
        if w == 0:
            step = torch.linalg.pinv(a) @ b
        else:
            step = torch.linalg.solve(a.t() @ a + w * torch.eye(a.shape[1], dtype=torch.float64), a.t() @ b)
        torch.testing.assert_close(found[k].flatten(), v[k].flatten() + step, rtol=1e-4, atol=1e-5)


def test_what_is_measured_is_observed(operator, rng):
    """Nothing of A x is lost, and nothing of what no image can reach is kept."""
    y = draw(operator.measurement_shape, rng)
    x = draw(operator.image_shape, rng)
    assert torch.equal(operator.zero_unmeasured(operator(x)), operator(x))
    torch.testing.assert_close(operator.adjoint(operator.zero_unmeasured(y)), operator.adjoint(y))
    unreached = matrix(operator).abs().sum(1) == 0
    if "Inpainting" in type(operator).__name__:
        assert unreached.any() and not operator.zero_unmeasured(y).flatten(1)[:, unreached].any()


def test_dtype_follows_the_input(operator, rng):
    for dtype in (torch.float32, torch.float64):
        x = draw(operator.image_shape, rng, dtype, batch=1)
        y = operator(x)
        assert y.dtype == operator.adjoint(y).dtype == operator.pinv(y, iterations=3).dtype == dtype
        assert operator.approximate_inverse(y).dtype == operator.prox(x, y, 0.1, iterations=3).dtype == dtype
        assert operator.approximate_inverse(y).shape == x.shape


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


def test_products_of_operators_that_do_not_meet_are_refused():
    with pytest.raises(InputError, match=r"yields \(1, 5, 5\); wanted \(1, 8, 8\)"):
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
