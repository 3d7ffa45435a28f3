"""Magnetic resonance imaging off the grid: k-space along spokes, spirals, or any other points."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.linalg import at_least_single
from padis_lightning.memory import device_of
from padis_lightning.mri import fourier, to_channels, to_complex
from padis_lightning.mri.coils import espirit, ring_of_coils
from padis_lightning.mri.nufft import adjoint, compensation, convolved, gridded_middle, library, normal_spectrum, transform
from padis_lightning.mri.trajectories import radial, spiral
from padis_lightning.operators.base import LinearOperator
from padis_lightning.operators.ct import sides_of
from padis_lightning.operators.files import Numbers, read_numbers
from padis_lightning.operators.mri import CoilOperator, read_maps

COMPENSATION = "compensation"
COVERED = 0.8  # of the middle of k-space, for maps


class NonCartesianMRI(CoilOperator):
    r"""Non-Cartesian MRI samples k-space of an image that coils weigh at any points, :math:`A x = \sqrt{d} \, F S x`.

    Real and imaginary parts are channels, in images ``(B, 2, H, W)`` and, coil by coil, in measurements
    ``(B, 2 coils, samples)``. Points on the grid have the values of :class:`padis_lightning.operators.mri.CartesianMRI`. F is
    computed in float64 on the host, by FINUFFT; A'A is a convolution, computed where the image is. Files are .npy, or .npz with
    an array of the name of the argument.

    Args:
        trajectory: points of k-space ``(samples, 2)`` along height and width, in cycles per pixel, -0.5 to 0.5; or a file.
        size: pixels along a side of the image, or height and width (default: those of the maps).
        maps: S, complex ``(coils, H, W)``, or a file (default: one coil that sees all alike).
        density: d, weights of the samples ``(samples,)`` whose roots measurements carry; or a file, or ``compensation``, the
            share of k-space that each sample stands for, with which :math:`\|A\|` is about 1 and conjugate gradients take fewer
            steps (default: 1, so that noise is that of samples as they are).

    Raises:
        InputError: finufft is not installed, files cannot be read, or shapes or values do not fit.
    """

    rows_together = 2  # both parts of what a coil measures
    density: Tensor
    spectrum: Tensor

    def __init__(
        self,
        trajectory: Numbers | str,
        size: int | tuple[int, int] | None = None,
        maps: Numbers | str | None = None,
        density: Numbers | str | None = None,
    ) -> None:
        points, seen = read_numbers(trajectory, "trajectory"), read_maps(maps)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0 or points.dtype.kind == "c":
            raise InputError(f"trajectory is {points.dtype} of shape {points.shape}; wanted real numbers (samples, 2)")
        if np.abs(points).max() > 0.5:
            raise InputError(f"trajectory reaches {np.abs(points).max():.4g}; wanted cycles per pixel, from -0.5 to 0.5")
        if size is None:
            if seen is None:
                raise InputError("neither size nor maps are given; wanted one of them, for the sides of the image")
            size = seen.shape[1], seen.shape[2]
        sides = sides_of(size)
        if seen is not None and seen.shape[1:] != sides:
            raise InputError(f"size is {sides} and the maps are {seen.shape}; wanted maps (coils, {sides[0]}, {sides[1]})")
        library()
        super().__init__(sides, seen)
        self.points, self.sides, self.measurement_shape = points.astype(np.float64), sides, (2 * self.coils, len(points))
        self.register_buffer("density", self._weights(density), persistent=False)
        self.register_buffer("spectrum", normal_spectrum(self.points, sides, self.density), persistent=False)

    def _weights(self, density: Numbers | str | None) -> Tensor:
        """Return the weights of the samples in float64."""
        if isinstance(density, str) and density == COMPENSATION:
            return self.compensation
        count = len(self.points)
        weights = np.ones(count) if density is None else read_numbers(density, "density")
        if weights.shape != (count,) or weights.dtype.kind == "c" or not (weights > 0).all():
            seen = f"{weights.dtype} of shape {weights.shape}, from {np.real(weights).min(initial=np.inf):.4g} on"
            raise InputError(f"density is {seen}; wanted real numbers above 0, one for each of {count} points, or {COMPENSATION}")
        return torch.from_numpy(weights.astype(np.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Measure, ``(B, 2, H, W) -> (B, 2 coils, samples)``."""
        wide = at_least_single(x)
        return to_channels(self.density.sqrt().to(wide) * transform(self.weighed(wide), self.points)).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """Grid the coils' samples and combine their images, ``(B, 2 coils, samples) -> (B, 2, H, W)``."""
        return self._gridded(y, self.density.sqrt())

    def _gridded(self, y: Tensor, weights: Tensor) -> Tensor:
        """Apply the adjoint of F S to weighed samples."""
        self.check(y, self.measurement_shape, "measurement")
        wide = at_least_single(y)
        return self.combined(adjoint(to_complex(weights.to(wide) * wide), self.points, self.sides)).to(y.dtype)

    def normal(self, x: Tensor) -> Tensor:
        """Return ``A' A x`` by transforms of twice the sides."""
        self.check(x, self.image_shape, "image")
        wide = at_least_single(x)
        return self.combined(convolved(self.weighed(wide), self.spectrum.to(wide))).to(x.dtype)

    @cached_property
    def compensation(self) -> Tensor:
        """The share of k-space that each sample stands for, ``(samples,)``, by :func:`padis_lightning.mri.nufft.compensation`."""
        return compensation(self.points, self.sides)

    def approximate_inverse(self, y: Tensor) -> Tensor:
        """Grid with each sample weighed by the share of k-space that it stands for; of full k-space it is the image."""
        return self._gridded(y, self.compensation.to(self.density) / self.density.sqrt())

    def of_rows(self, kept: Sequence[int]) -> LinearOperator:
        """Return the operator of these rows alone; of both parts of some coils it is one of these coils, A'A a convolution."""
        if list(kept[1::2]) != [row + 1 for row in kept[::2]] or any(row % 2 for row in kept[::2]):
            return super().of_rows(kept)
        part = copy.copy(self)
        part._buffers = {**self._buffers, "maps": self.maps[[row // 2 for row in kept[::2]]]}
        part.__dict__.pop("norm_squared", None)
        part.coils, part.measurement_shape = len(kept) // 2, (len(kept), len(self.points))
        return part

    def noisy(self, weights: Tensor) -> Tensor:
        """Return the weights outside of a circle: far from the middle of k-space there is hardly anything but noise."""
        return self.noisy_at(torch.from_numpy(np.hypot(*self.points.T) * 2), weights)


class RadialMRI(NonCartesianMRI):
    """Radial MRI has a ring of coils around the image and measures along spokes through the middle of k-space.

    Args:
        size: pixels along a side of the image, or height and width.
        coils: number of them; one sees all alike.
        spokes: number of them; pi / 2 times the side is enough for all of the image.
        golden: each is 111.25 degrees on from the one before; otherwise they divide half a turn evenly.
        oversampling: samples of a spoke for one pixel of the longer side.
        density: None or ``compensation``, as :class:`NonCartesianMRI` says.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 128,
        coils: int = 8,
        spokes: int = 32,
        golden: bool = True,
        oversampling: float = 2.0,
        density: Literal["compensation"] | None = None,
    ) -> None:
        sides = sides_of(size)
        super().__init__(radial(max(sides), spokes, golden, oversampling), sides, _maps(coils, sides), density)


class SpiralMRI(NonCartesianMRI):
    """Spiral MRI has a ring of coils around the image and measures along spirals from the middle of k-space.

    Args:
        size: pixels along a side of the image, or height and width.
        coils: number of them; one sees all alike.
        interleaves: number of spirals; with half the side of ``interleaves * turns`` they are enough for all of the image.
        turns: of each of them.
        oversampling: samples along a spiral for one point of the grid.
        density: None or ``compensation``, as :class:`NonCartesianMRI` says.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 128,
        coils: int = 8,
        interleaves: int = 4,
        turns: float = 4.0,
        oversampling: float = 2.0,
        density: Literal["compensation"] | None = None,
    ) -> None:
        sides = sides_of(size)
        super().__init__(spiral(max(sides), interleaves, turns, oversampling), sides, _maps(coils, sides), density)


class MeasuredNonCartesianMRI(NonCartesianMRI):
    """Measured non-Cartesian MRI takes maps from each measurement: ESPIRiT of the gridded middle of k-space.

    Until there is a measurement its coils see all alike.

    Args:
        trajectory: points of k-space, as :class:`NonCartesianMRI` has them.
        size: pixels along a side of the image, or height and width.
        coils: number of them.
        calibration: side of the middle that maps are estimated from, points of the grid.
        kernel: side of the windows of ESPIRiT, points.
        crop: eigenvalue up to which a pixel is taken to be empty.
    """

    def __init__(
        self,
        trajectory: Numbers | str,
        size: int | tuple[int, int],
        coils: int,
        calibration: int = 24,
        kernel: int = 6,
        crop: float = 0.9,
    ) -> None:
        super().__init__(trajectory, size, np.ones((coils, *sides_of(size))))
        self.calibration, self.kernel, self.crop = calibration, kernel, crop

    def calibrated(self, y: Tensor) -> NonCartesianMRI:
        """Return the operator of one measurement ``(1, 2 coils, samples)``.

        Raises:
            InputError: there are several, or the middle of k-space is not covered or too small.
        """
        kspace, maps = self.only(y), None
        if len(kspace) > 1:
            images, covered = gridded_middle(kspace, self.points, self.sides, self.calibration / 2)
            if covered < COVERED:
                seen = f"the trajectory covers {covered:.0%} of the {self.calibration} points around the middle of k-space"
                wanted = f"at least {COVERED:.0%}, another --operator.calibration, or --operator NonCartesianMRI with .maps"
                raise InputError(f"{seen}; wanted {wanted}")
            maps = espirit(fourier(images), (self.calibration,) * 2, self.kernel, crop=self.crop).numpy()
        return NonCartesianMRI(self.points, self.sides, maps).to(device_of(self) or y.device)


def _maps(coils: int, sides: tuple[int, int]) -> np.ndarray | None:
    return ring_of_coils(coils, sides).numpy() if coils > 1 else None
