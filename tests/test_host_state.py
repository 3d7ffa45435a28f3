"""Volumes whose state is on the host while the network and the operator are on a device."""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from padis_lightning.diffusion import Coordinates, Denoiser, PatchModel, padding
from padis_lightning.linalg import concatenated
from padis_lightning.memory import device_of, on_device_of
from padis_lightning.networks.unet import UNet
from padis_lightning.operators.crop import Crop
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.operators.slices import Slices
from padis_lightning.priors import GroupPrior, PatchPrior, SlicePrior
from padis_lightning.random import Generators, seeded
from padis_lightning.solvers.base import ARRAYS
from padis_lightning.solvers.plug_and_play import PnPADMM
from padis_lightning.solvers.plug_and_play_slices import PnPSlices
from padis_lightning.types import Batch, Normalisation

from .conftest import random_network
from .test_solvers import SOLVERS, Matrix

HOST, GPU = torch.device("cpu"), torch.device("lazy", 0)  # as a GPU that torch can think of without one


def slices_model(side=20, channels=1):
    positions = 2 if channels == 1 else 3
    denoiser = Denoiser(random_network(channels=channels, positions=positions), 0.3, positions=Coordinates(positions))
    return PatchModel(denoiser, (channels, side, side), [8], padding((side, side), 8), Normalisation(0.0, 1.0))


def cubes_model(depth, side):
    network = UNet(base=8, multipliers=[1, 2], blocks=1, axes=3, positions=3)
    shape = (1, depth, side, side)
    return PatchModel(Denoiser(network, 0.3), shape, [8], padding(shape[1:], 8), Normalisation(0.0, 1.0))


