"""Axes of rotation off the middle of the detector or of the image: rays, backends, filtered back-projection, files."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from padis_lightning.ct import Geometry, fbp
from padis_lightning.ct.axis import OTHER_WAY, find_axis, other_way
from padis_lightning.ct.picture import draw_scan
from padis_lightning.data.sources.axes import describe_scan
from padis_lightning.data.sources.open import read_geometry
from padis_lightning.errors import InputError
from padis_lightning.linalg import dot, norm
from padis_lightning.operators.cone import ConeBeam
from padis_lightning.operators.ct import FanBeam, ParallelBeam, Scan
from tests.making import write

BUMPS = [((5.0, 3.0), 2.0, 1.0), ((-6.0, -2.0), 3.0, 0.5), ((4.0, -7.0), 1.6, 0.8)]  # centre, deviation, height
WIGGLE = tuple(2.0 * math.sin(k) for k in range(24))
SCANS = {
    "parallel": lambda n, **o: ParallelBeam(n, views=24, bin_offset=-3.3, **o),
    "parallel, each view": lambda n, **o: ParallelBeam(n, views=24, bin_offset=WIGGLE, **o),
    "pixel": lambda n, **o: ParallelBeam((n - n // 4, n), views=24, centre="pixel", **o),
    "fan": lambda n, **o: FanBeam(n, views=24, bin_offset=7.0, centre="pixel", **o),
    "fan, each view": lambda n, **o: FanBeam(
        n, views=24, bin_offset=WIGGLE, source_distance=50.0, centre=(0.4 * n, 0.6 * n), **o
    ),
    "curved": lambda n, **o: FanBeam(n, views=24, curved=True, bin_offset=-5.0, centre="pixel", source_distance=60.0, **o),
}
scan = pytest.mark.parametrize("kind", SCANS)


def bumps(geometry):
    """Gaussians at places from the axis, and their exact line integrals."""
    height, width = geometry.size
    row, column = geometry.axis_pixel
    x = (np.arange(width) - column) * geometry.pixel_spacing
    y = (row - np.arange(height))[:, None] * geometry.pixel_spacing
    theta, s = geometry.rays()
    image, sinogram = 0.0, 0.0
    for (cx, cy), d, value in BUMPS:
        image = image + value * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * d * d))
        away = s - cx * np.cos(theta) - cy * np.sin(theta)
        sinogram = sinogram + value * math.sqrt(2 * math.pi) * d * np.exp(-(away**2) / (2 * d * d))
    return torch.from_numpy(image)[None, None], torch.from_numpy(sinogram)[None, None]


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@scan
@pytest.mark.parametrize("backend", ["sparse", "astra"])
def test_every_backend_integrates_along_the_shifted_rays(kind, backend, rng):
    if backend == "astra" and (find_spec("astra") is None or kind == "curved"):
        pytest.skip("ASTRA is not installed, or has no such detector")
    operator = SCANS[kind](64, backend=backend)
    image, sinogram = bumps(operator.geometry)
    assert relative(operator(image), sinogram) < (0.015 if backend == "astra" else 0.006)  # half a bin costs a tenth
    x, y = torch.randn(image.shape, generator=rng), torch.randn(sinogram.shape, generator=rng)
    if operator.exact_adjoint:
        forward, back = operator(x), operator.adjoint(y)
        assert float((dot(forward, y) - dot(x, back)).abs() / (norm(forward) * norm(y))) < 1e-6


@pytest.mark.parametrize("kind", ["parallel", "pixel", "fan, each view", "curved"])
def test_a_finer_scan_measures_the_same_object_about_the_same_axis(kind):
    """Its grid is finer, so that it is nearer to the truth; its picture of the coarse pixels is where they are."""
    operator = SCANS[kind](32)
    finer = operator.finer(2)
    image, sinogram = bumps(finer.fine.geometry)
    assert relative(finer.fine(image), sinogram) < 0.006
    coarse, _ = bumps(operator.geometry)
    assert relative(finer(coarse), sinogram.unflatten(-1, (-1, 2)).mean(-1)) < 0.05


FBP = {
    "half turn": lambda **o: ParallelBeam(48, views=100, bin_offset=-4.4, **o),
    "full turn": lambda **o: ParallelBeam(48, views=200, arc=2 * math.pi, bin_offset=-2.0, **o),
    "three quarters": lambda **o: ParallelBeam(48, views=200, arc=1.6 * math.pi, bin_offset=2.0, **o),
    "half a detector": lambda **o: ParallelBeam(48, views=200, arc=2 * math.pi, bins=42, bin_offset=10.0, **o),
    "fan": lambda **o: FanBeam(48, views=200, bin_offset=3.0, **o),
    "fan, each view": lambda **o: FanBeam(48, views=200, bin_offset=tuple(2.0 * math.sin(k) for k in range(200)), **o),
    "half a fan": lambda **o: FanBeam(48, views=200, bins=44, bin_offset=-20.0, **o),
    "half a curved fan": lambda **o: FanBeam(48, views=200, bins=44, bin_offset=20.0, curved=True, source_distance=60.0, **o),
    "short fan": lambda **o: FanBeam(48, views=200, arc="short", bin_offset=2.0, **o),
}


@pytest.mark.parametrize("kind", FBP)
def test_filtered_back_projection_has_the_object_in_its_place(kind):
    operator = FBP[kind](centre="middle" if "each" in kind else "pixel")
    image, sinogram = bumps(operator.geometry)
    assert relative(operator.fbp(sinogram), image) < 0.045  # half a bin costs 0.1


@pytest.mark.parametrize("beam", [ParallelBeam, FanBeam])
@pytest.mark.parametrize("bins", [0.5, -6.0, 11.0])
def test_weights_of_a_line_on_a_shifted_detector_sum_to_one(beam, bins):
    g = beam(32, views=120, bins=64, arc=2 * math.pi).geometry
    assert (fbp.towards_longer_side(g) == 0).all()
    g = replace(g, bin_offset=bins * g.bin_spacing)
    weights = (1 + fbp.towards_longer_side(g)) / 2
    mirrored = np.abs(-g.detector[:, None] - g.detector)  # bins of the one side lie on those of the other
    twice = mirrored.min(1) < 1e-9
    np.testing.assert_allclose((weights + weights[mirrored.argmin(1)])[twice], 1)
    assert (weights[~twice] == 1).all() and (~twice).sum() == 2 * abs(bins) and (weights >= 0).all()


def test_a_scan_of_scikit_image_is_one_about_the_pixel():
    from skimage.transform import iradon, radon

    angles, size = np.arange(0.0, 180.0, 2.0), 48
    truth = bumps(Geometry((size, size), (0.0,), 1, 0.6, 1.0, centre="pixel"))[0][0, 0].numpy()
    seen = np.hypot(*np.mgrid[-size // 2 : size // 2, -size // 2 : size // 2]) < size // 2
    truth *= seen
    y = radon(truth, angles, circle=True)
    shared = {"angles": np.deg2rad(angles), "bins": size, "pixel_spacing": 1.0}
    operator = ParallelBeam(size, **shared, centre="pixel", bin_offset=-0.5)
    assert relative(operator(torch.from_numpy(truth)[None, None])[0, 0], torch.from_numpy(y.T)) < 0.01
    errors = []
    for scan in (operator, ParallelBeam(size, **shared)):
        found = scan.fbp(torch.from_numpy(y.T.copy())[None, None])[0, 0].numpy()
        errors.append(np.linalg.norm((found - truth)[seen]) / np.linalg.norm(truth))
    theirs = np.linalg.norm(iradon(y, angles, circle=True) - truth) / np.linalg.norm(truth)
    assert errors[0] < theirs + 0.01 < 0.5 * errors[1], (errors, theirs)


def test_each_views_offset_of_a_cone_is_that_of_its_fan():
    offsets = tuple(2.0 * math.sin(k) for k in range(30))
    cone = ConeBeam((1, 24, 24), views=30, rows=1, bin_offset=offsets, bins=60)
    fan = Scan(cone.geometry.fan)
    image, _ = bumps(fan.geometry)
    y = fan(image)
    assert relative(cone(image[:, :, None])[:, :, :, 0], y) < 1e-6
    assert relative(cone.fbp(y[:, :, :, None])[:, :, 0], fan.fbp(y)) < 1e-6


def test_files_say_where_the_axis_is_and_older_ones_need_not(tmp_path):
    for geometry in (SCANS[kind](16).geometry for kind in SCANS):
        geometry.save(tmp_path / "g.json")
        assert Geometry.load(tmp_path / "g.json") == geometry
    old = {k: v for k, v in ParallelBeam(8, views=3).geometry.describe().items() if k not in ("bin_offset", "centre")}
    assert Geometry.read(old) == ParallelBeam(8, views=3).geometry
    with pytest.raises(InputError, match="bin_offset has 2 numbers; wanted one, or 3, one a view"):
        Geometry.read({**old, "bin_offset": [1.0, 2.0]})
    with pytest.raises(InputError, match="centre is 'corner'; wanted middle or pixel, or a row and a column"):
        Geometry.read({**old, "centre": "corner"})


def test_the_source_stays_outside_of_an_image_that_is_off_the_axis():
    FanBeam(8, source_distance=29.0)
    with pytest.raises(
        InputError, match="source_distance is 29; wanted above 31.8.*, from the axis to the image's farthest corner"
    ):
        FanBeam(8, source_distance=29.0, centre="pixel")


def test_the_picture_shows_where_the_detector_is():
    """Mirrored, a scan that is shifted to the left is the one that is shifted to the right."""
    left, right, neither = (
        np.asarray(draw_scan(FanBeam(16, angles=[math.pi], bin_offset=offset).geometry, 201))[:201] for offset in (-9.0, 9.0, 0.0)
    )
    assert np.abs(left[:, ::-1].astype(float) - right).mean() < 0.1 * np.abs(neither.astype(float) - right).mean()


# Finding it


def noisy(geometry, share, seed=0):
    y = bumps(geometry)[1][0].numpy()
    return y + share * y.max() * np.random.default_rng(seed).standard_normal(y.shape)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize(
    ("views", "arc", "bins"), [(20, math.pi, 96), (60, 2 * math.pi, 96), (90, math.pi, 97), (60, math.pi / 2, 96)], ids=str
)
def test_the_axis_of_parallel_rays_is_found(views, arc, bins, noise):
    if arc < math.pi:
        noise /= 5  # with less of a turn less is known
    for offset in (-4.4, 0.3, 6.0):
        g = ParallelBeam(64, views=views, arc=arc, bins=bins, bin_offset=offset).geometry
        found = find_axis(noisy(g, noise), g)
        assert found.sure and abs(found.offset - offset) < 0.5 * g.bin_spacing


@pytest.mark.parametrize(("arc", "offset"), [(2 * math.pi, 5.0), (2 * math.pi, -15.0), (3.6, -3.0)])
def test_the_axis_of_a_fan_is_found(arc, offset):
    g = FanBeam(32, views=40, arc=arc, bins=48, bin_spacing=2.0, bin_offset=offset, source_distance=100.0).geometry
    found = find_axis(noisy(g, 0.02), g)
    assert found.sure and abs(found.offset - offset) < 0.5 * g.bin_spacing


def test_the_axis_of_an_object_wider_than_the_detector_is_found():
    wide = ParallelBeam(64, views=60, bins=96, bin_offset=3.0).geometry
    y, shift = noisy(wide, 0.01)[:, :, 28:64], -2 * wide.bin_spacing
    found = find_axis(y, replace(wide, bins=36))
    assert found.sure and abs(found.offset - (3.0 + shift)) < 0.5 * wide.bin_spacing


def grains(geometry):
    """Line integrals of many small Gaussians in a large one, all of them wider than the detector, in closed form."""
    random, (theta, s) = np.random.default_rng(1), geometry.rays()
    total = 40 * np.exp(-(s**2) / (2 * 30**2))
    for x, y, value in random.uniform([-60, -60, 0.5], [60, 60, 4], (150, 3)):
        total += value * np.exp(-((s - x * np.cos(theta) - y * np.sin(theta)) ** 2) / (2 * 2.5**2))
    return total + 0.05 * random.standard_normal(total.shape)


@pytest.mark.parametrize("distance", [None, 300.0], ids=["parallel", "fan"])
@pytest.mark.parametrize(("views", "arc"), [(90, math.pi), (181, math.pi), (120, 2 * math.pi)], ids=str)
@pytest.mark.parametrize("offset", [-3.7, 2.2, 6.0])
def test_the_axis_of_an_object_that_every_view_cuts_off_is_found(distance, views, arc, offset):
    arc += 0.6 if distance and arc < 2 * math.pi else 0.0  # lines that a fan sees from both ends
    angles = tuple(np.linspace(0, arc, views, endpoint=views % 2 == 1)[np.random.default_rng(0).permutation(views)].tolist())
    g = Geometry((60, 60), angles, 60, 1.0, 1.0, distance, distance, bin_offset=offset)
    found = find_axis(grains(g)[None], g)
    assert found.sure and abs(found.offset - offset) < 0.3 and type(found.offset) is float


@pytest.mark.parametrize("place", [5.0, 20.3, 50.8])
def test_the_axis_of_half_a_detector_all_round_is_found(place):
    """The detector reaches over the axis by a few bins on one side only, and sees the object's border on the other."""
    g = ParallelBeam(80, views=180, arc=2 * math.pi, bins=56, bin_spacing=1.0).geometry.with_axis_at(place)
    theta, s = g.rays()
    disc = 2 * np.sqrt(np.clip(33**2 - (s - 2 * np.cos(theta)) ** 2, 0, None))
    holes = [((9, 4), 4), ((-20, 3), 6), ((3, -17), 3), ((-4, 2), 2), ((1, 1), 1.5)]
    y = disc - sum(2 * np.sqrt(np.clip(r**2 - (s - x * np.cos(theta) - h * np.sin(theta)) ** 2, 0, None)) for (x, h), r in holes)
    found = find_axis(y[None], g)
    assert found.sure and abs(found.offset - g.bin_offset) < 0.3


