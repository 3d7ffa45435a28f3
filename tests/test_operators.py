"""One contract for every operator, found by its base class: adjoint, gradients, norm, pseudo-inverse, proximal step, types."""

from __future__ import annotations

import copy
import inspect
import math
import re

import numpy as np
import pytest
import torch

from padis_lightning import operators
from padis_lightning.ct import ConeGeometry, Geometry
from padis_lightning.errors import InputError
from padis_lightning.interop.scipy import MatrixOperator
from padis_lightning.linalg import CUTOFF, conjugate_gradient, dot, largest_eigenvalue, norm
from padis_lightning.operators import Stack
from padis_lightning.operators.blur import Blur, GaussianBlur, MotionBlur, UniformBlur
from padis_lightning.operators.cone import ConeBeam, ConeScan
from padis_lightning.operators.crop import Crop
from padis_lightning.operators.ct import FanBeam, ParallelBeam, Scan
from padis_lightning.operators.finer_scan import FinerScan
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.inpainting import BoxInpainting, Inpainting, IrregularInpainting, RandomInpainting
from padis_lightning.operators.mri import CartesianMRI, MeasuredMRI, SimulatedMRI
from padis_lightning.operators.non_cartesian import MeasuredNonCartesianMRI, NonCartesianMRI, RadialMRI, SpiralMRI
from padis_lightning.operators.pixels import PixelOperator
from padis_lightning.operators.rows import Rows
from padis_lightning.operators.slices import Slices
from padis_lightning.operators.super_resolution import AveragePooling, BicubicDownsampling
from padis_lightning.operators.whitening import Whitening
from padis_lightning.registry import subclasses

SKEW = [[0.1, 0.2, 0.0], [0.3, 0.1, 0.1], [0.0, 2.0, 0.1], [0.1, -0.1, 0.2]]  # 4x3, heavy in the middle: well conditioned
EVEN = [[0.1, 0.2], [0.1, 1.5]]
SYMMETRIC = [[0.1, 0.2, 0.1], [0.3, 1.9, 0.3], [0.1, 0.2, 0.1]]
SHARP = [[-0.2, 1.0, -0.2]]  # its transform is largest at a frequency that a mirrored image cannot have
HOLES = [[1, 0, 1, 1, 0], [0, 0, 1, 0, 1], [1, 1, 1, 1, 0]]


def maps(*shape):
    """Return complex maps of coils that all see differently."""
    return np.exp(np.sin(np.arange(np.prod(shape)) ** 2).reshape(shape) * (1 + 2j))


def points(count):
    """Return points all over k-space, ``(count, 2)``."""
    return np.sin(np.arange(2 * count) ** 2).reshape(count, 2) / 2


