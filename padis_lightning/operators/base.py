"""The interface that all linear measurement operators share, and their products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from padis_lightning.canvas import axis_names
from padis_lightning.ct import ConeGeometry, Geometry
from padis_lightning.errors import InputError
from padis_lightning.linalg import at_least_single, conjugate_gradient, largest_eigenvalue, per_image


def dimensions(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return channels, height and width as whole numbers; raise an InputError unless they are three of them, above 0."""
    if len(image_shape) != 3 or not all(n == int(n) >= 1 for n in image_shape):
        raise InputError(f"image_shape is {list(image_shape)}; wanted channels, height and width, each at least 1")
    channels, height, width = map(int, image_shape)
    return channels, height, width


class LinearOperator(nn.Module, ABC):
    """A linear map A takes images ``(B, C, H, W)`` to measurements ``(B, ...)``.

    Attributes:
        image_shape: channels, height and width of an image.
        measurement_shape: a measurement's shape without the batch.
        exact_adjoint: whether :meth:`adjoint` is the transpose up to rounding.
        closed_form: whether :meth:`pinv` and :meth:`prox` without a precision are exact and take no iterations.
        orthonormal: whether A A' = I, as for a crop.
        signed: whether images have values from -1 to 1, as real and imaginary parts do, rather than from 0 to 1.
        noise_orders: orders of the differences along the last axes of a measurement that leave its noise; see :meth:`noisy`.
        rows_together: rows of a measurement, by its last axis but one, that belong together: so many that follow each other.
        geometry: the scan's, of operators that have one.
    """

    image_shape: tuple[int, ...]
    measurement_shape: tuple[int, ...]
    exact_adjoint: bool = True
    closed_form: bool = False
    orthonormal: bool = False
    signed: bool = False
    noise_orders: tuple[int, ...] = (2, 2)
    rows_together: int = 1
    geometry: Geometry | ConeGeometry | None = None

    def for_image_shape(self, shape: Sequence[int]) -> LinearOperator:
        """Return the same measurement of images of this shape: this one where it takes them, else one made anew.

        Raises:
            InputError: it measures images of one shape only.
        """
        if tuple(shape) != tuple(self.image_shape):
            axes = axis_names(self.image_shape)
            raise InputError(
                f"the data's images are {tuple(shape)} ({axes}); wanted {tuple(self.image_shape)}, what the operator takes"
            )
        return self

    def for_measurement(self, shape: Sequence[int]) -> LinearOperator:
        """Return the same measurement with results of this shape: this one where it has them, else one made anew.

        Raises:
            InputError: it measures images of one shape only.
        """
        if tuple(shape) != tuple(self.measurement_shape):
            raise InputError(f"the measurement is {tuple(shape)}; wanted {tuple(self.measurement_shape)}, the operator's")
        return self

    def calibrated(self, y: Tensor) -> LinearOperator:
        """Return the operator of a real measurement ``(1, ...)``: this one, unless a measurement says more of its operator."""
        return self

    def noisy(self, weights: Tensor) -> Tensor:
        """Return the weights ``(B, ...)`` of the part of a measurement whose differences are noise and hardly anything else."""
        return weights

    def copies(self, y: Tensor) -> Tensor:
        """Return how often each measurement ``(B, ...)`` has the same numbers, noise included: ``(B, 1, ...)``, mostly once."""
        return per_image(y.new_ones(len(y)), y)

    def clip(self, x: Tensor) -> Tensor:
        """Return images with all values within the range that images have."""
        return x.clamp(-1 if self.signed else 0, 1)

    @property
    def volumetric(self) -> bool:
        """Tell whether it measures volumes ``(B, C, D, H, W)`` rather than images."""
        return len(self.image_shape) == 4

    def __call__(self, x: Tensor) -> Tensor:
        """Check the shape of the image and measure it by :meth:`forward`."""
        self.check(x, self.image_shape, "image")
        return super().__call__(x)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Measure: ``A x``, ``(B, C, H, W) -> (B, *measurement_shape)``."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose: ``A' y``, ``(B, *measurement_shape) -> (B, C, H, W)``."""

    def normal(self, x: Tensor) -> Tensor:
        """Return ``A' A x``."""
        return self.adjoint(self(x))

    def pinv(self, y: Tensor, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
        r"""Return the minimum-norm least-squares solution :math:`A^+ y` of ``(B, *measurement_shape)``.

        It has a closed form, or is computed by at most ``iterations`` conjugate gradients, up to a relative residual.
        """
        self.check(y, self.measurement_shape, "measurement")
        return self._pinv(at_least_single(y), iterations, tolerance).to(y.dtype)

    def prox(
        self,
        v: Tensor,
        y: Tensor,
        weight: float | Tensor = 0.0,
        precision: Tensor | None = None,
        *,
        iterations: int = 100,
        tolerance: float = 0.0,
        double: bool = False,
    ) -> Tensor:
        r"""Return the image near ``v`` that explains ``y``: in closed form, or by conjugate gradients from ``v``.

        .. math:: \arg\min_u \|A u - y\|_P^2 + w \|u - v\|^2, \quad (A^T P A + w I) u = A^T P y + w v

        With :math:`w = 0` it is the solution of :math:`A u = y` (in the sense of least squares) that lies nearest to v.

        Args:
            v: ``(B, C, H, W)``.
            y: ``(B, *measurement_shape)``.
            weight: w, a number or ``(B, 1, 1, 1)``.
            precision: diagonal of P, of the shape of ``y`` (default: the identity).
            iterations: most steps of conjugate gradients.
            tolerance: relative residual at which an image is done.
            double: compute in float64; the result has the type of ``v``.
        """
        self.check(y, self.measurement_shape, "measurement")
        start = v.double() if double else at_least_single(v)
        weight = weight.to(start) if isinstance(weight, Tensor) else weight
        precision = None if precision is None else precision.to(start)
        return self._prox(start, y.to(start), weight, precision, iterations, tolerance).to(v.dtype)

    def _pinv(self, y: Tensor, *limits: *tuple[int, float]) -> Tensor:
        """Compute :meth:`pinv` by conjugate gradients on the normal equations, up to ``limits``: iterations and tolerance."""
        b = self.adjoint(y)
        return conjugate_gradient(self.normal, b, torch.zeros_like(b), *limits)

    def _prox(
        self, v: Tensor, y: Tensor, weight: float | Tensor, precision: Tensor | None, *limits: *tuple[int, float]
    ) -> Tensor:
        """Compute :meth:`prox` by conjugate gradients, all tensors in the precision of ``v``."""

        def hessian(u: Tensor) -> Tensor:
            return (self.normal(u) if precision is None else self.adjoint(precision * self(u))) + weight * u

        return conjugate_gradient(hessian, self.adjoint(y if precision is None else precision * y) + weight * v, v, *limits)

    def approximate_inverse(self, y: Tensor) -> Tensor:
        """Return the field's plain baseline, such as filtered back-projection; the pseudo-inverse where there is no better."""
        return self.pinv(y)

    def zero_unmeasured(self, y: Tensor) -> Tensor:
        """Set to 0 what ``y`` has where nothing is measured, such as at missing pixels: noise has no place there."""
        return y

    def finer(self, factor: int) -> LinearOperator:
        """Return the same measurement with ``factor`` times finer sampling; raise an InputError if A is defined on pixels."""
        raise InputError(f"{type(self).__name__} has no finer grid to simulate on; wanted oversampling: 1")

    def of_rows(self, kept: Sequence[int]) -> LinearOperator:
        """Return the operator that measures these rows alone, by the last axis of a measurement but one."""
        from padis_lightning.operators.rows import Rows  # an operator, too

        return Rows(self.measurement_shape, kept) @ self

    @cached_property
    def norm_squared(self) -> float:
        r"""The square of the norm :math:`\|A\|^2`, the largest eigenvalue of A'A."""
        return self._norm_squared()

    def _norm_squared(self) -> float:
        """Compute :attr:`norm_squared` by Lanczos iteration, in single precision at least: squares overflow in half."""
        like = next(self.buffers(), torch.zeros(()))
        dtype = torch.promote_types(like.dtype if like.is_floating_point() else torch.get_default_dtype(), torch.float32)
        with torch.no_grad():
            return largest_eigenvalue(self.normal, torch.zeros(1, *self.image_shape, dtype=dtype, device=like.device))

    def check(self, x: Tensor, shape: tuple[int, ...], what: str) -> None:
        """Raise an InputError, with both shapes, unless an image or a measurement has the ``shape``."""
        if tuple(x.shape[1:]) != tuple(shape):
            raise InputError(f"the {what} has the shape {tuple(x.shape[1:])}; wanted {tuple(shape)}, the operator's")

    def __matmul__(self, other: LinearOperator) -> Composition:
        return Composition(self, other)


class Composition(LinearOperator):
    r"""The product :math:`A = L R` applies one operator after another.

    Where the rows of R are orthonormal (a crop), :math:`A^+ = R^T L^+`, and the proximal step is
    :math:`v + R^T (\mathrm{prox}_L(R v) - R v)`.

    Args:
        left: applied last.
        right: applied first; it yields what the left one takes.

    Raises:
        InputError: the one does not take what the other yields.
    """

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        super().__init__()
        if tuple(left.image_shape) != tuple(right.measurement_shape):
            raise InputError(
                f"the right operator yields {tuple(right.measurement_shape)}; "
                f"wanted {tuple(left.image_shape)}, what the left one takes"
            )
        self.left, self.right = left, right
        self.image_shape, self.measurement_shape = right.image_shape, left.measurement_shape
        self.exact_adjoint = left.exact_adjoint and right.exact_adjoint
        self.closed_form = left.closed_form and right.orthonormal
        self.orthonormal = left.orthonormal and right.orthonormal
        self.signed, self.noise_orders = left.signed or right.signed, left.noise_orders

    def forward(self, x: Tensor) -> Tensor:
        """Return ``L R x``."""
        return self.left(self.right(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return ``R' L' y``."""
        return self.right.adjoint(self.left.adjoint(y))

    def normal(self, x: Tensor) -> Tensor:
        """Return ``R' L' L R x``, the middle as the left operator has it."""
        return self.right.adjoint(self.left.normal(self.right(x)))

    def _pinv(self, y: Tensor, *limits: *tuple[int, float]) -> Tensor:
        return self.right.adjoint(self.left._pinv(y, *limits)) if self.right.orthonormal else super()._pinv(y, *limits)

    def _prox(
        self, v: Tensor, y: Tensor, weight: float | Tensor, precision: Tensor | None, *limits: *tuple[int, float]
    ) -> Tensor:
        if not self.right.orthonormal:
            return super()._prox(v, y, weight, precision, *limits)
        taken = self.right(v)
        return v + self.right.adjoint(self.left._prox(taken, y, weight, precision, *limits) - taken)

    def zero_unmeasured(self, y: Tensor) -> Tensor:
        """Set to 0 what the left operator does not measure."""
        return self.left.zero_unmeasured(y)

    def finer(self, factor: int) -> LinearOperator:
        """Return the product with a finer left operator."""
        return Composition(self.left.finer(factor), self.right)

    def _norm_squared(self) -> float:
        return self.left.norm_squared if self.right.orthonormal else super()._norm_squared()
