"""How far images lie from what a prior knows: against closed forms, and what fit stores and predict says of it."""

from __future__ import annotations

import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from padis_lightning.callbacks import PriorExport, Results
from padis_lightning.callbacks.results import far_sentence
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.division import Division
from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import InputError
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.priors import GaussianPrior, PatchPrior
from padis_lightning.priors.distance import LEVELS, TERMS, Reference, denoising_errors
from padis_lightning.random import Generators, seeded
from padis_lightning.solvers.plug_and_play import PnPADMM
from padis_lightning.types import Batch

from .test_results import predict
from .test_training import fit

MEAN, STD = 0.4, 0.3


@pytest.mark.parametrize(("shift", "spread"), [(0.0, 1.0), (0.3, 1.0), (-0.6, 0.5), (0.0, 2.0)])
def test_errors_of_a_gaussian_prior_are_its_closed_form(shift, spread):
    x = MEAN + shift + spread * STD * torch.randn(8, 1, 64, 64, generator=seeded(1))
    away, variance = (x - MEAN).square().mean(), x.var(correction=0)
    found = denoising_errors(GaussianPrior((1, 64, 64), MEAN, STD), x, Generators.keyed(0, range(8)))
    first, second, third = (STD * k for k in LEVELS)

    def size(level):
        return ((STD**4 * level**2 + level**4 * away) / (STD**2 + level**2) ** 2).sqrt()

    def contrast(level):
        return (STD**4 / (STD**2 + level**2) ** 2 * (1 + level**2 / variance)).log()

    bias = -(second**2) * (x - MEAN).mean() / (STD**2 + second**2) / size(second)
    expected = torch.stack([size(first).log(), bias, contrast(first), contrast(third)]).double()
    torch.testing.assert_close(found.mean(0), expected, rtol=0.02, atol=0.02)


def test_a_reference_of_few_images_holds_what_it_says_of_others():
    mix = torch.tensor([[1.0, 0, 0, 0], [0.9, 0.3, 0, 0], [-5.0, 1.0, 0.2, 0], [0, 2.0, 0.1, 0.5]], dtype=torch.float64)
    draws = torch.randn(4000, 9, TERMS, generator=seeded(2), dtype=torch.float64) @ mix.T + 7
    beyond = {0.8: 0, 0.95: 0}
    for known in draws:
        reference = Reference.of(known[:8])
        for share in beyond:
            beyond[share] += bool(reference.distance(known[8:]) > reference.limit(share))
    for share, count in beyond.items():
        assert abs(count / 4000 - (1 - share)) < 5 * math.sqrt(share * (1 - share) / 4000)


def test_fewer_than_six_images_are_no_reference_nor_what_earlier_versions_knew():
    errors = torch.randn(6, TERMS, generator=seeded(3), dtype=torch.float64)
    assert Reference.of(errors[:5]) is None
    reference = Reference.of(errors)
    assert Reference.read(json.loads(json.dumps(reference.describe()))) == reference and Reference.read(None) is None
    assert Reference.read({"mean": [0.0] * 3, "covariance": torch.eye(3).tolist(), "count": 9}) is None


