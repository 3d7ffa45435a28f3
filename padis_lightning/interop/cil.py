"""CIL, the Core Imaging Library: its scans as our operators, our operators and priors as its operators and functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from cil.optimisation.functions import Function
from cil.optimisation.operators import LinearOperator as TheirOperator
from numpy.typing import NDArray
from torch import Tensor

from padis_lightning.ct import Geometry
from padis_lightning.errors import InputError, require_above
from padis_lightning.memory import on_device_of
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.ct import Backend, Scan
from padis_lightning.priors import Prior
from padis_lightning.random import Generators
from padis_lightning.solvers.base import SOLVE
from padis_lightning.types import Normalisation

RIGHT = 1e-6  # cosine of an angle that counts as one of 90 degrees


class Operator(TheirOperator):
    """An operator measures for CIL's algorithms; its norm is known, so none is searched for.

    Args:
        operator: A.
        domain_geometry: CIL's geometry of an image, with as many entries as A takes, in its order.
        range_geometry: CIL's geometry of a measurement.

    Raises:
        InputError: a geometry does not fit.
    """

    def __init__(self, operator: LinearOperator, domain_geometry: Any, range_geometry: Any) -> None:  # noqa: ANN401 - CIL's
        super().__init__(domain_geometry, range_geometry=range_geometry)
        self.operator = operator
        sides = ("image", domain_geometry, operator.image_shape), ("measurement", range_geometry, operator.measurement_shape)
        for what, geometry, wanted in sides:
            if [n for n in geometry.shape if n != 1] != [n for n in wanted if n != 1]:
                raise InputError(f"the {what} is {tuple(geometry.shape)}; wanted {tuple(wanted)}")

    def direct(self, x: Any, out: Any = None) -> Any:  # noqa: ANN401 - CIL's containers
        """Measure an image, into ``out`` where there is one."""
        return self._filled(out, self.range_geometry(), self.operator, x, self.operator.image_shape)

    def adjoint(self, x: Any, out: Any = None) -> Any:  # noqa: ANN401 - CIL's containers
        """Apply the transpose to a measurement, into ``out`` where there is one."""
        return self._filled(out, self.domain_geometry(), self.operator.adjoint, x, self.operator.measurement_shape)

    def calculate_norm(self, **kwargs: Any) -> float:  # noqa: ANN401 - CIL's
        """Return the largest singular value."""
        return math.sqrt(self.operator.norm_squared)

    def _filled(
        self,
        out: Any,  # noqa: ANN401 - CIL's
        geometry: Any,  # noqa: ANN401 - CIL's
        compute: Callable[[Tensor], Tensor],
        x: Any,  # noqa: ANN401 - CIL's
        shape: tuple[int, ...],
    ) -> Any:  # noqa: ANN401 - CIL's
        with torch.no_grad():
            found = on_device_of(self.operator, compute)(torch.from_numpy(_numbers(x)).reshape(1, *shape))
        return _fill(geometry.allocate(0) if out is None else out, found)


def _numbers(x: Any) -> NDArray[Any]:  # noqa: ANN401 - CIL's
    return np.array(x.as_array())


def _fill(out: Any, found: Tensor) -> Any:  # noqa: ANN401 - CIL's
    out.fill(found.numpy().reshape(out.shape).astype(out.dtype, copy=False))
    return out


class TurnedScan(Scan):
    """A scan's bins run the other way, as on a flat panel of CIL that a fan falls on."""

    def forward(self, x: Tensor) -> Tensor:
        """Project, ``(B, C, H, W) -> (B, C, views, bins)``."""
        return super().forward(x).flip(-1)

    def adjoint(self, y: Tensor) -> Tensor:
        """Back-project, ``(B, C, views, bins) -> (B, C, H, W)``."""
        return super().adjoint(y.flip(-1))

    def fbp(self, y: Tensor) -> Tensor:
        """Reconstruct by filtered back-projection, ``(B, C, views, bins) -> (B, C, H, W)``."""
        return super().fbp(y.flip(-1))

    def finer(self, factor: int) -> LinearOperator:
        """Return itself for a factor of 1; no finer grid, on which measurements are simulated, is made."""
        return self if factor == 1 else LinearOperator.finer(self, factor)

    def of_rows(self, kept: Sequence[int]) -> LinearOperator:
        """Return the operator that measures these views alone, bins the other way as well."""
        return LinearOperator.of_rows(self, kept)


