"""CIL's scans as our operators, our operators and priors in CIL's algorithms; without CIL around bare classes and geometries."""

from __future__ import annotations

import copy
import math
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import padis_lightning as pl
from padis_lightning.solvers.base import SOLVE
from tests.conftest import small_model

REAL = find_spec("cil") is not None
needs_cil = pytest.mark.skipif(not REAL, reason="CIL is not installed; it comes from conda alone")
ANGLES = (0.0, 20.0, 75.0, 130.0, 200.0, 290.0)


class Data:
    """What CIL's containers have of what is used here."""

    def __init__(self, shape):
        self.array = np.zeros(shape, np.float32)
        self.shape, self.dtype = self.array.shape, self.array.dtype

    def as_array(self):
        return self.array

    def fill(self, array):
        np.copyto(self.array, array)

    def copy(self):
        return copy.deepcopy(self)


class Space(SimpleNamespace):
    """What CIL's geometries have of what is used here."""

    def allocate(self, value=0):
        return Data(self.shape)

    def copy(self):
        return copy.deepcopy(self)


@pytest.fixture
def cil(monkeypatch):
    """Our file for CIL; without CIL around the bare classes that ours are built on."""
    name = "padis_lightning.interop.cil"
    if not REAL:

        class LinearOperator:
            def __init__(self, domain_geometry, **kwargs):
                self.domain_geometry = lambda: domain_geometry
                self.range_geometry = lambda: kwargs["range_geometry"]

            def norm(self):
                return self.calculate_norm()

        class Function:
            def __init__(self, L=None):
                self.L = L

        for part, names in {
            "": {},
            ".operators": {"LinearOperator": LinearOperator},
            ".functions": {"Function": Function},
        }.items():
            module = ModuleType(f"cil.optimisation{part}")
            vars(module).update(names)
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(sys.modules, "cil", ModuleType("cil"))
        sys.modules.pop(name, None)
        monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module(name)


def pixels(height, width, size=1.0, x=0.0, y=0.0, ysize=None):
    """CIL's geometry of an image."""
    if REAL:
        from cil.framework import ImageGeometry

        return ImageGeometry(width, height, 0, size, ysize or size, 1, x, y)
    return Space(
        voxel_num_x=width, voxel_num_y=height, voxel_size_x=size, voxel_size_y=ysize or size, center_x=x, center_y=y,
        shape=(height, width), dimension_labels=("horizontal_y", "horizontal_x"),
    )  # fmt: skip


STILL = {"source": None, "panel": (0.0, 0.0), "along": (1.0, 0.0), "axis": (0.0, 0.0), "width": 0.9, "origin": "bottom-left"}


def scanned(bins=60, first=0.0, **given):
    """CIL's geometry of a scan whose panel faces along y: of a fan from ``source``, else of parallel rays."""
    source, panel, along, axis, width, origin = (STILL | given).values()
    if REAL:
        from cil.framework import AcquisitionGeometry as Made

        places = {"detector_position": list(panel), "detector_direction_x": list(along), "rotation_axis_position": list(axis)}
        made = Made.create_Cone2D(list(source), **places) if source else Made.create_Parallel2D(**places)
        return made.set_angles(np.array(ANGLES), first).set_panel(bins, width, origin)
    detector = SimpleNamespace(position=np.subtract(panel, axis), direction_x=np.array(along))
    system = SimpleNamespace(detector=detector, align_reference_frame=lambda definition: None)
    if source:
        system.source = SimpleNamespace(position=np.subtract(source, axis))
    else:
        system.ray = SimpleNamespace(direction=np.array([0.0, 1.0]))
    angles = SimpleNamespace(angle_data=np.array(ANGLES, np.float32), initial_angle=first, angle_unit="degree")
    facing = SimpleNamespace(num_pixels=(bins, 1), pixel_size=(width, width), origin=origin)
    config, suggested = SimpleNamespace(system=system, angles=angles, panel=facing), pixels(bins, bins, width)
    labels = {"dimension_labels": ("angle", "horizontal"), "channels": 1, "get_ImageGeometry": lambda: suggested}
    return Space(config=config, shape=(len(ANGLES), bins), **labels)


def data(geometry, values):
    filled = geometry.allocate(0)
    filled.fill(np.asarray(values, np.float32).reshape(filled.shape))
    return filled


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