# One small instance (or more) of each operator, odd where it can be.
EXAMPLES = {
    "ParallelBeam": [
        lambda: ParallelBeam(9, views=5, bins=14),
        lambda: ParallelBeam((7, 10), angles=[0.0, 0.3, 2.0], channels=2),
    ],
    "FanBeam": [lambda: FanBeam((9, 6), views=7, bins=14), lambda: FanBeam(8, views=5, curved=True, arc="short")],
    "Scan": [
        lambda: Scan(Geometry((5, 8), (0.1, 1.2, 2.9, 4.0), 11, 0.7, 0.9)),
        lambda: Scan(Geometry((5, 8), (0.1, 1.2, 2.9, 4.0), 11, 0.7, 0.6), pixels="means"),
    ],
    "FinerScan": [
        lambda: FinerScan(ParallelBeam((6, 5), views=4), 3),
        lambda: FinerScan(ConeBeam((2, 4, 3), views=3, rows=2, bins=5), 2),
        lambda: FinerScan(ParallelBeam((3, 4), views=4), 2, coarse=False),
    ],
    "ConeBeam": [
        lambda: ConeBeam((3, 4, 2), views=3, rows=3, bins=5, slice_spacing=14.0, bin_offset=1.5),
        lambda: ConeBeam((2, 3, 2), views=4, rows=2, bins=4, pitch=8.0, arc=9.0, channels=2),
    ],
    "ConeScan": [
        lambda: ConeScan(ConeGeometry((2, 3, 5), (0.1, 1.2, 2.9), (-1.0, 0.0, 2.0), 3, 5, 1.0, 1.5, 1.8, 1.7, 9.0, 4.0))
    ],
    "Crop": [lambda: Crop((2, 5, 7), (3, 1))],
    "Rows": [lambda: Rows((2, 5, 7), [0, 3, 4])],
    "Whitening": [
        lambda: Whitening((2, 5, 7), torch.full((1, 1, 1, 1), 0.6)),
        lambda: Whitening((1, 3, 8), torch.ones(1, 1, 1, 1), torch.arange(1.0, 25).reshape(1, 1, 3, 8)),
    ],
    "Identity": [lambda: Identity((1, 5, 7))],
    "Blur": [
        lambda: Blur((2, 5, 7), kernel=SKEW),
        lambda: Blur((1, 6, 4), kernel=EVEN),
        lambda: Blur((2, 5, 4), kernel=SYMMETRIC, border="reflect"),
        lambda: Blur((1, 4, 5), kernel=SHARP, border="reflect"),
        lambda: Blur((2, 5, 4), kernel=SKEW, border="reflect"),
        lambda: Blur((1, 4, 5), kernel=EVEN, border="reflect"),
    ],
    "UniformBlur": [lambda: UniformBlur((1, 4, 6), 2), lambda: UniformBlur((1, 6, 9), 3, "reflect")],  # both singular
    "GaussianBlur": [lambda: GaussianBlur((2, 5, 7), 0.6, 5), lambda: GaussianBlur((1, 7, 6), 0.6, 5, "reflect")],
    "MotionBlur": [lambda: MotionBlur((1, 7, 9), 3, 20), lambda: MotionBlur((1, 9, 7), 1.5, 60, "reflect")],
    "AveragePooling": [lambda: AveragePooling((2, 6, 9), 3)],
    "BicubicDownsampling": [lambda: BicubicDownsampling((2, 6, 9), 3)],
    "Inpainting": [lambda: Inpainting((2, 3, 5), mask=HOLES)],
    "BoxInpainting": [lambda: BoxInpainting((2, 5, 7), (2, 3))],
    "RandomInpainting": [lambda: RandomInpainting((2, 5, 7))],
    "IrregularInpainting": [lambda: IrregularInpainting((2, 5, 7), width=2)],
    "CartesianMRI": [
        lambda: CartesianMRI(HOLES),
        lambda: CartesianMRI(HOLES, np.exp(1j * np.arange(15).reshape(1, 3, 5))),
        lambda: CartesianMRI([1, 0, 0, 1, 0, 0], maps(3, 5, 6)),  # few columns, so that the largest values are apart
        lambda: CartesianMRI(np.eye(4), maps(2, 4, 4) * (np.arange(4) > 0)),  # no coil sees the first column
    ],
    "SimulatedMRI": [lambda: SimulatedMRI((7, 9), 3, acceleration=4), lambda: SimulatedMRI(8, 1, "poisson", 3)],
    "MeasuredMRI": [lambda: MeasuredMRI((5, 4), 2)],
    "NonCartesianMRI": [
        lambda: NonCartesianMRI(points(9), (3, 5)),
        lambda: NonCartesianMRI(points(30), maps=maps(3, 4, 5), density=1 + np.arange(30) / 30),
    ],
    "MeasuredNonCartesianMRI": [lambda: MeasuredNonCartesianMRI(points(30), (4, 5), 2)],
    "RadialMRI": [lambda: RadialMRI((5, 4), 1, 2, oversampling=1), lambda: RadialMRI((6, 5), 3, 5, golden=False)],
    "SpiralMRI": [lambda: SpiralMRI((6, 5), 3, 3, 1.0)],
    "Slices": [lambda: Slices(ParallelBeam((6, 5), views=4), 3), lambda: Slices(UniformBlur((2, 5, 7), 3), 2)],
    "MatrixOperator": [lambda: MatrixOperator(3 * np.eye(7, 12) + np.linspace(0, 1, 84).reshape(7, 12), (2, 3, 2), (1, 7))],
    "Stack": [lambda: Stack([ParallelBeam((6, 7), views=3), Crop((1, 2, 5), (2, 1))])],
    "Composition": [
        lambda: ParallelBeam(8, views=3) @ Crop((1, 8, 8), (2, 2)),
        lambda: Crop((1, 3, 4), (1, 1)) @ Crop((1, 5, 6), (1, 2)),
    ],
}