def scan(acquisition_geometry: Any, image_geometry: Any = None, backend: Backend = "auto") -> Scan:  # noqa: ANN401 - CIL's
    r"""Return CIL's scan of a slice as an operator, ``(B, C, H, W) -> (B, C, views, bins)``, in CIL's units of length.

    Images and sinograms have CIL's axes, ``(horizontal_y, horizontal_x)`` and ``(angle, horizontal)``, with channels in front
    where there are several. Row 0 is that of the smallest y. Seen from there, CIL's rays, panel and source turn by its angles
    the way that ours do. In the frame in which its rays run along y at angle 0,

    .. math:: \theta = \theta_{\mathrm{CIL}} + \theta_0, \quad \sin \theta_0 = s_x / |s|, \quad \cos \theta_0 = s_y / |s|

    with the source s seen from the axis. The offset of bins is the place of the panel's middle along e.

    Source: the package ``cil.framework``, and how its plugin for ASTRA places a slice.

    Args:
        acquisition_geometry: of ``create_Parallel2D`` or ``create_Cone2D``.
        image_geometry: of square pixels (default: ``acquisition_geometry.get_ImageGeometry()``).
        backend: what computes it, as in :class:`padis_lightning.Scan`.

    Raises:
        InputError: the geometry is of volumes, its axes are in another order, pixels are not square, or the panel is not at
            right angles to the ray through the axis.
    """
    images = acquisition_geometry.get_ImageGeometry() if image_geometry is None else image_geometry
    _require_axes("acquisition geometry", acquisition_geometry, ("channel", "angle", "horizontal"))
    _require_axes("image geometry", images, ("channel", "horizontal_y", "horizontal_x"))
    if images.voxel_size_x != images.voxel_size_y:
        raise InputError(f"pixels are {images.voxel_size_x:g}x{images.voxel_size_y:g}; wanted square ones")
    config = acquisition_geometry.copy().config
    system, panel, angles = config.system, config.panel, config.angles
    system.align_reference_frame("cil")
    fan = hasattr(system, "source")
    down = np.array([1.0, -1.0])  # rows go from the smallest y to the largest, ours from the largest to the smallest
    to_source = down * (np.ravel(system.source.position) if fan else -np.ravel(system.ray.direction))
    middle, along = (down * np.ravel(v) for v in (system.detector.position, system.detector.direction_x))
    along *= -1 if "right" in panel.origin else 1
    distance = float(np.hypot(*to_source))
    if abs(to_source @ along) > RIGHT * distance:
        raise InputError(
            f"the panel is {math.degrees(math.acos(to_source @ along / distance)):.4g} degrees from the ray through the axis; "
            "wanted 90: move the panel (detector_position) in place of the axis"
        )
    d = -to_source / distance
    if not fan and np.array([d[1], -d[0]]) @ along < 0:
        d = -d  # parallel rays have no direction, so that bins can run along e
    e = np.array([d[1], -d[0]])
    unit = math.pi / 180 if angles.angle_unit == "degree" else 1.0
    turned = unit * (np.asarray(angles.angle_data, float) + angles.initial_angle) + math.atan2(-d[0], d[1])
    side = float(images.voxel_size_x)
    height, width = int(images.voxel_num_y), int(images.voxel_num_x)
    geometry = Geometry(
        size=(height, width),
        angles=tuple(turned.tolist()),
        bins=int(panel.num_pixels[0]),
        pixel_spacing=side,
        bin_spacing=float(panel.pixel_size[0]),
        source_distance=distance if fan else None,
        detector_distance=float(middle @ d) if fan else None,
        bin_offset=float(middle @ e),
        centre=((height - 1) / 2 - images.center_y / side, (width - 1) / 2 - images.center_x / side),
    )
    kind = Scan if e @ along > 0 else TurnedScan
    return kind(geometry, backend, channels=int(acquisition_geometry.channels))


def _require_axes(what: str, geometry: Any, wanted: tuple[str, ...]) -> None:  # noqa: ANN401 - CIL's
    labels = [str(label) for label in geometry.dimension_labels]
    if labels != [label for label in wanted if label in labels]:
        raise InputError(f"the {what} has the axes {', '.join(labels)}; wanted {', '.join(wanted[1:])} of one slice")


