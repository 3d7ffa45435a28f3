"""Pictures that were measured: read, solved at their own sizes, compared, and written as they came."""

from __future__ import annotations

import json
import logging
import re

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional

from padis_lightning.cli import main
from padis_lightning.data.datamodule import TRAIN, VALIDATE, ImageData
from padis_lightning.data.generators import BrainSource
from padis_lightning.data.sources.arrays import ArraySource
from padis_lightning.data.sources.crops import CropSource
from padis_lightning.data.sources.open import open_source
from padis_lightning.data.sources.pictures import holds_pictures
from padis_lightning.errors import InputError
from padis_lightning.noise_estimation import estimate_deviation
from padis_lightning.operators.blur import Blur, UniformBlur
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.inpainting import Inpainting
from padis_lightning.solvers.pseudo_inverse import PseudoInverse
from padis_lightning.types import Normalisation

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 250, (8, 12, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (8, 12), dtype=np.uint8)


def saved(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def run(tmp_path, *words, operator="AveragePooling", **data):
    """Results of the exact pseudo-inverse by the command line, with the config's sizes other than the data's."""
    init = {"image_shape": [3, 256, 256]}
    config = {
        "model": {"class_path": "PseudoInverse", "init_args": {"exact": True}},
        "operator": {"class_path": operator, "init_args": init | ({"factor": 2} if operator == "AveragePooling" else {})},
        "data": {"class_path": "ImageData", "init_args": {"size": 256, **data}},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    main(["predict", "--config", str(tmp_path / "own.yaml"), "--output", str(tmp_path / "out"), *words])
    return tmp_path / "out"


def test_pictures_of_several_sizes_are_solved_and_written_as_they_came(tmp_path):
    """The pseudo-inverse of means over blocks repeats each pixel; a reference that is 5 of 255 brighter tells the score."""
    upright = COLOUR.swapaxes(0, 1)
    for name, pixels in (("a", COLOUR), ("b", upright)):
        saved(tmp_path / "small" / f"{name}.png", pixels)
        saved(tmp_path / "large" / f"{name}.png", pixels.repeat(2, 0).repeat(2, 1) + np.uint8(5))
    words = ("--data.measured", "true", "--data.reference", str(tmp_path / "large"), "--results.measurements", "true")
    out = run(tmp_path, *words, path=str(tmp_path / "small"))
    for name, pixels in (("a", COLOUR), ("b", upright)):
        with Image.open(out / "pictures" / f"{name}.png") as picture:
            assert picture.mode == "RGB" and (np.asarray(picture) == pixels.repeat(2, 0).repeat(2, 1)).all()
        again = open_source(out / "measurements" / f"{name}.npz", measured=True)  # which the run has written for others
        np.testing.assert_allclose(again[0].measurement.numpy(), np.moveaxis(pixels, -1, 0) / 255, atol=1e-6)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["n"] == 2 and summary["psnr"] == pytest.approx(20 * np.log10(255 / 5), abs=1e-3) and summary["residual"] < 1e-5


def test_a_measurement_is_not_measured_again(tmp_path, capsys):
    """Numbers are pictures by the operator's kind; nothing is scored but the residual, and no noise is added."""
    y = RNG.random((2, 6, 10, 3))
    np.savez(tmp_path / "y.npz", y=y, range=[0, 2])
    words = ("--model.noise_std", "0.3", "--model.exact", "false")
    out = run(tmp_path, *words, path=str(tmp_path / "y.npz"), operator="Identity")
    assert "is a measurement: nothing is simulated" in capsys.readouterr().err
    np.testing.assert_allclose(np.load(out / "arrays" / "0001.npy"), y[1], rtol=1e-6)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["psnr"] is None and summary["residual"] == 0


def test_that_jpeg_hides_noise_is_said(tmp_path, caplog):
    """It does: of noise at quality 75 about half is seen."""
    noisy = (128 + 12.75 * RNG.standard_normal((96, 96, 1))).clip(0, 255).astype(np.uint8).repeat(3, -1)
    Image.fromarray(noisy).save(tmp_path / "a.jpg", quality=75)
    saved(tmp_path / "b.png", noisy)
    found = {}
    for name in ("b.png", "a.jpg"):
        assert not caplog.text
        y = open_source(tmp_path / name, measured=True)[0].measurement
        found[name] = float(estimate_deviation(y[None].double(), (2, 2), torch.ones(1, 1, 1, 1)))
    assert found["b.png"] == pytest.approx(0.05, rel=0.1) and found["a.jpg"] < 0.035
    assert "JPEG, which hides fine noise: an estimate of it is too low; --model.noise_std names it" in caplog.text
    caplog.clear()
    open_source(tmp_path / "a.jpg")
    assert not caplog.text


def test_what_holds_pictures_and_what_a_scan(tmp_path):
    y = {"y": np.zeros((2, 6, 10))}
    for name, arrays in {"picture": y, "scan": {**y, "angles": np.zeros(6)}, "images": {"images": y["y"]}}.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        assert holds_pictures(tmp_path / f"{name}.npz") == (name == "picture")


def test_one_image_of_numpy_is_one_image(tmp_path):
    np.save(tmp_path / "a.npy", GREY)
    torch.testing.assert_close(open_source(tmp_path / "a.npy")[0].image, torch.from_numpy(GREY / 255).float()[None])


def test_sixteen_bits_and_grey_come_back_as_they_were(tmp_path):
    deep = RNG.integers(0, 65536, (6, 8), dtype=np.uint16)
    saved(tmp_path / "in" / "deep.png", deep)
    out = run(tmp_path, "--data.measured", "true", "--data.channels", "3", path=str(tmp_path / "in"), operator="Identity")
    with Image.open(out / "pictures" / "deep.png") as picture:
        assert picture.mode.startswith("I;16") and (np.asarray(picture) == deep).all()


def test_grey_among_colour_and_landscapes(tmp_path):
    saved(tmp_path / "a.png", COLOUR)
    saved(tmp_path / "b.png", GREY)
    with pytest.raises(InputError, match="mix channels 1 and 3; wanted one kind, or --data.channels 3"):
        open_source(tmp_path)
    three, one = open_source(tmp_path, channels=3), open_source(tmp_path, channels=1)
    torch.testing.assert_close(three[1].image, torch.from_numpy(GREY / 255).float().expand(3, -1, -1))
    luma = np.asarray(Image.fromarray(COLOUR).convert("L")) / 255  # another program's, rounded
    np.testing.assert_allclose(one[0].image[0].numpy(), luma, atol=1.01 / 255)
    with pytest.raises(InputError, match="8x12; wanted square ones to be brought to 4x4, --data.crop true or --data.size null"):
        open_source(tmp_path, 4, channels=3)
    cut = open_source(tmp_path, 4, channels=3, crop=True)[0].image
    wanted = torch.from_numpy(COLOUR[:, 2:10] / 255).float().movedim(-1, 0).unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4))
    torch.testing.assert_close(cut, wanted)


