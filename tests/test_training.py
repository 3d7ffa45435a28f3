"""What a training step draws, how weights are averaged, what is left behind."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch._dynamo.utils import counters

from padis_lightning.callbacks import EMA, PriorExport
from padis_lightning.data.batches import StepBatches
from padis_lightning.data.datamodule import ImageData
from padis_lightning.diffusion import Denoiser, LearnedMap, NoPositions, PatchModel
from padis_lightning.errors import InputError
from padis_lightning.networks.drunet import DRUNet
from padis_lightning.networks.unet import UNet
from padis_lightning.random import seeded
from padis_lightning.training import PatchDiffusion
from padis_lightning.training.optimisation import Muon
from padis_lightning.training.patches import draw_sigma
from padis_lightning.types import Normalisation

from .conftest import random_network

UNIT = Normalisation(0.0, 1.0)


def module(network=None, **options):
    options = {"patch_sizes": [4, 8], "patches": 6, "sigma_data": 0.3, "warmup_patches": 20, "lr": 1e-3} | options
    return PatchDiffusion(network or random_network(), **options)


def fit(images, folder, steps, *callbacks, task=None, batch_size=3, trainer=None, ckpt_path=None, **options):
    trainer = Trainer(**{
        "accelerator": "cpu", "max_steps": steps, "default_root_dir": folder, "callbacks": list(callbacks),
        "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
        "num_sanity_val_steps": 0, "limit_val_batches": 0, **(trainer or {}),
    })  # fmt: skip
    task = task or module(**options)
    trainer.fit(task, datamodule=ImageData(str(images), batch_size=batch_size), ckpt_path=ckpt_path)
    return task


def same(one, other, **tolerance):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def adapted(images, **options):
    """A module that knows its data, and six images of them."""
    data, task = ImageData(str(images)), module(**options)
    data.setup("fit")
    task.adapt(data)
    return task, torch.stack([data._parts["fit"][k].image for k in range(6)])


def test_patches_are_the_images_at_their_positions(images):
    task, stack = adapted(images)
    stack = stack[:3]
    assert task.pad == (8, 8)
    patches, positions = task.cut(stack, task.draw_patches(4, task.patch_count(4), seeded(0)).corners, 4)
    assert len(patches) == task.patch_count(4) == 24 and task.patch_count(8) == 6
    columns, rows = ((positions[:, k] + 1).mul(31 / 2).round().long() for k in (0, 1))
    padded = torch.nn.functional.pad(stack, (8, 8, 8, 8))
    for k in range(24):
        assert torch.equal(patches[k, 0], padded[k % 3, 0][rows[k], columns[k]])
    assert all(padded[k % 3, 0][rows[k], columns[k]].shape == (4, 4) for k in range(24))


def test_crops_reach_every_position_that_touches_the_image(images):
    task, _ = adapted(images)
    _, positions = task.cut(torch.zeros(1, 1, 16, 16), task.draw_patches(8, 3000, seeded(0)).corners, 8)
    corners = ((positions[:, :, 0, 0] + 1) / 2 * 31).round()
    assert corners.amin(0).tolist() == [1, 1] and corners.amax(0).tolist() == [23, 23]


def test_noise_levels_are_log_normal_within_their_ends(images):
    task = module(log_sigma_mean=-1.0, log_sigma_std=1.5, sigma_range=(0.05, 2.0))
    sigma = draw_sigma(20000, task.log_sigma, task.sigma_range, seeded(0)).double()
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
    options = {"patch_sizes": [8], "patches": 48, "lr": 1e-2}
    task, (fresh, images) = fit(images, tmp_path, 100, **options), adapted(images, **options)

    def loss(m):
        with torch.no_grad():
            return float(m.losses(images, 8, m.draw_patches(8, 200, seeded(0))).mean())

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


class Poisoned(PatchDiffusion):
    """From step 3 on, one patch has an infinite loss."""

    def losses(self, images, size, draws):
        losses = super().losses(images, size, draws)
        if self.global_step == 3:
            self.sigma = float(draws.sigma[5])
            losses = losses * torch.where(torch.arange(len(losses)) == 5, math.inf, 1.0)
        return losses


def test_a_gradient_that_is_not_finite_stops_training_before_it_reaches_a_weight(images, tmp_path):
    options = {"patch_sizes": [4, 8], "patches": 6, "sigma_data": 0.3}
    task = Poisoned(random_network(), **options)
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
    with pytest.raises(FloatingPointError, match=r"not finite at step 3, patch size \d, sigma [\d.e-]+;") as stop:
        fit(images, tmp_path, 5, EMA(), checkpoint, PriorExport(), task=task, trainer={"enable_checkpointing": True})
    assert f"sigma {task.sigma:.4g};" in str(stop.value)
    assert all(torch.isfinite(p).all() for p in task.parameters())
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == 3 and all(torch.isfinite(p).all() for p in last["state_dict"].values())
    assert not (tmp_path / "prior.safetensors").exists()


def test_weights_that_are_not_finite_are_never_written(images, tmp_path):
    class Overflow(Callback):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            if trainer.global_step == 2:
                pl_module.denoiser.network.head.bias.data[0] = math.inf

    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
    with pytest.raises(FloatingPointError, match="head.bias are not finite at step 2; nothing was written"):
        fit(images, tmp_path, 5, Overflow(), checkpoint, trainer={"enable_checkpointing": True})
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 1


def test_gradients_are_clipped_to_the_norm_and_no_further(images, tmp_path):
    class Norms(Callback):
        def on_after_backward(self, trainer, pl_module):
            before.append([p.grad.clone() for p in pl_module.parameters()])

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            if pl_module.denoiser.network.head.bias.grad is not None:
                after.append([p.grad.clone() for p in pl_module.parameters()])

    before, after = [], []
    fit(images, tmp_path, 4, Norms(), trainer={"gradient_clip_val": 0.7})
    assert len(before) == 4 and len(after) >= 3
    for raw, clipped in zip(before, after, strict=False):
        total = math.sqrt(sum(float(g.double().square().sum()) for g in raw))
        factor = min(1.0, 0.7 / total)
        for a, b in zip(raw, clipped, strict=True):
            torch.testing.assert_close(b, a * factor, rtol=1e-4, atol=1e-8)
    assert any(sum(float(g.square().sum()) for g in raw) > 0.5 for raw in before)


def test_accumulated_halves_are_the_whole(images, tmp_path):
    """Two batches of two images train like one of four: the same patches, noise and sigma, in any parts."""
    whole = fit(images, tmp_path, 6, trainer={"precision": "64-true"}, batch_size=4, patches=8)
    options = {"precision": "64-true", "accumulate_grad_batches": 2}
    halves = fit(images, tmp_path, 6, trainer=options, batch_size=2, patches=4)
    same(whole, halves, rtol=1e-7, atol=1e-9)
    assert whole.patches_seen == halves.patches_seen


def test_validation_is_the_same_for_any_batch(images, tmp_path):
    def validate(batch_size):
        trainer = {"val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": 1.0, "precision": "64-true"}
        task = module()
        fit(images, tmp_path, 2, task=task, trainer=trainer)  # the same weights
        task.trainer.validate(task, datamodule=ImageData(str(images), batch_size=batch_size, validation=0.5), verbose=False)
        return {k: float(v) for k, v in task.trainer.callback_metrics.items() if k.startswith("val/")}

    one, several = validate(1), validate(4)
    assert set(one) == {"val/loss", *(f"val/sigma_{b}" for b in ("0.002-0.01", "0.01-0.1", "0.1-1", "1-10", "10-80"))}
    assert one == pytest.approx(several, rel=1e-9)


def test_bands_of_validation_hold_their_sigmas(images):
    task, _ = adapted(images, sigma_range=(0.005, 3.0))
    assert task.bands() == [(0.005, 0.01), (0.01, 0.1), (0.1, 1.0), (1.0, 3.0)]
    drawn = torch.stack([task.draw_validation(k, task.bands()).sigma[:4] for k in range(300)]).double()
    for (low, high), sigma in zip(task.bands(), drawn.unbind(1), strict=True):
        share = (sigma / low).log() / math.log(high / low)
        gap = (share.sort().values - (torch.arange(300) + 0.5) / 300).abs().max()
        assert gap < 1.95 / math.sqrt(300)


def test_a_learned_map_is_trained_and_averaged_with_the_network(images, tmp_path):
    network = UNet(base=8, multipliers=[1, 2], blocks=1, positions=3)
    task = PatchDiffusion(network, LearnedMap(3, 4), patch_sizes=[8], patches=6, lr=1e-2, warmup_patches=1)
    fit(images, tmp_path, 20, EMA(half_life=10), PriorExport(), task=task)
    assert task.denoiser.positions.map.abs().max() > 1e-3
    assert torch.equal(PatchModel.load(tmp_path / "prior.safetensors").denoiser.positions.map, task.denoiser.positions.map)


def written(folder, **network):
    """A prior's file with a small network of its own weights."""
    denoiser = Denoiser(random_network(5, **network), 0.3, NoPositions() if network.get("positions") == 0 else None)
    PatchModel(denoiser, (denoiser.network.channels, 16, 16), [8], (8, 8), UNIT, {"data": "elsewhere"}).save(
        folder / "p.safetensors"
    )
    return denoiser, str(folder / "p.safetensors")


