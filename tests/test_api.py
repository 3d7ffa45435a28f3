"""``import padis_lightning as pl``: what it shows, and that it does what the command line does."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
import types
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import padis_lightning as pl
from padis_lightning import api
from padis_lightning.cli import main
from padis_lightning.registry import subclasses
from tests import typed_use
from tests.conftest import small_model

ROOT = Path(pl.__file__).parent
RNG = np.random.default_rng(3)
PLAIN = ("--results.baselines", "{}", "--trainer.accelerator", "cpu")
SCAN = ("--model", "RED", "--model.steps", "3")
NAMELESS = {
    "CountedNoise",
    "Crop",
    "EstimatedNoise",
    "FinerScan",
    "Rows",
    "Whitening",
    "Ancestral",
}  # made by others, or of nothing measured


def disc(size=64, radius=0.6):
    return (np.hypot(*np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]) < radius).astype(np.float32)


def predicted(out, *words):
    main(["predict", *map(str, words), *PLAIN, "--output", str(out)])
    return [np.load(path) for path in sorted((out / "arrays").glob("*.npy"))]


@pytest.mark.parametrize("shape", [(40, 20), (20, 39), (2, 40, 20)])
def test_a_transposed_sinogram_of_a_geometry_is_refused(shape):
    scan = pl.Geometry((32, 32), tuple(np.linspace(0, 3, 20).tolist()), 40, 1.0, 1.0)
    with pytest.raises(pl.InputError, match=r"the measurement is \(.*\); wanted \(20, 40\), or several of these"):
        pl.reconstruct(np.ones(shape), scan, solver="PseudoInverse", range=(0, 1))


def test_every_class_that_a_config_names_is_shown_and_nothing_is_imported_before():
    known = {c for base in (pl.Solver, pl.LinearOperator, pl.Prior, pl.Noise) for c in subclasses(base)}
    known = {c for c in known if c.__module__.startswith("padis_lightning.") and not inspect.isabstract(c)}
    ours = {c.__name__ for c in known if ".interop." not in c.__module__}
    assert ours - NAMELESS <= set(dir(pl))
    for name in dir(pl):
        assert getattr(pl, name) is not None
    code = "import sys, padis_lightning as pl; pl.InputError; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pl.nothing  # noqa: B018


def test_what_type_checkers_are_told_is_what_comes_out(monkeypatch):
    """Here an assert_type holds the value against the type that a checker finds."""
    said = []

    def held(value, kind):
        said.append(kind)
        origin, parts = typing.get_origin(kind) or kind, typing.get_args(kind)
        kinds = [typing.get_origin(part) or part for part in parts] if origin is types.UnionType else [origin]
        assert isinstance(value, tuple(kinds)), f"{value!r} is no {kind}"
        return value

    monkeypatch.setattr(typed_use, "assert_type", held)
    typed_use.functions(np.zeros((64, 64)), torch.zeros(64, 64))
    typed_use.parts(torch.ones(1, 1, 16, 16))
    assert len(said) > 20


WITH_EXAMPLES = [path for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_do_what_they_say(path):
    name = ".".join(("padis_lightning", *path.relative_to(ROOT).with_suffix("").parts))
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0 and not found.failed


@pytest.mark.parametrize("bounds", [(0, 4.0), None])
def test_a_scan_is_solved_as_predict_solves_its_file(tmp_path, bounds):
    """Bit for bit, with a dead bin, a drifting beam, and with what 1 stands for named or found."""
    geometry = pl.ParallelBeam(size=64, views=24).geometry
    images = 4 * np.stack([disc(), disc(radius=0.4)])
    y = pl.simulate(images, pl.Scan(geometry), noise_std=0.3, seed=7).astype(float) + np.linspace(0, 0.9, 24)[:, None]
    y[:, :, 70] = 0
    described = {k: v for k, v in geometry.describe().items() if v is not None}
    np.savez(tmp_path / "scan.npz", y=y, **described, **({} if bounds is None else {"range": bounds}))
    words = ("--config", "scan.yaml", "--data.path", tmp_path / "scan.npz", "--data.batch_size", 2, "--model.steps", 3)
    theirs = predicted(tmp_path / "out", *words)
    levels = {"steps": 3, "sigma_max": 0.2, "sigma_min": 0.03, "penalty": 0.003}
    found = pl.reconstruct(y, geometry, "objects", "RED", range=bounds, **levels)
    assert found.range[0] == 0 and (found.range[1] == 4 if bounds else 3 < found.range[1] < 5)
    assert np.array_equal(found.image, np.stack(theirs)) and found.evaluations == 3
    assert found.noise_std == pytest.approx([0.3, 0.3], rel=0.5)  # edges add some
    tensor = pl.reconstruct(torch.from_numpy(y), geometry, "objects", pl.RED, range=bounds, **levels)
    assert torch.equal(tensor.image, torch.from_numpy(found.image))


def test_images_are_measured_and_solved_as_predict_does(tmp_path):
    images = np.stack([disc(128), disc(128, 0.3)])
    np.savez(tmp_path / "images.npz", images=images)
    noise = ("--model.noise_std", 0.02, "--results.measurements", "true", "--model.seed", 5, "--model.samples", 2)
    words = ("--config", "ct20.yaml", *SCAN, "--data.path", tmp_path / "images.npz", *noise)
    theirs = predicted(tmp_path / "out", *words)
    scan = pl.ParallelBeam(size=128, views=20, pixels="points")
    y = pl.simulate(torch.from_numpy(images), pl.Problem(scan, pl.GaussianNoise(0.02), oversampling=2), seed=5)
    for k, one in enumerate(y):
        assert np.array_equal(one, np.load(tmp_path / "out" / "measurements" / f"000{k}.npz")["y"][0])
    found = pl.reconstruct(y, scan, "ct_phantoms", "RED", 0.02, steps=3, seed=5, samples=2)
    assert np.array_equal(found.image, np.stack(theirs)) and found.noise_std == pytest.approx([0.02, 0.02])
    kept = np.stack([np.load(tmp_path / "out" / "samples" / f"000{k}.npy") for k in range(2)])
    assert np.array_equal(found.samples, kept)
    left = torch.linalg.vector_norm(y - pl.simulate(found.image, scan), dim=(1, 2)) / torch.linalg.vector_norm(y, dim=(1, 2))
    assert found.residual == pytest.approx(left.tolist(), rel=1e-4)


@pytest.mark.parametrize("sigma", [25.5, None])
def test_pictures_are_denoised_as_predict_does_whatever_holds_them(tmp_path, sigma):
    """Integers of 8 bits say their range; axes of channels come back where they were."""
    picture = RNG.integers(0, 256, (70, 84, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "noisy.png")
    noise = "null" if sigma is None else sigma / 255
    words = ("--data.path", tmp_path / "noisy.png", "--data.measured", "true", "--model.noise_std", noise)
    (theirs,) = predicted(tmp_path / "out", "--config", "denoise.yaml", *words)
    found = pl.denoise(picture, sigma)
    assert np.array_equal(found, theirs) and found.dtype == np.float32
    first = pl.denoise(torch.from_numpy(picture).movedim(-1, 0), sigma)
    assert torch.equal(first.movedim(0, -1), torch.from_numpy(found))
    named = pl.denoise(picture[None].astype(float), sigma, range=(0, 255))
    assert np.array_equal(named[0], found)


class Shrink(nn.Module):
    """A denoiser: half of the image."""

    channels = 1

    def forward(self, x, sigma):
        return x / 2


def test_units_are_the_callers(rng):
    """With values of other units, noise in them included, the same image: of pictures shifted, of sums scaled by a power of 2."""
    image = torch.rand(1, 12, 10, generator=rng)
    operator = pl.UniformBlur((1, 12, 10), 3)
    one = pl.reconstruct(image, operator, Shrink(), "RED", 0.125, steps=2)
    other = pl.reconstruct(64 * image - 32, operator, Shrink(), "RED", 8.0, range=(-32, 32), steps=2)
    torch.testing.assert_close(other.image, 64 * one.image - 32, atol=1e-4, rtol=0)
    assert other.noise_std == 8 and other.residual == pytest.approx(one.residual, rel=1e-5)
    scan = pl.ParallelBeam(size=12, views=5)
    y = scan(torch.rand(1, 1, 12, 12, generator=rng))
    one, other = (pl.reconstruct(k * y, scan, Shrink(), noise_std=k * 0.25, range=(0, k), steps=2) for k in (1, 4))
    assert torch.equal(other.image, 4 * one.image) and one.image.shape == (1, 1, 12, 12)


def test_measurements_far_beyond_those_of_images_from_0_to_1_want_a_range(caplog):
    """Whatever the noise, the longest that there are pass, and ten times these with a range of ten; far shorter ones are told."""
    scan = pl.ParallelBeam(size=12, views=5)
    for noise in (50.0, 0.0):
        y = pl.simulate(np.ones((12, 12)), scan, noise)
        assert pl.reconstruct(y, scan, Shrink(), noise_std=noise, steps=2).range == (0, 1)
        with pytest.raises(
            pl.InputError, match=r"is \d\.\d times what images from 0 to 1 have at most; wanted range=\(0, UPPER\)"
        ):
            pl.reconstruct(10 * y, scan, Shrink(), noise_std=noise, steps=2)
        pl.reconstruct(10 * y, scan, Shrink(), noise_std=10 * noise, range=(0, 10), steps=2)
    assert "times what" not in caplog.text
    pl.reconstruct(1e-3 * y, scan, Shrink(), noise_std=0.0, steps=2)
    assert " times what images from 0 to 1 have at most; range=(0, UPPER) names" in caplog.text


def test_a_problem_brings_its_noise_and_is_not_changed(rng):
    """Two measurements by one problem: the noise of each is its own."""
    scan = pl.ParallelBeam(size=32, views=40)
    image, problem = disc(32), pl.Problem(scan)
    for noise in (0.5, 2.0):
        found = pl.reconstruct(pl.simulate(image, scan, noise), problem, Shrink(), steps=1)
        assert found.noise_std == pytest.approx(noise, rel=0.2)
    counted = pl.Problem(scan, pl.PoissonNoise(1e7), oversampling=2)
    y = pl.simulate(image, counted, seed=1)
    assert not np.array_equal(y, pl.simulate(image, counted, seed=2))
    spread = (y - pl.simulate(image, pl.Problem(scan, pl.GaussianNoise(0), oversampling=2))).std()
    variance = pl.PoissonNoise(1e7).variance(torch.from_numpy(y)).mean().sqrt()
    assert spread == pytest.approx(float(variance), rel=0.1)


def test_a_saved_prior_has_the_same_bits(tmp_path, rng):
    prior = pl.PatchPrior(small_model())
    x = torch.rand(2, 1, 20, 20, generator=rng)
    files = [prior.save_pretrained(tmp_path / "mine"), prior.save_pretrained(tmp_path / "other.safetensors")]
    assert files == [tmp_path / "mine" / "prior.safetensors", tmp_path / "other.safetensors"]
    for name in (tmp_path / "mine", *map(str, files)):
        read = pl.PatchPrior.from_pretrained(name, tiling=pl.FixedTiling())
        assert isinstance(read.tiling, pl.FixedTiling) and read.model.describe() == prior.model.describe()
        again = pl.PatchPrior.from_pretrained(name)
        found, wanted = (p.on_images(x, 0.1, pl.Generators.keyed(0, range(2))) for p in (again, prior))
        assert torch.equal(found, wanted)
    assert files[0].read_bytes() == files[1].read_bytes()


REFUSED = {
    "shape": (lambda: pl.reconstruct(np.zeros((3, 4, 5)), pl.ParallelBeam(16, 5)), r"the measurement is \(1, 4, 5\); wanted"),
    "axes": (lambda: pl.simulate(np.zeros(4), pl.Identity((1, 4, 4))), r"the image is \(4,\); wanted \(1, 4, 4\)"),
    "nan": (lambda: pl.simulate(np.full((4, 4), np.nan), pl.Identity((1, 4, 4))), "the image has NaN or infinity; wanted"),
    "empty": (lambda: pl.simulate(np.zeros((0, 4, 4)), pl.Identity((1, 4, 4))), "the image has no values; wanted"),
    "operator": (lambda: pl.reconstruct(np.zeros((4, 4)), "ct"), "the operator is str; wanted a LinearOperator"),
    "solver": (lambda: pl.reconstruct(np.zeros((4, 4)), pl.Identity((1, 4, 4)), Shrink(), "PNP"), "solver is 'PNP'; wanted"),
    "no prior": (lambda: pl.reconstruct(np.zeros((4, 4)), pl.Identity((1, 4, 4)), None), "the prior is None; wanted a name"),
    "prior": (lambda: pl.denoise(np.zeros((4, 4)), 1, "nobody"), "there is no prior 'nobody'; wanted a file or a bundled"),
    "range": (lambda: pl.denoise(100 * np.ones((4, 4)), 1, Shrink()), r"values from 100 to 100; wanted range=\(LOWER, UPPER\)"),
    "integers": (lambda: pl.denoise(np.ones((4, 4), int), 1, Shrink()), r"values from 1 to 1; wanted range=\(LOWER, UPPER\)"),
    "sums": (lambda: pl.reconstruct(np.ones((5, 32)), pl.ParallelBeam(16, 5), Shrink(), range=(-1, 1)), "range is -1 to 1;"),
    "noise": (
        lambda: pl.reconstruct(np.ones((4, 4)), pl.Problem(pl.Identity((1, 4, 4)), pl.GaussianNoise(1)), Shrink(), noise_std=1.0),
        "noise_std is 1 beside a problem with its noise; wanted one of them",
    ),
    "unseen": (
        lambda: pl.reconstruct(np.ones(9), pl.Stack([pl.Identity((1, 3, 3))]), Shrink()),
        "the noise of Stack cannot be estimated; wanted it, 0 for exact data",
    ),
    "colours": (lambda: pl.denoise(np.zeros((40, 40)), 0.1), r"the measurement is \(40, 40\); wanted \(3, "),
    "ends": (lambda: pl.denoise(np.zeros((4, 4)), 1, Shrink(), range=(1,)), r"range is \(1,\); wanted two numbers"),
    "deviations": (lambda: pl.denoise(np.zeros((2, 4, 4)), [1, 2], Shrink()), r"noise_std is \[1, 2\]; wanted one number"),
    "seed": (lambda: pl.denoise(np.zeros((4, 4)), 1, Shrink(), seed=-1), "seed is -1; wanted at least 0"),
    "seed of noise": (lambda: pl.simulate(np.zeros((4, 4)), pl.Identity((1, 4, 4)), 1, seed=-1), "seed is -1; wanted at least 0"),
    "nothing measured": (
        lambda: pl.reconstruct(np.zeros((4, 4)), pl.Identity((1, 4, 4)), Shrink(), "Ancestral"),
        "solver is 'Ancestral'; wanted one of .*BM3D",
    ),
}  # fmt: skip


def test_what_was_mended_of_a_scan_is_said_each_time(caplog):
    scan = pl.Geometry((32, 32), tuple(np.linspace(0, 3, 20).tolist()), 40, 1.0, 1.0)
    y = pl.simulate(np.hypot(*np.mgrid[-1:1:32j, -1:1:32j]) < 0.6, scan, noise_std=0.02)
    y[:, 20] = 0  # a dead bin
    said = []
    for _ in range(2):
        pl.reconstruct(y, scan, solver="PseudoInverse", noise_std=0.02)
        said.append([line for line in caplog.messages if "dead" in line])
        caplog.clear()
    assert said[0] and said[0] == said[1]


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_a_sentence(case):
    call, said = REFUSED[case]
    with pytest.raises(pl.InputError, match=said):
        call()


def test_numbers_may_be_arrays_and_tensors():
    y = np.random.default_rng(0).uniform(0, 200, (8, 8))
    wanted = pl.denoise(y, 25.0, Shrink(), range=(0, 200))
    assert np.array_equal(pl.denoise(y, torch.tensor(25.0), Shrink(), range=np.array([0, 200])), wanted)


def test_an_image_that_diverges_is_an_error():
    class Broken(Shrink):
        def forward(self, x, sigma):
            return x / 0

    with pytest.raises(pl.RunError, match="PnPADMM diverged at step 1"):
        pl.reconstruct(np.ones((8, 8)), pl.Identity((1, 8, 8)), Broken(), noise_std=0.1, steps=2)


def test_types_are_shipped():
    for path in (ROOT / "py.typed", ROOT / "__init__.pyi"):
        assert path.is_file() and path.name in (ROOT.parent / "setup.cfg").read_text(encoding="utf-8")
    assert api.reconstruct is pl.reconstruct
