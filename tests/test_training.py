"""What a training step draws, how weights are averaged, what is left behind."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch import Trainer

from padis_lightning.callbacks import EMA, PriorExport
from padis_lightning.data import ImageData
from padis_lightning.data.datamodule import StepBatches
from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import InputError
from padis_lightning.random import seeded
from padis_lightning.training import PatchDiffusion

from .conftest import random_network


def module(**options):
    options = {"patch_sizes": [4, 8], "patches": 6, "sigma_data": 0.3, "warmup_patches": 20, "lr": 1e-3} | options
    return PatchDiffusion(random_network(), **options)


def fit(images, folder, steps, *callbacks, **options):
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, default_root_dir=folder, callbacks=list(callbacks), logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        limit_val_batches=0,
    )  # fmt: skip
    task = module(**options)
    trainer.fit(task, datamodule=ImageData(str(images), batch_size=3))
    return task


def test_patches_are_the_images_at_their_positions(images):
    data = ImageData(str(images))
    data.setup("fit")
    task = module()
    task.adapt(data)
    assert task.pad == (8, 8)
    batch = next(iter(torch.utils.data.DataLoader(data._parts["fit"], batch_size=3, collate_fn=lambda b: b)))
    stack = torch.stack([item.image for item in batch])
    patches, positions = task.cut(stack, task.draw(4, task.patch_count(4), seeded(0)).corners, 4)
    assert len(patches) == task.patch_count(4) == 24 and task.patch_count(8) == 6
    columns, rows = ((positions[:, k] + 1).mul(31 / 2).round().long() for k in (0, 1))
    padded = torch.nn.functional.pad(stack, (8, 8, 8, 8))
    for k in range(24):
        assert torch.equal(patches[k, 0], padded[k % 3, 0][rows[k], columns[k]])
    assert all(padded[k % 3, 0][rows[k], columns[k]].shape == (4, 4) for k in range(24))


def test_crops_reach_every_position_that_touches_the_image(images):
    data = ImageData(str(images))
    data.setup("fit")
    task = module()
    task.adapt(data)
    _, positions = task.cut(torch.zeros(1, 1, 16, 16), task.draw(8, 3000, seeded(0)).corners, 8)
    corners = ((positions[:, :, 0, 0] + 1) / 2 * 31).round()
    assert corners.amin(0).tolist() == [1, 1] and corners.amax(0).tolist() == [23, 23]


def test_noise_levels_are_log_normal_within_their_ends(images):
    task = module(log_sigma_mean=-1.0, log_sigma_std=1.5, sigma_range=(0.05, 2.0))
    sigma = task.draw_sigma(20000, seeded(0)).double()
    assert sigma.min() >= 0.05 * (1 - 1e-6) and sigma.max() <= 2 * (1 + 1e-6)
    ends = (torch.tensor([0.05, 2.0]).double().log() + 1) / 1.5
    low, high = torch.special.ndtr(ends)
    uniform = ((torch.special.ndtr((sigma.log() + 1) / 1.5) - low) / (high - low)).sort().values
    gap = (uniform - (torch.arange(20000) + 0.5) / 20000).abs().max()
    assert gap < 1.95 / math.sqrt(20000)  # Kolmogorov-Smirnov, 99.9 %


def test_patch_sizes_come_at_their_odds():
    task = module(patch_sizes=[8, 4], patch_odds=[0.75, 0.25])
    drawn = [task.draw_size(step) for step in range(800)]
    assert task.patch_sizes == [4, 8] and abs(drawn.count(8) / 800 - 0.75) < 0.06


def test_steps_go_through_the_data_evenly_and_devices_share_them():
    whole = list(StepBatches(10, 4, 0, 0, 5))
    assert sorted(i for batch in whole for i in batch) == sorted(list(range(10)) * 2)
    assert list(StepBatches(10, 4, 0, 2, 5)) == whole[2:]
    halves = [list(StepBatches(10, 2, 0, 0, 5, rank, 2)) for rank in (0, 1)]
    shared = [sorted(a + b) for a, b in zip(*halves, strict=True)]
    assert shared == [sorted(batch) for batch in whole]


def test_average_is_its_recurrence(images, tmp_path):
    class Recorder(EMA):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            super().on_train_batch_end(trainer, pl_module, *rest)
            history.append((pl_module.patches_seen, [p.detach().clone() for p in pl_module.parameters()]))

    history = []
    task = fit(images, tmp_path, 6, Recorder(half_life=40, ramp_up=0.5))
    seen, average = history[0]
    for now, weights in history[1:]:
        decay = 0.5 ** ((now - seen) / min(40, 0.5 * now))
        average = [w + decay * (a - w) for a, w in zip(average, weights, strict=True)]
        seen = now
    for found, expected in zip(task.parameters(), average, strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-7)
    assert seen == sum(task.patch_count(task.draw_size(step)) for step in range(6))


def test_loss_falls(images, tmp_path):
    task = fit(images, tmp_path, 500, lr=3e-3)
    data = ImageData(str(images))
    data.setup("fit")
    batch = torch.stack([data._parts["fit"][k].image for k in range(6)])
    fresh = module()
    fresh.adapt(data)

    def loss(m):
        with torch.no_grad():
            return float(m.losses(batch, 8, m.draw(8, 200, seeded(0))).mean())

    assert loss(task) < 0.5 * loss(fresh)


def test_export_is_the_averaged_network(images, tmp_path):
    task = fit(images, tmp_path, 3, EMA(half_life=10), PriorExport())
    model = PatchModel.load(tmp_path / "prior.safetensors")
    for found, expected in zip(model.denoiser.parameters(), task.denoiser.parameters(), strict=True):
        assert torch.equal(found, expected)
    assert model.image_shape == (1, 16, 16) and model.pad == (8, 8) and list(model.patch_sizes) == [4, 8]
    assert model.normalisation.window == (-1000, 1000) and model.training["steps"] == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"patch_sizes": [6]}, "patch size 6 does not fit the network; wanted a multiple of 4"),
        ({"patch_odds": [1.0]}, "patch_odds has 1 values; wanted 2"),
        ({"sigma_range": (2.0, 1.0)}, "sigma_range is .*; wanted two values above 0"),
        ({"patch_sizes": []}, "patch_sizes is empty"),
        ({"patch_odds": [0.0, 0.0]}, "patch_odds is .*; wanted values of at least 0, not all 0"),
        ({"pad": -60}, "pad is -60; wanted at least 0"),
        ({"patches": 0}, "patches is 0; wanted a value above 0"),
        ({"sigma_data": 0.0}, "sigma_data is 0; wanted a value above 0"),
    ],
)
def test_impossible_settings_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        module(**options)


def test_a_loss_that_is_not_finite_stops_training(images, tmp_path):
    with pytest.raises(FloatingPointError, match=r"not finite at step 0, patch size \d, sigma"):
        fit(images, tmp_path, 3, sigma_data=1e30)