def test_training_begins_with_a_prior_of_the_same_shapes_and_says_so(images, tmp_path, caplog):
    """Before the first step the averaged network is the prior, to the bit, and the new prior names where it comes from."""
    theirs, path = written(tmp_path)
    task = fit(images, tmp_path, 1, EMA(half_life=10), PriorExport(), task=module(initial=path, lr=1e-12))
    same(task.denoiser, theirs, rtol=0, atol=1e-9)
    same(PatchModel.load(tmp_path / "prior.safetensors").denoiser, theirs, rtol=0, atol=1e-9)
    begun = PatchModel.load(tmp_path / "prior.safetensors").training["initial"]
    assert begun == {"prior": "p.safetensors", "data": "elsewhere"} and "begun anew" not in caplog.text
    total = len(theirs.state_dict())
    assert f"training begins with {total} of {total} tensors of {path}" in caplog.text


def test_a_colour_prior_begins_with_the_grey_one_s_weights_but_its_ends(tmp_path, caplog):
    theirs, path = written(tmp_path, positions=0)
    task = PatchDiffusion(random_network(1, channels=3), patch_sizes=[8], initial=path)
    ours = task.denoiser.state_dict()
    fresh = {"network.head.weight", "network.tail.2.weight", "network.tail.2.bias"}
    for name, value in theirs.state_dict().items():
        assert (ours[name].shape != value.shape) == (name in fresh)
        assert name in fresh or torch.equal(ours[name], value)
    assert "begun anew: head.weight [8, 20, 3, 3], tail.2.weight [12, 8, 3, 3], tail.2.bias [12]" in caplog.text


