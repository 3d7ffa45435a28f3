"""Diffusion models that others have trained, as denoisers: against closed forms, their layers one by one, and diffusers."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

import padis_lightning as pl
from padis_lightning.errors import InputError
from padis_lightning.networks import ddpmpp
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.networks.diffusers import Schedule, ScheduledDenoiser
from padis_lightning.networks.unet2d import UNet2DModel
from padis_lightning.priors import DenoiserPrior, GaussianPrior
from padis_lightning.random import Generators, seeded
from padis_lightning.results.provenance import weights_digest

STREAMS = Generators.keyed(0, range(3))
needs_diffusers = pytest.mark.skipif(not find_spec("diffusers"), reason="pip install diffusers")
MEAN, DEVIATION = 0.2, 0.4  # of the Gaussian pixels that toys know, from -1 to 1
STEPS = 50
BETAS = {  # by their definitions, one by one
    "linear": lambda k: 1e-3 + (0.3 - 1e-3) * k / (STEPS - 1),
    "scaled_linear": lambda k: (1e-3**0.5 + (0.3**0.5 - 1e-3**0.5) * k / (STEPS - 1)) ** 2,
    "squaredcos_cap_v2": lambda k: min(0.999, 1 - cosine((k + 1) / STEPS) / cosine(k / STEPS)),
}


def cosine(share):
    return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2


class Toy(nn.Module):
    """The best network of Gaussian pixels: it finds what its training asks for, exactly."""

    channels, divisor = 2, 1

    def __init__(self, find):
        super().__init__()
        self.find = find

    def forward(self, x, time):
        assert time.shape == (len(x),)
        return self.find(x.double(), time.double().reshape(-1, 1, 1, 1)).to(x)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", BETAS)
def test_a_variance_preserving_network_gives_the_posterior_mean(kind, prediction, rng):
    """At levels of the training, and between them, where the time is between its neighbours."""
    kept = np.cumprod([1 - BETAS[kind](k) for k in range(STEPS)])
    logs = [0.5 * math.log((1 - a) / a) for a in kept]

    def find(x, time):
        low = time.floor().clamp(max=STEPS - 2).long()
        log = torch.tensor(logs).double()
        sigma = torch.exp(log[low] + (time - low) * (log[low + 1] - log[low]))
        alpha, s = 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5
        image = MEAN + alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + s**2) * (x - alpha * MEAN)
        noise = (x - alpha * image) / s
        return {"epsilon": noise, "sample": image, "v_prediction": alpha * noise - s * image}[prediction]

    settings = {"beta_schedule": kind, "num_train_timesteps": STEPS, "beta_start": 1e-3, "beta_end": 0.3}
    schedule = Schedule.read({**settings, "prediction_type": prediction})
    assert schedule.highest == pytest.approx(math.exp(logs[-1]))
    assert torch.allclose(schedule.times(torch.tensor(logs).exp()), torch.arange(STEPS).float(), atol=1e-3)
    exact, prior = (
        GaussianPrior((2, 6, 5), (MEAN + 1) / 2, DEVIATION / 2),
        DenoiserPrior(ScheduledDenoiser(Toy(find), schedule)),
    )
    for levels in (np.exp(logs)[[0, 20, 40]] / 2, [0.03, 0.2, 0.9]):
        levels = torch.tensor(levels).float()
        y = torch.rand(3, 2, 6, 5, generator=rng) + levels.reshape(-1, 1, 1, 1) * torch.randn(3, 2, 6, 5, generator=rng)
        torch.testing.assert_close(prior(y, levels, STREAMS), exact(y, levels, STREAMS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_network_of_edm_gives_the_posterior_mean(prediction, rng):
    spread = 0.7  # what the training took for the deviation

    def find(x, time):
        sigma = (4 * time).exp()
        z = x * (sigma**2 + spread**2) ** 0.5
        image = MEAN + DEVIATION**2 / (DEVIATION**2 + sigma**2) * (z - MEAN)
        residual = (image - spread**2 / (sigma**2 + spread**2) * z) * (sigma**2 + spread**2) ** 0.5 / (sigma * spread)
        return residual if prediction == "epsilon" else -residual

    settings = {"_class_name": "EDMEulerScheduler", "prediction_type": prediction, "sigma_data": spread, "sigma_max": 60.0}
    denoiser = ScheduledDenoiser(Toy(find), Schedule.read(settings))
    assert denoiser.highest == 30
    levels = torch.tensor([0.01, 0.3, 5.0])
    y = torch.rand(3, 2, 6, 5, generator=rng) + levels.reshape(-1, 1, 1, 1) * torch.randn(3, 2, 6, 5, generator=rng)
    exact = GaussianPrior((2, 6, 5), (MEAN + 1) / 2, DEVIATION / 2)
    torch.testing.assert_close(DenoiserPrior(denoiser)(y, levels, STREAMS), exact(y, levels, STREAMS), atol=1e-5, rtol=0)


SMALL = {
    "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 12], "layers_per_block": 1, "norm_num_groups": 4,
    "attention_head_dim": 4, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip


def filled(network, seed=0):
    """Return a network of random weights in which nothing is at zero or one."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 1 + 0.3 * noise)
    return network.eval()