SCANS = {
    "parallel": {},
    "parallel from the right": {"origin": "top-right", "first": 15.0},
    "parallel about another axis": {"axis": (2.5, 0.0)},
    "fan": {"source": (0.0, -60.0), "panel": (0.0, 30.0), "width": 1.3},
    "fan from the right": {"source": (0.0, -60.0), "panel": (0.0, 30.0), "origin": "bottom-right", "first": -40.0, "width": 1.3},
    "fan on a turned panel": {"source": (0.0, -60.0), "panel": (0.0, 30.0), "along": (-1.0, 0.0), "width": 1.3},
}


@pytest.mark.parametrize("case", SCANS)
@pytest.mark.parametrize("middle", [(0.0, 0.0), (1.7, -2.2)])
def test_a_square_is_seen_in_the_bin_that_the_ray_through_it_hits(cil, case, middle):
    """An object turns by the angle from x to y before the source and the panel, and row 0 has the smallest y."""
    given = STILL | {"first": 0.0} | SCANS[case]
    images, scan = pixels(18, 24, 1.1, *middle), scanned(**SCANS[case])
    operator = cil.ProjectionOperator(images, scan)
    for row, column in ((2, 4), (15, 21)):
        image = np.zeros((18, 24))
        image[row, column] = 1
        found = operator.direct(data(images, image)).as_array()
        x, y = middle[0] + 1.1 * (column - 11.5), middle[1] + 1.1 * (row - 8.5)
        for view, angle in zip(found, np.radians(np.add(ANGLES, given["first"])), strict=True):
            point = np.array([x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)])
            panel = np.subtract(given["panel"], given["axis"])
            ray = point - given["source"] if given["source"] else np.array([0.0, 1.0])
            hit = point + ray * (panel[1] - point[1]) / ray[1]
            place = (hit - panel) @ given["along"] / given["width"] * (-1 if "right" in given["origin"] else 1)
            assert view @ np.arange(60) / view.sum() - 29.5 == pytest.approx(place, abs=0.15)


def test_a_moved_panel_is_followed_and_a_moved_axis_of_a_fan_is_refused(cil):
    """The fan's axis is where CIL has it: on the line to the panel's middle, about which it turns the frame."""
    fan = {"source": (0.0, -60.0), "width": 1.3}
    with pytest.raises(pl.InputError, match=r"the panel is 9\d\.\d+ degrees from the ray through the axis; wanted 90: move"):
        cil.scan(scanned(**fan, panel=(0.0, 30.0), axis=(2.0, 0.0)))
    moved, straight = (cil.scan(scanned(**fan, panel=(place, 30.0)), pixels(20, 20)).geometry for place in (6.0, 0.0))
    assert abs(moved.bin_offset) == pytest.approx(6) and straight.bin_offset == pytest.approx(0)
    assert moved.source_distance == pytest.approx(60) and moved.detector_distance == pytest.approx(30)


@pytest.mark.parametrize("case", ["parallel", "fan"])
def test_the_operator_is_ours_on_cils_containers(cil, case):
    """Products, the transpose, ``out``, the norm; a random measurement is back-projected by what projects."""
    images, scan = pixels(18, 24, 1.1), scanned(**SCANS[case])
    operator = cil.ProjectionOperator(images, scan)
    x, y = data(images, noise((18, 24))), data(scan, noise((6, 60), 1))
    measured, back = operator.direct(x).as_array(), operator.adjoint(y).as_array()
    ours = operator.operator(torch.from_numpy(x.as_array())[None, None])[0, 0].numpy()
    np.testing.assert_array_equal(measured, ours)
    assert float((measured * y.as_array()).sum()) == pytest.approx(float((x.as_array() * back).sum()), rel=1e-4)
    out = scan.allocate(0)
    assert operator.direct(x, out=out) is out and np.array_equal(out.as_array(), measured)
    out = images.allocate(0)
    assert operator.adjoint(y, out) is out and np.array_equal(out.as_array(), back)
    assert operator.norm() == pytest.approx(operator.operator.norm_squared**0.5)
    rows, columns = np.mgrid[:18, :24]
    blob = torch.from_numpy(np.exp(-((rows - 5) ** 2 + (columns - 16) ** 2) / 8)).float()[None, None]
    found = operator.operator.approximate_inverse(operator.operator(blob))
    assert float(torch.corrcoef(torch.stack([found.flatten(), blob.flatten()]))[0, 1]) > 0.6


