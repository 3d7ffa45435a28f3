"""The paper's network against published numbers; positions; what holds for every network."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from padis_lightning.diffusion import (
    Coordinates,
    Denoiser,
    FourierFeatures,
    LearnedMap,
    NoPositions,
    PatchModel,
    coordinates,
)
from padis_lightning.errors import InputError
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.networks.drunet import DRUNet
from padis_lightning.networks.unet import UNet
from padis_lightning.types import Normalisation

DATA = Path(__file__).parent / "data"
PARITY = load_file(DATA / "ddpmpp.safetensors")
PARITY |= load_file(DATA / "ddpmpp_float64.safetensors")  # what the published network computes of them in float64
SETTINGS = {
    "gray": {"base": 16, "blocks": 2, "resolution": 64},
    "colour": {"channels": 3, "base": 16, "multipliers": (1, 2, 2), "blocks": 2, "resolution": 304},
}


def published(name):
    """A network with the weights of a set, under the names they have there."""
    prefix = f"{name}.state.model."
    state = {k.removeprefix(prefix): v for k, v in PARITY.items() if k.startswith(prefix)}
    network = DDPMpp(**SETTINGS[name])
    network.load_state_dict({k: v for k, v in state.items() if not k.endswith("resample_filter")})
    return network.eval()


def differ(ours, theirs):
    """The largest relative difference of an image's."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))


def from_published(denoiser, name, patch):
    """How much what the network adds differs from what the published one adds, both in float64."""
    x, sigma, position, denoised = (PARITY[f"{name}.{patch}.{key}"].double() for key in ("x", "sigma", "position", "denoised"))
    with torch.no_grad():
        found = denoiser.eval().double()(x, sigma, position)
    c_skip, c_out, _ = denoiser.scalings(sigma[:, None, None, None])
    return differ(*((value - c_skip * x) / c_out for value in (found, denoised)))


@pytest.mark.parametrize(("name", "patch"), [("gray", 16), ("gray", 32), ("colour", 16)])
def test_the_papers_network_agrees_with_published_numbers(name, patch):
    """In float64. In float32 some 60 layers in a row add a rounding error each, were all in one direction."""
    denoiser, outputs = Denoiser(published(name), 0.5), []
    denoiser.network.register_forward_hook(lambda module, inputs, output: outputs.append(output.double()))
    with torch.no_grad():
        denoiser(*(PARITY[f"{name}.{patch}.{key}"] for key in ("x", "sigma", "position")))
    assert from_published(denoiser, name, patch) < 1e-8
    assert differ(*outputs) < 60 * torch.finfo(torch.float32).eps


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_the_papers_settings_have_the_papers_sizes():
    with torch.device("meta"):
        assert round(count(DDPMpp()) / 1e6, 2) == 60.48
        assert round(count(DDPMpp(multipliers=(1, 2, 2, 4))) / 1e6, 1) == 114.6


@pytest.mark.parametrize(
    "network",
    [DDPMpp(**SETTINGS["gray"]), DDPMpp(**SETTINGS["gray"], ncsnpp=True), UNet(base=8, multipliers=[1, 2], blocks=1)],
    ids=["DDPMpp", "NCSNpp", "UNet"],
)
def test_recomputed_activations_give_the_same_gradients(network, rng):
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=rng)
    x, noise = torch.randn(2, 3, 16, 16, generator=rng), torch.tensor([-1.0, 0.5])
    torch.random.manual_seed(5)  # dropout draws from it
    kept = torch.autograd.grad(network(x, noise).square().sum(), list(network.parameters()))
    network.recompute = True
    torch.random.manual_seed(5)
    again = torch.autograd.grad(network(x, noise).square().sum(), list(network.parameters()))
    for a, b in zip(kept, again, strict=True):
        assert torch.equal(a, b)


def test_recomputing_keeps_less(rng):
    """What autograd keeps between the passes, counted by its own hook."""
    network = DDPMpp(**SETTINGS["gray"])
    x, noise = torch.randn(2, 3, 32, 32, generator=rng), torch.zeros(2)

    def kept():
        seen = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.setdefault(t.data_ptr(), t), lambda t: t):
            network(x, noise)
        weights = {p.data_ptr() for p in network.parameters()}
        return sum(t.numel() for k, t in seen.items() if k not in weights)

    whole = kept()
    network.recompute = True
    assert kept() < 0.35 * whole


