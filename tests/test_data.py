"""What is read, refused and split."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch

from padis_lightning.ct import Geometry
from padis_lightning.data.batches import spread_over_groups
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.ranges import decide
from padis_lightning.data.sources.arrays import read_arrays
from padis_lightning.data.sources.base import resize
from padis_lightning.data.sources.open import open_source, read_geometry
from padis_lightning.errors import InputError
from padis_lightning.metrics import coverage, interval, psnr, ssim
from padis_lightning.types import Normalisation
from tests.making import write

IMAGES = {"images": np.zeros((2, 8, 8), np.float32)}
SINOGRAMS = {"y": np.ones((2, 3, 8)), "angles": np.arange(3.0), "size": 8, "pixel_spacing": 1.0, "bin_spacing": 1.0}
KSPACE = {"kspace": np.ones((2, 2, 8, 8), np.complex64)}


@pytest.mark.parametrize(
    ("said", "arrays", "wanted"),
    [
        ({"rows": 0}, IMAGES, "sinograms"),
        ({"rows": 0}, KSPACE, "sinograms"),
        ({"views": 2}, IMAGES, "sinograms"),
        ({"pixel_spacing": 0.5}, IMAGES, "sinograms"),
        ({"remove_stripes": True}, IMAGES, "sinograms"),
        ({"axis": 3.0}, IMAGES, "projections"),
        ({"coils": 1}, IMAGES, "k-space"),
        ({"coils": 1}, SINOGRAMS, "k-space"),
        ({"rows": 0, "views": 2, "axis": 3.0, "remove_stripes": True}, SINOGRAMS, None),
        ({"coils": 1}, KSPACE, None),
        ({}, IMAGES, None),
    ],
)
def test_what_is_said_of_a_scan_is_refused_of_data_that_is_none(tmp_path, said, arrays, wanted):
    data = ImageData(str(write(tmp_path / "a.npz", **arrays)), range=(0, 1), **said)
    if wanted is None:
        return data.setup("predict")
    ((name, value),) = said.items()
    with pytest.raises(InputError, match=f"{name} is {value}, which .* of a.npz do not take; wanted {wanted}$"):
        data.setup("predict")


def test_values_come_back_in_the_units_they_had(images):
    stored = np.load(images)["images"]
    source = read_arrays(images)
    assert source.normalisation == Normalisation(0.0, 2000.0, (-1000.0, 1000.0))
    assert source.images.min() >= 0 and source.images.max() <= 1 and source.image_shape == (1, 16, 16)
    np.testing.assert_allclose(source.normalisation.restore(source.images)[:, 0], stored, rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "options", "expected"),
    [
        ({"images": np.full((2, 4, 4), 51, np.uint8)}, {}, 0.2),
        ({"images": np.full((2, 4, 4), 0.25)}, {}, 0.25),
        ({"images": np.full((2, 4, 4), 30, np.int16), "range": np.array([10, 50])}, {}, 0.5),
        ({"images": np.full((2, 4, 4), 30, np.int16)}, {"data_range": (20, 40)}, 0.5),
        ({"images": np.full((2, 4, 4, 3), 0.75, np.float32)}, {}, 0.75),
    ],
)
def test_ranges(tmp_path, arrays, options, expected):
    images = read_arrays(write(tmp_path / "a.npz", **arrays), **options).images
    assert images.ndim == 4 and images.shape[1] in (1, 3)
    torch.testing.assert_close(images, torch.full_like(images, expected))


@pytest.mark.parametrize(
    ("known", "expected", "clipped"),
    [
        ({"named": (3, 5), "stored": (0, 255), "hounsfield": True}, (3, 5), True),
        ({"hounsfield": True}, (-1000, 1000), True),
        ({"stored": (-900, 700), "hounsfield": True}, (-900, 700), True),
        ({"window": (-900, 700)}, (0, 1600), True),
        ({"named": (-1000, 1000)}, (-1000, 1000), True),
        ({"named": (0, 500)}, (0, 500), True),
        ({"stored": (-1000, 1000)}, (-1000, 1000), False),
        ({"dtype": np.dtype("u1"), "extremes": (0, 7)}, (0, 255), False),
        ({"extremes": (0.25, 1)}, (0, 1), False),
    ],
)
def test_what_becomes_0_and_1_and_what_is_clipped_is_decided_in_one_place(known, expected, clipped):
    found = decide("a", **known)
    assert (found.lower, found.upper, found.clip) == (*expected, clipped)
    beyond = torch.tensor([found.upper + 1.0])
    assert (float(found.normalise(beyond)) == 1) is clipped
    assert Normalisation.read(found.describe()) == found


def test_a_window_of_nifti_clips_metal_and_padding_as_that_of_dicom_does(tmp_path):
    values = np.float32([[-2024, -1000], [0, 3072]]).reshape(2, 2, 1)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii")
    image = open_source(tmp_path / "v.nii", data_range=(-1000, 1000))[0].image
    torch.testing.assert_close(image, torch.tensor([[[0, 0.5], [0, 1]]]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"generated": None}, "generated is None; wanted at least 1"),
        ({"batch_size": 0}, "batch_size is 0; wanted at least 1"),
        ({"validation": None}, "validation is None; wanted a share between 0 and 1"),
        ({"shard": 2, "shards": 2}, "shard is 2; wanted 0 to 1, one of 2"),
        ({"depth": 0, "volumes": True}, "depth is 0; wanted at least 1"),
        ({"depth": 4}, "depth is 4 and volumes false; wanted at least 1 slice, and --data.volumes true"),
    ],
)
def test_options_out_of_range_get_one_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence):
        ImageData(**options)


def test_plain_arrays_are_images(tmp_path):
    np.save(tmp_path / "a.npy", np.full((3, 4, 6), 0.5))
    assert read_arrays(tmp_path / "a.npy").image_shape == (1, 4, 6)


SCAN = {"size": 16, "pixel_spacing": 0.5, "bin_spacing": 0.25, "angles": np.zeros(2)}
BROKEN = [
    ({"pictures": np.zeros((2, 4, 4)), "more": 1}, "has the arrays more, pictures; wanted 'images' or 'y'"),
    ({"images": np.zeros(4)}, r"images of type float64 and shape \(4,\); wanted real numbers, \(n, H, W\)"),
    ({"images": np.full((2, 4, 4), np.nan)}, r"has NaN in images\[0\]; wanted finite numbers"),
    ({"images": np.array([np.zeros((4, 4)), np.full((4, 4), np.inf)])}, r"has infinity in images\[1\]"),
    ({"images": np.full((2, 4, 4), 900, np.int16)}, "has values from 900 to 900 and no 'range'"),
    ({"images": np.full((2, 4, 4), 3.0)}, "has values from 3 to 3 and no 'range'"),
    ({"images": np.zeros((2, 4, 4)), "range": np.array([5, 5])}, "data range is 5 to 5"),
    ({"images": np.zeros((2, 4, 4)), "patient": ["a"]}, r"has patient of shape \(1,\); wanted 2 entries, one an image"),
    ({"images": np.zeros((2, 4, 4)), "patient": "a"}, r"has patient of shape \(\); wanted 2 entries, one an image"),
    ({"images": np.zeros((2, 4, 4), complex)}, "has images of type complex128"),
    (
        {"images": np.zeros((2, 4, 4)), "range": np.array([0, 1, 2])},
        r"has range of .* shape \(3,\); wanted real numbers, \(2\)",
    ),
    ({"images": np.zeros((2, 4, 4)), "range": np.array([0, np.inf])}, r"has infinity in range\[1\]"),
    ({"images": np.zeros((2, 4, 4)), "hu_window": np.array([3])}, r"has hu_window of .* shape \(1,\)"),
    ({"y": np.zeros(3), **SCAN}, r"has y of type float64 and shape \(3,\); wanted real numbers, \(n, n, n\)"),
    ({"y": np.zeros((1, 2, 4)), **SCAN}, "has y and no 'range'; wanted the range"),
    ({"y": np.zeros((1, 2, 4)), **SCAN, "hu_window": np.array([-1000, 1000])}, "has y and no 'range'"),
    ({"y": np.zeros((1, 2, 4)), **SCAN, "range": np.array([1, 2])}, "has y and a range from 1"),
    ({"y": np.zeros((1, 2, 4)), **SCAN, "size": 16.5}, "has size 16.5; wanted a whole number"),
    ({"y": np.zeros((1, 2, 4)), **SCAN, "angles": np.array([0, np.nan])}, r"has NaN in angles\[1\]"),
    ({"y": np.zeros((2, 3, 4))}, "has y without size, angles, pixel_spacing, bin_spacing"),
]


@pytest.mark.parametrize(("arrays", "sentence"), BROKEN, ids=[s[:30] for _, s in BROKEN])
def test_broken_files_get_one_sentence(tmp_path, arrays, sentence):
    with pytest.raises(InputError, match=sentence):
        read_arrays(write(tmp_path / "a.npz", **arrays))


def test_files_that_are_not_there_or_not_arrays(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        read_arrays(tmp_path / "none.npz")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="ends in '.txt'; wanted .npz or .npy"):
        read_arrays(tmp_path / "a.txt")
    (tmp_path / "a.npz").write_text("x")
    with pytest.raises(InputError, match="cannot be read"):
        read_arrays(tmp_path / "a.npz")


def test_geometry_of_a_measurement(tmp_path):
    geometry = {"size": 16, "pixel_spacing": 0.5, "bin_spacing": 0.25}
    path = write(tmp_path / "a.npz", y=np.ones((2, 3, 40)), angles=np.array([0.1, 0.2, 0.3]), range=[0, 4.0], **geometry)
    assert read_geometry(path) == Geometry((16, 16), (0.1, 0.2, 0.3), 40, 0.5, 0.25)
    source = read_arrays(path)
    assert source.images is None and source.image_shape == (1, 16, 16)
    assert source[1].measurement.shape == (1, 3, 40) and float(source[1].measurement[0, 0, 0]) == 0.25
    path = write(tmp_path / "b.npz", y=np.ones((2, 3, 40)), angles=np.zeros(4), **geometry)
    with pytest.raises(InputError, match=r"has angles of .* shape \(4,\); wanted real numbers, \(3\)"):
        read_geometry(path)
    fan = {**geometry, "size": [12, 16], "source_distance": 30.0, "detector_distance": 9.0, "curved": True}
    path = write(tmp_path / "c.npz", y=np.ones((2, 3, 40)), angles=np.array([0.1, 0.2, 0.3]), range=[0, 4.0], **fan)
    expected = Geometry((12, 16), (0.1, 0.2, 0.3), 40, 0.5, 0.25, 30.0, 9.0, True)
    assert read_geometry(path) == expected and read_arrays(path).image_shape == (1, 12, 16)
    path = write(tmp_path / "d.npz", y=np.ones((2, 3, 40)), range=[0, 4.0])
    expected.save(tmp_path / "d.json")
    assert read_geometry(path) == expected
    path = write(tmp_path / "e.npz", y=np.ones((2, 3, 41)), range=[0, 4.0])
    expected.save(tmp_path / "e.json")
    with pytest.raises(InputError, match="has 3 views of 40 bins; wanted 3 of 41, those of y"):
        read_geometry(path)


def test_shrinking_keeps_means(rng):
    images = torch.rand(2, 1, 24, 24, generator=rng)
    small = resize(images, 8)
    torch.testing.assert_close(small[0, 0, 0, 0], images[0, 0, :3, :3].mean())
    torch.testing.assert_close(resize(images, 10).mean((2, 3)), images.mean((2, 3)), atol=0.02, rtol=0)
    assert resize(images, 24) is images
    with pytest.raises(InputError, match="the images are 12x24; wanted square ones"):
        resize(images[:, :, :12], 8)


def test_no_patient_is_in_two_parts(images):
    data = ImageData(str(images), validation=0.3)
    data.setup("fit")
    parts = [{item.group for item in data._parts[part]} for part in ("fit", "validation")]
    assert parts[0] and parts[1] and not parts[0] & parts[1] and len(parts[0] | parts[1]) == 4
    held = ImageData(str(images), validation=0.3, subset="validation")
    held.setup("predict")
    assert {item.group for item in held._parts["predict"]} == parts[1]


@pytest.mark.parametrize("validation", [0.01, 0.9, 0.99])
def test_each_part_has_a_patient_whatever_the_share(images, validation):
    data = ImageData(str(images), validation=validation)
    data.setup("fit")
    assert sorted(len(data._parts[part]) for part in ("fit", "validation")) == [3, 9]


def test_one_patient_cannot_be_split(tmp_path):
    data = ImageData(str(write(tmp_path / "a.npz", images=np.zeros((2, 4, 4)), patient=["a", "a"])))
    with pytest.raises(InputError, match="has 1 group; wanted at least 2"):
        data.setup("fit")
    data.setup("predict")  # but it can be reconstructed
    assert len(data._parts["predict"]) == 2


def test_fewer_training_patients_are_a_part_of_more_and_validation_stays(images):
    """Four patients, one kept to validate on: one of the others, then two, then all three."""
    parts = []
    for groups in (1, 2, 3, None):
        data = ImageData(str(images), training_groups=groups)
        data.setup("fit")
        parts.append([{part[k].group[0] for k in range(len(part))} for part in (data._parts["fit"], data._parts["validation"])])
    assert [len(train) for train, _ in parts] == [1, 2, 3, 3] and all(held == parts[0][1] for _, held in parts)
    assert parts[0][0] < parts[1][0] < parts[2][0] == parts[3][0] and not parts[2][0] & parts[0][1]
    with pytest.raises(InputError, match="training_groups is 4; wanted at most 3, which validation leaves"):
        ImageData(str(images), training_groups=4).setup("fit")


def test_count_takes_from_all_patients_in_turn(images):
    data = ImageData(str(images), count=4)
    data.setup("predict")
    assert [item.group for item in data._parts["predict"]] == ["a", "b", "c", "d"]
    assert spread_over_groups(["a"] * 6 + ["b"] * 2 + ["c"], 5) == [1, 4, 6, 7, 8]
    assert spread_over_groups(["a", "b", "c", "d", "e"], 3) == [0, 2, 4]
    assert spread_over_groups(["a", "a", "b"], 3) == [0, 1, 2]


def test_phantoms_of_different_purposes_and_seeds_are_different():
    seen = []
    for seed in range(4):
        data = ImageData(size=16, generated=3, validation=0.7, count=3, seed=seed)
        data.setup("fit")
        data.setup("predict")
        seen += [item.image for part in ("fit", "validation", "predict") for item in data._parts[part]]
    assert len(seen) == 4 * (3 + 2 + 3)
    assert not any(torch.equal(a, b) for k, a in enumerate(seen) for b in seen[:k])


def test_scores_are_their_formulas(rng):
    truth = torch.rand(3, 1, 32, 32, generator=rng)
    estimate = truth + 0.3 * torch.randn(truth.shape, generator=rng)
    clipped = estimate.clamp(0, 1)
    expected = -10 * (clipped - truth).square().mean((1, 2, 3)).log10()
    torch.testing.assert_close(psnr(estimate, truth), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ssim(truth, truth), torch.ones(3))
    assert (ssim(estimate, truth) < 0.9).all()


def test_intervals_draw_whole_groups():
    values, groups = [1.0] * 50 + [3.0] * 50, ["a"] * 50 + ["b"] * 50
    assert interval(values, groups) == (1.0, 3.0)  # two patients: any mean between theirs, all in steps


@pytest.mark.parametrize("count", [3, 20])
def test_coverage_is_the_level_where_the_samples_are_right_and_not_where_they_are_not(count, rng):
    """Truth and samples drawn from one distribution an image, then samples that spread half and twice as much."""
    mean = torch.rand(3, 1, 100, 100, generator=rng)
    truth = mean + 0.2 * torch.randn(mean.shape, generator=rng)
    noise = torch.randn(3, count, 1, 100, 100, generator=rng)
    found = [float(coverage(mean[:, None] + 0.2 * scale * noise, truth).mean()) for scale in (0.5, 1, 2)]
    assert found[1] == pytest.approx(0.9, abs=0.01) and found[0] < 0.87 and found[2] > 0.92
    assert float(coverage(mean[:, None] + 0.2 * noise, truth, 0.5).mean()) == pytest.approx(0.5, abs=0.015)