def test_a_truncated_scan_of_few_views_is_not_sure_of_a_wrong_axis():
    for offset in (-6.0, 4.0):
        g = ParallelBeam(60, views=8, bins=60, bin_spacing=1.0, bin_offset=offset).geometry
        found = find_axis(grains(g)[None], g)
        assert not found.sure or abs(found.offset - offset) < 0.5


@pytest.mark.parametrize("offset", [0.0, 4.0])
@pytest.mark.parametrize(
    ("distance", "arc", "tells"), [(60.0, 2, True), (60.0, 1.2, True), (60.0, 1 / 3, False), (2000.0, 2, False)]
)
def test_a_fan_that_turned_the_other_way_is_told(distance, arc, tells, offset):
    """Short arcs and nearly parallel rays do not tell; a fan that is right is never said to be wrong."""
    angles = tuple((np.arange(40) * arc * math.pi / 40).tolist())
    geometry = Geometry((64, 64), angles, 128, 0.5, 0.5, source_distance=distance, detector_distance=30.0, bin_offset=offset)
    y = noisy(geometry, 0.01)
    negated = replace(geometry, angles=tuple(-np.asarray(angles)))
    assert other_way(y, geometry) > 2 * OTHER_WAY
    assert (other_way(y, negated) < OTHER_WAY) == tells


