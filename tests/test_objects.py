"""Generated objects lie in air, are what their seed says, and have thin and wide parts."""

from __future__ import annotations

import numpy as np
import pytest

from padis_lightning.data.generators import ObjectSource
from padis_lightning.data.objects import scanned_object


@pytest.fixture(scope="module")
def objects():
    return np.stack([scanned_object(64, 3, k) for k in range(40)])


def test_an_object_is_its_seed_and_its_index(objects):
    np.testing.assert_array_equal(scanned_object(64, 3, 5), objects[5])
    assert len({image.tobytes() for image in objects}) == 40
    assert not np.array_equal(scanned_object(64, 4, 5), objects[5])


def test_objects_are_densities_in_air(objects):
    assert objects.dtype == np.float32 and objects.min() == 0 and objects.max() <= 1
    air = (objects == 0).mean((1, 2))
    assert 0.1 < np.mean(air > 0.02) and 0.1 < np.mean(air < 0.02)  # seen whole, and filling the image
    levels = [image[image > 0.05].mean() for image in objects if (image > 0.05).any()]
    assert np.std(levels) > 0.1


def test_most_of_a_slice_is_flat_and_edges_are_sharp(objects):
    steps = np.abs(np.diff(objects, axis=2))
    assert np.quantile(steps, 0.5) < 0.02 < 0.2 < np.quantile(steps, 0.995)


def test_the_source_keeps_eight_bits():
    source = ObjectSource(2, 32, 0)
    image = source.image(1)
    assert image.shape == (1, 32, 32) and (image * 255).round().div(255).equal(image)
    np.testing.assert_allclose(image[0].numpy(), scanned_object(32, 0, 1), atol=0.5 / 255 + 1e-6)