def write_folder(folder, settings=None, state=None, schedule=None):
    """Write a folder as diffusers does, of a small network unless said otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMALL | {"_class_name": "UNet2DModel"} | (settings or {})))
    state = filled(UNet2DModel(**SMALL)).state_dict() if state is None else state
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    if schedule is not None:
        (folder / "scheduler_config.json").write_text(json.dumps(schedule))
    return folder


VP = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}


def test_a_folder_is_the_network_in_it(tmp_path, rng, caplog):
    """From Python by name; sides that the network does not take are continued and cut off; without a schedule a line says so."""
    network = filled(UNet2DModel(**SMALL))
    write_folder(tmp_path / "a", schedule=VP)
    x, sigma = torch.rand(1, 1, 7, 10, generator=rng), torch.tensor([0.1])
    direct = ScheduledDenoiser(network, Schedule.read(VP))
    with torch.no_grad():
        expected = direct(functional.pad(x, (0, 0, 0, 1), mode="replicate"), sigma)[..., :7, :]
        assert torch.equal(DenoiserPrior(str(tmp_path / "a"))(x, sigma, STREAMS), expected)
        assert torch.equal(pl.load_prior(str(tmp_path / "a"))(x, sigma, STREAMS), expected)
        torch.testing.assert_close(direct(x[..., :6, :], torch.zeros(1)), x[..., :6, :])  # nothing to denoise
    assert "no scheduler_config" not in caplog.text
    assert torch.allclose(pl.denoise(x[0, 0], 0.1, str(tmp_path / "a")), expected[0, 0], atol=1e-5)
    DenoiserPrior(str(write_folder(tmp_path / "b")))
    assert "b has no scheduler_config.json; going on with a linear schedule of 1000 steps" in caplog.text


def test_what_a_run_remembers_of_a_prior_tells_schedules_and_networks_apart(tmp_path):
    """Of the same weights, which say neither; and a prior of patches, which it is not, says what it is."""
    given = {"a": {}, "b": {"schedule": VP | {"prediction_type": "epsilon"}}, "c": {"settings": {"flip_sin_to_cos": False}}}
    folders = [write_folder(tmp_path / name, **({"schedule": VP} | options)) for name, options in given.items()]
    assert len({weights_digest(DenoiserPrior(str(folder))) for folder in folders}) == 3
    assert weights_digest(DenoiserPrior(str(folders[0]))) == weights_digest(DenoiserPrior(str(folders[0])))
    with pytest.raises(InputError, match="or --prior DenoiserPrior for this diffusion model"):
        pl.PatchPrior(str(folders[0]))


def test_weights_of_before_2023_and_pickles_are_read(tmp_path):
    """Of the same numbers the same network, whatever attention was called then."""
    new = write_folder(tmp_path / "new", schedule=VP)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = filled(UNet2DModel(**SMALL)).state_dict()
    for now, then in old.items():
        state = {name.replace(f"attentions.0.{now}.", f"attentions.0.{then}."): value for name, value in state.items()}
    assert sum("query" in name for name in state) == 2 * 3
    unet = write_folder(tmp_path / "pipeline" / "unet", state={})
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, unet / "diffusion_pytorch_model.bin")
    (tmp_path / "pipeline" / "scheduler").mkdir()
    (tmp_path / "pipeline" / "scheduler" / "scheduler_config.json").write_text(json.dumps(VP))
    x = torch.rand(3, 1, 8, 8, generator=seeded(1))
    found = [DenoiserPrior(str(folder))(x, 0.3, STREAMS) for folder in (new, unet.parent, unet)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


FLAGS = {
    "image_size": 16, "num_channels": 32, "channel_mult": "1,2", "num_res_blocks": 1, "num_head_channels": 16,
    "attention_resolutions": "8", "in_channels": 1, "learn_sigma": True,
}  # fmt: skip


class Guided:
    """The layers of guided-diffusion's network of two levels, one by one, with random weights under the names of its files."""

    def __init__(self, new_order, updown, scaled):
        self.new_order, self.updown, self.scaled = new_order, updown, scaled
        self.state, self.generator = {}, seeded(3)

    def weight(self, name, *shape):
        if name not in self.state:
            noise = torch.randn(shape, generator=self.generator)
            self.state[name] = noise / math.prod(shape[1:]) ** 0.5 if len(shape) > 1 else 1 + 0.3 * noise
        return self.state[name]

    def layer(self, name, x, width, side=3, **options):
        weight = self.weight(f"{name}.weight", width, x.shape[1], *[side] * (x.ndim - 2))
        bias = self.weight(f"{name}.bias", width)
        function = {2: functional.linear, 3: functional.conv1d, 4: functional.conv2d}[x.ndim]
        return function(x, weight, bias, **options)

    def norm(self, name, x):
        return functional.group_norm(x, 32, *(self.weight(f"{name}.{part}", x.shape[1]) for part in ("weight", "bias")))

    def block(self, name, x, time, width, resample=lambda x: x):
        h = resample(functional.silu(self.norm(f"{name}.in_layers.0", x)))
        h = self.layer(f"{name}.in_layers.2", h, width, padding=1)
        shift = self.layer(f"{name}.emb_layers.1", functional.silu(time), width * (1 + self.scaled))[..., None, None]
        if self.scaled:
            h = self.norm(f"{name}.out_layers.0", h) * (1 + shift[:, :width]) + shift[:, width:]
        else:
            h = self.norm(f"{name}.out_layers.0", h + shift)
        h = self.layer(f"{name}.out_layers.3", functional.silu(h), width, padding=1)
        x = resample(x)
        return h + (x if x.shape[1] == width else self.layer(f"{name}.skip_connection", x, width, side=1))

    def attend(self, name, x):
        """Heads of 16 channels; each has its queries, keys and values side by side, or all queries come first."""
        tokens = self.layer(f"{name}.qkv", self.norm(f"{name}.norm", x.flatten(2)), 3 * x.shape[1], side=1)
        heads, found = x.shape[1] // 16, []
        for k in range(heads):
            starts = [16 * (k + heads * part) if self.new_order else 16 * (3 * k + part) for part in range(3)]
            q, key, value = (tokens[:, start : start + 16] for start in starts)
            found.append(value @ (q.mT @ key / 4).softmax(-1).mT)
        return x + self.layer(f"{name}.proj_out", torch.cat(found, 1), x.shape[1], side=1).reshape(x.shape)

    def __call__(self, x, time):
        def double(x):
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

        angles = time[:, None] * 10000.0 ** (-torch.arange(16) / 16)
        time = self.layer("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1), 128)
        time = self.layer("time_embed.2", functional.silu(time), 128)
        skips = [self.layer("input_blocks.0.0", x, 32, padding=1)]
        skips.append(self.block("input_blocks.1.0", skips[-1], time, 32))
        if self.updown:
            skips.append(self.block("input_blocks.2.0", skips[-1], time, 32, lambda x: functional.avg_pool2d(x, 2)))
        else:
            skips.append(self.layer("input_blocks.2.0.op", skips[-1], 32, padding=1, stride=2))
        skips.append(self.attend("input_blocks.3.1", self.block("input_blocks.3.0", skips[-1], time, 64)))
        h = self.attend("middle_block.1", self.block("middle_block.0", skips[-1], time, 64))
        h = self.block("middle_block.2", h, time, 64)
        for k in range(4):
            h = self.block(f"output_blocks.{k}.0", torch.cat([h, skips.pop()], 1), time, 64 if k < 2 else 32)
            h = self.attend(f"output_blocks.{k}.1", h) if k < 2 else h
            if k == 1 and self.updown:
                h = self.block("output_blocks.1.2", h, time, 64, double)
            elif k == 1:
                h = self.layer("output_blocks.1.2.conv", double(h), 64, padding=1)
        return self.layer("out.2", functional.silu(self.norm("out.0", h)), 2, padding=1)


@pytest.mark.parametrize(("new_order", "updown", "scaled"), [(False, False, False), (True, True, True), (False, True, True)])
def test_guided_diffusion_is_its_layers_one_by_one(new_order, updown, scaled, tmp_path, rng):
    """With a cosine schedule of 100 steps, of which an image and its variance are found, and only the first is taken."""
    network, k = Guided(new_order, updown, scaled), 60
    kept = cosine((k + 1) / 100) / cosine(0)
    image = torch.rand(3, 1, 16, 8, generator=rng)
    with torch.no_grad():
        noise = network((2 * image - 1) * kept**0.5, torch.full((3,), float(k)))[:, :1]
    sigma = ((1 - kept) / kept) ** 0.5
    flags = FLAGS | {"use_new_attention_order": new_order, "resblock_updown": updown, "use_scale_shift_norm": scaled}
    (tmp_path / "config.json").write_text(json.dumps(flags | {"diffusion_steps": 100, "noise_schedule": "cosine"}))
    torch.save(network.state, tmp_path / "ema.pt")
    for checkpoint in (tmp_path, tmp_path / "ema.pt"):
        found = DenoiserPrior(str(checkpoint))(image, sigma / 2, STREAMS)
        torch.testing.assert_close(found, image - sigma * noise / 2, atol=1e-4, rtol=1e-4)


SONG = {
    "model": {
        "name": "ncsnpp", "fir": False, "fir_kernel": [1, 3, 3, 1], "resblock_type": "biggan", "progressive": "none",
        "progressive_input": "none", "embedding_type": "positional", "skip_rescale": True, "conditional": True,
        "scale_by_sigma": False, "nonlinearity": "swish", "nf": 16, "ch_mult": [1, 2], "num_res_blocks": 1,
        "attn_resolutions": [8], "beta_min": 0.2, "beta_max": 12.0, "num_scales": 100, "sigma_max": 50,
    },
    "data": {"centered": True, "num_channels": 2, "image_size": 16},
    "training": {"sde": "vpsde", "continuous": True},
}  # fmt: skip


EXPLODING = {
    "fir": True, "progressive_input": "residual", "embedding_type": "fourier", "scale_by_sigma": True, "centered": False,
    "sde": "vesde",
}  # fmt: skip
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64


def filtered(x, before, after):
    """Correlate images, with zeros around, with the filter [1, 3, 3, 1] along both axes, tap by tap."""
    x = functional.pad(x, (before, after, before, after))
    height, width = x.shape[2] - 3, x.shape[3] - 3
    return sum(TAPS[i, j] * x[:, :, i : i + height, j : j + width] for i in range(4) for j in range(4))


def spread(x):
    """Put a zero behind each place, along both axes."""
    found = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    found[:, :, ::2, ::2] = x
    return found


class Song(Guided):
    """The layers of score_sde's DDPM++ of two levels, one by one, with random weights under the names of its files; of NCSN++."""

    def __init__(self, exploding=False):
        super().__init__(False, False, False)
        self.exploding = exploding

    def begin(self):
        self.count += 1
        return f"all_modules.{self.count}"

    def norm(self, name, x):
        groups = min(x.shape[1] // 4, 32)
        return functional.group_norm(x, groups, *(self.weight(f"{name}.{p}", x.shape[1]) for p in ("weight", "bias")), eps=1e-6)

    def block(self, x, time, width, resample=lambda x: x):
        name = self.begin()
        h = resample(functional.silu(self.norm(f"{name}.GroupNorm_0", x)))
        h = self.layer(f"{name}.Conv_0", h, width, padding=1)
        h = h + self.layer(f"{name}.Dense_0", functional.silu(time), width)[..., None, None]
        h = self.layer(f"{name}.Conv_1", functional.silu(self.norm(f"{name}.GroupNorm_1", h)), width, padding=1)
        same = x.shape == h.shape
        return (h + (x if same else self.layer(f"{name}.Conv_2", resample(x), width, side=1))) / math.sqrt(2)

    def attend(self, x):
        name, width = self.begin(), x.shape[1]

        def dense(k, x):
            weight = self.weight(f"{name}.NIN_{k}.W", width, width)
            return torch.einsum("bcn,cd->bdn", x, weight) + self.weight(f"{name}.NIN_{k}.b", width)[:, None]

        q, key, value = (dense(k, self.norm(f"{name}.GroupNorm_0", x).flatten(2)) for k in range(3))
        found = value @ (q.mT @ key / math.sqrt(width)).softmax(-1).mT
        return (x + dense(3, found).reshape(x.shape)) / math.sqrt(2)

    def __call__(self, x, time):
        self.count = -1

        def double(x):
            if self.exploding:
                return 4 * filtered(spread(x), 2, 1)
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

        def halve(x):
            return filtered(x, 1, 1)[:, :, ::2, ::2] if self.exploding else functional.avg_pool2d(x, 2)

        if self.exploding:
            angles = 2 * math.pi * time.log()[:, None] * self.weight(f"{self.begin()}.W", 16)
        else:
            angles = time[:, None] * torch.exp(-math.log(10000) * torch.arange(8) / 7)
        time = self.layer(self.begin(), torch.cat([angles.sin(), angles.cos()], 1), 64)
        time = self.layer(self.begin(), functional.silu(time), 64)
        skips = [self.layer(self.begin(), x, 16, padding=1)]
        skips.append(self.block(skips[-1], time, 16))
        skips.append(self.block(skips[-1], time, 16, halve))
        if self.exploding:
            smaller = self.layer(f"{self.begin()}.Conv2d_0", filtered(x, 2, 2), 16, stride=2)
            skips[-1] = (smaller + skips[-1]) / math.sqrt(2)
        skips.append(self.attend(self.block(skips[-1], time, 32)))
        h = self.block(self.attend(self.block(skips[-1], time, 32)), time, 32)
        for _ in range(2):
            h = self.block(torch.cat([h, skips.pop()], 1), time, 32)
        h = self.block(self.attend(h), time, 32, double)
        for _ in range(2):
            h = self.block(torch.cat([h, skips.pop()], 1), time, 16)
        h = functional.silu(self.norm(self.begin(), h))
        return self.layer(self.begin(), h, 2, padding=1)


def write_song(folder, state, **changes):
    """Write a folder of score_sde's weights and settings; changes are of all sections."""
    settings = {section: {name: changes.get(name, value) for name, value in part.items()} for section, part in SONG.items()}
    (folder / "config.json").write_text(json.dumps(settings))
    torch.save(state, folder / "checkpoint.pth")
    return DenoiserPrior(str(folder))


@pytest.mark.parametrize("continuous", [True, False])
def test_score_sde_is_its_layers_one_by_one(continuous, tmp_path, rng):
    """Of a training in continuous time, and in 100 steps, of the variance that its equation preserves."""
    network, k, (low, high) = Song(), 60, (0.2, 12.0)
    if continuous:
        t = k / 99
        kept, label = math.exp(-t * low - t**2 * (high - low) / 2), 999 * t
    else:
        kept, label = math.prod(1 - (low + (high - low) * j / 99) / 100 for j in range(k + 1)), k
    image = torch.rand(3, 2, 16, 8, generator=rng)
    with torch.no_grad():
        noise = network((2 * image - 1) * kept**0.5, torch.full((3,), float(label)))
    sigma = ((1 - kept) / kept) ** 0.5
    prior = write_song(tmp_path, network.state, continuous=continuous)
    torch.testing.assert_close(prior(image, sigma / 2, STREAMS), image - sigma * noise / 2, atol=1e-4, rtol=1e-4)
    beta = (low + high) / 2 if continuous else -sum(math.log(1 - (low + (high - low) * j / 99) / 100) for j in range(100))
    assert prior.highest == pytest.approx(math.sqrt(math.expm1(beta)) / 2)


def test_score_sde_with_an_exploding_variance_is_its_layers_one_by_one(tmp_path, rng):
    """Filters tap by tap; what the network finds, over sigma, is the score of images from 0 to 1."""
    network, sigma = Song(exploding=True), torch.tensor([0.02, 0.7, 40.0])
    image = torch.rand(3, 2, 16, 8, generator=rng)
    with torch.no_grad():
        score = network(2 * image - 1, sigma) / sigma.reshape(-1, 1, 1, 1)
    prior = write_song(tmp_path, network.state, **EXPLODING)
    found = image + sigma.reshape(-1, 1, 1, 1) ** 2 * score
    torch.testing.assert_close(prior(image, sigma, STREAMS), found, atol=1e-4, rtol=1e-4)
    assert prior.highest == pytest.approx(50) and network.count + 1 == len({name.split(".")[1] for name in network.state})


def test_the_networks_of_score_sde_are_as_large_as_published():
    """Four blocks a level, of CIFAR-10; NCSN++ has more by sines of twice as many frequencies, and three convolutions."""
    with torch.device("meta"):
        plain, filters = (DDPMpp(3, 0, 128, (1, 2, 2, 2), 4, 32, (16,), ncsnpp=ncsnpp) for ncsnpp in (False, True))
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (plain, filters)]
    more = 128 * 512 + sum((9 * inputs + 1) * outputs for inputs, outputs in ((3, 128), (128, 256), (256, 256)))
    assert sizes == [61_804_419, 61_804_419 + more]


@needs_diffusers
def test_filters_are_those_of_diffusers(rng):
    from diffusers.models.downsampling import FirDownsample2D
    from diffusers.models.upsampling import FirUpsample2D

    x, convolution = torch.randn(2, 3, 10, 6, generator=rng), filled(ddpmpp.FilteredConv(3, 5, 3))
    theirs = FirDownsample2D(3, use_conv=True, out_channels=5)
    theirs.Conv2d_0.load_state_dict(convolution.state_dict())
    torch.testing.assert_close(convolution(x), theirs(x))
    torch.testing.assert_close(ddpmpp.halve(x), FirDownsample2D(3)(x))
    torch.testing.assert_close(ddpmpp.double(x), FirUpsample2D(3)(x))


@pytest.mark.parametrize("exploding", [False, True])
def test_of_a_checkpoint_of_score_sde_the_averaged_weights_are_read(exploding, tmp_path, rng):
    """Which stand there without names, beside the optimizer's state and a table of levels; frequencies are not averaged."""
    network, image = Song(exploding), torch.rand(1, 2, 16, 16, generator=rng)
    with torch.no_grad():
        network(image, torch.ones(1))
    fixed = {name: v for name, v in network.state.items() if name == "all_modules.0.W"}
    assert len(fixed) == exploding
    averages = [v for name, v in network.state.items() if name not in fixed]
    model = {"module.sigmas": torch.rand(5)}
    model |= {f"module.{name}": fixed.get(name, torch.rand_like(v)) for name, v in network.state.items()}
    changes = EXPLODING if exploding else {}
    optimizer = torch.optim.Adam([nn.Parameter(v.clone()) for v in averages])
    sum(p.square().sum() for p in optimizer.param_groups[0]["params"]).backward()
    optimizer.step()
    ema = {"decay": 0.999, "num_updates": 7, "shadow_params": averages}
    whole = write_song(tmp_path, {"optimizer": optimizer.state_dict(), "model": model, "ema": ema, "step": 7}, **changes)
    assert torch.equal(whole(image, 0.4, STREAMS), write_song(tmp_path, network.state, **changes)(image, 0.4, STREAMS))
    with pytest.raises(InputError, match="cannot be read .*; wanted published weights"):
        write_song(tmp_path, {"model": model, "ema": ema | {"shadow_params": averages[1:]}}, **changes)


def refuse(folder, settings=None, schedule=None, state=None, guided=None, song=None):
    if song:
        write_song(folder, {"all_modules.0.weight": torch.zeros(1)}, **song)
    if guided:
        (folder / "config.json").write_text(json.dumps(FLAGS | guided))
        torch.save({"a": torch.zeros(1)}, folder / "ema.pt")
    else:
        write_folder(folder, settings, state, VP | (schedule or {}))
    DenoiserPrior(str(folder))


REFUSED = {
    "class": ({"settings": {"_class_name": "UNet2DConditionModel"}}, "UNet2DConditionModel'; wanted 'UNet2DModel'"),
    "classes": ({"settings": {"num_class_embeds": 10}}, "num_class_embeds is 10; wanted None"),
    "fourier": ({"settings": {"time_embedding_type": "fourier"}}, "'fourier'; wanted 'positional'"),
    "block": ({"settings": {"up_block_types": ["SkipUpBlock2D"] * 2}}, "'SkipUpBlock2D'; wanted 'UpBlock2D' or"),
    "levels": ({"settings": {"up_block_types": ["UpBlock2D"]}}, "up_block_types is 1; wanted 2"),
    "huge": ({"settings": {"block_out_channels": [2**20, 2**20]}}, "is .* and would be .*1048576.* in UNet2DModel"),
    "many": ({"settings": {"layers_per_block": 10**9}}, "blocks is 1e.09; wanted a value between 0 and 64"),
    "odd": ({"settings": {"norm_num_groups": 5}}, "does not fit together .*; wanted published weights"),
    "text": ({"settings": {"block_out_channels": 8}}, "does not fit together .*; wanted published weights"),
    "channels": ({"settings": {"out_channels": 3}, "state": filled(UNet2DModel(**SMALL | {"out_channels": 3})).state_dict()},
                 "out_channels is 3; wanted 1 or 2"),
    "weights": ({"state": {"conv_in.weight": torch.zeros(2)}}, r"conv_in.weight is \(2,\) and would be \(8, 1, 3, 3\)"),
    "schedule": ({"schedule": {"beta_schedule": "sigmoid"}}, "beta_schedule is 'sigmoid'; wanted 'linear' or"),
    "flow": ({"schedule": {"prediction_type": "flow_prediction"}}, "'flow_prediction'; wanted 'epsilon' or"),
    "zero": ({"schedule": {"rescale_betas_zero_snr": True}}, "rescale_betas_zero_snr is True; wanted False"),
    "steps": ({"schedule": {"num_train_timesteps": 1e12}}, "num_train_timesteps is 1e.12; wanted a value between"),
    "endless": ({"schedule": {"beta_start": 0.9, "beta_end": 0.9}}, "leaves nothing of the image"),
    "edm": ({"schedule": {"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}}, "'sample'; wanted 'epsilon' or"),
    "guided heads": ({"guided": {"num_head_channels": -1}}, "num_head_channels is -1; wanted at least 1"),
    "guided classes": ({"guided": {"class_cond": True}}, "class_cond is True; wanted False"),
    "song's equation": ({"song": {"sde": "subvpsde"}}, "sde is 'subvpsde'; wanted 'vpsde' or 'vesde'"),
    "song's steps": ({"song": EXPLODING | {"continuous": False}}, "continuous is False; wanted True"),
    "song's pyramid": ({"song": EXPLODING | {"progressive": "output_skip"}}, "progressive is 'output_skip'; wanted 'none'"),
    "song's filters": ({"song": {"fir": True}}, "fir is True; wanted False"),
    "song's weights": ({"song": {"nf": 32}}, r"map_layer0.weight is \(1,\) and would be \(128, 32\) in DDPMpp"),
    "song's widths": ({"song": {"nf": "many"}}, "does not fit together .*; wanted published weights"),
    "guided weights": ({"guided": {"num_res_blocks": 2}}, "conv_in.weight is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_a_sentence(case, tmp_path):
    given, said = REFUSED[case]
    with pytest.raises(InputError, match=said):
        refuse(tmp_path, **given)


def test_other_files_in_the_folder_are_a_sentence(tmp_path):
    """Another schedule, no settings, no JSON, no safetensors."""
    folder = write_folder(tmp_path / "a", schedule={"_class_name": "ScoreSdeVeScheduler"})
    for content, said in ((None, "'ScoreSdeVeScheduler'; wanted EDM's"), ("[]", "holds a list"), ("{", "cannot be read")):
        if content:
            (folder / "scheduler_config.json").write_text(content)
        with pytest.raises(InputError, match=said):
            DenoiserPrior(str(folder))
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="safetensors cannot be read"):
        DenoiserPrior(str(folder))
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="there are no weights .* or a folder with diffusion_pytorch_model.safetensors"):
        DenoiserPrior(str(folder))


THEIRS = {
    "plain": {},
    "DDPM": {"freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0, "attention_head_dim": None},
    "three levels": {
        "block_out_channels": (8, 8, 12), "layers_per_block": 2, "mid_block_scale_factor": 2**0.5, "out_channels": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "scaled": {
        "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 2, "downsample_type": "resnet",
        "upsample_type": "resnet", "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    },
    "scaled, without a norm": {"resnet_time_scale_shift": "scale_shift"},
    "no attention": {
        "add_attention": False, "time_embedding_dim": 20, "down_block_types": ("DownBlock2D",) * 2, "norm_eps": 1e-3,
        "up_block_types": ("UpBlock2D",) * 2,
    },
}  # fmt: skip


def saved_by_diffusers(folder, scheduler, **settings):
    """Return a network of diffusers, and its folder, which it has written with its schedule."""
    from diffusers import DDPMPipeline
    from diffusers import UNet2DModel as Theirs

    network = filled(Theirs(**SMALL | {"sample_size": 16} | settings))
    DDPMPipeline(network, scheduler).save_pretrained(folder)
    return network, str(folder)


@needs_diffusers
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("case", THEIRS)
def test_the_network_and_the_conversion_are_those_of_diffusers(case, prediction, tmp_path, rng):
    import diffusers

    kinds = {"epsilon": "linear", "v_prediction": "squaredcos_cap_v2", "sample": "scaled_linear"}
    options = {"beta_schedule": kinds[prediction], "prediction_type": prediction, "clip_sample": False}
    options["variance_type"] = "learned_range" if case == "three levels" else "fixed_small"
    scheduler = diffusers.DDPMScheduler(**options)
    network, folder = saved_by_diffusers(tmp_path / "vp", scheduler, **THEIRS[case])
    prior, image = DenoiserPrior(folder), torch.rand(1, 1, 16, 12, generator=rng)
    for k in (0, 300, 900):
        kept = (1 - scheduler.betas[: k + 1].double()).prod().item()
        level = ((1 - kept) / kept) ** 0.5 / 2
        y = image + level * torch.randn(image.shape, generator=rng)
        with torch.no_grad():
            x = (2 * y - 1) * kept**0.5
            theirs = scheduler.step(network(x, k).sample, k, x).pred_original_sample
            torch.testing.assert_close(prior(y, level, STREAMS), (theirs + 1) / 2, atol=1e-5 * max(1, level), rtol=1e-5)
    if prediction != "sample" and case != "three levels":
        scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction, sigma_data=0.4)
        network, folder = saved_by_diffusers(tmp_path / "edm", scheduler, **THEIRS[case])
        prior, level = DenoiserPrior(folder), torch.tensor(0.6)
        with torch.no_grad():
            found = network(scheduler.precondition_inputs(2 * y - 1, level), scheduler.precondition_noise(level)).sample
        theirs = scheduler.precondition_outputs(2 * y - 1, found, level)
        torch.testing.assert_close(prior(y, 0.3, STREAMS), (theirs + 1) / 2, atol=1e-5, rtol=1e-5)


@needs_diffusers
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "EDMEulerScheduler"])
def test_deterministic_sampling_is_that_of_diffusers(name, prediction, tmp_path, rng):
    """Euler's steps from D(x; sigma) alone; Karras's levels lie between those of the training."""
    import diffusers

    karras = {"use_karras_sigmas": True} if name == "EulerDiscreteScheduler" else {}
    plain = {"clip_sample": False} if name == "DDIMScheduler" else {}
    scheduler = getattr(diffusers, name)(prediction_type=prediction, **karras, **plain)
    network, folder = saved_by_diffusers(tmp_path, scheduler)
    scheduler.set_timesteps(12)
    start = torch.randn(1, 1, 16, 16, generator=rng)
    if name == "DDIMScheduler":
        kept = scheduler.alphas_cumprod[scheduler.timesteps].double()
        sigmas = [*((1 - kept) / kept).sqrt().tolist(), 0.0]
        theirs, z = start, start / kept[0].sqrt().float()
    else:
        sigmas, z = scheduler.sigmas.tolist(), start * scheduler.init_noise_sigma
        theirs = z
    with torch.no_grad():
        for time in scheduler.timesteps:
            found = network(scheduler.scale_model_input(theirs, time), time).sample
            theirs = scheduler.step(found, time, theirs).prev_sample
        prior, x = DenoiserPrior(folder), (z + 1) / 2
        for sigma, after in zip(sigmas, sigmas[1:], strict=False):
            denoised = prior(x, sigma / 2, STREAMS)
            x = denoised + after / sigma * (x - denoised)
    size = (theirs / 2 + 0.5).abs().max().item()
    torch.testing.assert_close(x, (theirs + 1) / 2, atol=1e-4 * max(1, size), rtol=0)
