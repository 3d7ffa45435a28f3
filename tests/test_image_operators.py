"""Blur, super-resolution and inpainting against SciPy and the definitions of their kernels and masks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from scipy import ndimage
from torch.nn import functional

import padis_lightning
from padis_lightning.errors import InputError
from padis_lightning.linalg import CUTOFF, norm
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.blur import Blur, GaussianBlur, MotionBlur, UniformBlur
from padis_lightning.operators.inpainting import BoxInpainting, Inpainting, IrregularInpainting, RandomInpainting
from padis_lightning.operators.super_resolution import AveragePooling, BicubicDownsampling

from .test_operators import EVEN, HOLES, SKEW, SYMMETRIC, draw

CONFIGS = Path(padis_lightning.__file__).parents[1] / "configs" / "operator"


@pytest.mark.parametrize("shape", [(5, 7), (6, 4)])
@pytest.mark.parametrize("kernel", [SKEW, EVEN, SYMMETRIC, [[0.5], [1.0]], [[1.0, 2.0, 3.0, 4.0]]])
@pytest.mark.parametrize(("border", "mode"), [("circular", "wrap"), ("reflect", "reflect")])
def test_blur_is_the_convolution_of_scipy(shape, kernel, border, mode, rng):
    x = draw((2, *shape), rng)
    odd = np.pad(kernel, [(0, 1 - n % 2) for n in np.shape(kernel)])  # the centre n // 2 stays
    expected = [[ndimage.convolve(channel, odd, mode=mode) for channel in image] for image in x.numpy()]
    torch.testing.assert_close(Blur((2, *shape), kernel=kernel, border=border)(x), torch.tensor(np.array(expected)))


def test_pooling_is_the_mean_of_blocks(rng):
    x = draw((2, 6, 9), rng)
    torch.testing.assert_close(AveragePooling((2, 6, 9), 3)(x), x.reshape(3, 2, 2, 3, 3, 3).mean((3, 5)))


@pytest.mark.parametrize(("shape", "factor"), [((3, 32, 48), 4), ((1, 15, 25), 5), ((1, 8, 6), 1)])
def test_bicubic_is_the_anti_aliased_resize(shape, factor, rng):
    x, size = draw(shape, rng), (shape[1] // factor, shape[2] // factor)
    expected = functional.interpolate(x, size, mode="bicubic", antialias=True)
    torch.testing.assert_close(BicubicDownsampling(shape, factor)(x), expected)


@pytest.mark.parametrize("kind", [AveragePooling, BicubicDownsampling])
def test_upsampling_puts_a_ramp_back_in_its_place(kind):
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    ramp, operator = (rows - 2 * columns).expand(1, 3, -1, -1), kind((3, 48, 64), 4)
    gap = (operator.approximate_inverse(operator(ramp)) - ramp)[..., 16:-16, 16:-16]  # away from the border
    assert gap.abs().max() < 0.5 and gap.mean().abs() < 1e-3  # PyTorch's bicubic is not exact on ramps; a shift would stay


def test_inpainting_zeroes_what_is_missing(rng):
    x, known = draw((2, 3, 5), rng), torch.tensor(HOLES, dtype=torch.float64)
    assert torch.equal(Inpainting((2, 3, 5), mask=HOLES)(x), x * known)


@pytest.mark.parametrize("make", [lambda: AveragePooling((2, 6, 9), 3), lambda: Inpainting((2, 3, 5), mask=HOLES)])
def test_what_nothing_is_known_of_stays(make, rng):
    operator = make()
    v, y = draw(operator.image_shape, rng), draw(operator.measurement_shape, rng)
    assert torch.equal(operator.prox(v, y, 0.0, torch.zeros_like(y)), v)


def test_inpainting_keeps_known_pixels_to_the_bit(rng):
    operator, known = Inpainting((2, 3, 5), mask=HOLES), torch.tensor(HOLES, dtype=torch.bool)
    v, y = (draw((2, 3, 5), rng, torch.float32) for _ in range(2))
    assert torch.equal(operator.prox(v, operator(y)), torch.where(known, y, v))


def test_a_mirrored_blur_is_diagonal_for_symmetric_kernels():
    closed = {"reflect": [True, False, False], "circular": [True, True, True]}
    for border, expected in closed.items():
        assert [Blur((1, 5, 6), kernel=k, border=border).closed_form for k in (SYMMETRIC, SKEW, EVEN)] == expected


@pytest.mark.parametrize("border", ["circular", "reflect"])
def test_small_singular_values_count_as_zero(border, rng):
    operator, x = GaussianBlur((1, 48, 40), 2.0, border=border), draw((1, 48, 40), rng)
    assert (norm(operator.pinv(x)) <= norm(x) / CUTOFF).all()
    y = operator(x)
    gap = norm(operator(operator.pinv(y)) - y)
    assert (gap <= CUTOFF * norm(x)).all() and (gap > 1e-9 * norm(x)).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda c: Blur((c, 5, 7), kernel=SKEW, border="reflect"),
        lambda c: MotionBlur((c, 7, 9), 3, 20),
        lambda c: AveragePooling((c, 6, 9), 3),
        lambda c: BicubicDownsampling((c, 6, 9), 3),
        lambda c: IrregularInpainting((c, 5, 7), width=2),
    ],
)
def test_channels_are_independent(make, rng):
    colour, grey = make(3), make(1)
    v, y = draw(colour.image_shape, rng), draw(colour.measurement_shape, rng)
    parts = [(v[:, c : c + 1], y[:, c : c + 1]) for c in range(3)]
    torch.testing.assert_close(colour(v), torch.cat([grey(a) for a, _ in parts], 1))
    torch.testing.assert_close(colour.approximate_inverse(y), torch.cat([grey.approximate_inverse(b) for _, b in parts], 1))
    expected = torch.cat([grey.prox(a, b, 0.3, iterations=200) for a, b in parts], 1)
    torch.testing.assert_close(colour.prox(v, y, 0.3, iterations=200), expected)


def test_blurs_keep_the_mean_of_a_flat_image_and_show_themselves_as_baseline(rng):
    flat = torch.full((1, 1, 40, 30), 0.7, dtype=torch.float64)
    for border in ("circular", "reflect"):
        for make in (UniformBlur, GaussianBlur, MotionBlur):
            operator = make((1, 40, 30), border=border)
            torch.testing.assert_close(operator(flat), flat)
            assert operator.approximate_inverse(flat) is flat


def moments(kernel):
    """Covariance of a kernel about its centre, x to the right and y up."""
    y, x = (np.arange(n) - n // 2 for n in kernel.shape)
    x, y = np.meshgrid(x, -y)
    places = np.stack([x.ravel(), y.ravel()])
    return (kernel.numpy().ravel() * places) @ places.T


def test_kernels_have_their_widths():
    assert torch.equal(UniformBlur((1, 9, 9), 3).kernel, torch.full((3, 3), 1 / 9, dtype=torch.float64))
    assert moments(GaussianBlur((1, 64, 64), 2.0).kernel) == pytest.approx(np.diag([4, 4]), rel=1e-2, abs=1e-12)
    assert GaussianBlur((1, 64, 64), 2.0).kernel.shape == (17, 17)


@pytest.mark.parametrize("angle", [-60.0, 0.0, 30.0, 45.0, 90.0, 160.0])
def test_motion_goes_along_its_angle(angle):
    kernel = MotionBlur((1, 64, 64), 15, angle).kernel
    values, axes = np.linalg.eigh(moments(kernel))
    found = math.degrees(math.atan2(axes[1, 1], axes[0, 1]))
    assert abs((found - angle + 90) % 180 - 90) < 0.5
    assert values[1] == pytest.approx((15**2 - 1) / 12, rel=0.03) and values[0] < 0.2
    assert torch.equal(kernel, kernel.flip(0, 1)) and float(kernel.sum()) == pytest.approx(1)


def test_motion_along_an_axis_is_a_row_of_equal_pixels():
    row = torch.full((1, 7), 1 / 7, dtype=torch.float64)
    torch.testing.assert_close(MotionBlur((1, 9, 9), 7, 0).kernel, row)
    torch.testing.assert_close(MotionBlur((1, 9, 9), 7, 90).kernel, row.t())
    assert MotionBlur((1, 9, 9), 7, 90, "reflect").closed_form and not MotionBlur((1, 9, 9), 7, 30, "reflect").closed_form


def test_kernels_come_from_files(tmp_path):
    path = tmp_path / "kernel.npy"
    np.save(path, np.array(SKEW, np.float32))
    torch.testing.assert_close(Blur((1, 5, 7), kernel=str(path)).kernel, torch.tensor(SKEW).double())


def test_masks_miss_their_share():
    box = BoxInpainting((3, 20, 30), (4, 6), (3, 5)).mask
    assert not box[3:7, 5:11].any() and int((~box).sum()) == 24
    assert not BoxInpainting((3, 20, 30), (4, 6)).mask[8:12, 12:18].any()
    assert int((~RandomInpainting((3, 20, 30), 0.7).mask).sum()) == 420
    for share in (0.1, 0.3, 0.6):
        for seed in range(3):
            missing = ~IrregularInpainting((3, 128, 96), share, 7, seed).mask
            piece = (0.2 * 96 * 8 + 16 * math.pi) / (128 * 96)
            assert share <= float(missing.double().mean()) <= share + piece


@pytest.mark.parametrize("make", [RandomInpainting, IrregularInpainting])
def test_masks_belong_to_their_seed(make):
    first, again, other = (make((1, 64, 64), seed=seed).mask for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_strokes_have_the_width_of_their_brush():
    missing = np.pad(~IrregularInpainting((1, 128, 128), 0.2, 9).mask.numpy(), 16, mode="edge")
    reach = np.hypot(*np.mgrid[-4:5, -4:5])
    opened = ndimage.binary_opening(missing, reach <= 3.5)
    assert opened.sum() > 0.97 * missing.sum()  # nothing is thinner
    assert not ndimage.binary_opening(missing, np.ones((25, 25))).any()  # nor are there lakes


def test_the_baseline_of_inpainting_takes_the_nearest_known_pixel():
    operator = RandomInpainting((1, 9, 11), 0.8, seed=3)
    taken = operator.approximate_inverse(torch.arange(99.0).reshape(1, 1, 9, 11)).long().flatten()
    places = torch.cartesian_prod(torch.arange(9), torch.arange(11)).double()
    distances = torch.cdist(places, places[operator.mask.flatten()]).amin(1)
    assert operator.mask.flatten()[taken].all()
    torch.testing.assert_close((places - places[taken]).norm(dim=1), distances)


def test_masks_come_from_files_and_lists(tmp_path):
    known = np.array(HOLES, bool)
    np.save(tmp_path / "mask.npy", known * 3)
    Image.fromarray(np.where(known, 128, 127).astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(known).save(tmp_path / "two.png")
    Image.fromarray(np.repeat(known[..., None] * np.uint8(255), 3, -1)).save(tmp_path / "colour.png")
    for mask in (HOLES, known, *(str(tmp_path / name) for name in ("mask.npy", "grey.png", "two.png", "colour.png"))):
        assert np.array_equal(Inpainting((3, 3, 5), mask=mask).mask, known)


def build(given):
    """An operator as the command line makes it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LinearOperator, "operator")
    make = getattr(parser, "instantiate", None) or parser.instantiate_classes  # the name before jsonargparse 4.49
    return make(parser.parse_args([f"--operator={given}"])).operator


