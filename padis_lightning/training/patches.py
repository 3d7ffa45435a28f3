"""Draw random patches of images with their noise, and cut them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from padis_lightning.canvas import zero_pad
from padis_lightning.diffusion import context_of
from padis_lightning.diffusion.context import context_of_noise
from padis_lightning.errors import InputError
from padis_lightning.linalg import per_image


class Patches(NamedTuple):
    """The random values of a set of n patches.

    Attributes:
        corners: ``(n, 2)``, row and column on the padded canvas; of volumes ``(n, 3)``, slice, row and column.
        sigma: ``(n,)``.
        noise: ``(n, C, P, P)``; of volumes with a further axis.
        rest: noise of the context besides, of the same shape; of no channels without a context.
    """

    corners: Tensor
    sigma: Tensor
    noise: Tensor
    rest: Tensor


def sizes_and_odds(sizes: Sequence[int], odds: Sequence[float] | None, divisor: int) -> tuple[list[int], list[float]]:
    """Return patch sizes, multiples of ``divisor``, smallest first, with their odds, which are all alike if not given."""
    if not sizes:
        raise InputError("patch_sizes is empty; wanted at least one size")
    odds = list(odds) if odds is not None else [1 / len(sizes)] * len(sizes)
    if len(odds) != len(sizes):
        raise InputError(f"patch_odds has {len(odds)} values; wanted {len(sizes)}, one a patch size")
    if min(odds) < 0 or not sum(odds) > 0:
        raise InputError(f"patch_odds is {odds}; wanted values of at least 0, not all 0")
    for size in sizes:
        if size < 1 or size % divisor:
            raise InputError(f"patch size {size} does not fit the network; wanted a multiple of {divisor}")
    pairs = sorted(zip(sizes, odds, strict=True))
    return [size for size, _ in pairs], [odd for _, odd in pairs]


def draw_corners(size: Sequence[int], pad: Sequence[int], patch: Sequence[int], n: int, generator: torch.Generator) -> Tensor:
    """Draw corners of patches that touch the image, ``(n, axes)``, from all such places alike.

    Args:
        size: sides of the image, such as height and width.
        pad: zeros on both sides of each axis.
        patch: sides of the patch.
        n: how many.
        generator: the generator, on whose device they are.
    """
    corners = []
    for length, margin, side in zip(size, pad, patch, strict=True):
        low, high = max(0, margin - side + 1), min(length + 2 * margin - side, margin + length - 1)
        corners.append(torch.randint(low, high + 1, (n,), generator=generator, device=generator.device))
    return torch.stack(corners, 1)


def draw_sigma(n: int, log_sigma: tuple[float, float], ends: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Draw log-normal noise levels ``(n,)``, truncated to ``ends`` by inverting the distribution function.

    Args:
        n: how many.
        log_sigma: mean and standard deviation of the logarithm.
        ends: the lowest and the highest level.
        generator: the generator, on whose device they are.
    """
    mean, std = log_sigma
    low, high = torch.special.ndtr((torch.tensor(ends, dtype=torch.float64).log() - mean) / std).tolist()
    share = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
    return (mean + std * torch.special.ndtri(low + (high - low) * share)).exp().float()


def cut_patches(images: Tensor, pad: Sequence[int], corners: Tensor, patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cut patches out of zero-padded images, taken in turn, and return them with their coordinates.

    ``(B, C, H, W), (n, 2) -> (n, C, *patch), (n, 2, *patch)``; volumes have a further axis.
    """
    padded, device = zero_pad(images, pad), images.device
    source = torch.arange(len(corners), device=device).reshape(-1, *[1] * len(patch)) % len(images)
    along = [corner[:, None] + torch.arange(side, device=device) for corner, side in zip(corners.T, patch, strict=True)]
    shaped = [(-1, *(side if j == k else 1 for j in range(len(patch)))) for k, side in enumerate(patch)]
    index = [places.reshape(shape) for places, shape in zip(along, shaped, strict=True)]
    patches = padded.movedim(1, -1)[(source, *index)].movedim(-1, 1)
    scales = [torch.linspace(-1, 1, length, device=device) for length in padded.shape[2:]]
    places = [scale[places].expand(-1, *patch) for scale, places in zip(scales, index, strict=True)]
    return patches, torch.stack(places[::-1], 1)


def noisy_contexts(images: Tensor, pad: Sequence[int], patches: Patches) -> Tensor:
    """Return, for each patch, the noisy image that it is cut from, averaged down to its sides: ``(n, C, *sides)``."""
    clean = context_of(images, patches.noise.shape[2:])
    corners = patches.corners - torch.tensor(pad, device=images.device)
    noise = context_of_noise(patches.noise, patches.rest, corners, images.shape[2:])
    source = torch.arange(len(patches.sigma), device=images.device) % len(images)
    return clean[source] + per_image(patches.sigma, noise) * noise


def device_places(n: int, images: int, parts: int, world: int, part: int, rank: int) -> tuple[int, Tensor]:
    """Return how many patches all devices draw in a step, and which of them are a device's n in one part of the step.

    Patches take the images in turn, so that each belongs to one image of one device.

    Args:
        n: patches of a device in a part.
        images: images of a device in a part.
        parts: accumulated parts of a step.
        world: devices.
        part: the part.
        rank: the device.
    """
    rounds = -(-n // images)
    total = rounds * images * world * parts
    places = torch.arange(total).reshape(rounds, parts, images, world)
    return total, places[:, part, :, rank].flatten()[:n]
