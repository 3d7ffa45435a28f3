"""Volumes whose state is on the host, and what is said of time and memory before they are solved."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from padis_lightning.ct.sparse import SparseMatrix
from padis_lightning.diffusion import Coordinates, Denoiser, PatchModel, padding
from padis_lightning.linalg import concatenated
from padis_lightning.memory import Held, device_of, on_device_of
from padis_lightning.networks.unet import UNet
from padis_lightning.operators.cone import ConeBeam
from padis_lightning.operators.crop import Crop
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.operators.slices import Slices
from padis_lightning.priors import GroupPrior, PatchPrior, SlicePrior
from padis_lightning.random import Generators, seeded
from padis_lightning.solvers import estimate
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

    direct = adjoint


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
    """The device of the estimate, and the largest tensor on the GPU, of a solve with its modules there and its state here."""
    prior = {
        "slices": lambda: SlicePrior(PatchPrior(slices_model(), chunk_size=18)),
        "groups": lambda: GroupPrior(PatchPrior(slices_model(channels=3), chunk_size=18), depth=depth),
        "cubes": lambda: PatchPrior(cubes_model(depth, 20), chunk_size=4),
    }[kind]()
    operator = Slices(Plane(torch.randn(30, 400, generator=seeded(0))), depth)
    operator.operator.norm_squared = 1.0
    solver = make(prior, operator)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        on_a_gpu(solver, mode)
        with Sizes() as sizes, torch.no_grad():
            found = solver.solve(torch.empty(1, depth, 30), Generators.keyed(0, [0]))
        assert found.shape == (1, 1, depth, 20, 20)
        return found.device, sizes.largest


@pytest.fixture
def unseen(monkeypatch):
    """No number is looked at: tensors have none."""
    monkeypatch.setattr("padis_lightning.solvers.base.Solver.settle", lambda self: None)
    monkeypatch.setattr(Generators, "integers", lambda self, high: [0] * len(self))
    monkeypatch.setattr(Generators, "split", lambda self, count: Generators(g for g in self.generators for _ in range(count)))
    monkeypatch.setattr(PatchPrior, "crowded", lambda *_: False)
    monkeypatch.setattr("padis_lightning.operators.slices.TOGETHER", 2)
    monkeypatch.setattr("padis_lightning.priors.slices.TOGETHER", 2)
    for name in ("daps", "pnp_dm"):
        levels = lambda first, last, count: SimpleNamespace(tolist=lambda: [first] * count)  # noqa: E731
        monkeypatch.setattr(f"padis_lightning.solvers.{name}.geometric_sigmas", levels)


@pytest.mark.parametrize("name", [name for name in SOLVERS if " " not in name and name != "Ancestral"])
def test_every_solver_keeps_its_state_where_the_measurement_is(name, unseen):
    """Tensors on two devices in one operation would raise."""
    device, largest = solved_on_the_host(SOLVERS[name], "slices", 4)
    assert device == HOST and largest > 0


@pytest.mark.parametrize("kind", ["slices", "groups", "cubes"])
@pytest.mark.parametrize("cls", [PnPADMM, PnPSlices])
def test_what_is_on_the_gpu_does_not_grow_with_the_volume(cls, kind, unseen):
    """The largest tensor of three chunks is that of six."""
    (_, three), (_, six) = (solved_on_the_host(lambda p, a: cls(p, a, steps=2), kind, depth) for depth in (8, 16))
    assert 0 < three == six


@pytest.fixture
def thin(monkeypatch):
    """One slice at a time, and few rays."""
    for module in ("operators.slices", "priors.slices", "solvers.estimate"):
        monkeypatch.setattr(f"padis_lightning.{module}.TOGETHER", 1)
    monkeypatch.setattr("padis_lightning.ct.joseph.CHUNK", 1 << 12)


def volume_solver(name, kind="slices", depth=14, side=24):
    prior = {
        "slices": lambda: SlicePrior(PatchPrior(slices_model(side), chunk_size=8)),
        "groups": lambda: GroupPrior(PatchPrior(slices_model(side, channels=3), chunk_size=8), depth=depth),
        "cubes": lambda: PatchPrior(cubes_model(depth, side), chunk_size=8),
        "held together": lambda: SlicePrior(PatchPrior(slices_model(side), chunk_size=8), slice_tv=0.1),
        "cone": lambda: SlicePrior(PatchPrior(slices_model(side), chunk_size=8)),
    }[kind]()
    operator = ConeBeam((depth, side, side), views=6) if kind == "cone" else Slices(ParallelBeam(side, views=5), depth)
    return SOLVERS[name](prior, operator)


def measured(solver, count=1):
    return torch.rand(count, *solver.operator.measurement_shape, generator=seeded(3))


STATES = [(name, "slices") for name in SOLVERS if " " not in name and name not in ("Ancestral", "PseudoInverse")]
STATES += [("PnPADMM", kind) for kind in ("cone", "groups", "cubes", "held together")] + [("PnPSlices", "cone"), ("DDS", "cone")]
DEAR = {("MMPS", "slices"), ("DPS", "slices"), *((name, kind) for name, kind in STATES if kind == "cone")}


@pytest.mark.parametrize(("name", "kind"), [pytest.param(*state, marks=[pytest.mark.slow] * (state in DEAR)) for state in STATES])
def test_the_memory_is_what_a_solve_holds_at_most(name, kind, thin):
    """Within a quarter; what is held is counted tensor by tensor."""
    solver = volume_solver(name, kind, 60 if kind in ("groups", "held together") else 14)
    y = measured(solver)
    expected = estimate.estimate_of(solver, y)
    with Held() as held, torch.no_grad():
        solver.solve(y, Generators.keyed(0, [0]))
    ours = (expected.memory - expected.weights)[HOST] - y.nbytes
    assert held.most[HOST] == pytest.approx(ours, rel=0.25)


@pytest.mark.parametrize("name", SOLVERS)
def test_products_are_counted_right(name, monkeypatch):
    """Every product with the matrix or its transpose; that of the exact pseudo-inverse ends when it is near enough."""
    calls, product = [], SparseMatrix._product
    solver = SOLVERS[name](PatchPrior(slices_model()), ParallelBeam(20, views=5))
    assert solver.operator.norm_squared > 0  # once and for all
    monkeypatch.setattr(SparseMatrix, "_product", lambda *args: calls.append(1) or product(*args))
    solver.solve(torch.rand(1, 1, 5, 40, generator=seeded(0)), Generators.keyed(0, [0]))
    assert len(calls) == solver.products or (name == "PseudoInverse exact" and 0 < len(calls) < solver.products)


def test_the_time_is_that_of_the_work(monkeypatch, thin):
    """By a clock that runs a second for every slice of a network's call and a tenth for every product with a slice."""
    now = [0.0]
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now[0])
    forward, product = PatchPrior.forward, SparseMatrix._product

    def slow(self, x, *rest):
        now[0] += len(x)
        return forward(self, x, *rest)

    def slow_product(self, name, x):
        now[0] += len(x) / 10
        return product(self, name, x)

    monkeypatch.setattr(PatchPrior, "forward", slow)
    monkeypatch.setattr(SparseMatrix, "_product", slow_product)
    for name in ("DDS", "PnPADMM", "PnPSlices", "Langevin", "TotalVariation"):
        solver = volume_solver(name, depth=7, side=20)
        found = estimate.estimate_of(solver, measured(solver, 2))
        assert solver.operator.norm_squared > 0
        start = now[0]
        with torch.no_grad():
            solver.solve(measured(solver, 2), Generators.keyed(0, [0, 1]))
        assert found.seconds == pytest.approx(now[0] - start, rel=1e-6)
        assert found.evaluation in (0.0, pytest.approx(7.0)) and found.product == pytest.approx(0.7)


