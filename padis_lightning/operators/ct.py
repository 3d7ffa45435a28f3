"""Computed tomography measures a slice by parallel rays or by a fan of rays."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from padis_lightning.ct import ConeGeometry, Geometry, choose, fbp, fdk
from padis_lightning.ct.fbp import WINDOWS, Filter, FilteredBackProjection
from padis_lightning.ct.fdk import FDK
from padis_lightning.ct.geometry import Centre, Offset
from padis_lightning.errors import InputError, require_above, require_at_least
from padis_lightning.linalg import at_least_single
from padis_lightning.memory import on_device_of
from padis_lightning.operators.base import LinearOperator

Backend = Literal["auto", "sparse", "torch_radon", "astra"]
Pixels = Literal["points", "means"]
SIDE = 40.0  # of the image in the paper's units, where no pixel spacing says otherwise
BLUR = 1.2  # width of what a bin sees, in bins: its own and what focal spot and crosstalk add
INTERPOLATED = (1 / 2 + 1 / math.pi) / 12  # of the second difference, what linear interpolation along an axis takes away
BROADEST = -1 / 8  # sharpening of the broadest bins: beyond, the finest pattern would change its sign


def sharpening(geometry: Geometry | ConeGeometry) -> float:
    r"""Return c, by which means over pixels are sharpened to be projected: see :class:`Scan`.

    .. math:: c = \tfrac{1}{12} \left(\tfrac12 + \tfrac1\pi\right) + \tfrac{1}{24} (1 - b^2)

    The first term undoes linear interpolation along one axis, in the mean over the directions of rays, the second the mean over
    a pixel; b is what a bin averages over, 1.2 times its shadow at the axis, in pixels. All to second order in the frequency.
    """
    bin_width = BLUR * geometry.bin_spacing / geometry.magnification / geometry.pixel_spacing
    return max(BROADEST, INTERPOLATED + (1 - bin_width**2) / 24)


class Scan(LinearOperator):
    r"""A scan takes line integrals of an image, ``(B, C, H, W)`` to sinograms ``(B, C, views, bins)``.

    Projectors J interpolate between samples at the centres of pixels. A pixel of an object with finer detail is the mean over its
    square, which is smoother than samples are, and interpolation smooths once more. Means are sharpened by second differences
    along each axis before they are projected:

    .. math:: A = J \left(I - c \, (D_1 + D_2)\right)

    Args:
        geometry: the scan.
        backend: what computes it; ``auto`` takes the sparse matrix up to 4 GiB, then what is installed.
        filter: window on the ramp of filtered back-projection.
        channels: images of several channels are scanned channel by channel.
        pixels: what they stand for, ``points`` or ``means`` (None: means in a scan that was measured, points in one that is
            simulated here).
    """

    noise_orders = (5,)  # along bins
    geometry: Geometry | ConeGeometry

    def __init__(
        self,
        geometry: Geometry,
        backend: Backend = "auto",
        filter: Filter = "ram-lak",  # noqa: A002
        channels: int = 1,
        pixels: Pixels | None = None,
    ) -> None:
        super().__init__()
        require_at_least(1, channels=channels)
        if filter not in WINDOWS:
            raise InputError(f"filter is {filter!r}; wanted one of {', '.join(WINDOWS)}")
        if pixels not in (None, *get_args(Pixels)):
            raise InputError(f"pixels is {pixels!r}; wanted one of {', '.join(get_args(Pixels))}")
        self.geometry, self.backend, self.filter, self.pixels = geometry, backend, filter, pixels
        self.projector = choose(geometry, backend)
        self.exact_adjoint = self.projector.exact_adjoint
        cone = geometry if isinstance(geometry, ConeGeometry) else None
        self.fbp_obstacle = fdk.obstacle(cone) if cone else fbp.obstacle(geometry)
        if not self.fbp_obstacle:
            self.fbp_module = FDK(cone, filter) if cone else FilteredBackProjection(self.projector, filter)
        self.image_shape = (channels, *geometry.size)
        self.measurement_shape = (channels, *geometry.shape)

    def _channelwise(self, x: Tensor, module: nn.Module, compute: Callable[[Tensor], Tensor]) -> Tensor:
        images = rearrange(at_least_single(x), "b c ... -> (b c) ...")
        return rearrange(on_device_of(module, compute)(images), "(b c) ... -> b c ...", c=self.image_shape[0]).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Project, ``(B, C, H, W) -> (B, C, views, bins)``."""
        return self._channelwise(x, self.projector, lambda images: self.projector(self._sharpened(images)))

    def adjoint(self, y: Tensor) -> Tensor:
        """Back-project, ``(B, C, views, bins) -> (B, C, H, W)``."""
        self.check(y, self.measurement_shape, "sinogram")
        return self._channelwise(y, self.projector, lambda views: self._sharpened(self.projector.adjoint(views)))

    def _sharpened(self, x: Tensor) -> Tensor:
        """Return samples at the centres of pixels that are means; a symmetric map, with zeros around the image."""
        if self.pixels != "means":
            return x
        share, out = sharpening(self.geometry), x
        for axis in (-2, -1):
            edge = torch.zeros_like(x.narrow(axis, 0, 1))
            out = out - share * x.diff(n=2, dim=axis, prepend=edge, append=edge)
        return out

    def calibrated(self, y: Tensor) -> LinearOperator:
        """Return the scan of a measured object, whose pixels are means where nothing else is named.

        An axis through a pixel is that of scikit-image's projections, whose pixels are points.
        """
        return self if self.pixels or getattr(self.geometry, "centre", None) == "pixel" else self._of_means

    @cached_property
    def _of_means(self) -> Scan:
        """Return the same scan of pixels that are means, with the same projector."""
        scan = copy.copy(self)
        scan.pixels = "means"
        scan.__dict__.pop("norm_squared", None)
        return scan

    def approximate_inverse(self, y: Tensor) -> Tensor:
        """Reconstruct by filtered back-projection; scans that have none by conjugate gradients."""
        return self.pinv(y, iterations=20) if self.fbp_obstacle else self.fbp(y)

    def fbp(self, y: Tensor) -> Tensor:
        """Reconstruct by filtered back-projection, of cone beams Feldkamp's, ``(B, C, views, bins) -> (B, C, H, W)``."""
        self.check(y, self.measurement_shape, "sinogram")
        if self.fbp_obstacle:
            raise InputError(f"{self.fbp_obstacle}; wanted a circular scan that sees the axis for filtered back-projection")
        return self._channelwise(y, self.fbp_module, self.fbp_module)

    def finer(self, factor: int) -> LinearOperator:
        """Return a scan that cuts pixels into ``factor`` by ``factor``, and takes the mean of ``factor`` rays a bin."""
        from padis_lightning.operators.finer_scan import FinerScan  # an operator, too

        return FinerScan(self, factor) if factor > 1 else self

    def of_rows(self, kept: Sequence[int]) -> LinearOperator:
        """Return the scan of these views alone."""
        geometry = self.geometry
        if not isinstance(geometry, Geometry):
            return super().of_rows(kept)
        offset = geometry.bin_offset
        offset = tuple(offset[k] for k in kept) if isinstance(offset, Sequence) else offset
        part = replace(geometry, angles=tuple(geometry.angles[k] for k in kept), bin_offset=offset)
        return Scan(part, self.backend, self.filter, self.image_shape[0], self.pixels)