@pytest.mark.parametrize(
    "described",
    [
        [], {"mean": [0] * 4}, {"mean": [0] * 4, "covariance": 1, "count": 9}, {"mean": 4, "covariance": 1, "count": 9},
        {"mean": [0, 0, 0, float("nan")], "covariance": torch.eye(4).tolist(), "count": 9},
        {"mean": [0] * 4, "covariance": torch.eye(4).tolist(), "count": 5},
        {"mean": [0] * 4, "covariance": torch.eye(4).tolist(), "count": "many"},
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused(model, described):
    model.training["reference"] = described
    with pytest.raises(InputError, match="the prior's reference is .*; wanted"):
        PatchPrior(model)


def known(model, count=12):
    """The same model, which knows images like its own estimates."""
    x = torch.rand(count, *model.image_shape, generator=seeded(4))
    model.training["reference"] = Reference.of(
        denoising_errors(PatchPrior(model), x, Generators.keyed(0, range(count)))
    ).describe()
    return model


def test_the_distance_changes_no_estimate_and_a_batch_is_a_set(model):
    images = torch.rand(3, 1, 20, 20, generator=seeded(5))
    batch = Batch(torch.arange(3), list("abc"), list("abc"), images)

    def found(model, batch):
        solver = PnPADMM(PatchPrior(model), ParallelBeam(20, views=6), steps=2)
        done = solver.reconstruct(batch)
        return done.estimate, solver.distance(done.estimate, batch)

    plain, nothing = found(model, batch)
    assert nothing is None
    estimate, distance = found(known(model), batch)
    assert torch.equal(estimate, plain)
    alone = [found(model, Batch(torch.tensor([k]), ["a"], ["a"], images[k : k + 1]))[1][0] for k in (0, 1, 2)]
    torch.testing.assert_close(distance, torch.stack(alone), rtol=1e-3, atol=1e-3)


def test_predict_names_the_images_that_lie_far(model, tmp_path, capsys):
    same, far = torch.rand(2, 20, 20, generator=seeded(6)).numpy(), np.full((1, 20, 20), 6.0)
    np.savez(tmp_path / "images.npz", images=np.concatenate([same, far]).astype(np.float32), range=np.array([0.0, 1.0]))
    prior, operator = PatchPrior(known(model)), ParallelBeam(20, views=20)
    data = ImageData(str(tmp_path / "images.npz"), range=(0.0, 1.0))
    predict(PnPADMM(prior, operator, steps=2), data, tmp_path / "out", Results())
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert list(rows[0])[-1] == "distance"
    distances, limits = [float(row["distance"]) for row in rows], [prior.reference.limit(share) for share in (0.95, 0.99)]
    counts = [sum(d > limit for d in distances) for limit in limits]
    assert distances[2] > limits[1]
    said = capsys.readouterr().err
    assert f"{counts[0]} of 3 images" in said and f"{counts[1]} of them than 99 %" in said and rows[2]["name"] in said
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["distance"] == pytest.approx(np.mean(distances))
    predict(PnPADMM(prior, operator, steps=2), data, tmp_path / "off", Results(distance=False))
    assert "distance" not in (tmp_path / "off" / "metrics.csv").read_text() and "lie further" not in capsys.readouterr().err


def test_fit_stores_how_well_the_images_of_validation_and_training_are_denoised(images, tmp_path):
    fit(images, tmp_path, 2, PriorExport(reference=7))
    prior = PatchPrior(str(tmp_path / "prior.safetensors"))
    data = ImageData(str(images))
    data.setup("fit")
    items = data.known_items(7)
    division = Division(data.whole, data.path, data.validation, data.training_groups, data.seed)
    train, held = (division.part(name).indices for name in ("train", "validation"))
    places = [item.index for item in items]
    assert places[:3] == held and {data.whole.groups[k] for k in places} == set("abcd") and len(set(places) & set(train)) == 4
    errors = denoising_errors(prior, torch.stack([item.image for item in items]), Generators.keyed(0, range(7)))
    expected = Reference.of(errors)
    assert prior.reference.count == 7
    np.testing.assert_allclose(prior.reference.mean, expected.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prior.reference.covariance, expected.covariance, rtol=1e-2, atol=1e-6)
    model = PatchModel.load(tmp_path / "prior.safetensors")
    del model.training["reference"]  # as older ones
    model.save(tmp_path / "old.safetensors")
    assert PatchPrior(str(tmp_path / "old.safetensors")).reference is None


def test_images_of_another_shape_than_the_priors_leave_it_without_a_reference(model, tmp_path):
    """Such as groups of slices: the prior is written, and no reference with it."""
    items = [SimpleNamespace(image=torch.rand(1, 3, 20, 20)) for _ in range(6)]
    data = SimpleNamespace(known_items=lambda count: items)
    PriorExport().write(model, data, "cpu", tmp_path)
    assert "reference" not in PatchModel.load(tmp_path / "prior.safetensors").training


def test_the_prior_is_written_once_and_with_its_reference(model, tmp_path, monkeypatch):
    """A run that is killed leaves no prior without one, which a run that completes it would take for whole."""
    items, saved = [SimpleNamespace(image=torch.rand(1, 20, 20)) for _ in range(6)], []
    monkeypatch.setattr(PatchModel, "save", lambda self, path, half: saved.append(dict(self.training)))
    PriorExport().write(model, SimpleNamespace(known_items=lambda count: items), "cpu", tmp_path)
    assert len(saved) == 1 and saved[0]["reference"]["count"] == 6


def test_a_few_images_beyond_a_limit_that_chance_explains_are_not_named():
    """Of 40 images two lie beyond 95 % by chance; twelve do not, nor does one that is far beyond all."""
    reference = Reference([0.0] * 4, torch.eye(4).tolist(), 200)
    near, far, further = 0.5, reference.limit(0.96), 2 * reference.limit(0.999)
    for distances, named in (([far] * 2, 0), ([far] * 12, 12), ([further], 1)):
        rows = [{"name": str(k), "distance": d} for k, d in enumerate([*distances, *[near] * (40 - len(distances))])]
        said = far_sentence(rows, reference)
        assert said.startswith(f"{named} of 40 images") if named else said == ""