def test_the_estimate_is_said_once_and_changes_no_bit(thin):
    images = torch.rand(1, 1, 6, 20, 20, generator=seeded(1))
    batch = Batch(torch.tensor([4]), ["a"], ["a"], images)
    for kind in ("slices", "groups", "cubes"):
        plain, telling = (volume_solver("PnPADMM", kind, 8, 20) for _ in range(2))
        batch = batch._replace(image=torch.rand(1, 1, 8, 20, 20, generator=seeded(1)))
        said = []
        telling.announce = said.append
        with torch.no_grad():
            first, second, again = (solver.predict_step(batch).estimate for solver in (plain, telling, telling))
        assert torch.equal(first, second) and torch.equal(first, again) and len(said) == 1
        assert re.fullmatch(
            r"a volume of 8x20x20: about \S+ s \(4 evaluations of \S+ s, \d+ projections of \S+ s\), \S+ GiB on the host", said[0]
        )


def test_images_have_no_estimate():
    solver = SOLVERS["PnPADMM"](PatchPrior(slices_model()), ParallelBeam(20, views=5))
    solver.announce = lambda line: pytest.fail(line)
    batch = Batch(torch.tensor([4]), ["a"], ["a"], torch.rand(1, 1, 20, 20, generator=seeded(1)))
    with torch.no_grad():
        solver.predict_step(batch)