def test_any_operator_measures_and_geometries_that_do_not_fit_are_refused(cil):
    blur, images = pl.GaussianBlur((1, 9, 12), 1.0, 5), pixels(9, 12)
    x = data(images, noise((9, 12)))
    found = cil.Operator(blur, images, images).direct(x).as_array()
    np.testing.assert_array_equal(found, blur(torch.from_numpy(x.as_array())[None, None])[0, 0].numpy())
    with pytest.raises(pl.InputError, match=r"the image is \(12, 9\); wanted \(1, 9, 12\)"):
        cil.Operator(blur, pixels(12, 9), images)
    with pytest.raises(pl.InputError, match="acquisition_geometry is None; wanted the geometry of a scan"):
        cil.ProjectionOperator(images)
    with pytest.raises(pl.InputError, match="pixels are 1x2; wanted square ones"):
        cil.scan(scanned(), pixels(9, 12, ysize=2.0))
    volume, turned = pixels(9, 12), scanned()
    if REAL:
        volume.voxel_num_z = 3
        turned.set_labels(["horizontal", "angle"])
    else:
        volume.dimension_labels, turned.dimension_labels = ("vertical", "horizontal_y", "horizontal_x"), ("horizontal", "angle")
    with pytest.raises(pl.InputError, match="image geometry has the axes vertical, .*; wanted horizontal_y, horizontal_x of"):
        cil.scan(scanned(), volume)
    with pytest.raises(pl.InputError, match="acquisition geometry has the axes horizontal, angle; wanted angle, horizontal of"):
        cil.scan(turned, pixels(9, 12))


