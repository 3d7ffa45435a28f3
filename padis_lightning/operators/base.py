"""Linear measurement operators: batch first, on any device, with an exact adjoint where not said otherwise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from padis_lightning.ct import ConeGeometry, Geometry
from padis_lightning.errors import InputError
from padis_lightning.linalg import conjugate_gradient, largest_eigenvalue


def dimensions(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width.

    Raises:
        InputError: these are not three whole numbers above 0.
    """
    if len(image_shape) != 3 or not all(n == int(n) >= 1 for n in image_shape):
        raise InputError(f"image_shape is {list(image_shape)}; wanted channels, height and width, each at least 1")
    channels, height, width = map(int, image_shape)
    return channels, height, width


def working(x: Tensor) -> Tensor:
    """``x`` in a precision to compute in: half precision becomes float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class LinearOperator(nn.Module, ABC):
    """A linear map A from images ``(B, C, H, W)`` to measurements ``(B, ...)``.

    Attributes:
        image_shape: channels, height and width of an image.
        measurement_shape: a measurement's shape without the batch.
        exact_adjoint: whether :meth:`adjoint` is the transpose up to rounding.
        closed_form: whether :meth:`pinv` and :meth:`prox` are exact and take no iterations.
        orthonormal: whether A A' = I, as for a crop.
    """

    image_shape: tuple[int, ...]
    measurement_shape: tuple[int, ...]
    exact_adjoint: bool = True
    closed_form: bool = False
    orthonormal: bool = False
    #: the scan's geometry, of operators that have one
    geometry: Geometry | ConeGeometry | None = None

    @property
    def volumetric(self) -> bool:
        """Whether it measures volumes ``(B, C, D, H, W)`` rather than images."""
        return len(self.image_shape) == 4

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``A x``, ``(B, C, H, W) -> (B, *measurement_shape)``."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """``A' y``, the transpose, ``(B, *measurement_shape) -> (B, C, H, W)``."""

    def normal(self, x: Tensor) -> Tensor:
        """``A' A x``."""
        return self.adjoint(self(x))

    def pinv(self, y: Tensor, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
        r"""The minimum-norm least-squares solution :math:`A^+ y`, by conjugate gradients on the normal equations."""
        b = self.adjoint(y)
        return conjugate_gradient(self.normal, b, torch.zeros_like(b), iterations, tolerance)

    def prox(
        self,
        v: Tensor,
        y: Tensor,
        weight: float | Tensor = 0.0,
        precision: Tensor | None = None,
        iterations: int = 100,
        tolerance: float = 0.0,
    ) -> Tensor:
        r"""The image near ``v`` that explains ``y``: conjugate gradients from ``v``.

        .. math:: \arg\min_u \|A u - y\|_P^2 + w \|u - v\|^2, \quad (A^T P A + w I) u = A^T P y + w v

        With :math:`w = 0` it is the solution of :math:`A u = y` (in the sense of least squares) that lies nearest to v.

        Args:
            v: ``(B, C, H, W)``.
            y: ``(B, *measurement_shape)``.
            weight: w, a number or ``(B, 1, 1, 1)``.
            precision: diagonal of P, of the shape of ``y`` (default: the identity).
            iterations: most steps.
            tolerance: relative residual at which an image is done.
        """

        def weighted(r: Tensor) -> Tensor:
            return self.adjoint(r if precision is None else precision * r)

        return conjugate_gradient(lambda u: weighted(self(u)) + weight * u, weighted(y) + weight * v, v, iterations, tolerance)

    def double_prox(
        self, v: Tensor, y: Tensor, weight: float | Tensor, precision: Tensor | None = None, iterations: int = 100
    ) -> Tensor:
        """:meth:`prox` computed in float64, of the type of ``v``."""
        return self.prox(v.double(), y.double(), weight, precision, iterations).to(v.dtype)

    def approximate_inverse(self, y: Tensor) -> Tensor:
        """The reconstruction that the field uses as its plain baseline; the pseudo-inverse where there is no better."""
        return self.pinv(y)

    def zero_unmeasured(self, y: Tensor) -> Tensor:
        """``y`` with 0 where nothing is measured, such as the missing pixels of an image: noise has no place there."""
        return y

    def finer(self, factor: int) -> LinearOperator:
        """The same measurement of the same images with ``factor`` times finer sampling, to simulate with.

        Raises:
            InputError: this operator is defined on pixels and has no finer version.
        """
        raise InputError(f"{type(self).__name__} has no finer grid to simulate on; wanted oversampling: 1")

    @cached_property
    def norm_squared(self) -> float:
        r""":math:`\|A\|^2`, the largest eigenvalue of A'A, by power iteration."""
        like = next(self.buffers(), torch.zeros(()))
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        with torch.no_grad():
            return largest_eigenvalue(self.normal, torch.zeros(1, *self.image_shape, dtype=dtype, device=like.device))

    def check(self, x: Tensor, shape: tuple[int, ...], what: str) -> None:
        """Refuse an image or a measurement of another shape.

        Raises:
            InputError: with both shapes.
        """
        if tuple(x.shape[1:]) != tuple(shape):
            raise InputError(f"the {what} has the shape {tuple(x.shape[1:])}; wanted {tuple(shape)}, the operator's")

    def __matmul__(self, other: LinearOperator) -> Composition:
        return Composition(self, other)


class Composition(LinearOperator):
    r"""The product :math:`A = L R`.

    Where the rows of R are orthonormal (a crop), :math:`A^+ = R^T L^+`, and the proximal step is that of L inside.

    Args:
        left: applied last.
        right: applied first.

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

    def forward(self, x: Tensor) -> Tensor:
        """``L R x``."""
        return self.left(self.right(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """``R' L' y``."""
        return self.right.adjoint(self.left.adjoint(y))

    def pinv(self, y: Tensor, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
        """``R' L+ y`` for orthonormal R, else by conjugate gradients."""
        if self.right.orthonormal:
            return self.right.adjoint(self.left.pinv(y, iterations, tolerance))
        return super().pinv(y, iterations, tolerance)

    def prox(
        self,
        v: Tensor,
        y: Tensor,
        weight: float | Tensor = 0.0,
        precision: Tensor | None = None,
        iterations: int = 100,
        tolerance: float = 0.0,
    ) -> Tensor:
        """``v + R' (prox_L(R v) - R v)`` for orthonormal R, else by conjugate gradients."""
        if not self.right.orthonormal:
            return super().prox(v, y, weight, precision, iterations, tolerance)
        inside = self.right(v)
        return v + self.right.adjoint(self.left.prox(inside, y, weight, precision, iterations, tolerance) - inside)

    def zero_unmeasured(self, y: Tensor) -> Tensor:
        """What the left operator measures."""
        return self.left.zero_unmeasured(y)

    def finer(self, factor: int) -> LinearOperator:
        """A finer left operator, where the right one stays as it is."""
        return Composition(self.left.finer(factor), self.right)

    @cached_property
    def norm_squared(self) -> float:
        r""":math:`\|L\|^2` for orthonormal R, else by power iteration."""
        if self.right.orthonormal:
            return self.left.norm_squared
        return LinearOperator.norm_squared.func(self)


class Stack(LinearOperator):
    """Several measurements of one image, ``(B, n)``: those of each operator, flattened, one after the other.

    Args:
        operators: what is measured.

    Raises:
        InputError: there are none, or they take different images.
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        super().__init__()
        shapes = {tuple(operator.image_shape) for operator in operators}
        if len(shapes) != 1:
            seen = ", ".join(map(str, sorted(shapes))) or "none"
            raise InputError(f"the stacked operators take images of the shapes {seen}; wanted one shape")
        self.operators = nn.ModuleList(operators)
        self.image_shape = shapes.pop()
        self.lengths = [math.prod(operator.measurement_shape) for operator in operators]
        self.measurement_shape = (sum(self.lengths),)
        self.exact_adjoint = all(operator.exact_adjoint for operator in operators)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, n)``."""
        return torch.cat([operator(x).flatten(1) for operator in self.operators], 1)

    def split(self, y: Tensor) -> list[Tensor]:
        """``(B, n)`` to each operator's own measurement."""
        parts = y.split(self.lengths, 1)
        return [part.unflatten(1, o.measurement_shape) for part, o in zip(parts, self.operators, strict=True)]

    def adjoint(self, y: Tensor) -> Tensor:
        """The sum of the adjoints, ``(B, n) -> (B, C, H, W)``."""
        self.check(y, self.measurement_shape, "measurement")
        return sum(o.adjoint(part) for o, part in zip(self.operators, self.split(y), strict=True))

    def zero_unmeasured(self, y: Tensor) -> Tensor:
        """What each operator measures."""
        return torch.cat([o.zero_unmeasured(part).flatten(1) for o, part in zip(self.operators, self.split(y), strict=True)], 1)