POSITIONS = [Coordinates(), FourierFeatures(3), LearnedMap(5, 8), NoPositions()]


@pytest.mark.parametrize("positions", POSITIONS, ids=lambda p: type(p).__name__)
def test_positions_of_a_patch_are_those_of_its_place_on_the_canvas(positions, rng):
    for parameter in positions.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng)
    canvas = coordinates(20, 28)[None]
    whole, part = positions(canvas), positions(canvas[..., 3:11, 7:15])
    assert whole.shape == (1, positions.channels, 20, 28)
    torch.testing.assert_close(part, whole[..., 3:11, 7:15])


def test_fourier_features_are_the_formula_and_tell_all_places_apart():
    canvas = coordinates(9, 9)[None].double()
    features = FourierFeatures(2)(canvas)[0]
    x, y = canvas[0]
    turn = torch.pi / 2
    expected = [f(k * turn * u) for f in (torch.sin, torch.cos) for u in (x, y) for k in (1, 2)]
    torch.testing.assert_close(features, torch.stack(expected))
    places = features.flatten(1).t()
    assert torch.cdist(places, places).add(torch.eye(81) * 9).min() > 0.05


def test_a_learned_map_is_linear_between_its_nodes(rng):
    positions = LearnedMap(2, 3).double()
    slope = torch.linspace(-1, 1, 3, dtype=torch.float64)
    positions.map.data = torch.stack([slope.expand(3, 3), slope[:, None].expand(3, 3)])
    canvas = coordinates(13, 21)[None].double()
    torch.testing.assert_close(positions(canvas), canvas)


@pytest.mark.parametrize("positions", POSITIONS, ids=lambda p: type(p).__name__)
def test_positions_are_stored_with_the_model(positions, tmp_path, rng):
    network = UNet(base=8, multipliers=[1, 2], blocks=1, positions=positions.channels)
    for parameter in [*network.parameters(), *positions.parameters()]:
        parameter.data = torch.randn(parameter.shape, generator=rng) / 4
    model = PatchModel(Denoiser(network, 0.4, positions), (1, 24, 24), [8], (8, 8), Normalisation(0.0, 1.0))
    model.save(tmp_path / "prior.safetensors")
    again = PatchModel.load(tmp_path / "prior.safetensors")
    x, sigma = torch.randn(3, 1, 8, 8, generator=rng), torch.tensor([0.1, 1.0, 5.0])
    places = coordinates(40, 40)[None, :, 5:13, 20:28].expand(3, -1, -1, -1)
    with torch.no_grad():
        assert torch.equal(model.denoiser(x, sigma, places), again.denoiser(x, sigma, places))
        if positions.channels:
            elsewhere = places.roll(3, 2).flip(0) + 0.1
            assert not torch.equal(model.denoiser(x, sigma, elsewhere), again.denoiser(x, sigma, places))


def test_positions_that_do_not_fit_the_network_are_refused():
    with pytest.raises(InputError, match="the network's positions is 2; wanted 12, the channels of FourierFeatures"):
        Denoiser(UNet(), 0.5, FourierFeatures(3))