def test_several_sizes_are_solved_one_by_one_and_never_trained_on(tmp_path, caplog):
    for name, pixels in (("a", GREY), ("b", GREY.T), ("c", GREY)):
        saved(tmp_path / f"{name}.png", pixels)
    data = ImageData(str(tmp_path), batch_size=4)
    with caplog.at_level(logging.WARNING):
        data.setup("predict")
    assert "solved one by one" in caplog.text
    solver = PseudoInverse(Identity((1, 8, 12)))
    shapes = [tuple(solver.reconstruct(batch).estimate.shape[2:]) for batch in data.predict_dataloader()]
    assert shapes == [(8, 12), (12, 8), (8, 12)]
    with pytest.raises(InputError, match="have the sizes 8x12, 12x8; wanted one, or --data.size"):
        ImageData(str(tmp_path)).setup("fit")


def test_kernels_of_pictures_have_the_sum_one(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        blur = Blur((3, 9, 8), kernel=str(saved(tmp_path / "k.png", np.full((3, 3), 200, np.uint8))))
    assert "a kernel of 3x3, brought to a sum of 1" in caplog.text
    x = torch.rand(1, 3, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(blur(x), UniformBlur((3, 9, 8), 3)(x))
    with pytest.raises(InputError, match="sums to 0; wanted a kernel, white on black"):
        Blur((3, 9, 8), kernel=str(saved(tmp_path / "k.png", np.zeros((3, 3), np.uint8))))


@pytest.mark.parametrize("border", ["circular", "reflect"])
def test_large_pictures_are_deblurred_channel_by_channel_to_the_same(monkeypatch, border):
    operator = UniformBlur((3, 9, 8), 3, border)
    v, y = torch.rand(2, 2, 3, 9, 8, dtype=torch.float64)
    whole = operator.prox(v, y, 0.1)
    monkeypatch.setattr("padis_lightning.operators.blur.LARGE", 1)
    torch.testing.assert_close(operator.prox(v, y, 0.1), whole, rtol=0, atol=1e-13)


def test_masks_are_white_or_opaque_or_of_another_colour(tmp_path):
    known = RNG.random((8, 12)) < 0.5
    marked = np.where(known[..., None], COLOUR, np.array([255, 0, 255], np.uint8))
    assert not (COLOUR == [255, 0, 255]).all(-1).any()
    masks = {
        "grey": Inpainting(mask=str(saved(tmp_path / "m.png", np.uint8(255 * known)))),
        "alpha": Inpainting(mask=str(saved(tmp_path / "a.png", np.dstack([COLOUR, np.uint8(255 * known)])))),
        "colour": Inpainting(mask=str(saved(tmp_path / "c.png", marked)), missing_colour=[255, 0, 255]),
    }
    for kind, operator in masks.items():
        assert (operator.mask.numpy() == known).all() and operator.image_shape == (3, 8, 12), kind
    with pytest.raises(InputError, match=r"the mask has the shape \(8, 12\); wanted \(8, 9\)"):
        masks["grey"].for_measurement((3, 8, 9))


def test_transparent_pictures_are_filled_in_and_the_residual_is_that_of_what_is_known(tmp_path):
    known = np.ones((8, 12), bool)
    known[2:4, 3:7] = False
    path = saved(tmp_path / "photo.png", np.dstack([COLOUR, np.uint8(255 * known)]))
    words = ("--data.measured", "true", "--operator", "Inpainting", "--operator.mask", str(path), "--model.exact", "false")
    out = run(tmp_path, *words, path=str(path), operator="Identity")
    found = np.asarray(Image.open(out / "pictures" / "photo.png"))
    assert (found[known] == COLOUR[known]).all()
    assert (found[2, 4] == COLOUR[1, 4]).all()  # the nearest that is known
    assert json.loads((out / "summary.json").read_text())["residual"] < 1e-6


@pytest.mark.parametrize(
    ("truth", "sentence"),
    [("b.png", "there is nothing for b, c in .*; wanted one of each name"), ("wide", "the reference of a is .* wanted")],
)
def test_references_that_lack_or_do_not_fit_are_named(tmp_path, capsys, truth, sentence):
    for name in "abc":
        saved(tmp_path / "in" / f"{name}.png", COLOUR)
    for name in "a" if truth == "b.png" else "abc":
        saved(tmp_path / "truth" / f"{name}.png", COLOUR)
    words = ("--data.measured", "true", "--data.reference", str(tmp_path / "truth"))
    with pytest.raises(SystemExit) as error:
        run(tmp_path, *words, path=str(tmp_path / "in"))
    said = capsys.readouterr().err
    assert error.value.code == 2 and re.search(sentence, said), said
    assert not (tmp_path / "out" / "arrays").exists()


def test_squares_to_train_on_are_turned_mirrored_and_halved_and_lie_anywhere():
    """Pixel (r, c) holds 40 r + c, so that each square tells where it was cut, at which scale and how it was turned."""
    image = (40.0 * torch.arange(24)[:, None] + torch.arange(40))[None, None]
    source = ArraySource(image, None, (1, 24, 40), Normalisation(0.0, 1.0), ["one"], "a ramp")
    squares, seen = CropSource(source, [0], 1500, 8, seed=3), []
    for k in range(len(squares)):
        square = squares[k].image[0]
        assert torch.equal(square, squares[k].image[0])
        down, across = square[1, 0] - square[0, 0], square[0, 1] - square[0, 0]
        scale = min(abs(int(down)), abs(int(across)))
        top, left = divmod(float(square.min()) - 20.5 * (scale - 1), 40)
        assert {abs(float(down)), abs(float(across))} == {40.0 * scale, float(scale)} and scale in (1, 2)
        assert torch.equal(square.diff(dim=0).unique(), down[None]) and torch.equal(square.diff(dim=1).unique(), across[None])
        assert top + 8 * scale <= 24 and left % 1 == 0 and left + 8 * scale <= 40
        seen.append((scale, bool(down > 0), bool(across > 0), bool(abs(down) > abs(across)), top, left))
    assert len({turned[:4] for turned in seen}) == 16  # two scales of eight ways to lie
    assert {turned[4] for turned in seen if turned[0] == 1} == set(range(17))
    assert {turned[5] for turned in seen if turned[0] == 2} == set(range(25))


def test_training_and_validation_cut_squares_of_other_pictures(tmp_path):
    for name, (height, width) in {"a": (20, 33), "b": (17, 9), "c": (9, 40)}.items():
        saved(tmp_path / f"{name}.png", np.full((height, width, 3), ord(name), np.uint8))
    data = ImageData(str(tmp_path), size=8, crops=4, validation=0.3)
    data.setup("fit")
    train, held = data._parts["fit"], data._parts["validation"]
    colours = [{round(255 * float(part[k].image.mean())) for k in range(len(part))} for part in (train, held)]
    assert len(train) == 8 and data.image_shape == (3, 8, 8)
    assert [len(c) for c in colours] == [2, 1] and set.union(*colours) == set(map(ord, "abc"))


def test_squares_of_one_picture_are_trained_on_and_validated_on(tmp_path, caplog):
    saved(tmp_path / "a.png", np.full((20, 33, 3), 7, np.uint8))
    data = ImageData(str(tmp_path), size=8, crops=20)
    data.setup("fit")
    assert [len(data._parts[name]) for name in ("fit", "validation")] == [20, 16]
    assert {item.group for part in data._parts.values() for item in (part[0], part[15])} == {"a"}
    assert "has 1 group; its squares are trained on and validated on" in caplog.text


def test_squares_of_generated_images_are_of_twice_the_sides():
    """Turned back, they are parts of a head, or all of it at half the scale; validation has other heads."""
    data = ImageData(builtin="brains", size=16, crops=8, generated=2, validation=0.5)
    data.setup("fit")
    seen = []
    for purpose, part, heads in ((TRAIN, data._parts["fit"], 2), (VALIDATE, data._parts["validation"], 1)):
        assert len(part) == 8 * heads and data.image_shape == (2, 16, 16)
        made = BrainSource(heads, 32, purpose)
        for k in range(len(part)):
            head = made.image(k % heads).half().float()
            half = functional.avg_pool2d(head, 2)
            parts = [half, *head.unfold(1, 16, 1).unfold(2, 16, 1).flatten(1, 2).unbind(1)]
            ways = [
                s for turns in range(4) for s in (part[k].image.rot90(turns, (1, 2)), part[k].image.rot90(turns, (1, 2)).flip(2))
            ]
            seen.append(next(n > 0 for n, one in enumerate(parts) for way in ways if torch.equal(one, way)))
    assert any(seen) and not all(seen)


def test_pictures_too_small_for_squares_are_refused(tmp_path):
    for name, side in {"a": 20, "b": 7}.items():
        Image.fromarray(np.zeros((side, 20, 3), np.uint8)).save(tmp_path / f"{name}.png")
    with pytest.raises(InputError, match="b has 7x20 pixels; wanted at least 8x8 to cut squares of"):
        ImageData(str(tmp_path), size=8, crops=4, validation=0.5).setup("fit")