class ProjectionOperator(Operator):
    """CIL's scan of a slice, computed here: takes the place of ``ProjectionOperator`` of its plugins.

    Args:
        image_geometry: of the slice (default: what the scan suggests).
        acquisition_geometry: of the scan.
        backend: what computes it, as in :class:`padis_lightning.Scan`.

    Attributes:
        operator: what :func:`scan` returns, which ``pl.reconstruct(data.as_array(), A.operator, ...)`` takes.
    """

    def __init__(self, image_geometry: Any = None, acquisition_geometry: Any = None, backend: Backend = "auto") -> None:  # noqa: ANN401
        if acquisition_geometry is None:
            raise InputError("acquisition_geometry is None; wanted the geometry of a scan")
        images = acquisition_geometry.get_ImageGeometry() if image_geometry is None else image_geometry
        super().__init__(scan(acquisition_geometry, images, backend), images, acquisition_geometry)


class PriorFunction(Function):
    r"""A prior regularises in CIL's algorithms, :math:`G(x) = -\ln p(x)`, by its denoiser.

    .. math::
        \mathrm{prox}_{\tau G}(x) \approx D(x; \sqrt{\tau}), \qquad
        \nabla G(x) = (x - D(x; \sigma)) / \sigma^2

    A proximal step is the most likely image under noise of variance :math:`\tau`; the denoiser gives the mean in its place.
    So ``alpha * PriorFunction(prior)`` beside ``LeastSquares(A, b, c=0.5)`` has ``alpha`` as the variance of the noise in b. As
    with ``TotalVariation`` it may be tuned. With a ``sigma`` every proximal step denoises at this level, and there is a
    gradient, Tweedie's. The value is not known, so it is NaN.

    Each function has one random stream, which goes on from call to call; the same calls after :meth:`restart` give the same
    bits.

    Source: Venkatakrishnan et al., Plug-and-play priors for model based reconstruction, GlobalSIP 2013.

    Args:
        prior: denoiser of whole images; it follows their size where it can.
        sigma: level of the denoiser, in units of the image (default: what each step asks for).
        range: values of the image that are 0 and 1 to the prior.
        seed: key of the stream.

    Raises:
        InputError: sigma is not positive, the range is not rising, or a step is not one positive number.
    """

    def __init__(
        self,
        prior: Prior,
        sigma: float | None = None,
        range: tuple[float, float] = (0.0, 1.0),  # noqa: A002 - as pl.reconstruct has it
        seed: int = 0,
    ) -> None:
        if sigma is not None:
            require_above(0, sigma=sigma)
        super().__init__(L=None if sigma is None else sigma**-2)
        self.prior, self.sigma, self.scale, self.seed = prior, sigma, Normalisation(*range), seed
        self.restart()

    def restart(self) -> None:
        """Begin the stream anew, as for another run."""
        self.stream = Generators.keyed(self.seed, [0], SOLVE)

    def __call__(self, x: Any) -> float:  # noqa: ANN401 - CIL's
        """Return NaN: a denoiser does not tell how likely an image is."""
        return math.nan

    def proximal(self, x: Any, tau: float, out: Any = None) -> Any:  # noqa: ANN401 - CIL's
        """Denoise an image, at the level of the step where no sigma is given, into ``out`` where there is one."""
        if self.sigma is None and not (isinstance(tau, Real) and tau > 0):
            raise InputError(f"the step is {tau!r:.40}; wanted one positive number, or a sigma of the prior")
        level = math.sqrt(tau) if self.sigma is None else self.sigma
        return _fill(x.copy() if out is None else out, self._denoised(x, level))

    def gradient(self, x: Any, out: Any = None) -> Any:  # noqa: ANN401 - CIL's
        """Return the gradient at the level ``sigma``, into ``out`` where there is one."""
        if self.sigma is None:
            raise InputError("sigma is None; wanted the level at which the gradient is taken")
        found = (torch.from_numpy(_numbers(x)) - self._denoised(x, self.sigma)) / self.sigma**2
        return _fill(x.copy() if out is None else out, found)

    def _denoised(self, x: Any, sigma: float) -> Tensor:  # noqa: ANN401 - CIL's
        values = torch.from_numpy(_numbers(x))
        image = self.scale.normalise(values).reshape(1, *(values.shape if values.ndim == 3 else (1, *values.shape)))
        self.prior = self.prior.for_shape(tuple(image.shape[1:]))
        with torch.no_grad():
            found = self.prior.on_images(image, sigma / (self.scale.upper - self.scale.lower), self.stream)
        return self.scale.restore(found).reshape(values.shape).to(values)