def test_a_network_of_another_span_denoises_in_image_units(rng):
    """With values -1 to 1 inside: the same function as by hand, and the same loss."""
    plain = Denoiser(published("gray"), 0.5).double()
    spanned = Denoiser(copy.deepcopy(plain.network), 0.5, span=(-1.0, 1.0)).double()
    x, noise = torch.rand(2, 2, 1, 16, 16, generator=rng, dtype=torch.float64)
    sigma, places = torch.tensor([0.1, 2.0], dtype=torch.float64), coordinates(16, 16).double().expand(2, -1, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(spanned(x, sigma, places), (plain(2 * x - 1, 2 * sigma, places) + 1) / 2)
        theirs = plain.loss(2 * x - 1, 2 * sigma, noise, places)
        torch.testing.assert_close(spanned.loss(x, sigma, noise, places), theirs)


def test_weights_beyond_half_precision_are_not_written_as_infinities(model, tmp_path):
    model.denoiser.network.head.bias.data[0] = 1e6
    model.save(tmp_path / "single.safetensors")
    with pytest.raises(InputError, match=r"weights of head.bias are not finite"):
        model.save(tmp_path / "half.safetensors", half=True)
    assert not (tmp_path / "half.safetensors").exists()


def test_drunet_has_the_published_size_and_names():
    with torch.device("meta"):
        network = DRUNet()
    weights = network.state_dict()
    assert sum(w.numel() for w in weights.values()) == 32_640_960  # as published for colour
    assert weights["m_head.weight"].shape == (64, 4, 3, 3) and weights["m_tail.weight"].shape == (3, 64, 3, 3)
    assert weights["m_down1.3.res.2.weight"].shape == (64, 64, 3, 3) and weights["m_down3.4.weight"].shape == (512, 256, 2, 2)
    assert weights["m_up3.0.weight"].shape == (512, 256, 2, 2) and weights["m_body.0.res.0.weight"].shape == (512, 512, 3, 3)


def test_a_bias_free_network_scales_with_its_input(rng):
    """F(a x, a s) = a F(x, s), so that a denoiser in its units is the same at every level but for its preconditioning."""
    network = DRUNet(1, (8, 12), 1, 2).double()
    x = torch.randn(2, 1, 16, 16, generator=rng, dtype=torch.float64)
    noise = torch.tensor([0.1, 0.7], dtype=torch.float64)
    torch.testing.assert_close(network(7 * x, 7 * noise), 7 * network(x, noise), rtol=1e-10, atol=0)


def test_the_denoiser_of_a_bias_free_network_is_its_equation(rng):
    network = DRUNet(1, (8, 12), 1, 2).double()
    denoiser = Denoiser(network, 0.5, NoPositions())
    x, sigma = torch.randn(2, 1, 16, 16, generator=rng, dtype=torch.float64), torch.tensor([0.02, 3.0], dtype=torch.float64)
    c_skip, c_out, _ = denoiser.scalings(sigma)
    c_skip, c_out, level = (value.reshape(-1, 1, 1, 1) for value in (c_skip, c_out, sigma))
    expected = c_skip * x + c_out * network(x, sigma) / level
    torch.testing.assert_close(denoiser(x, sigma, x), expected, rtol=1e-10, atol=1e-12)


def test_a_bias_free_network_with_the_level_is_told_which_one_it_is(rng):
    """It is given x / sigma, 1 and ln(sigma) / 4: the network without the level where the weights of that channel are zero."""
    told, plain = DRUNet(1, (8, 12), 1, 2, level=(0.01, 5.0)).double(), DRUNet(1, (8, 12), 1, 2).double()
    weights = told.state_dict()
    head = weights["m_head.weight"]
    plain.load_state_dict(weights | {"m_head.weight": head[:, :8]})
    x, sigma = torch.randn(2, 1, 16, 16, generator=rng, dtype=torch.float64), torch.tensor([0.02, 3.0], dtype=torch.float64)
    with_level, without = Denoiser(told, 0.5, NoPositions()), Denoiser(plain, 0.5, NoPositions())
    assert (with_level(x, sigma, x) - without(x, sigma, x)).abs().max() > 1e-3
    at_one = (value[:1] for value in (x, sigma / sigma, x))  # ln(1) = 0
    torch.testing.assert_close(with_level(*(both := tuple(at_one))), without(*both), rtol=1e-10, atol=1e-12)
    highest, beyond = (torch.full((2,), value, dtype=torch.float64).log() / 4 for value in (5.0, 50.0))
    assert torch.equal(told(x, highest), told(x, beyond)) and not torch.equal(told(x, highest), told(x, 0 * beyond))
    head[:, 8:] = 0
    told.load_state_dict(weights)
    torch.testing.assert_close(with_level(x, sigma, x), without(x, sigma, x), rtol=1e-10, atol=1e-12)