FOUND = sorted(
    c.__name__
    for c in subclasses(operators.LinearOperator)
    if c.__module__.startswith("padis_lightning.") and not inspect.isabstract(c)
)
CASES = [pytest.param(make, id=f"{name}-{k}") for name in FOUND for k, make in enumerate(EXAMPLES.get(name, [None]))]


def test_every_operator_has_an_example():
    assert set(FOUND) == set(EXAMPLES), "add an example of the new operator to EXAMPLES"


@pytest.fixture(scope="module", params=CASES)
def operator(request):
    return request.param()


@pytest.fixture(scope="module")
def dense(operator):
    """A, (m, n)."""
    basis = torch.eye(math.prod(operator.image_shape), dtype=torch.float64)
    return operator(basis.reshape(-1, *operator.image_shape)).flatten(1).t()


def draw(shape, rng, dtype=torch.float64, batch=3):
    return torch.randn(batch, *shape, generator=rng, dtype=torch.float64).to(dtype)


def per_image(values, like):
    return torch.tensor(values, dtype=torch.float64).reshape(3, *[1] * (like.ndim - 1))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_adjoint(operator, rng, dtype, tolerance):
    x, y = draw(operator.image_shape, rng, dtype), draw(operator.measurement_shape, rng, dtype)
    forward, back = operator(x), operator.adjoint(y)
    assert forward.shape[1:] == operator.measurement_shape and back.shape[1:] == operator.image_shape
    gap = (dot(forward, y).flatten() - dot(x, back).flatten()).abs() / (norm(forward) * norm(y)).flatten()
    assert gap.max() < tolerance


def test_adjoint_is_the_gradient(operator, rng):
    x, y = draw(operator.image_shape, rng), draw(operator.measurement_shape, rng)
    _, pulled = torch.autograd.functional.vjp(operator, x, y)
    torch.testing.assert_close(pulled, operator.adjoint(y), rtol=1e-10, atol=1e-10)


