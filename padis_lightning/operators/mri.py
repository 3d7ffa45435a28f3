"""Magnetic resonance imaging measures the Fourier transform of a complex image as several coils see it."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.linalg import at_least_single
from padis_lightning.memory import device_of
from padis_lightning.mri import fourier, inverse_fourier, to_channels, to_complex
from padis_lightning.mri.coils import calibration_sides, espirit, low_resolution, normalised, ring_of_coils
from padis_lightning.mri.masks import equispaced, poisson_disc, random_columns
from padis_lightning.operators.base import LinearOperator
from padis_lightning.operators.ct import sides_of
from padis_lightning.operators.diagonalisable import Diagonalisable
from padis_lightning.operators.files import Numbers, read_numbers

log = logging.getLogger(__name__)

LEAST = 3  # points of a side of the centre, for maps of low resolution
OUTER = 0.8  # of the half sides of k-space
PATTERNS = {"equispaced": equispaced, "random": random_columns, "poisson": poisson_disc}


class CoilOperator(LinearOperator):
    """Coils weigh a complex image before it is measured; real and imaginary parts are channels.

    Args:
        sides: height and width of the image.
        maps: S, complex ``(coils, H, W)``, which are brought to a sum of squares of 1 (default: one coil that sees all alike).
    """

    signed = True
    noise_orders = ()
    maps: Tensor

    def __init__(self, sides: tuple[int, int], maps: np.ndarray | None = None) -> None:
        super().__init__()
        brought = normalised(torch.from_numpy(np.ones((1, *sides), np.complex128) if maps is None else maps))
        self.image_shape, self.coils = (2, *sides), len(brought)
        self.register_buffer("maps", torch.view_as_real(brought), persistent=False)

    def weighed(self, x: Tensor) -> Tensor:
        """Return what each coil sees of an image, ``(B, 2, H, W)`` to complex ``(B, coils, H, W)``."""
        return torch.view_as_complex(self.maps.to(x)) * to_complex(x)

    def combined(self, images: Tensor) -> Tensor:
        """Combine the coils' images, complex ``(B, coils, H, W)`` to ``(B, 2, H, W)``: the adjoint of :meth:`weighed`."""
        maps = torch.view_as_complex(self.maps.to(images.real))
        return to_channels((maps.conj() * images).sum(1, keepdim=True))

    def only(self, y: Tensor) -> Tensor:
        """Return k-space ``(coils, ...)`` of the only measurement ``(1, 2 coils, ...)``; raise an InputError for several."""
        self.check(y, self.measurement_shape, "measurement")
        if len(y) > 1:
            name = type(self).__name__
            raise InputError(f"{len(y)} measurements are given and {name} takes its maps from one; wanted one at a time")
        return to_complex(y.detach().cpu().float())[0]

    @staticmethod
    def noisy_at(away: Tensor, weights: Tensor) -> Tensor:
        """Return the weights where it is far to the middle of k-space: there is hardly anything but noise.

        Args:
            away: distance from the middle, in half sides of k-space.
            weights: ``(B, ...)``, whose last axes are those of ``away``.
        """
        return weights * (away > OUTER).to(weights.device)


class CartesianMRI(CoilOperator, Diagonalisable):
    r"""Cartesian MRI samples k-space of an image that coils weigh, :math:`A x = M F S x`: SENSE.

    Real and imaginary parts are channels, in images ``(B, 2, H, W)`` and, coil by coil, in k-space ``(B, 2 coils, H, W)``, which
    is 0 where it is not sampled. F is centred and orthonormal. Maps S are brought to a sum of squares of 1 where a coil sees
    anything, so that :math:`\|A\| \le 1`. Where one coil sees all alike A has a closed form; elsewhere pinv is CG-SENSE. Noise is
    that of whitened coils: of one deviation in all parts.

    Source: Pruessmann, Weiger, Börnert and Boesiger, Advances in sensitivity encoding with arbitrary k-space trajectories, MRM
    2001.

    Args:
        mask: M, which points are sampled: other than 0 in ``(H, W)``, or in ``(W,)`` for whole columns; or a .npy file of it.
        maps: S, complex ``(coils, H, W)``, or a .npy file of them (default: one coil that sees all alike).

    Raises:
        InputError: the files cannot be read, the shapes do not fit, or nothing is sampled.
    """

    mask: Tensor

    def __init__(self, mask: Numbers | str, maps: Numbers | str | None = None) -> None:
        known, seen = read_numbers(mask, "mask") != 0, read_maps(maps)
        if known.ndim == 1 and seen is not None:
            known = np.broadcast_to(known, (*seen.shape[1:-1], *known.shape))
        if known.ndim != 2 or (seen is not None and seen.shape[1:] != known.shape):
            shape = known.shape if seen is None else seen.shape
            raise InputError(f"the mask is {known.shape} and the maps are {shape}; wanted (H, W) and (coils, H, W)")
        if not known.any():
            raise InputError("the mask keeps 0 points of k-space; wanted at least 1")
        super().__init__((known.shape[0], known.shape[1]), seen)
        self.measurement_shape = (2 * self.coils, *known.shape)
        self.closed_form = self.coils == 1 and bool(self.maps.any(-1).all())
        self.register_buffer("mask", torch.from_numpy(known.copy()), persistent=False)

    def singular_values(self, like: Tensor) -> Tensor:
        """Return the mask, ``(H, W)``."""
        return self.mask.to(like)

    def from_spectrum(self, coefficients: Tensor) -> Tensor:
        """Return the image that coils with full k-space ``(B, 2 coils, H, W)`` have seen."""
        return self.combined(inverse_fourier(to_complex(coefficients)))

    def forward(self, x: Tensor) -> Tensor:
        """Measure, ``(B, 2, H, W) -> (B, 2 coils, H, W)``."""
        wide = at_least_single(x)
        return self.zero_unmeasured(to_channels(fourier(self.weighed(wide)))).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """Combine the coils' images of zero-filled k-space, ``(B, 2 coils, H, W) -> (B, 2, H, W)``."""
        self.check(y, self.measurement_shape, "measurement")
        return self.from_spectrum(self.zero_unmeasured(at_least_single(y))).to(y.dtype)

    def noisy(self, weights: Tensor) -> Tensor:
        """Return the weights outside of an ellipse: far from the middle of k-space there is hardly anything but noise."""
        y, x = (torch.linspace(-1, 1, n, device=weights.device) for n in self.image_shape[1:])
        return self.noisy_at(torch.hypot(y[:, None], x), weights)

    def approximate_inverse(self, y: Tensor) -> Tensor:
        """Return the zero-filled reconstruction, which is the adjoint."""
        return self.adjoint(y)

    def zero_unmeasured(self, y: Tensor) -> Tensor:
        """Set k-space to 0 where it is not sampled."""
        return y * self.mask


