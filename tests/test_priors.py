"""The whole image's score against closed forms, and that chunks and batches change nothing."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from padis_lightning.diffusion import Coordinates, Denoiser, PatchModel, coordinates, padding
from padis_lightning.diffusion.positions import NoPositions
from padis_lightning.errors import InputError
from padis_lightning.memory import is_out_of_memory
from padis_lightning.networks.drunet import DRUNet
from padis_lightning.priors import FixedTiling, GaussianPrior, OverlapTiling, PatchPrior, RandomTiling
from padis_lightning.priors.base import evaluations_shown
from padis_lightning.priors.patch import CHUNK
from padis_lightning.random import Generators
from padis_lightning.types import Normalisation
from tests.conftest import random_network


class PositionedGaussian(nn.Module):
    """Independent pixels whose mean follows their position: the exact denoiser of a patch of them."""

    sigma_data, gain, std, positions, context = 0.3, 1.0, 0.2, Coordinates(), False
    network = SimpleNamespace(divisor=1)

    def mean(self, position: torch.Tensor) -> torch.Tensor:
        return 0.4 + 0.3 * position[:, :1] - 0.2 * position[:, 1:]

    def forward(self, x, sigma, position):
        level = sigma[:, None, None, None]
        return (self.std**2 * x + level**2 * self.mean(position)) / (self.std**2 + level**2)


@pytest.mark.parametrize(
    "tiling", [RandomTiling(), RandomTiling(1), FixedTiling(), OverlapTiling(3)], ids=lambda t: type(t).__name__
)
def test_tiled_score_of_a_separable_gaussian_is_the_whole_images(model, tiling, rng):
    denoiser = PositionedGaussian()
    prior = PatchPrior(PatchModel(denoiser, (1, 20, 20), [8], (4, 4), model.normalisation), tiling)
    sigma = torch.tensor([0.05, 0.3, 2.0], dtype=torch.float64)
    x = torch.randn(3, 1, 28, 28, generator=rng, dtype=torch.float64)
    score = prior.score(x, sigma, Generators.keyed(0, range(3)))
    mean = denoiser.mean(coordinates(28, 28)[None].double())
    whole = (mean - x) / (denoiser.std**2 + sigma.reshape(3, 1, 1, 1) ** 2)
    inner = (..., slice(4, 24), slice(4, 24))
    torch.testing.assert_close(score[inner], whole[inner], rtol=1e-6, atol=1e-6)
    border = torch.ones(28, 28, dtype=torch.bool)
    border[4:24, 4:24] = False
    expected = (-x / sigma.reshape(3, 1, 1, 1) ** 2)[..., border]
    torch.testing.assert_close(score[..., border], expected, rtol=1e-12, atol=0)


def test_tiles_that_the_network_cannot_halve_are_refused(model):
    """Of 24 pixels, image and margin, four tiles have six, which a network of divisor 4 does not take."""
    assert model.denoiser.network.divisor == 4
    with pytest.raises(InputError, match="the tiles have 6x6 pixels; wanted multiples of 4"):
        PatchPrior(model, RandomTiling(4))(torch.zeros(1, 1, 28, 28), 0.4, Generators.keyed(0, [0]))


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
def test_chunks_change_nothing(model, chunk_size, rng):
    x = torch.randn(2, 1, 28, 28, generator=rng)
    outputs = [PatchPrior(model, chunk_size=c)(x, 0.4, Generators.keyed(0, range(2))) for c in (64, chunk_size)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_gradients_are_the_same_whether_kept_or_computed_again(model, chunk_size, rng, monkeypatch):
    """A chunk size is asked for to save memory; without one the patches decide, here too many for what is free."""
    x = torch.randn(2, 1, 28, 28, generator=rng)
    weights = torch.randn(2, 1, 28, 28, generator=rng)

    def gradient(prior):
        calls = []
        prior.denoiser.network.register_forward_hook(lambda *_: calls.append(1))
        point = x.clone().requires_grad_()
        (found,) = torch.autograd.grad((weights * prior(point, 0.4, Generators.keyed(0, range(2)))).sum(), point)
        return found, len(calls)

    kept, once = gradient(PatchPrior(model))
    again = PatchPrior(copy.deepcopy(model), chunk_size=chunk_size)
    if chunk_size is None:
        monkeypatch.setattr("padis_lightning.priors.patch.KEPT", 17)
        monkeypatch.setattr("padis_lightning.priors.patch.CHUNK", 4)
    found, calls = gradient(again)
    assert once == 1 and calls == 2 * math.ceil(18 / (chunk_size or 4))
    torch.testing.assert_close(found, kept, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_near_and_the_canvas_keeps_its_precision(model, rng):
    x = torch.randn(2, 1, 28, 28, generator=rng)
    exact, near = (PatchPrior(model, precision=kind)(x, 0.4, Generators.keyed(0, range(2))) for kind in ("float32", "bfloat16"))
    assert near.dtype == torch.float32 and 0 < float((near - exact).norm() / exact.norm()) < 0.02


def test_refined_weights_count_in_bfloat16_within_another_autocast(model, rng):
    x, prior = torch.randn(1, 1, 28, 28, generator=rng), PatchPrior(copy.deepcopy(model), precision="bfloat16")
    prior.requires_grad_(True)

    def denoised():
        return prior(x, 0.4, Generators.keyed(0, range(1))).detach()

    with torch.autocast("cpu", enabled=False):  # as solvers have it
        denoised()
        with torch.no_grad():
            for weight in prior.parameters():
                weight.mul_(1.5)
        found = denoised()
    assert torch.equal(found, denoised())


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_images(model, rng):
    x = torch.randn(2, 1, 28, 28, generator=rng)
    plain, compiled = PatchPrior(copy.deepcopy(model)), PatchPrior(model, compile_network=True)
    for count in (1, 2):
        streams = [Generators.keyed(0, range(count)) for _ in range(2)]
        with torch.no_grad():
            expected, found = (prior(x[:count], 0.4, stream) for prior, stream in zip((plain, compiled), streams, strict=True))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert compiled.denoiser.network._compiled_call_impl is not None


def test_batch_is_a_set(model, rng):
    prior = PatchPrior(model)
    x, sigma = torch.randn(3, 1, 28, 28, generator=rng), torch.tensor([0.1, 0.5, 2.0])
    together = prior(x, sigma, Generators.keyed(7, [4, 5, 6]))
    alone = [prior(x[k : k + 1], sigma[k : k + 1], Generators.keyed(7, [4 + k])) for k in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_one_patch_without_padding_is_the_bare_denoiser(model, rng):
    whole = PatchModel(model.denoiser, (1, 20, 20), [20], (0, 0), model.normalisation)
    x = torch.randn(2, 1, 20, 20, generator=rng)
    position = coordinates(20, 20).expand(2, -1, -1, -1)
    expected = model.denoiser(x, torch.full((2,), 0.3), position)
    torch.testing.assert_close(PatchPrior(whole)(x, 0.3, Generators.keyed(0, range(2))), expected)


def test_gaussian_prior_is_its_closed_form(rng):
    prior = GaussianPrior((1, 4, 4), mean=0.5, std=0.2)
    x = torch.randn(2, 1, 4, 4, generator=rng, dtype=torch.float64)
    score = prior.score(x, 0.3, Generators.keyed(0, range(2)))
    torch.testing.assert_close(score, (0.5 - x) / (0.2**2 + 0.3**2))


def test_file_keeps_every_bit_and_all_that_a_solver_needs(model, tmp_path):
    model.training = {"steps": 3}
    model.save(tmp_path / "prior.safetensors")
    loaded = PatchModel.load(tmp_path / "prior.safetensors")
    assert loaded.describe() == model.describe()
    before, after = model.denoiser.network.state_dict(), loaded.denoiser.network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_weights_that_are_not_finite_are_never_written(model, tmp_path):
    next(model.denoiser.parameters()).data[0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        model.save(tmp_path / "prior.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_priors_are_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InputError, match="not a safetensors file"):
        PatchModel.load(tmp_path / "text.safetensors")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(InputError, match="has another format than torch.save writes; wanted a checkpoint written by fit"):
        PatchModel.load(tmp_path / "text.ckpt")
    with pytest.raises(InputError, match="there is no prior 'nowhere'"):
        PatchModel.load("nowhere")


def test_unknown_networks_are_refused_by_name(model):
    described = {**model.describe(), "network": "os.system"}
    with pytest.raises(InputError, match="names the PatchNetwork 'os.system'; wanted one of .*UNet"):
        PatchModel.build(described, {})


def test_a_prior_without_positions_serves_images_of_any_size(model, rng):
    """As if it had been trained on them: the padding is the least that tiles them, the network the same."""
    network = random_network(positions=0)
    patches = PatchModel(Denoiser(network, 0.3, NoPositions()), (1, 20, 20), [4, 8], (4, 4), model.normalisation)
    trained = PatchPrior(patches)
    prior = trained.for_shape((1, 21, 33))
    assert trained.image_shape == (1, 20, 20) and trained.positions.shape[2:] == (28, 28)  # is as it was
    assert prior.pad == (3, 7) and prior.canvas_shape == (1, 27, 47)
    other = PatchPrior(PatchModel(patches.denoiser, (1, 21, 33), [4, 8], padding((21, 33), 8), model.normalisation))
    x = torch.randn(2, *prior.canvas_shape, generator=rng)
    found, expected = (p(x, 0.4, Generators.keyed(0, range(2))) for p in (prior, other))
    assert torch.equal(found, expected) and found[..., 3:24, 7:40].abs().min() > 0
    with pytest.raises(InputError, match=r"images are \(7, 33\); wanted sides of at least 8"):
        prior.for_shape((1, 7, 33))
    with pytest.raises(InputError, match=r"trained on images of \(1, 21, 33\) .* wanted \(3, 21, 33\)"):
        prior.for_shape((3, 21, 33))
    with pytest.raises(InputError, match=r"trained on images of \(1, 20, 20\) .* wanted \(1, 21, 33\)"):
        PatchPrior(model).for_shape((1, 21, 33))


class Cramped(nn.Module):
    """A device on which so many patches fit in one call."""

    sigma_data, gain, room, positions, context = 0.3, 1.0, 1000, Coordinates(), False

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x, sigma, position):
        self.calls.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.5 * x


def test_a_long_evaluation_says_how_far_it_is(model, capsys, monkeypatch):
    prior = PatchPrior(model, chunk_size=3)
    x = torch.zeros(1, *prior.canvas_shape)
    for patience, visible, said in ((0.0, True, True), (0.0, False, False), (60.0, True, False)):
        monkeypatch.setattr("padis_lightning.priors.base.PATIENCE", patience)
        with evaluations_shown(visible):
            prior(x, 0.4, Generators.keyed(0, [0]))
        assert ("evaluation" in capsys.readouterr().err) == said


@pytest.mark.parametrize("chunk_size", [None, 12])
def test_what_does_not_fit_is_halved_until_it_does(model, rng, chunk_size, caplog):
    denoiser = Cramped()
    prior = PatchPrior(PatchModel(denoiser, (1, 20, 20), [8], (4, 4), model.normalisation), chunk_size=chunk_size)
    x = torch.rand(2, *prior.canvas_shape, generator=rng)
    expected = prior(x, 0.4, Generators.keyed(0, range(2)))
    first = min(chunk_size or CHUNK, 18)
    denoiser.room, denoiser.calls = first // 2, []
    assert torch.equal(prior(x, 0.4, Generators.keyed(0, range(2))), expected)
    assert denoiser.calls == [first] + [first // 2] * (18 // (first // 2)) + ([18 % (first // 2)] if 18 % (first // 2) else [])
    assert caplog.messages == [f"padis_lightning: {first} patches in one call do not fit the memory; going on with {first // 2}"]
    prior(x, 0.4, Generators.keyed(0, range(2)))
    assert len(caplog.messages) == 1  # it has learnt
    denoiser.room = 1
    assert torch.equal(prior(x, 0.4, Generators.keyed(0, range(2))), expected) and denoiser.calls[-1] == 1
    denoiser.room = 0
    with pytest.raises(torch.OutOfMemoryError):
        prior(x, 0.4, Generators.keyed(0, range(2)))


def test_other_errors_are_not_taken_for_a_lack_of_memory(model):
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and not is_out_of_memory(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError) as stop:
        torch.empty(2**60)
    assert is_out_of_memory(stop.value)


@pytest.mark.parametrize("size", [(40, 40), (17, 50), (33, 21)])
def test_one_patch_of_any_size_is_the_network_on_the_whole_image(size, rng):
    """Without positions a patch as large as the image serves images of any sides, with zeros up to the network's divisor."""
    torch.manual_seed(0)
    network = DRUNet(1, (8, 12), 1, 2).double()
    denoiser = Denoiser(network, 0.5, NoPositions()).eval()
    model = PatchModel(denoiser, (1, 32, 32), [8], (0, 0), Normalisation(0.0, 1.0))
    prior = PatchPrior(model, OverlapTiling(4, blend=True), patch=64).for_shape((1, *size))
    x = torch.rand(2, 1, *size, generator=rng, dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.3], dtype=torch.float64)
    missing = [-n % 4 for n in size]
    around = [m for k in reversed(missing) for m in (k // 2, k - k // 2)]
    whole = functional.pad(x, around)
    expected = denoiser(whole, sigma, whole)[..., around[2] : around[2] + size[0], around[0] : around[0] + size[1]]
    torch.testing.assert_close(prior.on_images(x, sigma, Generators.keyed(0, [0, 1])), expected, rtol=1e-10, atol=1e-12)


def test_a_prior_of_one_size_keeps_its_patches_whatever_is_asked_for(model, rng):
    x = torch.randn(1, 1, 28, 28, generator=rng)
    outputs = [PatchPrior(model, patch=patch)(x, 0.4, Generators.keyed(0, [0])) for patch in (None, 512)]
    assert torch.equal(*outputs)


def test_pictures_smaller_than_the_patches_of_training_are_one_patch(rng):
    """The network sees all of a picture and nothing else where no zeros have to fill it up."""
    network = random_network(positions=0)
    model = PatchModel(Denoiser(network, 0.3, NoPositions()), (1, 32, 32), [16], (0, 0), Normalisation(0.0, 1.0))
    prior = PatchPrior(model, OverlapTiling(4, blend=True), patch=64).for_shape((1, 12, 8))
    x = torch.randn(2, 1, 12, 8, generator=rng)
    with torch.no_grad():
        expected = model.denoiser(x, torch.full((2,), 0.4), torch.zeros(2, 2, 12, 8))
    torch.testing.assert_close(prior(x, 0.4, Generators.keyed(0, range(2))), expected)
    with pytest.raises(InputError, match=rf"images are \(1, 9\); wanted sides of at least {network.divisor}"):
        PatchPrior(model, patch=64).for_shape((1, 1, 9))


def test_sides_that_do_not_halve_are_refused():
    model = PatchModel(Denoiser(DRUNet(1, (8, 12), 1, 2), 0.5, NoPositions()), (1, 32, 32), [8], (0, 0), Normalisation(0.0, 1.0))
    with pytest.raises(InputError, match="patch is 18; wanted a multiple of 4"):
        PatchPrior(model, patch=18)


def test_patches_are_not_turned_for_a_prior_that_knows_their_places(model):
    with pytest.raises(InputError, match="tiling.turned is true, and the prior knows the places of patches"):
        PatchPrior(model, OverlapTiling(3, turned=True))