def test_gradients(operator, rng):
    x = draw(operator.image_shape, rng, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(operator, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(operator, x, fast_mode=True)


def test_normal_is_the_adjoint_of_the_measurement(operator, rng):
    x = draw(operator.image_shape, rng)
    expected = operator.adjoint(operator(x))
    torch.testing.assert_close(operator.normal(x), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_on_a_canvas_proximal_step_and_inverse_are_those_inside(operator, rng):
    """Solvers see an operator after a crop; few iterations show that it is the operator's own step that is taken."""
    pad = (0, *[1] * (len(operator.image_shape) - 2)) if operator.volumetric else (1,) * (len(operator.image_shape) - 1)
    crop = Crop(operator.image_shape, pad)
    canvas, v, y = operator @ crop, draw(crop.image_shape, rng), draw(operator.measurement_shape, rng)
    weight, precision = per_image([0.5, 1.0, 2.0], v), 0.5 + draw(operator.measurement_shape, rng).square()
    for options in ({}, {"precision": precision}):
        step = operator.prox(crop(v), y, weight, iterations=3, **options)
        torch.testing.assert_close(canvas.prox(v, y, weight, iterations=3, **options), v + crop.adjoint(step - crop(v)))
    torch.testing.assert_close(canvas.pinv(y, 5), crop.adjoint(operator.pinv(y, 5)))


def test_linear_and_batch_equals_singles(operator, rng):
    a, b = draw(operator.image_shape, rng), draw(operator.image_shape, rng)
    torch.testing.assert_close(operator(2 * a - 3 * b), 2 * operator(a) - 3 * operator(b))
    torch.testing.assert_close(operator(a), torch.cat([operator(x[None]) for x in a]))


def test_norm_and_pseudo_inverse_against_a_dense_svd(operator, dense, rng):
    assert operator.norm_squared == pytest.approx(float(torch.linalg.matrix_norm(dense, 2)) ** 2, rel=1e-5)
    y = operator(draw(operator.image_shape, rng))
    y[:2] = draw(operator.measurement_shape, rng, batch=2)  # not in the range of A
    expected = (torch.linalg.pinv(dense, rtol=CUTOFF) @ y.flatten(1).t()).t().reshape(3, *operator.image_shape)
    found = operator.pinv(y, 500, 1e-14)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(operator(found[2:]), y[2:], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("weight", ["zero", "per image"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "precision"])
def test_prox_solves_its_equations(operator, dense, rng, weight, weighted):
    """Against a dense solve; without a weight, what is nearest to v among all least-squares solutions."""
    v, y = draw(operator.image_shape, rng), draw(operator.measurement_shape, rng)
    precision = 0.5 + torch.rand(y.shape, generator=rng, dtype=torch.float64) if weighted else None
    weight = {"zero": 0.0, "per image": per_image([0.0, 0.1, 2.0], v)}[weight]
    found = operator.prox(v, y, weight, precision, iterations=500, tolerance=1e-14)
    for k, w in enumerate(torch.as_tensor(weight, dtype=torch.float64).flatten().expand(3)):
        p = torch.ones(len(dense), dtype=torch.float64) if precision is None else precision[k].flatten()
        hessian = dense.t() @ (p[:, None] * dense) + w * torch.eye(dense.shape[1])
        gradient = dense.t() @ (p * (y[k].flatten() - dense @ v[k].flatten()))
        step = torch.linalg.pinv(hessian, rtol=CUTOFF**2 if w == 0 else 0.0, hermitian=True) @ gradient
        torch.testing.assert_close(found[k].flatten(), v[k].flatten() + step, rtol=1e-6, atol=1e-7)


def test_what_is_not_measured_is_zero(operator, dense, rng):
    """Nothing of A x is lost, and nothing of what no image can reach is kept."""
    x, y = draw(operator.image_shape, rng), draw(operator.measurement_shape, rng)
    assert torch.equal(operator.zero_unmeasured(operator(x)), operator(x))
    torch.testing.assert_close(operator.adjoint(operator.zero_unmeasured(y)), operator.adjoint(y))
    unreached = dense.abs().sum(1) == 0
    if isinstance(operator, Inpainting):
        assert unreached.any() and not operator.zero_unmeasured(y).flatten(1)[:, unreached].any()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 4e-2), (torch.float16, 5e-3)]
)
def test_types_follow_the_input_and_autocast_changes_nothing(operator, dtype, tolerance, rng):
    """The weight of the proximal step is that of the data, so that its equations are well conditioned."""
    x = draw(operator.image_shape, rng, dtype)
    y = operator(draw(operator.image_shape, rng, dtype))
    square = operator.norm_squared
    calls = [
        lambda x, y: operator(x),
        lambda x, y: operator.adjoint(y),
        lambda x, y: operator.prox(x, y, per_image([square] * 3, x), iterations=4),
    ]
    for call in calls:
        found, expected = call(x, y), call(x.double(), y.double())
        assert found.dtype == dtype
        limit = tolerance * float(expected.abs().max().clamp_min(1))
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=limit)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(call(x, y), found)
    found = operator.approximate_inverse(y)
    assert found.dtype == operator.pinv(y, iterations=3).dtype == dtype and found.shape == x.shape
    if dtype == torch.float32:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(operator.approximate_inverse(y), found)