class SimulatedMRI(CartesianMRI):
    """Simulated MRI has a ring of coils around the image and a mask that a rule draws.

    Args:
        size: pixels along a side of the image, or height and width.
        coils: number of them; one sees all alike.
        pattern: of the mask: columns at even steps or at random, or points of a Poisson disc.
        acceleration: points of k-space for one that is sampled.
        centre: share of a side that is fully sampled (default: as :mod:`padis_lightning.mri.masks` says).
        seed: masks of different seeds are different.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 128,
        coils: int = 8,
        pattern: Literal["equispaced", "random", "poisson"] = "equispaced",
        acceleration: float = 4.0,
        centre: float | None = None,
        seed: int = 0,
    ) -> None:
        sides = sides_of(size)
        if pattern not in PATTERNS:
            raise InputError(f"pattern is {pattern!r}; wanted one of {', '.join(PATTERNS)}")
        mask = PATTERNS[pattern](sides, acceleration, centre, seed)
        super().__init__(mask, ring_of_coils(coils, sides).numpy() if coils > 1 else None)


class MeasuredMRI(CartesianMRI):
    """Measured MRI takes mask and maps from each measurement: points that are not 0, and ESPIRiT of the sampled centre.

    A centre that is too small for ESPIRiT gives images of low resolution as maps.

    Until there is a measurement its coils see all alike and k-space is full.

    Args:
        size: pixels along a side of the image, or height and width.
        coils: number of them.
        calibration: largest sides of the centre that maps are estimated from, points.
        kernel: side of the windows of ESPIRiT, points.
        crop: eigenvalue up to which a pixel is taken to be empty.
    """

    def __init__(
        self, size: int | tuple[int, int], coils: int, calibration: int = 24, kernel: int = 6, crop: float = 0.9
    ) -> None:
        sides = sides_of(size)
        super().__init__(np.ones(sides), np.ones((coils, *sides)))
        self.calibration, self.kernel, self.crop = calibration, kernel, crop
        self._said = False

    def calibrated(self, y: Tensor) -> CartesianMRI:
        """Return the operator of one measurement ``(1, 2 coils, H, W)``.

        Raises:
            InputError: there are several, or its centre is too small for :func:`padis_lightning.mri.coils.espirit`.
        """
        kspace = self.only(y)
        mask = (kspace != 0).any(0).numpy()
        if len(kspace) == 1:
            found = CartesianMRI(mask)
        else:
            found = CartesianMRI(mask, self._estimated(kspace, calibration_sides(mask, self.calibration)).numpy())
        return found.to(device_of(self) or y.device)

    def _estimated(self, kspace: Tensor, sides: tuple[int, int]) -> Tensor:
        """Return maps by ESPIRiT, or of a smaller centre as images of low resolution."""
        if not LEAST <= min(sides) < self.kernel + 2:
            return espirit(kspace, sides, self.kernel, crop=self.crop)
        if not self._said:
            self._said = True
            seen = f"k-space is fully sampled over {sides[0]}x{sides[1]} around its middle, too little for ESPIRiT"
            log.warning("padis_lightning: %s: maps are images of low resolution; --operator CartesianMRI takes others", seen)
        return normalised(low_resolution(kspace, sides))


def read_maps(source: Numbers | str | None) -> np.ndarray | None:
    """Read complex maps of coils ``(coils, H, W)`` as they are given, or out of a .npy file; raise an InputError for others."""
    if source is None:
        return None
    maps = read_numbers(source, "maps").astype(np.complex128)
    if maps.ndim != 3:
        raise InputError(f"the maps are {maps.shape}; wanted (coils, H, W)")
    return maps
