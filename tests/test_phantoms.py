"""Laws of the procedural phantoms: reproducible, the same anatomy at any size, and laid out like a chest."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from padis_lightning.data.drawing import slice_level
from padis_lightning.data.phantoms import ChestPhantoms, chest_phantom


def _with_level(low: float, high: float, count: int) -> list[int]:
    """The first `count` indices of seed 0 whose slices lie between two levels."""
    return [index for index in range(300) if low <= slice_level(0, index) < high][:count]


def _enclosed_air(image: np.ndarray) -> np.ndarray:
    """Air and lung of at least 0.5 % of the image that do not reach the margin, boolean."""
    labels, _ = ndimage.label(image < -500)
    outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    large = np.flatnonzero(np.bincount(labels.ravel()) > 0.005 * image.size)
    return np.isin(labels, np.setdiff1d(large, np.append(outside, 0)))


def test_same_seed_and_index_give_the_same_bits() -> None:
    np.random.seed(1)  # the global state must not matter
    first = chest_phantom(64, 3, 5)
    np.random.seed(2)
    np.testing.assert_array_equal(first, chest_phantom(64, 3, 5))


def test_seed_and_index_both_change_the_phantom() -> None:
    images = [chest_phantom(64, seed, index) for seed, index in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for k, image in enumerate(images):
        assert all(np.abs(image - other).mean() > 10 for other in images[:k])


@pytest.mark.parametrize("size", [32, 50, 128])
def test_range_and_type(size: int) -> None:
    for index in range(4):
        image = chest_phantom(size, 7, index)
        assert image.shape == (size, size)
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
        assert image.min() >= -1000 and image.max() <= 1000


def test_size_changes_only_the_sampling() -> None:
    for index in range(4):
        fine, coarse = chest_phantom(256, 0, index), chest_phantom(128, 0, index)
        averaged = fine.reshape(128, 2, 128, 2).mean((1, 3))
        assert np.abs(averaged - coarse).mean() < 10
        assert np.corrcoef(averaged.ravel(), coarse.ravel())[0, 1] > 0.995


def test_both_lungs_are_air_inside_the_body() -> None:
    for index in _with_level(0.1, 0.6, 8):
        air = _enclosed_air(chest_phantom(128, 0, index))
        assert air[:, :64].mean() > 0.02 and air[:, 64:].mean() > 0.02


def test_lungs_vanish_towards_the_abdomen() -> None:
    chest = [_enclosed_air(chest_phantom(128, 0, i)).mean() for i in _with_level(0.3, 0.5, 6)]
    abdomen = [_enclosed_air(chest_phantom(128, 0, i)).mean() for i in _with_level(0.9, 1.0, 6)]
    assert min(chest) > 2 * max(abdomen)


def test_spine_is_behind_and_the_margin_is_air() -> None:
    for index in range(6):
        image = chest_phantom(128, 0, index)
        rows, columns = np.nonzero(image[:, 54:74] > 250)
        assert np.median(rows) > 64 and len(columns) > 20
        assert image[:6].max() < -900


def test_tissue_is_textured_but_not_noisy() -> None:
    image = chest_phantom(128, 0, _with_level(0.85, 0.95, 1)[0])
    soft = ndimage.binary_erosion((image > 0) & (image < 200), iterations=2)
    assert 5 < np.std(image[soft]) < 80
    steps = np.abs(np.diff(image, axis=1))[soft[:, 1:] & soft[:, :-1]]
    assert 1 < np.median(steps) < 25


def test_collection() -> None:
    phantoms = ChestPhantoms(count=3, seed=4)
    assert len(phantoms) == 3
    assert phantoms.window == (-1000.0, 1000.0)
    np.testing.assert_array_equal(phantoms.image(2, 32), chest_phantom(32, 4, 2))
    with pytest.raises(IndexError):
        phantoms.image(3, 32)
    with pytest.raises(dataclasses.FrozenInstanceError):
        phantoms.count = 5  # type: ignore[misc]