@pytest.mark.parametrize("name", ["blur9.yaml", "blur17.yaml", "sr4x.yaml", "inpaint.yaml"])
def test_shipped_operators_can_be_built(name):
    operator = build(CONFIGS / name)
    assert operator(torch.zeros(1, 3, 256, 256)).shape[1:] == operator.measurement_shape


def test_kernels_and_masks_can_be_written_in_a_config(tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, HOLES)
    for name, options in [
        ("Blur", {"image_shape": [1, 5, 7], "kernel": SKEW, "border": "reflect"}),
        ("Blur", {"image_shape": [1, 5, 7], "kernel": str(path)}),
        ("Inpainting", {"image_shape": [1, 3, 5], "mask": HOLES}),
        ("Inpainting", {"image_shape": [1, 3, 5], "mask": str(path)}),
        ("BoxInpainting", {"image_shape": [1, 8, 8], "box": [2, 2], "at": [0, 0]}),
    ]:
        assert type(build(json.dumps({"class_path": name, "init_args": options}))).__name__ == name


REFUSED = {
    r"image_shape is \[256, 256\]; wanted channels": lambda: AveragePooling((256, 256)),
    r"kernel is 4x3; wanted at most 3x9": lambda: Blur((1, 3, 9), kernel=SKEW),
    r"kernel sums to 0; wanted a sum other than 0": lambda: Blur((1, 5, 5), kernel=[[1.0, -1.0]]),
    r"kernel has NaN; wanted finite": lambda: Blur((1, 5, 5), kernel=[[1.0, math.nan]]),
    r"kernel has infinity; wanted finite": lambda: Blur((1, 5, 5), kernel=[[1.0, math.inf]]),
    r"kernel has the shape \(3,\); wanted rows and columns": lambda: Blur((1, 5, 5), kernel=[1.0, 2.0, 3.0]),
    r"kernel cannot be read .*; wanted rows of numbers": lambda: Blur((1, 5, 5), kernel=[[1.0], [2.0, 3.0]]),
    r"kernel is 'none.npy'; wanted rows of numbers or an existing .npy file or picture": lambda: Blur(
        (1, 5, 5), kernel="none.npy"
    ),
    r"border is 'zero'; wanted 'circular' or 'reflect'": lambda: UniformBlur((1, 9, 9), 3, "zero"),
    r"size is 0; wanted at least 1": lambda: UniformBlur((1, 9, 9), 0),
    r"std is 0; wanted a value above 0": lambda: GaussianBlur((1, 9, 9), 0.0),
    r"size is 4; wanted an odd number": lambda: GaussianBlur((1, 9, 9), 1.0, 4),
    r"length is 0.5; wanted at least 1": lambda: MotionBlur((1, 9, 9), 0.5),
    r"angle is inf; wanted degrees": lambda: MotionBlur((1, 9, 9), 3, math.inf),
    r"the image is 8x9; wanted multiples of 4": lambda: AveragePooling((1, 8, 9), 4),
    r"the image is 9x8; wanted multiples of 2": lambda: BicubicDownsampling((1, 9, 8), 2),
    r"factor is 0; wanted at least 1": lambda: AveragePooling((1, 8, 8), 0),
    r"the mask has the shape \(3, 5\); wanted \(5, 3\)": lambda: Inpainting((1, 5, 3), mask=HOLES),
    r"the mask keeps 0 pixels; wanted at least 1": lambda: Inpainting((1, 1, 2), mask=[[0, 0]]),
    r"mask is 'none.png'; wanted an existing file": lambda: Inpainting((1, 1, 2), mask="none.png"),
    r"box is \[0, 3\]; wanted height and width": lambda: BoxInpainting((1, 8, 8), (0, 3)),
    r"the box of 4x4 at 5, 0 leaves the image; wanted it within 8x8": lambda: BoxInpainting((1, 8, 8), (4, 4), (5, 0)),
    r"share is 1; wanted at least 0 and less than 1": lambda: RandomInpainting((1, 8, 8), 1.0),
    r"seed is -1; wanted at least 0": lambda: IrregularInpainting((1, 8, 8), seed=-1),
    r"width is 0; wanted at least 1": lambda: IrregularInpainting((1, 8, 8), width=0),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_bad_input_is_refused_in_a_sentence(sentence):
    with pytest.raises(InputError, match=sentence):
        REFUSED[sentence]()


def test_broken_files_are_refused(tmp_path):
    for name in ("mask.png", "mask.npy"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(InputError, match="cannot be read"):
            Inpainting((1, 3, 5), mask=str(tmp_path / name))
    Image.fromarray(np.full((3, 5), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match="has the mode I;16; wanted 8 bits"):
        Inpainting((1, 3, 5), mask=str(tmp_path / "deep.png"))