def sides_of(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width, at least 1; one number stands for both."""
    height, width = sides_along(size, ("a height", "a width"))
    return height, width


def sides_along(size: int | Sequence[int], axes: Sequence[str]) -> tuple[int, ...]:
    """Return the sides, at least 1, along each of the ``axes``; one number stands for all of them."""
    sides = (size,) * len(axes) if isinstance(size, int) else tuple(size)
    if len(sides) != len(axes) or min(sides) < 1:
        raise InputError(f"size is {size}; wanted at least 1, or {', '.join(axes[:-1])} and {axes[-1]}")
    return sides


def view_angles(angles: Sequence[float] | None, views: int, arc: float) -> tuple[float, ...]:
    """Return the angles as given, or the centres of ``views`` cells of ``arc``."""
    require_at_least(1, views=views)
    require_above(0, arc=arc)
    return tuple(angles) if angles is not None else tuple((i + 0.5) * arc / views for i in range(views))


class ParallelBeam(Scan):
    r"""A parallel beam takes line integrals over parallel rays, images ``(B, C, H, W)`` to sinograms ``(B, C, views, bins)``.

    By default the paper's scan: the image has a side of 40, the detector has twice as many bins as the image has
    pixels across and bins as wide as pixels, angles are cell centres :math:`(i + \tfrac12)\pi / n`.

    Source: Hu et al., PaDIS, NeurIPS 2024, section 4; weights by Joseph, IEEE TMI 1982.

    Args:
        size: pixels along a side of the image, or height and width.
        views: number of angles over ``arc``.
        angles: the angles themselves, radians, in place of ``views``.
        bins: detector bins (default: twice the larger side).
        pixel_spacing: side of a pixel (default: 40 / larger side).
        bin_spacing: width of a bin (default: ``pixel_spacing``).
        arc: what the views cover, radians.
        bin_offset: of the detector's middle from the axis; one number, or one a view.
        centre: where the axis runs through the image; see :class:`padis_lightning.ct.Geometry`.
        options: those of :class:`Scan` besides its geometry.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 128,
        views: int = 20,
        angles: Sequence[float] | None = None,
        bins: int | None = None,
        pixel_spacing: float | None = None,
        bin_spacing: float | None = None,
        arc: float = math.pi,
        bin_offset: Offset = 0.0,
        centre: Centre = "middle",
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        sides = sides_of(size)
        spacing = SIDE / max(sides) if pixel_spacing is None else pixel_spacing
        geometry = Geometry(
            size=sides,
            angles=view_angles(angles, views, arc),
            bins=2 * max(sides) if bins is None else bins,
            pixel_spacing=spacing,
            bin_spacing=spacing if bin_spacing is None else bin_spacing,
            bin_offset=bin_offset,
            centre=centre,
        )
        super().__init__(geometry, **options)


class FanBeam(Scan):
    r"""A fan beam takes line integrals over rays from a point, images ``(B, C, H, W)`` to sinograms ``(B, C, views, bins)``.

    By default the image has a side of 40, source and detector are 40 from the axis as in the paper, and the detector is wide
    enough for the whole image. The arc is a full turn, which the paper's half turn is not: that would not see every line.

    Source: Hu et al., PaDIS, NeurIPS 2024, appendix; Kak and Slaney, 1988, section 3.4.

    Args:
        size: pixels along a side of the image, or height and width.
        views: number of angles over ``arc``.
        angles: the angles themselves, radians, in place of ``views``.
        bins: detector bins (default: twice the larger side).
        pixel_spacing: side of a pixel (default: 40 / larger side).
        bin_spacing: width of a bin (default: the shadow of a pixel at the axis).
        source_distance: from the source to the axis (default: the image's larger side).
        detector_distance: from the axis to the detector (default: the image's larger side).
        curved: the detector is an arc around the source.
        arc: what the views cover, radians; ``short`` for half a turn and the opening of the fan, with Parker's weights.
        bin_offset: of the detector's middle from the axis; one number, or one a view.
        centre: where the axis runs through the image; see :class:`padis_lightning.ct.Geometry`.
        options: those of :class:`Scan` besides its geometry.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 128,
        views: int = 180,
        angles: Sequence[float] | None = None,
        bins: int | None = None,
        pixel_spacing: float | None = None,
        bin_spacing: float | None = None,
        source_distance: float | None = None,
        detector_distance: float | None = None,
        curved: bool = False,
        arc: float | Literal["short"] = 2 * math.pi,
        bin_offset: Offset = 0.0,
        centre: Centre = "middle",
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        sides = sides_of(size)
        spacing = SIDE / max(sides) if pixel_spacing is None else pixel_spacing
        source = max(sides) * spacing if source_distance is None else source_distance
        detector = max(sides) * spacing if detector_distance is None else detector_distance
        shadow = spacing * (source + detector) / source if source else spacing
        geometry = Geometry(
            size=sides,
            angles=(0.0,),
            bins=2 * max(sides) if bins is None else bins,
            pixel_spacing=spacing,
            bin_spacing=shadow if bin_spacing is None else bin_spacing,
            source_distance=source,
            detector_distance=detector,
            curved=curved,
            centre=centre,
        )
        covered = math.pi + 2 * geometry.fan_angle if arc == "short" else arc
        super().__init__(replace(geometry, angles=view_angles(angles, views, covered), bin_offset=bin_offset), **options)