def test_parallel_rays_do_not_tell_the_way():
    geometry = Geometry((64, 64), tuple((np.arange(40) * math.pi / 40).tolist()), 128, 0.5, 0.5)
    assert other_way(noisy(geometry, 0.01), geometry) == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_a_file_whose_angles_run_the_other_way_gets_a_sentence(tmp_path, sign, caplog):
    angles = np.arange(40) * 2 * math.pi / 40
    geometry = Geometry((64, 64), tuple(angles.tolist()), 128, 0.5, 0.5, source_distance=60.0, detector_distance=30.0)
    described = {"size": 64, "pixel_spacing": 0.5, "bin_spacing": 0.5, "source_distance": 60.0, "detector_distance": 30.0}
    path = write(tmp_path / "a.npz", y=noisy(geometry, 0.01), angles=sign * angles, range=[0, 1], **described)
    describe_scan(path)
    assert ("wanted its angles negated" in caplog.text) == (sign < 0)


def test_what_cannot_be_found_is_not_sure(rng):
    g = ParallelBeam(32, views=20).geometry
    assert not find_axis(np.random.default_rng(0).standard_normal((1, *g.shape)), g).sure
    assert not find_axis(np.zeros((1, *g.shape)), g).sure
    few = FanBeam(32, views=20, arc=1.0).geometry
    assert not find_axis(noisy(few, 0.0), few).sure


