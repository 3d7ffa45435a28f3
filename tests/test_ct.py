"""Scans: rays against analytic ellipses, backends against each other, filtered back-projection, geometry files."""

from __future__ import annotations

import math
import sys
import types
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy.special import erf

from padis_lightning import ct
from padis_lightning.ct import Geometry, backends, fbp, sparse, torch_radon
from padis_lightning.errors import InputError
from padis_lightning.linalg import dot, norm
from padis_lightning.operators.cone import ConeBeam
from padis_lightning.operators.ct import FanBeam, ParallelBeam, Scan
from padis_lightning.operators.slices import Slices

SCANS = {
    "parallel": lambda n, views=24: ParallelBeam(n, views=views),
    "limited": lambda n, views=24: ParallelBeam(n, views=views, arc=2 * math.pi / 3),
    "fan": lambda n, views=24: FanBeam(n, views=views),
    "short": lambda n, views=24: FanBeam(n, views=views, arc="short"),
    "curved": lambda n, views=24: FanBeam(n, views=views, curved=True),
    "short curved": lambda n, views=24: FanBeam(n, views=views, curved=True, arc="short", source_distance=60.0),
    "wide image": lambda n, views=24: FanBeam((n // 2, n), views=views, detector_distance=7.0),
}
scan = pytest.mark.parametrize("kind", SCANS)
ELLIPSES = [((5.0, 3.0), (8.0, 4.0), 0.5, 1.0), ((-6.0, -2.0), (3.0, 5.0), -0.3, 0.5), ((4.0, 2.0), (2.0, 2.0), 0.0, -0.5)]


def ellipses(geometry, parts=ELLIPSES, samples=4):
    """Ellipses (centre, axes, turn, value) with anti-aliased edges, y pointing up, and their exact sinogram."""
    height, width = geometry.size
    fine = geometry.pixel_spacing / samples
    x = (np.arange(width * samples) - (width * samples - 1) / 2) * fine
    y = -((np.arange(height * samples) - (height * samples - 1) / 2) * fine)[:, None]
    theta, s = geometry.rays()
    image, sinogram = 0.0, 0.0
    for (cx, cy), (a, b), turn, value in parts:
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        image = image + value * ((u / a) ** 2 + (v / b) ** 2 < 1)
        wide = (a * np.cos(theta - turn)) ** 2 + (b * np.sin(theta - turn)) ** 2
        away = s - cx * np.cos(theta) - cy * np.sin(theta)
        sinogram = sinogram + value * 2 * a * b * np.sqrt(np.clip(wide - away**2, 0, None)) / wide
    image = image.reshape(height, samples, width, samples).mean((1, 3))
    return torch.from_numpy(image)[None, None], torch.from_numpy(sinogram)[None, None]


@scan
@pytest.mark.parametrize(
    ("sizes", "bound"), [((32, 64, 128), 0.02), pytest.param((64, 128, 256), 0.01, marks=pytest.mark.slow)], ids=["small", "256"]
)
def test_sinograms_of_ellipses_are_exact_up_to_resolution(kind, sizes, bound):
    errors = []
    for size in sizes:
        operator = SCANS[kind](size)
        image, sinogram = ellipses(operator.geometry)
        errors.append(float((operator(image) - sinogram).norm() / sinogram.norm()))
    assert errors[-1] < bound and errors[0] > 1.5 * errors[1] > 2.25 * errors[2], errors


@pytest.mark.parametrize(("views", "expected"), [(8, 48.2), (20, 120.7)])
def test_norm_in_the_papers_geometry(views, expected):
    assert ParallelBeam(256, views).norm_squared == pytest.approx(expected, abs=0.1)


def test_the_norm_is_computed_in_single_precision_where_half_is_the_default():
    wanted = ParallelBeam(16, views=9).norm_squared
    torch.set_default_dtype(torch.float16)
    try:
        assert ParallelBeam(16, views=9).norm_squared == pytest.approx(wanted, rel=2e-3)
    finally:
        torch.set_default_dtype(torch.float32)


@scan
def test_the_size_of_the_matrix_is_known_before_it_is_built(kind):
    operator = SCANS[kind](33, 11)
    count, found = sparse.entries(operator.geometry), operator.projector.count
    assert found <= count <= 1.1 * found + 100
    held = sum(b.numel() * b.element_size() for b in operator.projector.buffers())
    assert held <= sparse.matrix_bytes(operator.geometry) <= 1.1 * held + 2000


def test_products_in_another_precision_have_the_same_bits_whether_or_not_its_entries_are_kept(monkeypatch, rng):
    projector = ParallelBeam(16, views=5).projector
    x = torch.rand(2, 16, 16, generator=rng, dtype=torch.float64)
    with torch.inference_mode():
        first = projector(x)
    assert projector._values("matrix", x.dtype) is projector._values("matrix", x.dtype)
    second = projector(x.requires_grad_())
    assert torch.equal(second, first) and torch.equal(*torch.autograd.grad(second, x, first), projector.adjoint(first))
    scarce = ParallelBeam(16, views=5).projector
    monkeypatch.setattr(sparse, "free_memory", lambda device: 0)
    assert torch.equal(scarce(x), first) and not scarce._converted
    projector.matrix_values = 2 * projector.matrix_values
    assert torch.equal(projector(x), 2 * first)  # entries that were kept are of those that are stored


def test_rays_of_a_matrix_built_in_parts_are_those_of_one_built_at_once(monkeypatch):
    geometry = FanBeam(17, views=9).geometry
    whole = sparse.joseph_matrix(geometry)
    monkeypatch.setattr(sparse, "CHUNK", 100)
    assert abs(whole - sparse.joseph_matrix(geometry)).max() == 0


def test_a_ray_of_a_fan_is_where_the_source_and_the_bin_are():
    """Source and bin in the plane, from the definition, must lie on the line that is integrated over."""
    for curved in (False, True):
        g = FanBeam(16, views=5, source_distance=50.0, detector_distance=30.0, curved=curved).geometry
        theta, s = g.rays()
        for view, beta in enumerate(g.angles):
            e, d = np.array([math.cos(beta), math.sin(beta)]), np.array([-math.sin(beta), math.cos(beta)])
            source = -50.0 * d
            for k, u in enumerate(g.detector):
                place = source + 80 * (math.cos(u / 80) * d + math.sin(u / 80) * e) if curved else 30.0 * d + u * e
                normal = np.array([math.cos(theta[view, k]), math.sin(theta[view, k])])
                assert normal @ source == pytest.approx(s[view, k]) and normal @ place == pytest.approx(s[view, k])


# each scan by one window, each window of one scan; the limited scan's mean has a test of its own
@pytest.mark.parametrize(
    ("kind", "window"), list(zip([kind for kind in SCANS if kind != "limited"], [*fbp.WINDOWS, "ram-lak"], strict=True))
)
def test_fbp_has_the_values_the_places_and_nothing_else(kind, window):
    operator = SCANS[kind](96, 360)
    operator.fbp_module = fbp.FilteredBackProjection(operator.projector, window)
    image, sinogram = ellipses(operator.geometry)
    found = operator.fbp(sinogram)
    for value in (0.0, 0.5, 1.0):
        smooth = torch.nn.functional.max_pool2d((image != value).double(), 7, 1, 3) == 0  # away from edges
        if smooth.any():
            assert float(found[smooth].mean()) == pytest.approx(value, abs=0.015), (window, value)
    assert float((found - image).square().mean()) < 10**-2.5
    torch.testing.assert_close(operator.fbp(2 * sinogram), 2 * found)


def test_windows_take_more_and_more_of_the_noise(rng):
    noise = torch.randn(1, 1, 60, 64, generator=rng, dtype=torch.float64)
    left = [float(ParallelBeam(32, views=60, filter=window).fbp(noise).norm()) for window in fbp.WINDOWS]
    assert left == sorted(left, reverse=True) and left[-1] < 0.6 * left[0]


@pytest.mark.parametrize(
    "options",
    [{"bins": 100, "pixel_spacing": 0.3125, "bin_spacing": 0.5}, {"pixel_spacing": 1.0}]
    + [{"arc": arc} for arc in (2 * math.pi, 2 * math.pi / 3, math.pi / 3)],
)
@pytest.mark.parametrize("beam", [ParallelBeam, FanBeam])
def test_fbp_keeps_its_scale_with_other_spacings_and_arcs(beam, options):
    if beam is FanBeam and "bin_spacing" in options:
        options = options | {"bin_spacing": 1.0}
    operator = beam(128, views=120, **options)
    radius = 40 * operator.geometry.pixel_spacing
    image, sinogram = ellipses(operator.geometry, [((0.0, 0.0), (radius, radius), 0.0, 1.0)])
    assert float(operator.fbp(sinogram)[image == 1].mean()) == pytest.approx(1.0, abs=0.02)


def test_views_at_uneven_angles_weigh_the_angle_between_them():
    """Every third view left out of one half: without weights that half would count for less."""
    even = [(k + 0.5) * math.pi / 160 for k in range(160)]
    uneven = [a for k, a in enumerate(even) if k < 80 or k % 2]
    operator = ParallelBeam(64, angles=uneven)
    image, sinogram = ellipses(operator.geometry)
    assert float((operator.fbp(sinogram) - image).square().mean()) < 10**-2.5
    twice = ParallelBeam(64, angles=[*even, *(a + math.pi for a in even[:80])])
    image, sinogram = ellipses(twice.geometry)
    assert float((twice.fbp(sinogram) - image).square().mean()) < 10**-2.5


@pytest.mark.parametrize("arc", ["short", 4.0, 5.5])
@pytest.mark.parametrize("curved", [False, True])
def test_weights_of_one_line_sum_to_one(arc, curved):
    """Of each ray and the one that runs the other way; seen once, a line has the weight 1."""
    g = FanBeam(32, views=721, bins=41, arc=arc, curved=curved).geometry
    weights, angles, gamma = fbp.redundancy(g), np.array(g.angles), g.gamma
    assert weights.min() >= 0 and weights.max() <= 1
    sums = []
    for k in range(4, 41, 4):  # at the very edge the ramp is steeper than the views are dense
        partner = len(gamma) - 1 - k
        for view in range(0, 721, 7):
            for turn in (angles[view] + math.pi - 2 * gamma[k], angles[view] - math.pi - 2 * gamma[k]):
                if angles[0] <= turn <= angles[-1]:
                    sums.append(weights[view, k] + np.interp(turn, angles, weights[:, partner]))
    assert len(sums) > 50 and np.abs(np.array(sums) - 1).max() < 2e-3
    reach = angles[0] - 0.02, angles[-1] + 0.02
    alone = [
        (v, k)
        for k in range(41)
        for v in range(0, 721, 7)
        if angles[v] + math.pi - 2 * gamma[k] > reach[1] and angles[v] - math.pi - 2 * gamma[k] < reach[0]
    ]
    assert all(weights[v, k] == 1 for v, k in alone)


def test_short_scan_weights_are_parkers():
    """Against his formulas, written for the detector's other direction."""
    g = FanBeam(32, views=400, bins=33, arc="short").geometry
    found, delta = fbp.redundancy(g), g.fan_angle
    beta = np.array(g.angles)[:, None]
    gamma = -g.gamma[None]
    expected = np.ones_like(found)
    early, late = beta < 2 * (delta - gamma), beta > math.pi - 2 * gamma
    expected = np.where(early, np.sin(math.pi / 4 * beta / (delta - gamma)) ** 2, expected)
    expected = np.where(late, np.sin(math.pi / 4 * (math.pi + 2 * delta - beta) / (delta + gamma)) ** 2, expected)
    np.testing.assert_allclose(found, expected, atol=1e-6)


# Backends

needs_astra = pytest.mark.skipif(find_spec("astra") is None, reason="the ASTRA extra is not installed; .ci/run installs it")


def smooth_image(geometry):
    """Blobs without edges: what differs between two ways to sample a line is then their weights alone."""
    height, width = geometry.size
    y, x = np.meshgrid(np.linspace(1, -1, height), np.linspace(-1, 1, width), indexing="ij")
    image = sum(np.exp(-((x - 0.4 * np.cos(k)) ** 2 + (y - 0.4 * np.sin(2 * k)) ** 2) / 0.05) for k in range(4))
    return torch.from_numpy(image)[None]


@needs_astra
@pytest.mark.parametrize(("kind", "tolerance"), [("parallel", 1e-4), ("limited", 1e-4), ("fan", 2e-3), ("wide image", 2e-3)])
def test_the_matrix_agrees_with_astra(kind, tolerance):
    geometry = SCANS[kind](192).geometry
    image = smooth_image(geometry)
    ours, theirs = (ct.choose(geometry, name)(image) for name in ("sparse", "astra"))
    assert float((ours - theirs).norm() / theirs.norm()) < tolerance


@needs_astra
@pytest.mark.parametrize("kind", ["parallel", "fan", "wide image"])
def test_astras_adjoint_is_its_transpose_and_its_gradient(kind, rng):
    projector = ct.choose(SCANS[kind](21, 9).geometry, "astra")
    assert projector.exact_adjoint  # on the CPU; by CUDA it says that it is not
    g = projector.geometry
    x = torch.randn(3, *g.size, generator=rng).requires_grad_()
    y = torch.randn(3, 9, g.bins, generator=rng)
    forward, back = projector(x), projector.adjoint(y)
    gap = (dot(forward, y) - dot(x, back)).abs() / (norm(forward) * norm(y))
    assert gap.max() < 1e-6
    (gradient,) = torch.autograd.grad(dot(forward, y).sum(), x)
    assert torch.equal(gradient, back)


@needs_astra
def test_a_backend_can_be_named_and_says_what_it_is():
    named = ParallelBeam(16, views=3, backend="astra")
    assert named.projector.describe().startswith("astra 2.") and named.fbp(torch.rand(1, 1, 3, 32)).shape[2:] == (16, 16)
    assert "million entries" in ParallelBeam(16, views=3).projector.describe()
    with pytest.raises(InputError, match="torch_radon: it .*; wanted a smaller scan or another backend"):
        ParallelBeam(16, views=3, backend="torch_radon")
    with pytest.raises(InputError, match="backend is 'abacus'; wanted auto, sparse, torch_radon, astra"):
        ParallelBeam(16, views=3, backend="abacus")
    with pytest.raises(InputError, match="astra: it has no curved detectors"):
        FanBeam(16, views=3, curved=True, backend="astra")


@needs_astra
def test_a_matrix_too_large_gives_way_and_is_refused_where_nothing_else_is(monkeypatch):
    geometry = ParallelBeam(64, views=30).geometry
    monkeypatch.setattr(sparse, "COMFORTABLE", 1000)
    assert ct.choose(geometry).name == "astra"
    monkeypatch.setattr(backends.Astra, "version", classmethod(lambda cls: None))
    assert ct.choose(geometry).name == "sparse"  # it fits, and there is no other
    monkeypatch.setattr(sparse, "free_memory", lambda: 1 << 20)
    with pytest.raises(InputError, match="sparse: its matrix would take 0.0.* GiB; .*astra: it is not installed"):
        ct.choose(geometry)


def test_the_scan_of_lodopab_is_counted_in_no_time():
    geometry = Geometry((362, 362), tuple((k + 0.5) * math.pi / 1000 for k in range(1000)), 513, 0.26 / 362, 0.26 / 513)
    assert 4 < sparse.matrix_bytes(geometry) / 2**30 < 8


class FakeRadon(types.ModuleType):
    """torch-radon's interface with its conventions, on unit pixels, computed by the matrix; a GPU is pretended."""

    class Volume2D:
        def set_size(self, height, width):
            self.size = (height, width)

    class ParallelBeam:
        fan = False

        def __init__(self, det_count, angles, src_dist=None, det_dist=None, det_spacing=1.0, volume=None):
            assert angles.dtype == np.float32 and (src_dist is not None) == self.fan
            angles = tuple(float(a) for a in angles)
            geometry = Geometry(volume.size, angles, det_count, 1.0, det_spacing, src_dist, det_dist)
            self.forward, self.backward = (getattr(sparse.SparseMatrix(geometry), name) for name in ("project", "backproject"))

    class FanBeam(ParallelBeam):
        fan = True


@pytest.mark.parametrize("kind", ["parallel", "fan", "wide image"])
def test_the_adapter_of_torch_radon_scales_unit_pixels(kind, monkeypatch):
    monkeypatch.setattr(torch_radon, "_import", lambda: FakeRadon("torch_radon"))
    monkeypatch.setattr(torch_radon.TorchRadon, "_on_device", lambda self, x, compute: self.geometry.pixel_spacing * compute(x))
    geometry = SCANS[kind](20, 6).geometry
    fake, ours = torch_radon.TorchRadon(geometry), sparse.SparseMatrix(geometry)
    x = torch.rand(2, *geometry.size)
    torch.testing.assert_close(fake(x), ours(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fake.adjoint(ours(x)), ours.adjoint(ours(x)), rtol=1e-4, atol=1e-3)
    assert not fake.exact_adjoint and "approximate" in fake.describe()


def test_torch_radon_is_imported_without_tkinter(monkeypatch, tmp_path):
    """Its module imports a name from turtle, which wants tkinter: a stand-in serves, and is gone afterwards."""
    (tmp_path / "torch_radon.py").write_text("from turtle import width\nfound = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch_radon.importlib.util, "find_spec", lambda name: None if name == "tkinter" else find_spec(name))
    for name in ("turtle", "torch_radon"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert torch_radon._import().found and "turtle" not in sys.modules
    del sys.modules["torch_radon"]


# Geometry


def test_a_geometry_that_cannot_be_is_refused(tmp_path):
    good = ParallelBeam(8, views=3).geometry.describe()
    for change, sentence in {
        "bins": (0, "bins is 0; wanted a value above 0"),
        "pixel_spacing": (-1, "pixel_spacing is -1; wanted a value above 0"),
        "bin_spacing": (math.inf, "bin_spacing is inf; wanted"),
        "angles": ([], "the scan has 0 angles; wanted at least 1"),
        "size": ([8, 0], r"size is \[8, 0\]; wanted at least 1"),
        "source_distance": (50, "source_distance is 50.0 and detector_distance None; wanted both for a fan"),
        "curved": (True, "curved is true for parallel rays"),
        "speed": (3, "the geometry has speed; wanted the keys size, angles"),
    }.items():
        value, expected = sentence
        with pytest.raises(InputError, match=expected):
            Geometry.read({**good, change: value})
    with pytest.raises(InputError, match=r"bins\b.*|cannot be used"):
        Geometry.read({**good, "bins": 2.5})
    with pytest.raises(InputError, match="lacks angles"):
        Geometry.read({k: v for k, v in good.items() if k != "angles"})
    with pytest.raises(InputError, match="source_distance is 20; wanted above 28.2843, half the image's diagonal"):
        FanBeam(8, source_distance=20)
    with pytest.raises(InputError, match="none.json cannot be read .*; wanted a geometry in .json"):
        Geometry.load(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match="is not a geometry"):
        Geometry.load(tmp_path / "other.json")


BLOBS = [((3.0, -2.0), 2.0, 1.0), ((-7.0, 4.0), 1.3, 0.7), ((0.5, 6.0), 3.0, -0.4)]


def blobs(geometry):
    """Gaussians (middle, width, value) as means over pixels, and their integrals over rays, means over 1.2 bins; closed forms."""

    def mean(away, width, over):
        edges = [erf((away + half) / (width * math.sqrt(2))) for half in (over / 2, -over / 2)]
        return (edges[0] - edges[1]) / (2 * over) * width * math.sqrt(2 * math.pi)

    h, (height, width) = geometry.pixel_spacing, geometry.size
    x, y = (np.arange(width) - (width - 1) / 2) * h, ((height - 1) / 2 - np.arange(height)[:, None]) * h
    theta, s = geometry.rays()
    broad, image, sinogram = 1.2 * geometry.bin_spacing / geometry.magnification, 0.0, 0.0
    for (u, v), w, value in BLOBS:
        image = image + value * mean(x - u, w, h) * mean(y - v, w, h)
        integral = value * w * math.sqrt(2 * math.pi)
        sinogram = sinogram + integral * mean(s - u * np.cos(theta) - v * np.sin(theta), w, broad)
    return torch.from_numpy(image)[None, None], torch.from_numpy(sinogram)[None, None]


@pytest.mark.parametrize("broad", [0.3, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("scan", [ParallelBeam, FanBeam])
def test_means_over_pixels_explain_an_object_better_than_points_do(scan, broad):
    """Of smooth objects in closed form, with bins narrow and broad; on a finer grid either is right."""
    errors = {}
    for size in (32, 64, 128):
        for pixels in ("points", "means"):
            operator = scan(size, 37, pixels=pixels)
            geometry = operator.geometry
            operator = Scan(replace(geometry, bin_spacing=broad * geometry.bin_spacing), pixels=pixels)
            image, sinogram = blobs(operator.geometry)
            errors[pixels, size] = float(norm(operator(image) - sinogram) / norm(sinogram))
        assert errors["means", size] < errors["points", size] / 1.6
    assert errors["means", 128] < errors["means", 32] / 12 and errors["means", 128] < 0.002


def test_a_scan_that_was_measured_has_means_where_nothing_is_named_and_shares_its_projector(rng):
    scan, y = ParallelBeam(16, views=5), torch.zeros(1, 1, 5, 32)
    found = scan.calibrated(y)
    assert scan.pixels is None and found.pixels == "means" and found.projector is scan.projector and scan.calibrated(y) is found
    assert found.calibrated(y) is found and found.of_rows([0, 2]).pixels == "means"
    x = torch.rand(2, 1, 16, 16, generator=rng)
    named = ParallelBeam(16, views=5, pixels="means")
    assert torch.equal(found(x), named(x)) and found.norm_squared == named.norm_squared != scan.norm_squared
    points = ParallelBeam(16, views=5, pixels="points")
    assert points.calibrated(y) is points and torch.equal(points(x), scan(x)) and not torch.equal(points(x), found(x))
    foreign = ParallelBeam(16, views=5, centre="pixel")  # as scikit-image projects
    assert foreign.calibrated(y) is foreign
    slices = Slices(scan, 3).calibrated(torch.zeros(1, 3, 1, 5, 32))
    assert slices.operator is found and slices.calibrated(torch.zeros(1, 3, 1, 5, 32)) is slices
    assert ConeBeam((2, 6, 5), views=3).calibrated(y).pixels == "means"
    with pytest.raises(InputError, match="pixels is 'squares'; wanted one of points, means"):
        ParallelBeam(16, pixels="squares")
