"""Laws of the procedural phantoms: reproducible, the same anatomy at any size, and laid out like a chest."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from padis_lightning.data.drawing import generator
from padis_lightning.data.phantoms import ChestPhantoms, chest_phantom


def with_level(low, high, count):
    """Return the first ``count`` indices of seed 0 whose slices lie between two levels; the level is drawn first."""
    return [index for index in range(300) if low <= generator(0, index).random() < high][:count]


def enclosed_air(image):
    """Return air and lung of at least 0.5 % of the image that do not reach the margin, boolean."""
    labels, _ = ndimage.label(image < -500)
    outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    large = np.flatnonzero(np.bincount(labels.ravel()) > 0.005 * image.size)
    return np.isin(labels, np.setdiff1d(large, np.append(outside, 0)))


@pytest.fixture(scope="module")
def images():
    """Return phantoms of seed 0 by their index."""
    return {index: chest_phantom(128, 0, index) for index in range(6)}


def test_a_phantom_is_its_seed_and_its_index_whatever_the_global_state():
    np.random.seed(1)
    phantoms = [chest_phantom(64, seed, index) for seed, index in ((0, 0), (0, 1), (1, 0), (1, 1))]
    np.random.seed(2)
    np.testing.assert_array_equal(ChestPhantoms(count=2, seed=1).image(0, 64), phantoms[2])
    for k, image in enumerate(phantoms):
        assert all(np.abs(image - other).mean() > 10 for other in phantoms[:k])
    with pytest.raises(IndexError):
        ChestPhantoms(count=3).image(3, 32)


@pytest.mark.parametrize("size", [32, 50, 128])
def test_range_and_type(size):
    for index in range(4):
        image = chest_phantom(size, 7, index)
        assert image.shape == (size, size) and image.dtype == np.float32
        assert np.isfinite(image).all() and image.min() >= -1000 and image.max() <= 1000


def test_size_changes_only_the_sampling(images):
    for index in range(4):
        averaged = chest_phantom(256, 0, index).reshape(128, 2, 128, 2).mean((1, 3))
        assert np.abs(averaged - images[index]).mean() < 10
        assert np.corrcoef(averaged.ravel(), images[index].ravel())[0, 1] > 0.995


def test_both_lungs_are_air_inside_the_body_and_vanish_towards_the_abdomen():
    for index in with_level(0.1, 0.6, 8):
        air = enclosed_air(chest_phantom(128, 0, index))
        assert air[:, :64].mean() > 0.02 and air[:, 64:].mean() > 0.02
    chest = [enclosed_air(chest_phantom(128, 0, i)).mean() for i in with_level(0.3, 0.5, 6)]
    abdomen = [enclosed_air(chest_phantom(128, 0, i)).mean() for i in with_level(0.9, 1.0, 6)]
    assert min(chest) > 2 * max(abdomen)


def test_spine_is_behind_and_the_margin_is_air(images):
    for image in images.values():
        rows, columns = np.nonzero(image[:, 54:74] > 250)
        assert np.median(rows) > 64 and len(columns) > 20
        assert image[:6].max() < -900


def test_tissue_is_textured_but_not_noisy():
    image = chest_phantom(128, 0, with_level(0.85, 0.95, 1)[0])
    soft = ndimage.binary_erosion((image > 0) & (image < 200), iterations=2)
    assert 5 < np.std(image[soft]) < 80
    steps = np.abs(np.diff(image, axis=1))[soft[:, 1:] & soft[:, :-1]]
    assert 1 < np.median(steps) < 25
