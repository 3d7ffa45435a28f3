"""Coils: maps of what each of them sees, noise made white, and fewer coils that see as much."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from padis_lightning.errors import InputError, require_above, require_at_least
from padis_lightning.mri.fourier import inverse_fourier
from padis_lightning.mri.masks import middle

ITERATIONS = 30  # of the power method; on the support one eigenvalue is 1 and the others are far below
ROWS = 4  # rows of an image whose eigenvectors are found at once
RADIUS = 1.5  # of the ring of simulated coils, in half sides of the image, whose corners are at 1.41


def normalised(maps: Tensor) -> Tensor:
    """Return maps ``(coils, H, W)`` with a sum of squares of 1 wherever a coil sees anything."""
    total = torch.linalg.vector_norm(maps, dim=0)
    return torch.where(total > 0, maps / torch.where(total > 0, total, 1), 0)


def ring_of_coils(coils: int, shape: Sequence[int]) -> Tensor:
    r"""Simulate normalised maps of coils around an image, ``(coils, H, W)`` complex: fields of wires along the bore.

    .. math:: S_c(z) \propto \frac{e^{i \theta_c}}{z_c - z}, \quad z = x + i y
    """
    require_at_least(1, coils=coils)
    y, x = (torch.arange(n, dtype=torch.float64) * 2 / n - 1 for n in shape)
    angles = 0.3 + 2 * torch.pi / coils * torch.arange(coils, dtype=torch.float64)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None, None]
    return normalised(turn / (RADIUS * turn - torch.complex(*torch.broadcast_tensors(x, y[:, None]))))


def calibration_sides(mask: np.ndarray, most: int) -> tuple[int, int]:
    """Return height and width, at most ``most``, of the largest fully sampled rectangle around the middle of ``(H, W)``."""
    found = 0, 0
    for height in range(1, min(most, len(mask)) + 1):
        full = np.asarray(mask[middle(len(mask), height)].all(0))
        fitting = (n for n in range(min(most, len(full)), 0, -1) if full[middle(len(full), n)].all())
        found = max(found, (height, next(fitting, 0)), key=math.prod)
    return found


def low_resolution(kspace: Tensor, sides: Sequence[int]) -> Tensor:
    """Return the coils' images ``(coils, H, W)`` of the centre of k-space, under a window.

    Normalised they are rough maps: smoother than the coils' and wrong near edges.

    Source: McKenzie et al., Self-calibrating parallel imaging with automatic coil sensitivity extraction, MRM 2002, for the maps.

    Args:
        kspace: ``(coils, H, W)`` complex.
        sides: height and width of the centre, points.
    """
    rows, columns = (middle(n, side) for n, side in zip(kspace.shape[1:], sides, strict=True))
    window = torch.outer(*(torch.hann_window(n + 2, periodic=False, dtype=torch.float64)[1:-1] for n in sides))
    centre = torch.zeros_like(kspace)
    centre[:, rows, columns] = kspace[:, rows, columns] * window.to(kspace.device)
    return inverse_fourier(centre)


def espirit(
    kspace: Tensor, sides: Sequence[int] = (24, 24), kernel: int = 6, threshold: float = 0.02, crop: float = 0.9
) -> Tensor:
    r"""Estimate normalised maps ``(coils, H, W)`` from the centre of k-space: ESPIRiT.

    Windows of the centre, ``kernel`` by ``kernel`` of all coils, span a subspace with the projection P. Where windows lie in it,
    taking the mean of :math:`P w` over all windows :math:`w` changes no k-space, which pixel by pixel reads

    .. math:: S(r) = M(r) S(r), \quad
        M_{ab}(r) = \frac{1}{k^2} \sum_{i, j} P_{(a, i), (b, j)} \, e^{2 \pi i (i - j) \cdot r / N}

    Maps are eigenvectors of M to the eigenvalue 1, found by the power method. Their phase is that of the combination of coils
    that holds most of the centre.

    Source: Uecker et al., ESPIRiT: an eigenvalue approach to autocalibrating parallel MRI, MRM 2014, section Theory.

    Args:
        kspace: ``(coils, H, W)`` complex.
        sides: height and width of the centre, points.
        kernel: k.
        threshold: singular values up to this share of the largest count as noise.
        crop: maps are 0 where the eigenvalue is not above it.

    Raises:
        InputError: the centre is too small for the kernel.
    """
    coils, height, width = kspace.shape
    if min(sides) < kernel + 2:
        seen = f"k-space is fully sampled over {sides[0]}x{sides[1]} around its middle"
        raise InputError(f"{seen}; wanted at least {kernel + 2}, or --operator CartesianMRI with --operator.mask and .maps")
    centre = kspace[:, middle(height, sides[0]), middle(width, sides[1])]
    windows = centre.unfold(1, kernel, 1).unfold(2, kernel, 1).permute(1, 2, 0, 3, 4).reshape(-1, coils * kernel**2)
    _, values, right = torch.linalg.svd(windows, full_matrices=False)
    kept = right[values > threshold * values[0]]
    spread = _differences((kept.mH @ kept).conj().reshape(coils, kernel, kernel, coils, kernel, kernel)) / kernel**2
    waves = [_waves(n, kernel).to(spread) for n in (height, width)]
    across = torch.einsum("abde,we->abdw", spread, waves[1])
    main = torch.linalg.svd(centre.flatten(1), full_matrices=False)[0][:, 0]
    parts = [_eigenvectors(torch.einsum("abdw,hd->hwab", across, rows), main, crop) for rows in waves[0].split(ROWS)]
    return torch.cat(parts).permute(2, 0, 1)


def _differences(projection: Tensor) -> Tensor:
    """Sum the entries of P ``(a, i, i', b, j, j')`` whose windows differ by i - j: ``(a, b, 2 k - 1, 2 k - 1)``."""
    coils, k = projection.shape[:2]
    out = projection.new_zeros(coils, coils, 2 * k - 1, 2 * k - 1)
    for row in range(k):
        for column in range(k):
            out[..., row : row + k, column : column + k] += projection[..., k - 1 - row, k - 1 - column].permute(0, 3, 1, 2)
    return out


def _waves(length: int, kernel: int) -> Tensor:
    """Return the waves of the differences -k + 1 to k - 1 at the pixels of a side, ``(length, 2 k - 1)``."""
    places, steps = torch.arange(length) - length // 2, torch.arange(2 * kernel - 1) - kernel + 1
    angles = 2 * torch.pi / length * torch.outer(places, steps).double()
    return torch.polar(torch.ones_like(angles), angles)


def _eigenvectors(matrices: Tensor, main: Tensor, crop: float) -> Tensor:
    """Return the first eigenvector of every matrix ``(h, w, coils, coils)``, 0 where its value is not above ``crop``."""
    vectors = main.expand(*matrices.shape[:-1]).unsqueeze(-1)
    for _ in range(ITERATIONS):
        vectors = matrices @ vectors
        lengths = torch.linalg.vector_norm(vectors, dim=-2, keepdim=True)
        vectors = vectors / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
    vectors, lengths = vectors[..., 0], lengths[..., 0]
    phase = (vectors * main.conj()).sum(-1, keepdim=True)
    return torch.where(lengths > crop, vectors * torch.sgn(phase).conj(), 0)


def whitening(noise: np.ndarray) -> np.ndarray:
    """Return the matrix ``(coils, coils)`` that gives noise ``(coils, n)`` without correlation, each part of deviation 1.

    Source: Pruessmann, Weiger, Börnert and Boesiger, Advances in sensitivity encoding with arbitrary k-space trajectories, MRM
    2001, appendix.

    Raises:
        InputError: there are too few samples, or coils that are one.
    """
    coils, count = noise.shape
    covariance = noise @ noise.conj().T / (2 * count)
    values = np.linalg.eigvalsh(covariance)
    if count < coils or not values[0] > 1e-10 * values[-1]:
        raise InputError(
            f"the noise has {count} samples of {coils} coils and no inverse; wanted more samples than coils, all apart"
        )
    return np.linalg.inv(np.linalg.cholesky(covariance))


def compression(kspace: np.ndarray, count: int) -> np.ndarray:
    """Return the orthonormal rows ``(count, coils)`` that turn the coils of k-space ``(coils, ...)`` into those that hold most.

    Source: Buehrer, Pruessmann, Boesiger and Kozerke, Array compression for MRI with large coil arrays, MRM 2007.
    """
    coils = len(kspace)
    require_above(0, coils=count)
    if count > coils:
        raise InputError(f"coils is {count} and k-space has {coils}; wanted at most as many")
    flat = kspace.reshape(coils, -1)
    return np.linalg.eigh(flat @ flat.conj().T)[1][:, : -count - 1 : -1].conj().T
