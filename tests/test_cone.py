"""Cone beams: rays against analytic ellipsoids, fans and parallel rays; Feldkamp's reconstruction; geometry files; ASTRA."""

from __future__ import annotations

import json
import math
import sys
import types
from dataclasses import replace
from functools import cache
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

import padis_lightning
from padis_lightning import ct
from padis_lightning.ct import ConeGeometry, astra_cone, fbp, fdk, joseph
from padis_lightning.ct.picture import draw_scan
from padis_lightning.errors import InputError
from padis_lightning.linalg import dot
from padis_lightning.operators.cone import ConeBeam, ConeScan
from padis_lightning.operators.ct import FanBeam, ParallelBeam

from .test_ct import SCANS as SCANS_OF_SLICES
from .test_ct import ellipses
from .test_image_operators import build

SCANS = {
    "circle": lambda n, views=8: ConeBeam(n, views=views),
    "helix": lambda n, views=8: ConeBeam((3 * n // 4, n, n), views=views, slice_spacing=50 / n, pitch=15.0, arc=4 * math.pi),
    "shifted": lambda n, views=8: ConeBeam(n, views=views, bin_offset=7.0, row_offset=-5.0),
    "flat voxels": lambda n, views=8: ConeBeam((n // 2, n, n), views=views, slice_spacing=60 / n, source_distance=90.0),
    "wide slices": lambda n, views=8: ConeBeam((n, 3 * n // 4, n), views=views, detector_distance=0.0, arc=3.0),
}
scan = pytest.mark.parametrize("kind", SCANS)


def ends(g):
    """Source ``(views, 1, 1, 3)`` and bins ``(views, rows, bins, 3)`` as x, y, z, from the definition of the geometry."""
    source, bins = [], []
    for theta, height in zip(g.angles, g.heights, strict=True):
        e, d = np.array([math.cos(theta), math.sin(theta), 0]), np.array([-math.sin(theta), math.cos(theta), 0])
        axis = np.array([0, 0, 1.0])
        u = g.bin_offset + (np.arange(g.bins) - (g.bins - 1) / 2) * g.bin_spacing
        v = g.row_offset + (np.arange(g.rows) - (g.rows - 1) / 2) * g.row_spacing + height
        source.append((height * axis - g.source_distance * d)[None, None])
        bins.append(g.detector_distance * d + u[:, None] * e + (v[:, None] * axis)[:, None])
    return np.stack(source), np.stack(bins)


def places(g, samples=1):
    """Of voxels, or of ``samples`` points along each of their sides: x, y, z."""
    spacings = (g.slice_spacing, g.pixel_spacing, g.pixel_spacing)
    z, y, x = ((np.arange(n * samples) - (n * samples - 1) / 2) * h / samples for n, h in zip(g.size, spacings, strict=True))
    return x, -y[:, None], z[:, None, None]


def turn(a, b):
    """A rotation by a about z, then b about x."""
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    return np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]]) @ about_z


ELLIPSOIDS = [  # centre, half axes, turned by, value
    ((3.0, 2.0, -1.0), (9.0, 5.0, 7.0), (0.5, 0.3), 1.0),
    ((-6.0, -4.0, 4.0), (5.0, 7.0, 5.0), (-0.4, 0.8), 0.5),
    ((4.0, 2.0, -3.0), (3.5, 3.5, 3.5), (0.0, 0.0), -0.5),
]


def ellipsoids(g, parts=ELLIPSOIDS, samples=2):
    """Their volume with anti-aliased edges and their line integrals, a chord of each ray in closed form."""
    x, y, z = places(g, samples)
    source, bins = ends(g)
    way = (bins - source) / np.linalg.norm(bins - source, axis=-1, keepdims=True)
    volume, projections = 0.0, 0.0
    for centre, axes, turned, value in parts:
        root = np.diag(1 / np.array(axes)) @ turn(*turned)  # the ellipsoid is |root (p - centre)| < 1
        inside = sum((row[0] * (x - centre[0]) + row[1] * (y - centre[1]) + row[2] * (z - centre[2])) ** 2 for row in root)
        volume = volume + value * (inside < 1)
        start, along = (source - np.array(centre)) @ root.T, way @ root.T
        a, b, c = (along**2).sum(-1), (along * start).sum(-1), (start**2).sum(-1) - 1
        projections = projections + value * 2 * np.sqrt(np.clip(b**2 - a * c, 0, None)) / a
    volume = volume.reshape(*(k for n in g.size for k in (n, samples))).mean((1, 3, 5))
    return torch.from_numpy(volume)[None, None], torch.from_numpy(projections)[None, None]


def blobs(g, width=3.0):
    """Gaussian blobs and their line integrals, those of a Gaussian's distance to the ray."""
    x, y, z = places(g)
    source, bins = ends(g)
    way = (bins - source) / np.linalg.norm(bins - source, axis=-1, keepdims=True)
    volume, projections = 0.0, 0.0
    for centre in ((4.0, 3.0, -2.0), (-5.0, 1.0, 3.0)):
        volume = volume + np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / (2 * width**2))
        away = np.cross(source - np.array(centre), way)
        projections = projections + width * math.sqrt(2 * math.pi) * np.exp(-(away**2).sum(-1) / (2 * width**2))
    return torch.from_numpy(volume)[None, None], torch.from_numpy(projections)[None, None]


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


# Rays


def errors_of(kind, make):
    """Of the same rays, of which no two cross the voxels alike, through grids twice as fine and twice again."""
    g, errors = SCANS[kind](20).geometry, []
    g = replace(g, row_spacing=0.93 * g.row_spacing, bin_spacing=0.93 * g.bin_spacing)
    for factor in (1, 2, 4):
        finer = replace(g.finer(factor), **{k: getattr(g, k) for k in ("rows", "bins", "row_spacing", "bin_spacing")})
        volume, projections = make(finer)
        errors.append(relative(ConeScan(finer)(volume), projections))
    return errors


@scan
def test_projections_of_ellipsoids_are_exact_up_to_resolution(kind):
    errors = errors_of(kind, ellipsoids)
    assert errors[-1] < 0.05 and errors[0] > 1.7 * errors[1] > 1.7**2 * errors[2], errors


@scan
def test_projections_of_smooth_volumes_are_of_second_order(kind):
    errors = errors_of(kind, blobs)
    assert errors[-1] < 0.01 and errors[0] > 2.5 * errors[1] > 2.5 * 3.3 * errors[2], errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_and_chunks_leave_the_bits_alone(dtype, rng, monkeypatch):
    helix, circle = SCANS["helix"](13, 5), SCANS["circle"](13, 5)
    x = torch.randn(3, *helix.image_shape, generator=rng, dtype=dtype)
    y, measured = helix(x), torch.randn(3, *circle.measurement_shape, generator=rng, dtype=dtype)
    back, found = helix.adjoint(y), circle.fbp(measured)
    for k in range(3):
        one = slice(k, k + 1)
        assert torch.equal(helix(x[one]), y[one]) and torch.equal(helix.adjoint(y[one]), back[one])
        assert torch.equal(circle.fbp(measured[one]), found[one])
    for chunk in (1, 3000, 1 << 30):  # a column at a time, some, all at once
        monkeypatch.setattr(joseph, "CHUNK", chunk)
        monkeypatch.setattr(fdk, "CHUNK", chunk)
        assert torch.equal(helix(x), y) and torch.equal(helix.adjoint(y), back)
        assert torch.equal(circle.fbp(measured), found)


def test_from_far_away_the_rays_are_parallel_in_every_slice(rng):
    flat = ParallelBeam(24, angles=[0.2, 1.0, 2.5, 4.0], bins=40)
    x = torch.rand(1, 1, 6, 24, 24, generator=rng, dtype=torch.float64)
    expected = flat(x[0, 0, :, None])[:, 0]  # (slices, views, bins)
    errors = []
    for distance in (1e5, 1e6):
        far = ConeBeam(
            (6, 24, 24), angles=flat.geometry.angles, rows=6, bins=40, source_distance=distance, detector_distance=50.0
        )
        errors.append(relative(far(x)[0, 0].transpose(0, 1), expected))
    assert errors[1] < 1e-4 and errors[0] > 8 * errors[1]


@pytest.mark.parametrize("arc", [2 * math.pi, "short"])
def test_the_middle_row_is_a_fan_and_feldkamps_middle_slice_its_filtered_back_projection(arc, rng):
    scan = {"views": 30, "source_distance": 100.0, "detector_distance": 60.0, "bins": 41, "bin_spacing": 2.1}
    fan = FanBeam((20, 24), arc=arc, **scan)
    cone = ConeBeam((7, 20, 24), angles=fan.geometry.angles, rows=9, **{k: v for k, v in scan.items() if k != "views"})
    x = torch.rand(2, 1, 7, 20, 24, generator=rng, dtype=torch.float64)
    y = cone(x)
    torch.testing.assert_close(y[:, :, :, 4], fan(x[:, :, 3]), rtol=1e-6, atol=1e-6)  # the matrix is in single precision
    torch.testing.assert_close(cone.fbp(y)[:, :, 3], fan.fbp(y[:, :, :, 4]), rtol=1e-10, atol=1e-10)


def test_a_quarter_turn_of_the_volume_is_one_of_the_views(rng):
    operator = ConeBeam((5, 16, 16), views=8, bin_offset=2.0, row_offset=1.0)
    x = torch.rand(1, 1, 5, 16, 16, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(operator(x.rot90(1, (-2, -1))), operator(x).roll(2, 2), rtol=1e-10, atol=1e-10)


def test_a_view_of_a_helix_is_that_of_a_circle_around_the_volume_moved(rng):
    circle = ConeBeam((12, 16, 16), views=5)
    h = circle.geometry.slice_spacing
    helix = ConeScan(replace(circle.geometry, heights=(-4 * h, -2 * h, 0.0, h, 3 * h)))
    x = torch.zeros(1, 1, 12, 16, 16, dtype=torch.float64)
    x[:, :, 4:8] = torch.rand(1, 1, 4, 16, 16, generator=rng, dtype=torch.float64)
    for view, moved in enumerate((4, 2, 0, -1, -3)):
        torch.testing.assert_close(helix(x)[:, :, view], circle(x.roll(moved, 2))[:, :, view], rtol=1e-10, atol=1e-10)


def test_the_helix_advances_by_its_pitch():
    g = ConeBeam(8, views=12, pitch=6.0, arc=6 * math.pi).geometry
    steps = np.diff(g.heights) / np.diff(g.angles)
    np.testing.assert_allclose(steps, 6.0 / (2 * math.pi))
    assert sum(g.heights) == pytest.approx(0) and not g.circular


def test_the_detector_is_the_shadow_of_the_volume():
    """Nothing of a volume of ones is missed, and at the rim there is little to see."""
    operator = ConeBeam((10, 16, 16), views=7)
    wider = ConeBeam((10, 16, 16), views=7, rows=operator.geometry.rows + 2, bins=operator.geometry.bins + 2)
    seen, more = operator(torch.ones(1, *operator.image_shape)), wider(torch.ones(1, *operator.image_shape))
    torch.testing.assert_close(more[..., 1:-1, 1:-1], seen)
    assert more.sum() < 1.002 * seen.sum() and min(seen[..., :2, :].max(), seen[..., :2].max()) > 0


@pytest.mark.parametrize("operator", [ParallelBeam(32, views=12), ConeBeam((8, 12, 12), views=5)], ids=["slice", "volume"])
def test_the_finer_scan_is_nearer_to_the_truth(operator):
    """Square pixels and bins of a width are what the finer one tends to."""
    make, factors, finest = (ellipsoids, (1, 2), 6) if operator.volumetric else (ellipses, (1, 2, 4), 8)
    image, _ = make(operator.geometry, samples=1)
    expected = operator.finer(finest)(image)
    errors = [relative(operator.finer(k)(image), expected) for k in factors]
    assert all(a > 1.5 * b for a, b in pairwise(errors))
    assert operator.finer(2).fine.geometry.size == tuple(2 * n for n in operator.geometry.size)


# Reconstruction


@cache
def reconstruction(views, filter="ram-lak", **options):  # noqa: A002
    """A phantom, what Feldkamp's method makes of its exact projections, and the voxels by how far they are from an edge."""
    operator = ConeBeam(48, views=views, filter=filter, **options)
    volume, projections = ellipsoids(operator.geometry)
    found = operator.approximate_inverse(projections)
    other = {value: ((volume - value).abs() > 1e-9).double() for value in (0.0, 0.5, 1.0)}
    inner = {value: torch.nn.functional.max_pool3d(away, 3, 1, 1) == 0 for value, away in other.items()}
    return volume, found, inner


@pytest.mark.parametrize("options", [{}, {"bin_offset": 9.0}, {"row_offset": 3.0}, {"filter": "hann"}], ids=str)
def test_feldkamp_has_the_values(options):
    _, found, inner = reconstruction(120, **options)
    for value, where in inner.items():
        assert where.any() and float(found[where].mean()) == pytest.approx(value, abs=0.02), value


def test_feldkamp_is_exact_where_nothing_changes_along_the_axis():
    """All slices of a column come out alike in a wide cone, with the value of the column."""
    operator = ConeBeam((20, 32, 32), views=60, source_distance=60.0, detector_distance=30.0)
    _, projections = ellipsoids(operator.geometry, [((3.0, -2.0, 0.0), (9.0, 7.0, 1e6), (0.4, 0.0), 1.0)])
    found = operator.fbp(projections)
    torch.testing.assert_close(found, found[:, :, 9:10].expand_as(found), rtol=0.0, atol=0.01)
    x, y, _ = places(operator.geometry)
    assert float(found[..., torch.from_numpy(np.hypot(x - 3, y + 2) < 5)].mean()) == pytest.approx(1, abs=0.01)


def test_feldkamp_improves_with_views():
    errors = []
    for views in (15, 30, 60, 120):
        volume, found, inner = reconstruction(views)
        where = inner[0.0] | inner[0.5] | inner[1.0]
        errors.append(float((found - volume)[where].square().mean().sqrt()))
    assert errors[-1] < 0.04 and all(a > 1.3 * b for a, b in pairwise(errors)), errors


@pytest.mark.parametrize("offset", [13.0, -13.0])
def test_half_a_detector_that_reaches_over_the_axis_is_enough(offset):
    volume, found, inner = reconstruction(120, bins=46, bin_offset=offset)
    for value, where in inner.items():
        assert float(found[where].mean()) == pytest.approx(value, abs=0.02)
        assert float((found - volume)[where].square().mean().sqrt()) < 0.05


def test_weights_of_a_shifted_detector_sum_to_one():
    g = ConeBeam(16, views=10).geometry
    g = replace(g, bin_offset=2 * g.bin_spacing)  # bins of the one side lie on those of the other
    weights, gamma = fbp.redundancy(g.fan)[0], g.gamma
    partner = np.interp(-gamma, gamma, weights, left=0.0)
    seen_twice = -gamma > gamma[0]
    np.testing.assert_allclose((weights + partner)[seen_twice & (gamma > 0)], 1, atol=5e-3)
    assert (weights[-gamma < gamma[0]] == 1).all()


def test_a_helix_is_solved_by_least_squares():
    operator = ConeBeam((12, 16, 16), views=60, pitch=12.0, arc=6 * math.pi)
    volume, _ = ellipsoids(operator.geometry)
    y = operator(volume)
    early, late = (relative(found, volume) for found in (operator.approximate_inverse(y), operator.pinv(y, iterations=60)))
    assert late < 0.6 * early < 0.6 * 0.15
    with pytest.raises(InputError, match="the source does not move on a circle; wanted a circular scan"):
        operator.fbp(operator(volume))


def test_what_feldkamp_cannot_do_is_refused():
    for options, sentence in (
        ({"bin_offset": 3.0, "arc": 4.0}, "shifted and the views do not go all round"),
        ({"bin_offset": 100.0}, "does not see the axis"),
    ):
        operator = ConeBeam(8, views=6, **options)
        with pytest.raises(InputError, match=sentence):
            operator.fbp(torch.zeros(1, *operator.measurement_shape))
    with pytest.raises(InputError, match="filter is 'best'; wanted one of ram-lak"):
        ConeBeam(8, views=6, filter="best", bin_offset=100.0)


# Geometry


def test_geometry_survives_its_file(tmp_path):
    for make in (*SCANS_OF_SLICES.values(), *SCANS.values()):
        geometry = make(12, 5).geometry
        geometry.save(tmp_path / "scan.json")
        assert type(geometry).load(tmp_path / "scan.json") == geometry
    with pytest.raises(InputError, match="is not a geometry; wanted a .json file with the format 'padis_lightning geometry 1'"):
        ct.Geometry.load(tmp_path / "scan.json")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rows": 0}, "rows is 0; wanted a value above 0"),
        ({"bins": -1}, "bins is -1; wanted a value above 0"),
        ({"slice_spacing": math.nan}, "slice_spacing is nan; wanted a value above 0"),
        ({"row_offset": math.inf}, "row_offset is inf; wanted a finite length"),
        ({"size": [8, 8]}, r"the geometry has size \[8, 8\]; wanted 3 numbers"),
        ({"size": [8, 0, 8]}, r"size is \[8, 0, 8\]; wanted at least 1"),
        ({"heights": [0.0]}, "the scan has 1 heights; wanted 3, one for each of its angles"),
        ({"heights": [0.0, 0.0, math.nan]}, "heights that are not finite"),
        ({"angles": []}, "the scan has 0 angles; wanted at least 1"),
        ({"source_distance": 3.0}, "source_distance is 3; wanted above 28.2843"),
        ({"source_distance": None}, "source_distance None; wanted a number"),
        ({"slice_spacing": 0.1}, "the outermost rays cross .* slices from pixel to pixel; wanted at most 1"),
        ({"speed": 1}, "the geometry has speed; wanted the keys size, angles, heights"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(change, sentence):
    good = ConeBeam(8, views=3).geometry.describe()
    assert ConeGeometry.read(good).describe() == good
    with pytest.raises(InputError, match=sentence):
        ConeGeometry.read({**good, **change})


@pytest.mark.parametrize("name", ["pixel_spacing", "slice_spacing", "row_spacing", "bin_spacing", "source_distance"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_beam_that_cannot_be_is_refused(name, value):
    with pytest.raises(InputError, match=f"{name} is"):
        ConeBeam(8, views=3, **{name: value})
    with pytest.raises(InputError, match=r"size is \(8, 8\); wanted at least 1, or a depth"):
        ConeBeam((8, 8))


def test_backends_of_slices_are_not_those_of_volumes():
    with pytest.raises(InputError, match="backend is 'sparse'; wanted auto, joseph, astra"):
        ConeBeam(8, views=3, backend="sparse")
    assert "of 0.00106 million samples" in ConeBeam((2, 6, 8), views=3, rows=4, bins=11).projector.describe()


def test_a_cone_can_be_written_in_a_config(tmp_path):
    shipped = Path(padis_lightning.__file__).parents[1] / "configs" / "operator" / "cone30.yaml"
    operator = build(shipped)
    assert operator.image_shape == (1, 8, 128, 128) and len(operator.geometry.angles) == 30 and operator.geometry.circular
    again = {"class_path": "ConeScan", "init_args": {"geometry": operator.geometry.describe(), "filter": "hann"}}
    assert build(json.dumps(again)).geometry == operator.geometry


def test_the_picture_of_a_cone_shows_where_the_detector_is():
    """Of two scans that differ in the detector's shift alone, one is the other's mirror image."""
    left, right = (
        np.asarray(draw_scan(ConeBeam(16, angles=[angle], bin_offset=offset).geometry, 200))[:200]
        for angle, offset in ((0.0, 9.0), (0.0, -9.0))
    )
    assert (left != right).any() and (left != right[:, ::-1]).mean() < 0.01


# ASTRA's adapter, with a stand-in for the library that follows its documentation


class FakeAstra(types.ModuleType):
    """ASTRA's interface: arrays (z, y, x) that grow with the coordinates, rays by their vectors; rays are sampled finely."""

    def __init__(self):
        super().__init__("astra")
        self.__spec__ = ModuleSpec("astra", None)
        self.projector3d, self.flaw = self, 1.0

    def use_cuda(self):
        return True

    def create_vol_geom(self, *geometry):
        rows, columns, slices, *window = geometry
        return (slices, rows, columns), window

    def create_proj_geom(self, kind, rows, bins, vectors):
        assert kind == "cone_vec"
        return rows, bins, vectors

    def create_projector(self, kind, scan, volume):
        assert kind == "cuda3d"
        self.scan, self.volume = scan, volume
        return 1

    def delete(self, identifier):
        pass

    def direct_FP(self, identifier, volume, out):
        (rows, bins, vectors), (size, (x0, x1, y0, y1, z0, z1)) = self.scan, self.volume
        low, high = np.array([x0, y0, z0]), np.array([x1, y1, z1])
        for view, (source, middle, u, v) in enumerate(vectors.reshape(-1, 4, 3)):
            j, i = np.arange(bins) - (bins - 1) / 2, np.arange(rows) - (rows - 1) / 2
            ends = middle + j[:, None] * u + i[:, None, None] * v
            way = ends - source
            share = np.linspace(0, 2, 900)[:, None, None, None]  # a ray goes on beyond its bin
            cells = (source + share * way - low) / (high - low) * size[::-1] - 0.5
            samples = map_coordinates(volume, cells.reshape(-1, 3).T[::-1], order=1, mode="grid-constant")
            out[:, view] = self.flaw * 2 * samples.reshape(900, rows, bins).mean(0) * np.linalg.norm(way, axis=-1)

    def direct_BP(self, identifier, projections, out):
        """Its transpose in shape alone, three times too large."""
        out[:] = 3 * projections.mean()


@scan
def test_the_adapter_of_astra_gives_it_the_same_rays(kind, monkeypatch):
    library = FakeAstra()
    monkeypatch.setitem(sys.modules, "astra", library)
    geometry = SCANS[kind](16, 3).geometry
    volume = blobs(geometry, 5.0)[0][0].float()
    projections = joseph.Joseph(geometry).project(volume)
    projector = astra_cone.AstraCone(geometry)
    assert relative(projector.project(volume), projections) < 0.02
    assert not projector.exact_adjoint and "approximate" in projector.describe()
    ones, measured = torch.ones(1, *geometry.size), torch.ones(1, *geometry.shape)
    wrong = 3 * float(ones.sum())
    assert float(dot(ones, projector.backproject(measured)).sum()) == pytest.approx(projector.scale * wrong, rel=1e-4)
    library.flaw = 1.3
    with pytest.raises(InputError, match="ASTRA's projection is 0.3.* from Joseph's; wanted at most 0.1"):
        astra_cone.AstraCone(geometry)


def test_astra_is_taken_for_the_largest_scans_alone(monkeypatch):
    geometry = SCANS["circle"](8, 3).geometry
    monkeypatch.setitem(sys.modules, "astra", FakeAstra())
    monkeypatch.setattr(astra_cone.AstraCone, "version", classmethod(lambda cls: "2.5"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert ct.choose(geometry).name == "joseph"
    monkeypatch.setattr(joseph, "COMFORTABLE", 1000)
    assert ct.choose(geometry).name == "astra"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ct.choose(geometry).name == "joseph"
    with pytest.raises(InputError, match="astra: it needs an NVIDIA GPU"):
        ct.choose(geometry, "astra")
