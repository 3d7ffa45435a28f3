"""Dead leaves have the statistics of photographs, and photographs come with the package's libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.generators import photographs
from padis_lightning.data.leaves import dead_leaves, haze
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


def test_haze_leaves_half_of_the_images_and_makes_the_others_faint(leaves):
    """What is faint has the edges of its leaves, weaker, over smooth light; some of it is gone altogether."""
    hazy = np.stack([haze(image, 3, k) for k, image in enumerate(leaves)])
    np.testing.assert_array_equal(haze(leaves[5], 3, 5), hazy[5])
    kept = [np.array_equal(a, b) for a, b in zip(leaves, hazy, strict=True)]
    assert 6 < sum(kept) < 18 and hazy.min() >= 0 and hazy.max() <= 1 and hazy.dtype == np.float32
    rough = [np.abs(np.diff(images.mean(-1), axis=2)).mean((1, 2)) for images in (leaves, hazy)]
    faint = [after / before for before, after, same in zip(*rough, kept, strict=True) if not same]
    assert max(faint) < 1 and min(faint) < 0.1 and len({round(5 * share) for share in faint}) > 2
    assert np.ptp([image.mean() for image, same in zip(hazy, kept, strict=True) if not same]) > 0.5


def test_leaves_have_their_share_of_the_squares_of_pictures(tmp_path):
    for name in "ab":
        Image.fromarray(np.full((40, 40, 3), ord(name), np.uint8)).save(tmp_path / f"{name}.png")
    data = ImageData(str(tmp_path), size=16, crops=90, generated=5, validation=0.5, leaves=0.4)
    data.setup("fit")
    train, held = data._parts["fit"], data._parts["validation"]
    flat = [all(np.ptp(channel) == 0 for channel in train[k].image.numpy()) for k in range(len(train))]
    assert len(train) == len({train[k].index for k in range(len(train))}) == 150 and all(flat[:90]) and sum(flat[90:]) < 20
    assert {train[k].group for k in range(90)} < {"a", "b"} and len({train[k].group for k in range(90, 150)}) == 5
    assert all(held[k].group in "ab" for k in range(len(held))) and "90 squares" in data.source and "dead-leaves" in data.source


def test_leaves_beside_other_images_than_squares_of_colour_pictures_are_refused(tmp_path):
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "b.png")
    for share, options in {0.3: {}, 1.0: {"crops": 4}, -0.1: {"crops": 4}}.items():
        with pytest.raises(InputError, match=f"leaves is {share}; wanted a share below 1, with crops and a path"):
            ImageData(str(tmp_path), leaves=share, **options)
    with pytest.raises(InputError, match="images of 1x16x16 and 3x16x16 are mixed; wanted one shape"):
        ImageData(str(tmp_path), size=16, crops=4, leaves=0.3).setup("fit")


def test_leaves_train_and_are_kept_in_eight_bits():
    data = ImageData(builtin="leaves", size=24, generated=4, validation=0.5, batch_size=2)
    data.setup("fit")
    data.setup("predict")
    train, held, unseen = (data._parts[part][0].image for part in ("fit", "validation", "predict"))
    assert train.shape == (3, 24, 24) and not torch.equal(train, held) and not torch.equal(train, unseen)
    assert torch.equal((255 * train).round() / 255, train) and torch.equal(train, data._parts["fit"][0].image)
