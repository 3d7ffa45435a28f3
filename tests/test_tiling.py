"""Laws of partitions: every pixel once, splitting undone by joining, an own offset for every image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.samples import seam
from padis_lightning.diffusion import coordinates, padding
from padis_lightning.errors import InputError
from padis_lightning.priors.tiling import FixedTiling, GridTiles, OverlapTiles, OverlapTiling, RandomTiling
from padis_lightning.random import Generators


@given(
    height=st.integers(8, 40), width=st.integers(8, 40), patch=st.integers(2, 8), at_least=st.integers(1, 20),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_grid_covers_each_pixel_once_at_every_offset(height, width, patch, at_least, share):
    pad = padding((height, width), patch, at_least)
    offset = tuple(round(s * p) for s, p in zip(share, pad, strict=True))
    tiles = GridTiles((height, width), pad, (patch, patch), (offset,))
    canvas = torch.zeros(1, 1, height + 2 * pad[0], width + 2 * pad[1])
    numbers = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width) + 1
    canvas[..., pad[0] : pad[0] + height, pad[1] : pad[1] + width] = numbers
    patches = tiles.split(canvas)
    assert patches.shape[1:] == (1, patch, patch)
    assert torch.equal(patches.flatten().sort().values[-height * width :], numbers.flatten())
    assert torch.equal(tiles.join(patches), canvas)


def test_every_offset_of_the_papers_canvas():
    pad = padding((256, 256), 56)
    assert pad == (24, 24)
    canvas = torch.zeros(1, 1, 304, 304)
    canvas[..., 24:280, 24:280] = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    for offset in range(25):
        tiles = GridTiles((256, 256), pad, (56, 56), ((offset, 24 - offset),))
        assert tiles.counts == (5, 5)
        assert torch.equal(tiles.join(tiles.split(canvas)), canvas)


def test_random_offsets_reach_both_ends_and_differ_between_images():
    generator = Generators.keyed(0, range(400))
    offsets = torch.tensor(RandomTiling().partition((12, 12), (4, 4), 8, generator).offsets)
    assert offsets.amin(0).tolist() == [0, 0] and offsets.amax(0).tolist() == [4, 4]
    counts = torch.bincount(offsets[:, 0] * 5 + offsets[:, 1], minlength=25)
    assert counts.min() > 0 and ((counts - 16) ** 2 / 16).sum() < 52  # chi-squared with 24 degrees, 99.9 %


@pytest.mark.parametrize("overlap", [0, 1, 3, 7])
@pytest.mark.parametrize("size", [(20, 20), (17, 23), (8, 8)])
@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("margin", [padding, OverlapTiling().padding])
def test_overlap_joins_what_it_split_and_covers_every_pixel(size, overlap, blend, turned, margin):
    pad = margin(size, 8)
    tiles = OverlapTiling(overlap, blend, turned).partition(size, pad, 8, Generators.keyed(0, range(2)))
    canvas = torch.zeros(2, 3, size[0] + 2 * pad[0], size[1] + 2 * pad[1], dtype=torch.float64)
    inner = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    canvas[..., pad[0] : pad[0] + size[0], pad[1] : pad[1] + size[1]] = inner
    torch.testing.assert_close(tiles.join(tiles.split(canvas)), canvas, rtol=0, atol=1e-14)
    ones = tiles.join(torch.ones_like(tiles.split(canvas)))
    assert ones[..., pad[0] : pad[0] + size[0], pad[1] : pad[1] + size[1]].eq(1).all()
    assert ones.sum() == 2 * 3 * size[0] * size[1]


def test_blended_patches_meet_without_a_step():
    """Of patches of 0 and of 1 that overlap by 4 of 8 pixels, the joint rises as t^2 (3 - 2 t) in five steps."""
    tiles = OverlapTiling(4, blend=True).partition((8, 12), (0, 0), 8, Generators.keyed(0, [0]))
    joint = tiles.join(torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]).double())
    rising = torch.tensor([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1], dtype=torch.float64).expand(1, 1, 8, 12)
    expected = rising**2 * (3 - 2 * rising)
    torch.testing.assert_close(joint, expected, rtol=1e-12, atol=0)


def test_blended_patches_have_no_seams_where_a_grid_has(rng):
    """Means over 9 x 9 with zeros around each patch darken its sides, as a convolutional network errs there.

    The gradient across the sides of blended patches is that beside them within 3 %. A grid's is less: both that meet are dark.
    """
    canvas = torch.nn.functional.pad(0.5 + torch.rand(2, 1, 256, 256, generator=rng), (64,) * 4)
    blended = OverlapTiling(24, blend=True).partition((256, 256), (64, 64), 64, Generators.keyed(0, range(2)))
    grid = RandomTiling().partition((256, 256), (64, 64), 64, Generators.keyed(0, range(2)))
    images = [t.join(torch.nn.functional.avg_pool2d(t.split(canvas), 9, 1, 4))[..., 64:-64, 64:-64] for t in (blended, grid)]
    sides = sorted({row + end - 64 for row, _ in blended.corners for end in (0, 64)} & set(range(1, 256)))
    assert seam(images[0], [(sides, sides)] * 2) == pytest.approx(1, abs=0.03) and seam(images[1], grid.borders) < 0.85


def test_turns_average_the_eight_ways():
    """A filter that shifts to the right becomes, over all turns and mirror images, the mean of shifts in four directions."""
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ways = [OverlapTiles((6, 6), (0, 0), (6, 6), 2, turns=(k,)) for k in range(8)]
    mean = sum(tiles.join(tiles.split(x).roll(1, -1)) for tiles in ways) / 8
    expected = sum(x.roll(shift, axis) for shift in (-1, 1) for axis in (-2, -1)) / 4
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-14)


def test_turns_are_drawn_for_each_image_and_patches_that_are_not_square_keep_their_shape():
    draws = Generators.keyed(0, range(300))
    square, flat = (OverlapTiling(2, turned=True).partition((9, 20), (0, 0), sides, draws) for sides in ((8, 8), (8, 12)))
    assert set(square.turns) == set(range(8)) and set(flat.turns) == {0, 2, 4, 6}


def test_overlap_not_smaller_than_the_patch_is_refused():
    with pytest.raises(InputError, match="overlap is 8; wanted less than the patch size 8"):
        OverlapTiling(8).partition((20, 20), (4, 4), 8, Generators.keyed(0, [0]))


def test_fixed_tiling_is_the_same_for_all():
    tiles = FixedTiling().partition((20, 20), (4, 4), 8, Generators.keyed(0, range(3)))
    assert tiles.offsets == ((2, 2),) * 3


def test_padding_of_whole_images_and_of_patches_too_large():
    assert padding((32, 32), 32, at_least=0) == (0, 0)
    with pytest.raises(InputError, match="patch size 64 is larger than the image of 32x48; wanted at most 32"):
        padding((32, 48), 64)


def test_coordinates_span_the_canvas():
    grid = coordinates(5, 9)
    assert grid[0, 3].tolist() == pytest.approx([-1 + k / 4 for k in range(9)])
    assert grid[1, :, 3].tolist() == pytest.approx([-1, -0.5, 0, 0.5, 1])


def test_borders_are_where_tiles_begin_and_seams_are_measured_there(rng):
    tiles = GridTiles((20, 26), (4, 6), (8, 8), ((3, 5), (0, 6)))
    mosaic = tiles.split(torch.zeros(2, 1, 28, 38))
    mosaic += torch.randn(len(mosaic), 1, 1, 1, generator=rng)  # one value a tile: steps at borders alone
    images = tiles.join(mosaic)[:, :, 4:-4, 6:-6]
    for image, (rows, columns) in zip(images, tiles.borders, strict=True):
        assert (image.diff(dim=1).abs().amax((0, 2)) > 0).nonzero().flatten().add(1).tolist() == rows
        assert (image.diff(dim=2).abs().amax((0, 1)) > 0).nonzero().flatten().add(1).tolist() == columns
    ramp = 0.1 * (torch.arange(26).expand(2, 1, 20, 26) + torch.arange(20)[:, None])
    assert seam(ramp, tiles.borders) == pytest.approx(1, rel=1e-4)
    assert seam(ramp + images, tiles.borders) > 1.5


def test_a_grid_that_cannot_cover_the_image_is_refused():
    with pytest.raises(InputError, match="image and padding are 256 \\+ 24; wanted a multiple of the patch size 64"):
        RandomTiling().partition((256, 256), (24, 24), 64, Generators.keyed(0, [0]))


@pytest.mark.parametrize("tiles", [1, 2, 3])
def test_larger_tiles_cover_each_pixel_once_and_need_not_be_square(tiles):
    size, pad = (20, 26), padding((20, 26), 6)
    canvas = torch.zeros(3, 1, size[0] + 2 * pad[0], size[1] + 2 * pad[1])
    canvas[..., pad[0] : pad[0] + size[0], pad[1] : pad[1] + size[1]] = torch.rand(3, 1, *size)
    drawn = RandomTiling(tiles).partition(size, pad, 6, Generators.keyed(0, range(3)))
    patches = drawn.split(canvas)
    assert patches.shape == (3 * tiles**2, 1, (20 + pad[0]) // tiles, (26 + pad[1]) // tiles)
    assert torch.equal(drawn.join(patches), canvas) and len(set(drawn.offsets)) > 1
    assert all(len(rows) <= tiles and len(columns) <= tiles for rows, columns in drawn.borders)


def test_tiles_that_do_not_divide_the_canvas_are_refused():
    with pytest.raises(InputError, match=r"tiles is 5; wanted a divisor of 24, image and padding"):
        RandomTiling(5).partition((20, 20), (4, 4), 8, Generators.keyed(0, [0]))
    with pytest.raises(InputError, match="tiles is 0; wanted at least 1"):
        RandomTiling(0)