def test_what_does_not_fit_says_how_much_is_free(monkeypatch):
    free = {HOST: 2 << 30, torch.device("cuda", 0): 40 << 30}
    monkeypatch.setattr(estimate, "free_memory", lambda device: free[device])
    memory, weights = (estimate.Memory(dict(zip(free, part, strict=True))) for part in ((3 << 30, 41 << 30), (0, 2 << 30)))
    found = estimate.Estimate(2, 50, 6.0, 1150, 0.1, memory, weights)
    assert found.sentence((1, 256, 512, 512)) == (
        "2 volumes of 256x512x512 at once: about 14 min (50 evaluations of 6 s, 1150 projections of 0.1 s each), "
        "3 GiB of 2 free on the host, 41 GiB on cuda:0"
    )


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
    needed = 3 * 4 * (6 * torch.Size(shape).numel() + 3 * torch.Size(operator.measurement_shape).numel())
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
    for kind in ("slices", "groups", "cubes"):
        prior = volume_solver("PnPADMM", kind, 8, 20).prior
        crop = Crop(prior.image_shape, prior.pad)
        expected = crop(prior(crop.adjoint(x), 0.3, Generators.keyed(0, [1, 2])))
        assert torch.equal(prior.inside(x, 0.3, Generators.keyed(0, [1, 2])), expected)


def test_slices_are_fitted_in_double_precision_as_the_volume_is():
    operator = Slices(ParallelBeam(12, views=5), 70)
    x, y = (
        torch.rand(2, *shape, generator=seeded(k)) for k, shape in enumerate((operator.image_shape, operator.measurement_shape))
    )
    weight, precision = torch.tensor([0.3, 2.0]).double().reshape(2, 1, 1, 1, 1) / 3, 0.5 + y.double()
    expected = operator.prox(x.double(), y.double(), weight, precision, 4).float()
    assert torch.equal(operator.double_prox(x, y, weight, precision, 4), expected)


def test_parts_are_joined_as_by_cat_and_let_go():
    parts = [torch.rand(n, 3, generator=seeded(n)) for n in (4, 4, 1)]
    assert torch.equal(concatenated(iter(parts), 9), torch.cat(parts))
    assert concatenated(iter(parts[:1]), 4) is parts[0]
    points = [part.clone().requires_grad_() for part in parts]
    (gradient,) = torch.autograd.grad(concatenated(iter(points), 9).square().sum(), points[1])
    assert torch.equal(gradient, 2 * parts[1])
    with Held() as held:
        concatenated((torch.ones(1, 1000) for _ in range(50)), 50)
    assert held.most[HOST] <= 4 * 1000 * (50 + 2)
    assert held.now[HOST] == 0


def test_what_is_beside_a_module_comes_back():
    module, seen = nn.Linear(2, 2), []
    with FakeTensorMode() as mode:
        compute = on_device_of(on_a_gpu(module, mode), lambda *parts: seen.extend(part.device for part in parts) or parts[0])
        assert device_of(module) == GPU and device_of(nn.ReLU()) is None
        assert compute(torch.ones(2), torch.ones(2)).device == HOST and seen == [GPU, GPU]
        assert compute(torch.ones(2, device=GPU)).device == GPU
    assert on_device_of(nn.ReLU(), torch.neg)(torch.ones(2)).tolist() == [-1.0, -1.0]