# Files


@pytest.fixture
def scan_file(tmp_path):
    def written(geometry, **more):
        keys = {name: np.asarray(getattr(geometry, name)) for name in ("angles", "size", "pixel_spacing", "bin_spacing")}
        return write(tmp_path / "scan.npz", y=noisy(geometry, 0.01), range=[0, 1], **keys, **more)

    return written


def test_a_file_says_where_its_axis_is_or_it_is_found(scan_file):
    true = ParallelBeam(48, views=40, bin_offset=5.0).geometry
    bin_there = float(true.axis_bin)
    geometry, words, *_ = describe_scan(scan_file(true))
    assert geometry.axis_bin == pytest.approx(bin_there, abs=0.2) and f"found at bin {geometry.axis_bin:.1f} of 96" in words
    assert geometry.axis_bin == pytest.approx(round(float(geometry.axis_bin), 2), abs=1e-9)  # on any processor
    for said in ({"axis": bin_there}, {"bin_offset": 5.0}, {"bin_offset": np.full(40, 5.0)}):
        geometry, words, *_ = describe_scan(scan_file(true, **said))
        assert geometry.axis_bin == pytest.approx(bin_there) and "as the file says" in words
        assert read_geometry(scan_file(true, **said)) == geometry
    path = scan_file(true, bin_offset=5.0)
    assert describe_scan(path, axis=40)[0].axis_bin == pytest.approx(40) and describe_scan(path, axis="middle")[0].bin_offset == 0
    assert describe_scan(scan_file(true, bin_offset=-9.0), axis="auto")[0].axis_bin == pytest.approx(bin_there, abs=0.2)
    with pytest.raises(InputError, match="has both axis and bin_offset; wanted one of them"):
        read_geometry(scan_file(true, axis=3.0, bin_offset=5.0))
    flat = write(path, y=np.zeros((1, 3, 9)), angles=[0.1, 0.2, 0.3], size=4, pixel_spacing=1.0, bin_spacing=1.0, range=[0, 1])
    assert describe_scan(flat)[0].bin_offset == 0 and "cannot be told from the data" in describe_scan(flat)[1]


def test_scikit_images_convention_is_known_by_its_axis(scan_file):
    true = ParallelBeam(48, views=40, bins=48, centre="pixel", pixel_spacing=0.9)
    true = replace(true.geometry, bin_offset=-0.45)
    assert describe_scan(scan_file(true))[0] == true and "as scikit-image has it" in describe_scan(scan_file(true))[1]
    middle = describe_scan(scan_file(true, centre="middle"))[0]
    assert middle.centre == "middle" and middle.axis_bin == pytest.approx(24, abs=0.1)
    assert describe_scan(scan_file(true, centre="pixel", axis=24.0))[0] == true
    assert describe_scan(scan_file(replace(true, centre="middle", bin_offset=0.0)))[0].bin_offset == 0
