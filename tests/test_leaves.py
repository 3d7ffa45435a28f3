"""Dead leaves have the statistics of photographs, and photographs come with the package's libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.generators import photographs
from padis_lightning.data.leaves import dead_leaves
from padis_lightning.errors import InputError


def slope(images):
    """Of the logarithm of the power over the logarithm of the frequency, mean over images, 4 to 40 cycles an image."""
    power = np.square(np.abs(np.fft.fft2(images - images.mean((-2, -1), keepdims=True)))).mean(0)
    n = images.shape[-1]
    f = np.hypot(*np.meshgrid(*[np.fft.fftfreq(n, 1 / n)] * 2))
    bands = np.geomspace(4, 40, 8)
    mean = [power[(f >= low) & (f < high)].mean() for low, high in zip(bands, bands[1:], strict=False)]
    return np.polyfit(np.log((bands[:-1] * bands[1:]) ** 0.5), np.log(mean), 1)[0]


@pytest.fixture(scope="module")
def leaves():
    return np.stack([dead_leaves(128, 3, k) for k in range(24)])


def test_an_image_is_its_seed_and_its_index(leaves):
    np.testing.assert_array_equal(dead_leaves(128, 3, 5), leaves[5])
    assert len({image.tobytes() for image in leaves}) == 24
    assert not np.array_equal(dead_leaves(32, 3, 0), dead_leaves(32, 4, 0))


def test_leaves_have_the_statistics_of_photographs(leaves):
    """Power falls with the square of the frequency, steps are many small and few large ones, colours go together."""
    assert leaves.min() >= 0 and leaves.max() <= 1 and leaves.dtype == np.float32
    light = leaves.mean(-1)
    found = photographs(128).images.mean(1).numpy()
    assert -3.2 < slope(light) < -1.8 and abs(slope(light) - slope(found)) < 0.8
    step = np.diff(light, axis=1)
    step = (step - step.mean()) / step.std()
    assert (step**4).mean() > 9  # 3 for Gaussian images
    channels = np.corrcoef(leaves.reshape(-1, 3).T)
    assert channels[np.triu_indices(3, 1)].min() > 0.6
    assert 0.3 < light.mean() < 0.6 and light.mean((1, 2)).std() > 0.08


def test_photographs_are_there_and_only_to_predict():
    data = ImageData(builtin="photographs", size=64, count=4)
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    assert batch.image.shape == (4, 3, 64, 64) and batch.image.std() > 0.1 and "coffee" in batch.group
    assert float(batch.image.min()) >= 0 and float(batch.image.max()) <= 1
    with pytest.raises(InputError, match="builtin is 'photographs'; wanted one of phantoms, objects, leaves, brains to train on"):
        data.setup("fit")


def test_leaves_train_and_are_kept_in_eight_bits():
    data = ImageData(builtin="leaves", size=24, generated=4, validation=0.5, batch_size=2)
    data.setup("fit")
    data.setup("predict")
    train, held, unseen = (data._parts[part][0].image for part in ("fit", "validation", "predict"))
    assert train.shape == (3, 24, 24) and not torch.equal(train, held) and not torch.equal(train, unseen)
    assert torch.equal((255 * train).round() / 255, train) and torch.equal(train, data._parts["fit"][0].image)