def test_a_prior_of_another_network_is_refused(tmp_path):
    _, path = written(tmp_path)
    with pytest.raises(InputError, match="is a UNet that has no weight of the shapes of this DRUNet; wanted one like it"):
        PatchDiffusion(DRUNet(channels=1, widths=[8, 8], blocks=1, positions=2), patch_sizes=[8], initial=path)


@pytest.mark.slow
def test_a_compiled_network_trains_alike_with_one_graph_a_patch_size(images, tmp_path):
    torch._dynamo.reset()
    counters["stats"].clear()
    double = {"precision": "64-true"}  # in float32 Adam blows rounding up to whole steps where a gradient is nearly zero
    compiled, plain = (
        fit(images, tmp_path, 8, trainer=double, task=module(random_network(multipliers=[1]), compile_network=compile_network))
        for compile_network in (True, False)
    )
    assert {compiled.draw_size(step) for step in range(8)} == {4, 8}
    assert counters["stats"]["unique_graphs"] == 2
    same(compiled, plain, rtol=1e-6, atol=1e-8)
    assert not any("_orig_mod" in name for name in compiled.state_dict())


def test_muon_moves_every_kernel_by_an_orthogonal_matrix(rng):
    """The singular values of its step are the learning rate's, within the bounds of the published iteration."""
    for shape in ((6, 3, 3, 3), (16, 5)):
        kernel = torch.nn.Parameter(torch.randn(shape, generator=rng, dtype=torch.float64))
        kernel.grad, before = torch.randn(shape, generator=rng, dtype=torch.float64), kernel.detach().clone()
        optimizer = Muon([kernel], lr=0.1, weight_decay=0.0)
        optimizer.dtype = torch.float64
        optimizer.step()
        step = (before - kernel.detach()).flatten(1)
        values = torch.linalg.svdvals(step) / 0.1 / max(1, step.shape[0] / step.shape[1]) ** 0.5
        assert 0.65 < values.min() and values.max() < 1.25
        u, _, v = torch.linalg.svd(kernel.grad.flatten(1), full_matrices=False)
        assert torch.linalg.matrix_norm((u @ v) * 0.1 - step).item() < torch.linalg.matrix_norm(step).item()


def test_muon_finds_the_least_squares_of_a_kernel(rng):
    wanted, inputs = torch.randn(4, 6, generator=rng), torch.randn(6, 50, generator=rng)
    kernel = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = Muon([kernel], lr=0.1, weight_decay=0.0)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        kernel.grad = (kernel.detach() - wanted) @ inputs @ inputs.T / 50
        optimizer.step()
    torch.testing.assert_close(kernel.detach(), wanted, rtol=0, atol=0.02)


def test_muon_refuses_biases(images, tmp_path):
    with pytest.raises(InputError, match="wanted kernels alone for Muon"):
        fit(images, tmp_path, 1, optimizer="Muon")


def test_muon_lets_kernels_shrink_without_a_gradients_direction():
    """Where the gradient is zero, a kernel of ones decays by 1 - lr lambda a step."""
    kernel = torch.nn.Parameter(torch.ones(4, 6))
    optimizer = Muon([kernel], lr=0.1, weight_decay=0.5)
    for _ in range(3):
        kernel.grad = torch.zeros(4, 6)
        optimizer.step()
    torch.testing.assert_close(kernel.detach(), torch.full((4, 6), 0.95**3), rtol=1e-6, atol=0)
