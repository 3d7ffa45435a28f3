"""The whole image beside a patch: its averages, their noise in training, and what a network makes of them in closed form."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from einops import repeat
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors import safe_open
from torch import nn
from torch.nn import functional

from padis_lightning.canvas import patch_shape, zero_pad
from padis_lightning.cli import main
from padis_lightning.diffusion import Denoiser, PatchModel, context_of, padding
from padis_lightning.diffusion.context import context_of_noise
from padis_lightning.diffusion.positions import NoPositions
from padis_lightning.errors import InputError
from padis_lightning.networks.unet import UNet
from padis_lightning.operators.identity import Identity
from padis_lightning.priors import OverlapTiling, PatchPrior, RandomTiling
from padis_lightning.random import Generators, seeded
from padis_lightning.solvers.dps import DPS
from padis_lightning.training import PatchDiffusion
from padis_lightning.training.slice_groups import GroupPatchDiffusion
from padis_lightning.types import Normalisation

from .conftest import random_network
from .test_cli import QUIET, SMALL_NETWORK
from .test_training import fit, same

PLAIN = Normalisation(0.0, 1.0)
SIZES = {"images": (16, 24), "volumes": (16, 16, 24), "flat volumes": (6, 16, 24)}


def pooled(images, size):
    """Torch's means of equal boxes."""
    pool = functional.avg_pool2d if images.ndim == 4 else functional.avg_pool3d
    return pool(images, [n // side for n, side in zip(images.shape[2:], size, strict=True)])


def basis(*size):
    """Every image of a single pixel, ``(pixels, 1, *size)``."""
    return torch.eye(torch.Size(size).numel(), dtype=torch.float64).reshape(-1, 1, *size)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_boxes_are_torchs_where_sides_divide(size, rng):
    images = torch.randn(3, 2, *size, generator=rng)
    torch.testing.assert_close(
        context_of(images, patch_shape(size, 8)), pooled(images, patch_shape(size, 8)), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(context_of(images, size), images)
    alone = torch.cat([context_of(image[None], patch_shape(size, 8)) for image in images])
    assert torch.equal(context_of(images, patch_shape(size, 8)), alone)


def test_every_pixel_is_in_one_box_and_boxes_are_nearly_alike():
    found = context_of(basis(13, 7), (4, 3)).reshape(13, 7, 4, 3)
    member = found > 0
    assert (member.sum((2, 3)) == 1).all()
    torch.testing.assert_close(found.sum((0, 1)), torch.ones(4, 3, dtype=torch.float64))
    torch.testing.assert_close(found.amax((0, 1)), 1 / member.sum((0, 1)).double())
    rows, columns = member[:, 0, :, 0], member[0, :, 0]  # which box of its axis a pixel is in
    assert torch.equal(member, rows[:, None, :, None] & columns[None, :, None])
    assert sorted(rows.sum(0).tolist()) == [3, 3, 3, 4] and sorted(columns.sum(0).tolist()) == [2, 2, 3]
    assert all((boxes.long().argmax(1).diff() >= 0).all() for boxes in (rows, columns))  # in their order


def test_along_a_shorter_axis_pixels_are_repeated():
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert torch.equal(context_of(image, (6, 2)), pooled(image, (3, 2)).repeat_interleave(2, 2))


@pytest.mark.parametrize(
    ("size", "patch", "corner"),
    [((12, 8), (4, 4), (3, 2)), ((11, 7), (4, 4), (-2, 5)), ((3, 7, 8), (3, 4, 4), (0, 5, -3)), ((8, 8), (8, 8), (0, 0))],
    ids=["inside", "beyond two edges", "a flat volume", "a patch as large as the image"],
)
def test_noise_of_a_context_and_of_its_patch_are_those_of_one_image(size, patch, corner):
    """All covariances: that of the means of the image, and that of these with the pixels of the patch."""
    means = context_of(basis(*size), patch).flatten(1).t()  # contexts by pixels
    count, places = torch.Size(patch).numel(), torch.tensor([corner])

    def matrix(*parts):
        return context_of_noise(*parts, places.expand(count, -1), size).flatten(1).t()

    from_patch, from_rest = matrix(basis(*patch), 0 * basis(*patch)), matrix(0 * basis(*patch), basis(*patch))
    torch.testing.assert_close(from_patch @ from_patch.t() + from_rest @ from_rest.t(), means @ means.t())
    canvas = zero_pad(torch.eye(means.shape[1]).double().reshape(*size, -1).movedim(-1, 0), [8] * len(size))
    window = tuple(slice(8 + c, 8 + c + p) for c, p in zip(corner, patch, strict=True))
    seen = canvas[(slice(None), *window)].flatten(1)  # pixels of the image by those of the patch
    torch.testing.assert_close(from_patch, means @ seen)


class Echo(nn.Module):
    """Shows what it is told of the whole image."""

    sigma_data, gain, context, positions = 0.3, 1.0, True, NoPositions()
    network = SimpleNamespace(divisor=1)

    def forward(self, x, sigma, position, context):
        return context.clone()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("tiling", [RandomTiling(), RandomTiling(2), OverlapTiling(3)], ids=["random", "two", "overlap"])
def test_a_prior_shows_every_patch_the_whole_noisy_image(size, tiling, rng):
    patch, pad = patch_shape(size, 8), padding(size, 8)
    prior = PatchPrior(PatchModel(Echo(), (2, *size), [8], pad, PLAIN), tiling)
    x = torch.randn(3, *prior.canvas_shape, generator=rng)
    found = prior(x, 0.4, Generators.keyed(0, range(3)))
    tiles = tiling.partition(size, pad, 8, Generators.keyed(0, range(3)))
    inside = x[(..., *(slice(m, m + n) for m, n in zip(pad, size, strict=True)))]
    patch = tiles.split(x).shape[2:]
    whole = pooled(inside, patch) if all(n % p == 0 for n, p in zip(size, patch, strict=True)) else context_of(inside, patch)
    expected = tiles.join(repeat(whole, "b ... -> (b t) ...", t=len(tiles.split(x)) // 3))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.abs().max() > 0.05
    alone = [prior(x[k : k + 1], 0.4, Generators.keyed(0, [k])) for k in range(3)]
    assert torch.equal(found, torch.cat(alone))
    prior.chunk_size = 5
    assert torch.equal(found, prior(x, 0.4, Generators.keyed(0, range(3))))


def model(size=(16, 16), channels=1, context=True):
    """A model of an image of ``size`` with a random network that sees patches, coordinates and the whole."""
    network = random_network(channels=channels, positions=2 + channels * context)
    return PatchModel(Denoiser(network, 0.3, context=context), (channels, *size), [4, 8], padding(size, 8), PLAIN)


def inputs_of(network):
    """A list that fills with the inputs of a network."""
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    return seen


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_gradients_of_a_prior_reach_the_whole_image(chunk_size, rng):
    prior = PatchPrior(PatchModel(Echo(), (1, 13, 18), [8], padding((13, 18), 8), PLAIN), chunk_size=chunk_size).double()
    x, v, w = torch.randn(3, 2, *prior.canvas_shape, generator=rng, dtype=torch.float64)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((w * prior(x, 0.3, Generators.keyed(0, [0, 1]))).sum(), x)
    along = prior(v, 0.3, Generators.keyed(0, [0, 1]))  # the prior is linear here
    torch.testing.assert_close((gradient * v).sum(), (w * along).sum())
    inside = gradient[..., prior.pad[0] : prior.pad[0] + 13, prior.pad[1] : prior.pad[1] + 18]
    assert inside.abs().min() > 0 and gradient.count_nonzero() == inside.numel()


def test_a_solver_that_takes_gradients_takes_those_of_the_context(rng):
    solver = DPS(PatchPrior(model()), Identity((1, 16, 16)), steps=2, inner=2, guidance="norm")
    y = torch.rand(2, 1, 16, 16, generator=rng)
    together = solver.solve(y, Generators.keyed(0, [0, 1]))
    assert together.isfinite().all()
    torch.testing.assert_close(together[1:], solver.solve(y[1:], Generators.keyed(0, [1])), rtol=1e-4, atol=1e-5)


class Constants(nn.Module):
    """The best network for images of one value, ``c ~ N(0.2, 0.5^2)``: it looks at nothing but the context."""

    channels, positions, axes, scaled_noise, level, mean, std = 1, 3, 2, False, None, 0.2, 0.5

    def __init__(self, span, pixels):
        super().__init__()
        self.span, self.pixels = span, pixels

    def forward(self, inputs, noise):
        low, gain = self.span[0], self.span[1] - self.span[0]
        sigma = (4 * noise).exp().reshape(-1, 1, 1, 1)
        total = sigma**2 + 0.3**2
        c_skip, c_out, c_in = 0.3**2 / total, 0.3 * sigma / total.sqrt(), 1 / total.sqrt()
        x, whole = inputs[:, :1] / c_in, inputs[:, 3:] / c_in
        seen = (whole.mean((2, 3), keepdim=True) - low) / gain
        level = (sigma / gain) ** 2 / self.pixels  # of the mean of all pixels
        denoised = (self.std**2 * seen + level * self.mean) / (self.std**2 + level)
        return (low + gain * denoised - c_skip * x) / c_out


@pytest.mark.parametrize("span", [(0.0, 1.0), (-1.0, 1.0)])
def test_images_of_one_value_have_the_posterior_mean_of_all_their_pixels(span, rng):
    denoiser = Denoiser(Constants(span, 16 * 24), 0.3, span=span, context=True)
    prior = PatchPrior(PatchModel(denoiser, (1, 16, 24), [8], padding((16, 24), 8), PLAIN)).double()
    sigma = torch.tensor([0.1, 3.0, 40.0], dtype=torch.float64)
    value = torch.tensor([0.9, -0.4, 0.3], dtype=torch.float64)
    clean = zero_pad(value.reshape(3, 1, 1, 1).expand(3, 1, 16, 24), prior.pad)
    noise = torch.randn(clean.shape, generator=rng, dtype=torch.float64)
    x = clean + sigma.reshape(3, 1, 1, 1) * noise
    found = prior(x, sigma, Generators.keyed(0, range(3)))[..., 8:24, 8:32]
    mean, level = x[..., 8:24, 8:32].mean((1, 2, 3)), sigma**2 / (16 * 24)
    expected = (0.25 * mean + level * 0.2) / (0.25 + level)
    torch.testing.assert_close(found, expected.reshape(3, 1, 1, 1).expand_as(found), rtol=1e-10, atol=1e-10)


def task(size=(16, 16), patch_sizes=(4, 8), context=True):
    out = PatchDiffusion(random_network(positions=2 + context), context=context, patch_sizes=patch_sizes, sigma_data=0.3)
    out.lay_out((1, *size))
    return out


def test_training_shows_a_patch_the_image_whose_noise_it_has(rng):
    one = task()
    images, seen = torch.rand(2, 1, 16, 16, generator=rng), inputs_of(one.denoiser.network)
    draws = one.draw_patches(8, 3, seeded(0))
    corners = torch.tensor([[8, 8], [12, 14], [18, 4]])  # in the image, in it elsewhere, beyond two edges
    draws = draws._replace(corners=corners, sigma=torch.tensor([0.1, 0.7, 5.0]))
    one.losses(images, 8, draws)
    (inputs,) = seen
    c_in = 1 / (draws.sigma**2 + 0.3**2).sqrt().reshape(3, 1, 1, 1)
    noisy, context = inputs[:, :1] / c_in, inputs[:, 3:] / c_in
    level = draws.sigma.reshape(3, 1, 1, 1)
    clean, _ = one.cut(images, corners, 8)
    torch.testing.assert_close(noisy, clean + level * draws.noise, rtol=1e-5, atol=1e-5)
    expected = pooled(images, (8, 8))[[0, 1, 0]] + level * draws.rest / 2  # means of four pixels that are in no patch
    expected[0, :, 0:4, 0:4] = pooled(noisy[:1], (4, 4))[0]
    expected[1, :, 2:6, 3:7] = pooled(noisy[1:2], (4, 4))[0]
    expected[2, :, 5:8, 0:2] = pooled(noisy[2:, :, :6, 4:], (3, 2))[0]
    torch.testing.assert_close(context, expected, rtol=1e-4, atol=1e-4)


def test_a_patch_as_large_as_the_image_is_its_own_context_in_training(rng):
    one = task(patch_sizes=[16])
    images, seen = torch.rand(2, 1, 16, 16, generator=rng), inputs_of(one.denoiser.network)
    draws = one.draw_patches(16, 2, seeded(0))
    one.losses(images, 16, draws._replace(corners=torch.tensor([[16, 16]] * 2)))
    assert one.pad == (16, 16)
    torch.testing.assert_close(seen[0][:, 3:], seen[0][:, :1], rtol=1e-5, atol=1e-5)


def test_training_of_volumes_shows_them_whole(rng):
    network = UNet(base=8, multipliers=[1, 2], blocks=1, axes=3, positions=4)
    one = PatchDiffusion(network, context=True, patch_sizes=[4, 8], sigma_data=0.3)
    one.lay_out((1, 4, 16, 24))
    volumes, seen = torch.rand(2, 1, 4, 16, 24, generator=rng), inputs_of(network)
    draws = one.draw_patches(8, 2, seeded(0))
    draws = draws._replace(corners=torch.tensor([[0, 12, 17], [0, 8, 14]]), sigma=torch.tensor([0.2, 3.0]))
    one.losses(volumes, 8, draws)
    level, (inputs,) = draws.sigma.reshape(2, 1, 1, 1, 1), seen
    context = inputs[:, 4:] * (level**2 + 0.3**2).sqrt()
    assert one.pad == (0, 8, 8) and context.shape == (2, 1, 4, 8, 8)
    noise = torch.zeros(2, 1, 4, 16, 24)
    noise[0, :, :, 4:12, 9:17], noise[1, :, :, 0:8, 6:14] = draws.noise
    rest = level * draws.rest / 6**0.5
    box = (0, ..., slice(3, 5))  # columns 9 to 14 in the patch's rows 4 to 11
    whole = pooled(volumes + level * noise, (4, 8, 8))
    torch.testing.assert_close(context[box][:, :, 2:6], whole[box][:, :, 2:6], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(context[0, :, :, :2], (pooled(volumes, (4, 8, 8)) + rest)[0, :, :, :2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(context[1, :, :, :4, 2:4], whole[1, :, :, :4, 2:4], rtol=1e-4, atol=1e-4)


def test_the_context_changes_nothing_that_is_drawn_for_a_patch():
    with_it, without = (task(context=context).draw_patches(8, 5, seeded(3)) for context in (True, False))
    assert with_it.rest.shape == with_it.noise.shape and without.rest.numel() == 0
    for one, other in zip(with_it[:3], without[:3], strict=True):
        assert torch.equal(one, other)
    generator = seeded(3)
    task(context=False).draw_patches(8, 5, generator)
    by_hand = seeded(3)
    for _ in range(2):
        torch.randint(1, 24, (5,), generator=by_hand)
    torch.rand(5, generator=by_hand, dtype=torch.float64)
    torch.randn(5, 1, 8, 8, generator=by_hand)
    assert torch.equal(generator.get_state(), by_hand.get_state())


def trained(images, folder, steps, *callbacks, patches=6, **options):
    """A model with a context after some steps of training."""
    settings = {"patch_sizes": [4, 8], "sigma_data": 0.3, "warmup_patches": 20, "lr": 1e-3, "context": True}
    task = PatchDiffusion(random_network(positions=3), patches=patches, **settings)
    return fit(images, folder, steps, *callbacks, task=task, **options)


def test_training_with_a_context_goes_on_as_if_unbroken(images, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    trained(images, tmp_path, 2, checkpoint, trainer={"enable_checkpointing": True})
    same(trained(images, tmp_path, 4, ckpt_path=tmp_path / "last.ckpt"), trained(images, tmp_path, 4), rtol=0, atol=0)


def test_accumulated_halves_are_the_whole_with_a_context(images, tmp_path):
    whole = trained(images, tmp_path, 4, trainer={"precision": "64-true"}, batch_size=4, patches=8)
    parts = {"precision": "64-true", "accumulate_grad_batches": 2}
    same(whole, trained(images, tmp_path, 4, trainer=parts, batch_size=2, patches=4), rtol=1e-7, atol=1e-9)


def test_a_file_keeps_the_context_and_names_it_only_where_there_is_one(tmp_path, rng):
    for context in (True, False):
        path = tmp_path / f"{context}.safetensors"
        before = model(context=context)
        before.save(path)
        after = PatchModel.load(path)
        x = torch.randn(2, 1, 32, 32, generator=rng)
        first, second = (PatchPrior(m)(x, 0.5, Generators.keyed(0, [0, 1])) for m in (before, after))
        assert torch.equal(first, second) and after.denoiser.context is context
        with safe_open(path, "pt") as file:
            assert ("context" in json.loads(file.metadata()["model"])) == context


def test_a_network_sees_its_patch_then_its_place_then_the_whole(rng):
    prior = PatchPrior(model(channels=2), chunk_size=7)
    x, seen = torch.randn(2, *prior.canvas_shape, generator=rng), inputs_of(prior.denoiser.network)
    prior(x, 0.4, Generators.keyed(0, [0, 1]))
    inputs, tiles = torch.cat(seen), prior.tiling.partition((16, 16), (8, 8), 8, Generators.keyed(0, [0, 1]))
    assert len(seen) == 3 and inputs.shape == (18, 6, 8, 8)
    torch.testing.assert_close(inputs[:, :2], 2 * tiles.split(x))  # c_in = 1 / 0.5
    torch.testing.assert_close(inputs[:, 2:4], tiles.split(prior.positions.expand(2, -1, -1, -1)))
    whole = pooled(x[..., 8:24, 8:24], (8, 8))
    torch.testing.assert_close(inputs[:, 4:], 2 * whole.repeat_interleave(9, 0), rtol=1e-5, atol=1e-6)


def test_what_does_not_go_with_a_context_is_refused():
    with pytest.raises(InputError, match="the network's positions is 2; wanted 3, the channels of Coordinates and the context"):
        Denoiser(UNet(), context=True)
    with pytest.raises(InputError, match="the network's positions is 3; wanted 2, the channels of Coordinates"):
        Denoiser(UNet(positions=3))
    with pytest.raises(InputError, match="context is true; wanted false, groups of slices are trained without it"):
        GroupPatchDiffusion(UNet(channels=3, positions=6), context=True)
    denoiser = Denoiser(random_network(positions=1), 0.3, NoPositions(), context=True)
    with pytest.raises(InputError, match=r"trained on images of \(1, 16, 16\) .* wanted \(1, 24, 24\)"):
        PatchPrior(PatchModel(denoiser, (1, 16, 16), [8], (8, 8), PLAIN)).for_shape((1, 24, 24))


def test_the_command_line_trains_validates_samples_and_reconstructs_with_a_context(images, tmp_path):
    main([
        "fit", "--config", "ct.yaml", "--data.path", str(images), "--data.size", "null", "--data.batch_size", "3",
        "--model.patch_sizes", "[4,8]", "--model.patches", "6", "--trainer.max_steps", "2", "--samples.steps", "3",
        "--trainer.val_check_interval", "2", "--output", str(tmp_path / "fit"), *SMALL_NETWORK, *QUIET,
        "--model.context", "true", "--model.network.positions", "3",
    ])  # fmt: skip
    prior = tmp_path / "fit" / "prior.safetensors"
    assert PatchModel.load(prior).denoiser.context and (tmp_path / "fit" / "samples" / "step_0000002.png").is_file()
    main([
        "predict", "--config", "ct20.yaml", "--output", str(tmp_path / "out"), "--operator.size", "16", "--operator.views", "6",
        "--model.steps", "3", "--data.size", "null", "--data.path", str(images), "--data.count", "2", *QUIET,
        "--prior.checkpoint", str(prior),
    ])  # fmt: skip
    assert (tmp_path / "out" / "metrics.csv").read_text().count("\n") == 3