@pytest.mark.parametrize("count", [1, 3])
def test_samples_off_the_grid_are_added_up_to_the_same_bits_again(count, rng, monkeypatch):
    """Where there are more threads than one, and not a whole number of transforms for each."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    operator = NonCartesianMRI(points(300), (16, 16))
    y = draw(operator.measurement_shape, rng, batch=count)
    first = operator.adjoint(y)
    assert all(torch.equal(operator.adjoint(y), first) for _ in range(200))


def test_the_module_keeps_nothing_in_checkpoints_and_survives_a_cast(operator, rng):
    x = draw(operator.image_shape, rng, torch.float32)
    assert not operator.state_dict()
    torch.testing.assert_close(copy.deepcopy(operator).float()(x), operator(x), rtol=1e-5, atol=1e-5)


def test_other_shapes_are_refused(operator):
    image, measurement = operator.image_shape, operator.measurement_shape
    near = torch.zeros(1, *image)
    calls = [(operator, image), *((f, measurement) for f in (operator.adjoint, operator.pinv, lambda y: operator.prox(near, y)))]
    for call, (first, *rest) in calls:
        sentence = f"has the shape {(first + 1, *rest)}; wanted {(first, *rest)}, the operator's"
        with pytest.raises(InputError, match=re.escape(sentence)):
            call(torch.zeros(1, first + 1, *rest))


def test_products_of_operators_that_do_not_meet_are_refused():
    with pytest.raises(InputError, match=r"yields \(1, 5, 5\); wanted \(1, 8, 8\)"):
        ParallelBeam(8, views=3) @ Crop((1, 5, 5), (1, 1))


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


BULK = torch.linspace(0, 0.5, 500, dtype=torch.float64)
CLOSE = {
    "apart": torch.tensor([1.0, 1 / 3, 1 / 6]),
    "a pair": torch.cat([torch.tensor([1.0, 1 - 1e-4]), BULK]),
    "a ladder": torch.cat([1 - 3e-4 * torch.arange(20), BULK]),
    "two clusters": torch.cat([torch.ones(50), torch.full((50,), 1 - 1e-4), BULK]),
    "without gaps": torch.linspace(0, 1, 1000, dtype=torch.float64),
    "one": torch.ones(1),
    "none but 0": torch.zeros(5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", CLOSE.values(), ids=CLOSE)
def test_the_largest_eigenvalue_is_found_where_others_are_close(values, dtype):
    found = largest_eigenvalue(lambda x: (3 * values * x.double()).to(x), torch.zeros(1, len(values), dtype=dtype))
    assert found == pytest.approx(3 * float(values.max()), rel=1e-5)


RESIZED = {
    name: make
    for name, makes in EXAMPLES.items()
    for make in makes[:1]
    if isinstance(make(), PixelOperator) and name != "Inpainting"  # its mask is of one size
}


@pytest.mark.parametrize("name", RESIZED)
def test_operators_on_pixels_follow_the_size_of_a_measurement(name, rng):
    operator = RESIZED[name]()
    shape = (3, operator.measurement_shape[1] + 2, operator.measurement_shape[2] + 3)
    other = operator.for_measurement(shape)
    assert other.measurement_shape == shape and operator.for_measurement(operator.measurement_shape) is operator
    assert other.for_image_shape(operator.image_shape).image_shape == operator.image_shape
    x = draw(operator.image_shape, rng)  # there and back it measures the same
    torch.testing.assert_close(other.for_image_shape(operator.image_shape)(x), operator(x), rtol=0, atol=1e-15)
    with pytest.raises(InputError, match="wanted"):
        ParallelBeam(8, views=3).for_measurement((1, 3, 9))