class Sizes(TorchDispatchMode):
    """The bytes of the largest tensor that is made on a GPU."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == GPU.type:
                self.largest = max(self.largest, tensor.nbytes)
        return out


class Plane(Matrix):
    """A dense operator on slices of 20x20 pixels that computes only where its matrix is."""

    image_shape, measurement_shape = (1, 20, 20), (30,)

    def forward(self, x):
        return x.flatten(1) @ self.values.t().to(x.dtype)

    def adjoint(self, y):
        return (y @ self.values.to(y.dtype)).reshape(-1, *self.image_shape)

    approximate_inverse = adjoint


def on_a_gpu(solver, mode):
    """The solver, its parameters and buffers on a GPU that there is not."""
    for module in solver.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = mode.from_tensor(tensor).detach().to(GPU)
                    tensors[name] = nn.Parameter(fake, requires_grad=False) if tensors is module._parameters else fake
    return solver


def solved_on_the_host(make, kind, depth):
    """The device of the images, and the largest tensor on the GPU, of a solve with its modules there and its state here."""
    prior = {
        "slices": lambda: SlicePrior(PatchPrior(slices_model(), chunk_size=18)),
        "groups": lambda: GroupPrior(PatchPrior(slices_model(channels=3), chunk_size=18), depth=depth),
        "cubes": lambda: PatchPrior(cubes_model(depth, 20), chunk_size=4),
    }[kind]()
    operator = Slices(Plane(torch.randn(30, 400, generator=seeded(0))), depth)
    operator.operator.norm_squared = 1.0
    solver = make(prior, operator)
    if hasattr(solver, "sigmas"):
        solver.sigmas = solver.sigmas[-3:]  # two levels show where tensors are as well as six
    if hasattr(solver, "iterations"):
        solver.iterations = 2  # and two iterations as well as fifty
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        on_a_gpu(solver, mode)
        with Sizes() as sizes, torch.no_grad():
            found = solver.solve(torch.empty(1, depth, 30), Generators.keyed(0, [0]))
        assert found.shape == (1, 1, depth, 20, 20)
        return found.device, sizes.largest


@pytest.fixture
def unseen(monkeypatch):
    """No number is looked at: tensors have none."""
    monkeypatch.setattr("padis_lightning.solvers.loop._Watch.look", lambda self: None)
    monkeypatch.setattr("padis_lightning.solvers.tv.TotalVariation._say_unsettled", lambda *numbers: None)
    monkeypatch.setattr(Generators, "integers", lambda self, high: [0] * len(self))
    monkeypatch.setattr(Generators, "split", lambda self, count: Generators(g for g in self.generators for _ in range(count)))
    monkeypatch.setattr("padis_lightning.operators.slices.SLICES_AT_ONCE", 2)
    monkeypatch.setattr("padis_lightning.priors.slices.SLICES_AT_ONCE", 2)
    for name in ("daps", "plug_and_play", "pnp_dm"):
        levels = lambda first, last, count: SimpleNamespace(tolist=lambda: [first] * count)  # noqa: E731
        monkeypatch.setattr(f"padis_lightning.solvers.{name}.geometric_sigmas", levels)


@pytest.mark.parametrize("name", [name for name in SOLVERS if " " not in name and name not in ("Ancestral", "WaveletL1")])
def test_every_solver_keeps_its_state_where_the_measurement_is(name, unseen):
    """Tensors on two devices in one operation would raise."""
    device, largest = solved_on_the_host(SOLVERS[name], "slices", 4)
    assert device == HOST and largest > 0


@pytest.mark.parametrize(("cls", "kind"), [(PnPADMM, "slices"), (PnPADMM, "groups"), (PnPADMM, "cubes"), (PnPSlices, "slices")])
def test_what_is_on_the_gpu_does_not_grow_with_the_volume(cls, kind, unseen):
    """The largest tensor of three chunks is that of six."""
    (_, three), (_, six) = (solved_on_the_host(lambda p, a: cls(p, a, steps=2), kind, depth) for depth in (8, 16))
    assert 0 < three == six


@pytest.mark.parametrize(
    ("state", "shape", "free", "stays"),
    [
        ("host", (1, 4, 20, 20), 1e12, True),
        ("device", (1, 4, 20, 20), 0, False),
        ("auto", (1, 4, 20, 20), 2.01, False),
        ("auto", (1, 4, 20, 20), 1.99, True),
        ("auto", (1, 20, 20), 0, False),
    ],
)
def test_the_state_is_on_the_host_where_it_is_wanted_or_does_not_fit(state, shape, free, stays, monkeypatch, caplog):
    """The device is the one on which nothing has values; half of what is free is for the network."""
    inner = ParallelBeam(20, views=5)
    operator = Slices(inner, shape[1]) if len(shape) == 4 else inner
    prior = PatchPrior(slices_model())
    solver = PnPADMM(SlicePrior(prior) if len(shape) == 4 else prior, operator, state=state, samples=3)
    needed = 3 * 4 * ARRAYS * torch.Size(shape).numel()
    monkeypatch.setattr("padis_lightning.solvers.base.free_memory", lambda device: free * needed)
    batch = Batch(torch.tensor([4]), ["a"], ["a"], torch.zeros(1, *shape))
    for _ in range(2):
        moved = solver.transfer_batch_to_device(batch, torch.device("meta"), 0)
        assert moved.image.device.type == moved.index.device.type == ("cpu" if stays else "meta")
    assert len(caplog.records) == (state == "auto" and stays)
    assert not solver.transfer_batch_to_device(batch, HOST, 0).image.is_meta


def test_without_its_border_a_volume_is_denoised_as_with_it():
    """To the bits, whatever is denoised at a time."""
    x = torch.rand(2, 1, 8, 20, 20, generator=seeded(5))
    for prior in (
        SlicePrior(PatchPrior(slices_model(), chunk_size=8), 8),
        SlicePrior(PatchPrior(slices_model(), chunk_size=8), 8, slice_tv=0.1),
        GroupPrior(PatchPrior(slices_model(channels=3), chunk_size=8), depth=8),
        PatchPrior(cubes_model(8, 20), chunk_size=8),
    ):
        crop = Crop(prior.image_shape, prior.pad)
        expected = crop(prior(crop.adjoint(x), 0.3, Generators.keyed(0, [1, 2])))
        assert torch.equal(prior.on_images(x, 0.3, Generators.keyed(0, [1, 2])), expected)


def test_proximal_steps_of_slices_are_in_double_precision_as_the_volume_is():
    operator = Slices(ParallelBeam(12, views=5), 70)
    x, y = (
        torch.rand(2, *shape, generator=seeded(k)) for k, shape in enumerate((operator.image_shape, operator.measurement_shape))
    )
    weight, precision = torch.tensor([0.3, 2.0]).double().reshape(2, 1, 1, 1, 1) / 3, 0.5 + y.double()
    expected = operator.prox(x.double(), y.double(), weight, precision, iterations=4).float()
    assert torch.equal(operator.prox(x, y, weight, precision, iterations=4, double=True), expected)


def test_parts_are_concatenated_as_by_cat_and_let_go():
    parts = [torch.rand(n, 3, generator=seeded(n)) for n in (4, 4, 1)]
    assert torch.equal(concatenated(iter(parts), 9), torch.cat(parts))
    assert concatenated(iter(parts[:1]), 4) is parts[0]
    points = [part.clone().requires_grad_() for part in parts]
    (gradient,) = torch.autograd.grad(concatenated(iter(points), 9).square().sum(), points[1])
    assert torch.equal(gradient, 2 * parts[1])
    alive = []

    def made_in_turn():
        for _ in range(5):
            assert not any(one() is not None for one in alive[:-1])  # the last one may still be held while the next is made
            part = torch.ones(1, 3)
            alive.append(weakref.ref(part))
            yield part

    concatenated(made_in_turn(), 5)
    assert len(alive) == 5 and all(one() is None for one in alive)


def test_what_is_computed_on_the_device_of_a_module_comes_back():
    module, seen = nn.Linear(2, 2), []
    with FakeTensorMode() as mode:
        compute = on_device_of(on_a_gpu(module, mode), lambda *parts: seen.extend(part.device for part in parts) or parts[0])
        assert device_of(module) == GPU and device_of(nn.ReLU()) is None
        assert compute(torch.ones(2), torch.ones(2)).device == HOST and seen == [GPU, GPU]
        assert compute(torch.ones(2, device=GPU)).device == GPU
    assert on_device_of(nn.ReLU(), torch.neg)(torch.ones(2)).tolist() == [-1.0, -1.0]


def test_the_size_of_the_state_is_said_once(capsys):
    """Two arrays of float32, of two volumes of 4x20x20, beside a few numbers."""
    solver = PnPADMM(SlicePrior(PatchPrior(slices_model())), Slices(ParallelBeam(20, views=5), 4), steps=2)
    solver.loop.attach(visible=True)
    for _ in range(2):
        solver.solve(torch.ones(2, 4, 1, 5, 40), Generators.keyed(0, [0, 1]))
    size = f"{2 * 4 * 2 * 1600 / 2**30:.2g} GiB"
    line = f"padis_lightning: PnPADMM keeps {size} on cpu from step to step, volumes of 4x20x20, 2 at once"
    assert capsys.readouterr().err.count(line) == 1