def test_a_proximal_step_of_a_gaussian_prior_is_the_minimum(cil):
    r"""It is :math:`(v x + \tau m) / (v + \tau)`, the gradient :math:`(x - m) / (v + \sigma^2)`, in the image's own units."""
    space, tau, sigma = pixels(6, 7), 3.0, 2.0
    prior, bounds = pl.GaussianPrior((1, 6, 7), 0.4, 0.2), (-10.0, 30.0)
    mean, variance = -10 + 40 * 0.4, (40 * 0.2) ** 2
    x = data(space, 10 * noise((6, 7)))
    values = x.as_array().copy()
    found = cil.PriorFunction(prior, range=bounds).proximal(x, tau)
    np.testing.assert_allclose(found.as_array(), (variance * values + tau * mean) / (variance + tau), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(x.as_array(), values)
    fixed = cil.PriorFunction(prior, sigma, bounds)
    np.testing.assert_allclose(fixed.gradient(x).as_array(), (values - mean) / (variance + sigma**2), rtol=1e-4, atol=1e-5)
    step = (variance * values + sigma**2 * mean) / (variance + sigma**2)
    np.testing.assert_allclose(fixed.proximal(x, tau).as_array(), step, rtol=1e-5, atol=1e-5)
    assert fixed.proximal(x, tau, out=x) is x
    np.testing.assert_allclose(x.as_array(), step, rtol=1e-5, atol=1e-5)
    assert math.isnan(fixed(x)) and fixed.L == 1 / 4


def test_the_stream_goes_on_until_it_is_begun_anew(cil):
    """The steps are those of the prior with an image's stream, at the root of the step, on the range of the network."""
    prior, space = pl.PatchPrior(small_model()), pixels(20, 20)
    function, x = cil.PriorFunction(prior, range=(0, 4), seed=5), data(space, noise((20, 20)))
    stream, image = pl.Generators.keyed(5, [0], SOLVE), torch.from_numpy(x.as_array())[None, None] / 4
    wanted = [4 * prior.on_images(image, 0.5 / 4, stream)[0, 0].numpy() for _ in range(2)]
    assert not np.array_equal(*wanted)
    for _ in range(2):
        for step in wanted:
            np.testing.assert_allclose(function.proximal(x, 0.25).as_array(), step, rtol=1e-6, atol=1e-6)
        function.restart()


def test_bad_steps_and_levels_are_refused(cil):
    prior, x = pl.GaussianPrior((1, 6, 7), 0.4, 0.2), pixels(6, 7).allocate(0)
    for tau in (np.ones(3), 0.0):
        with pytest.raises(pl.InputError, match="the step is .*; wanted one positive number, or a sigma"):
            cil.PriorFunction(prior).proximal(x, tau)
    with pytest.raises(pl.InputError, match="sigma is None; wanted the level at which"):
        cil.PriorFunction(prior).gradient(x)
    with pytest.raises(pl.InputError, match="sigma is -1; wanted a value above 0"):
        cil.PriorFunction(prior, sigma=-1)


@pytest.fixture
def gaussian(cil):
    """Return operator, data, noise's variance, prior and the posterior mean, all of a small scan of a Gaussian image."""
    images, scan = pixels(12, 12), scanned(bins=20, width=1.0)
    operator, prior = cil.ProjectionOperator(images, scan), pl.GaussianPrior((1, 12, 12), 0.4, 0.2)
    y = operator.direct(data(images, 0.4 + 0.2 * noise((12, 12))))
    y.fill(y.as_array() + noise(y.shape, 1).astype(np.float32))
    exact = torch.from_numpy(y.as_array()).double()[None, None]
    start = torch.full((1, 1, 12, 12), 0.4, dtype=torch.float64)
    mean = operator.operator.prox(start, exact, 1 / 0.2**2, iterations=500, tolerance=1e-12)
    return operator, y, 1.0, prior, mean[0, 0].numpy()


def test_proximal_gradients_end_at_the_posterior_mean(cil, gaussian):
    """With the variance of the noise as its weight, the function is the prior of that posterior."""
    operator, y, variance, prior, mean = gaussian
    function, step = cil.PriorFunction(prior), 1 / operator.norm() ** 2
    x = operator.domain_geometry().allocate(0)
    for _ in range(200):
        residual = operator.direct(x)
        residual.fill(residual.as_array() - y.as_array())
        x.fill(x.as_array() - np.float32(step) * operator.adjoint(residual).as_array())
        function.proximal(x, variance * step, out=x)
    np.testing.assert_allclose(x.as_array(), mean, rtol=0, atol=1e-4)


@needs_cil
@pytest.mark.parametrize("algorithm", ["FISTA", "LADMM", "PDHG", "GD"])
def test_cils_algorithms_end_there(cil, gaussian, algorithm):
    from cil.optimisation import algorithms
    from cil.optimisation.functions import L2NormSquared, LeastSquares

    operator, y, variance, prior, mean = gaussian
    start, weighted = operator.domain_geometry().allocate(0), variance * cil.PriorFunction(prior)
    run, quiet = getattr(algorithms, algorithm), {"update_objective_interval": 50}
    if algorithm == "FISTA":
        solver = run(initial=start, f=LeastSquares(operator, y, c=0.5), g=weighted, **quiet)
    elif algorithm == "GD":  # of the prior blurred by sigma, whose variance is that of the prior with it
        blurred = cil.PriorFunction(pl.GaussianPrior((1, 12, 12), 0.4, (0.2**2 - 0.1**2) ** 0.5), sigma=0.1)
        both = LeastSquares(operator, y, c=0.5) + variance * blurred
        solver = run(initial=start, f=both, step_size=1 / operator.norm() ** 2, **quiet)
    elif algorithm == "LADMM":
        solver = run(f=weighted, g=0.5 * L2NormSquared(b=y), operator=operator, sigma=1.0, **quiet)
    else:
        solver = run(f=0.5 * L2NormSquared(b=y), g=weighted, operator=operator, **quiet)
    solver.run(600)
    np.testing.assert_allclose(solver.solution.as_array(), mean, rtol=0, atol=1e-3)


@needs_cil
def test_cil_agrees_that_the_adjoint_is_one_and_on_the_norm(cil, gaussian):
    from cil.optimisation.algorithms import CGLS
    from cil.optimisation.operators import LinearOperator

    operator, y, *_ = gaussian
    assert LinearOperator.dot_test(operator)
    assert LinearOperator.PowerMethod(operator, 200) == pytest.approx(operator.norm(), rel=1e-3)
    solver = CGLS(operator=operator, data=y, update_objective_interval=10)
    solver.run(6)
    exact = operator.operator.pinv(torch.from_numpy(y.as_array()).double()[None, None], 6, 0.0)
    np.testing.assert_allclose(solver.solution.as_array(), exact[0, 0].numpy(), rtol=0, atol=1e-3)


@needs_cil
@pytest.mark.parametrize("case", SCANS)
def test_cils_projector_sees_the_same(cil, case):
    """A smooth image, by CIL's plugin for ASTRA on the processor."""
    theirs = pytest.importorskip("cil.plugins.astra", exc_type=ImportError)
    images, scan = pixels(18, 24, 1.1), scanned(**SCANS[case])
    rows, columns = np.mgrid[:18, :24]
    x = data(images, np.exp(-((rows - 6) ** 2 + (columns - 15) ** 2) / 18))
    wanted = theirs.ProjectionOperator(images, scan, device="cpu").direct(x).as_array()
    found = cil.ProjectionOperator(images, scan).direct(x).as_array()
    assert np.linalg.norm(found - wanted) < 0.03 * np.linalg.norm(wanted)
