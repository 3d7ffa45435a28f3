"""Noise is estimated from a measurement itself: how strong it is, and whether it may be white."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from padis_lightning.linalg import per_image

BLOCK, QUIET = 16, 0.2  # side of blocks, and share of them in which there is next to nothing but noise
QUIETER = 0.928  # the deviation that is seen in them of white noise of 1: in a fifth of blocks chance has less than that
COLOURLESS = 8.0  # times more is seen in brightness than in colours where noise is not white, as that of JPEG; of white noise 5
SEEN, CORRELATED = 4 / 255, 1.6  # deviation, and ratio between scales, from which on noise does not look white
MIDDLE = 512  # pixels along a side of what is looked at for that
SPARSE = 0.02  # of the pixels, that have all their neighbours; where fewer do, rows and columns are looked at one by one
FEWEST = 32  # differences from which a deviation is estimated


def estimate_deviation(y: Tensor, orders: tuple[int, ...], weights: Tensor) -> Tensor:
    r"""Estimate the deviation of white noise of each measurement ``(B, ...)`` from its finest scale: ``(B, 1, ...)``.

    .. math:: \hat s = \frac{Q_{1/4}(|\Delta \sqrt w y|)}{\|\Delta\| \, \Phi^{-1}(5/8)}

    The differences :math:`\Delta` keep the finest scale only, where noise is and objects hardly are; the lower quartile of
    their lengths Q leaves out what edges add. What is exactly 0 is padding or was clipped, what is at the highest value may be
    saturated, and neither counts. It is 0 where too few neighbours count.

    Pictures have texture at the finest scale, which their channels share, and noise, which they do not: of a picture in colours
    it is the least estimate of the principal components of the channels' differences. Of a grey picture, and where brightness
    has far more than colours, as after JPEG, it is that of the brightness, in quiet blocks where these have less. Where too few
    pixels have all neighbours, as where most are missing, those of one row or column do.

    Source: Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, Biometrika 1994, with the median; Hall, Kay and
    Titterington, Asymptotically optimal difference-based estimation of variance, Biometrika 1990.

    Args:
        y: ``(B, ...)``.
        orders: of the differences along the last axes; along the bins of a sinogram alone, along both axes of a picture.
        weights: w, relative, that broadcast with ``y``; entries of weight 0 do not count.
    """
    of_one = _of_picture if len(orders) == 2 else lambda *one: _of_all(*_finest(*one))
    return per_image(torch.stack([of_one(*one, orders) for one in zip(y, weights.to(y).expand_as(y), strict=True)]), y)


def seems_white(y: Tensor, weights: Tensor) -> list[bool]:
    """Tell of each picture ``(B, C, H, W)`` in colours whether its noise may be white, by its middle; of grey ones nothing tells.

    White noise is as much in brightness as in colours, and half as much in means over 2x2 pixels.
    """
    rows, columns = (slice(max(0, (length - MIDDLE) // 2), (length + MIDDLE) // 2) for length in y.shape[-2:])
    middles = (part[..., rows, columns] for part in (y, weights.to(y).expand_as(y)))
    return [_seems_white(*one) for one in zip(*middles, strict=True)]


def _seems_white(y: Tensor, weights: Tensor) -> bool:
    brightness, colour = _parts(*_finest(y, weights, (2, 2)))
    if colour is None:
        return True
    _, coarse = _parts(*_finest(avg_pool2d(y, 2), -max_pool2d(-weights, 2), (2, 2)))
    fine = float(colour)
    grown = coarse is not None and 2 * float(coarse) > max(CORRELATED * fine, SEEN)
    return not grown and float(brightness) <= max(COLOURLESS * fine, SEEN)


def _finest(y: Tensor, weights: Tensor, orders: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the differences of one measurement, of which noise of 1 has a deviation of 1, and which of them count."""
    if any(length <= order for length, order in zip(reversed(y.shape), reversed(orders), strict=False)):
        return y[..., :0], weights[..., :0] > 0
    highest = y.where(weights > 0, -math.inf).amax()
    differences, counted, gain = weights.sqrt() * y, (weights > 0) & (y != 0) & (y < highest), 1.0
    for axis, order in enumerate(reversed(orders), 1):
        differences = differences.diff(n=order, dim=-axis)
        counted = counted.unfold(-axis, order + 1, 1).all(-1)
        gain *= math.comb(2 * order, order)
    return differences / math.sqrt(gain), counted


def _of_all(differences: Tensor, counted: Tensor) -> Tensor:
    """Return the deviation by the quartile of those differences that count."""
    return _quartile(differences.abs()[counted]) / NormalDist().inv_cdf(5 / 8)


def _of_picture(y: Tensor, weights: Tensor, orders: tuple[int, ...]) -> Tensor:
    """Return the deviation of a picture ``(C, H, W)``, by its colours or its brightness."""
    differences, counted = _finest(y, weights, orders)
    if orders[0] and int(counted.all(0).sum()) < SPARSE * y[0].numel():
        rows, columns = (_of_picture(part, w, (0, orders[1])) for part, w in ((y, weights), (y.mT, weights.mT)))
        return (rows * columns).sqrt()
    brightness, colour = _parts(differences, counted)
    return brightness if colour is None or brightness > COLOURLESS * colour else colour


def _parts(differences: Tensor, counted: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the deviations in the brightness and in the colours of a picture, None of one that is grey or where few count."""
    if bool((differences == differences[:1]).all()):
        differences, counted = differences[:1], counted[:1]
    brightness = torch.minimum(_of_all(differences, counted), _of_blocks(differences, counted))
    values = differences[:, counted.all(0)]
    if len(values) == 1 or values.shape[1] < FEWEST:
        return brightness, None
    principal = torch.linalg.eigh(values @ values.T)[1].T @ values
    return brightness, torch.stack([_quartile(part) for part in principal.abs()]).amin() / NormalDist().inv_cdf(5 / 8)


def _of_blocks(differences: Tensor, counted: Tensor) -> Tensor:
    """Return the deviation by the mean squares of blocks, of which few have less; infinite where there are few blocks."""
    height, width = (length // BLOCK * BLOCK for length in differences.shape[-2:])
    if not height * width:
        return differences.new_full((), math.inf)

    def blocks(values: Tensor) -> Tensor:
        return values[..., :height, :width].unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK)).transpose(-2, -3).flatten(-2)

    counts = blocks(counted.to(differences)).sum(-1)
    squares = (blocks(differences.square() * counted).sum(-1) / counts.clamp_min(1))[counts >= BLOCK**2 / 2]
    if len(squares) < FEWEST:
        return differences.new_full((), math.inf)
    return squares.kthvalue(max(1, round(QUIET * len(squares)))).values.sqrt() / QUIETER


def _quartile(values: Tensor) -> Tensor:
    """Return the lower quartile of ``(n,)``, 0 of fewer than :data:`FEWEST`."""
    count = len(values)
    return values.kthvalue(max(1, count // 4)).values if count >= FEWEST else values.new_zeros(())
