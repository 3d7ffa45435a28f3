"""SciPy: our operators for its solvers, and its matrices and operators as ours. Images are columns, their pixels row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import linalg
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.linalg import at_least_single
from padis_lightning.memory import on_device_of
from padis_lightning.operators import LinearOperator


def as_linear_operator(operator: LinearOperator, dtype: DTypeLike = np.float64) -> linalg.LinearOperator:
    """Return A, from flat images to flat measurements, with its adjoint, for SciPy's solvers.

    >>> import numpy as np
    >>> import padis_lightning as pl
    >>> from padis_lightning.interop.scipy import as_linear_operator
    >>> from scipy.sparse.linalg import lsqr
    >>> a = as_linear_operator(pl.UniformBlur((1, 5, 5), 3))
    >>> y = a @ np.arange(25.0)
    >>> np.round(lsqr(a, y)[0], 6).reshape(5, 5)[1].tolist()
    [5.0, 6.0, 7.0, 8.0, 9.0]

    Args:
        operator: A; the adjoint is its own, which a few projectors approximate.
        dtype: in which it computes.
    """
    kind = np.dtype(dtype)

    def columns(compute: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Callable[[NDArray[Any]], NDArray[Any]]:
        moved = on_device_of(operator, compute)

        def apply(x: NDArray[Any]) -> NDArray[Any]:
            batch = torch.from_numpy(np.ascontiguousarray(x.reshape(len(x), -1).T, kind)).reshape(-1, *shape)
            with torch.no_grad():
                found = moved(batch).flatten(1).numpy().T
            return found.reshape(-1, *x.shape[1:])

        return apply

    forward, adjoint = columns(operator, operator.image_shape), columns(operator.adjoint, operator.measurement_shape)
    sides = math.prod(operator.measurement_shape), math.prod(operator.image_shape)
    return linalg.LinearOperator(sides, matvec=forward, rmatvec=adjoint, matmat=forward, rmatmat=adjoint, dtype=kind)


class MatrixOperator(LinearOperator):
    """A matrix of SciPy or NumPy, or a linear operator of SciPy's, measures images; it is computed on the host.

    Args:
        matrix: ``(m, n)``; an operator has to have ``rmatvec``, its adjoint.
        image_shape: channels, height and width of an image, n numbers.
        measurement_shape: of a measurement, m numbers (default: ``(m,)``).

    Raises:
        InputError: the shapes do not fit the matrix, or it is not of real numbers.
    """

    def __init__(self, matrix: Any, image_shape: Sequence[int], measurement_shape: Sequence[int] | None = None) -> None:  # noqa: ANN401
        super().__init__()
        self.matrix = linalg.aslinearoperator(matrix)
        rows, columns = self.matrix.shape
        self.image_shape, self.measurement_shape = tuple(image_shape), tuple(measurement_shape or (rows,))
        wanted = math.prod(self.measurement_shape), math.prod(self.image_shape)
        if (rows, columns) != wanted:
            raise InputError(f"the matrix is {rows}x{columns}; wanted {wanted[0]}x{wanted[1]}, measurements by images")
        if np.iscomplexobj(np.empty(0, self.matrix.dtype)):
            raise InputError(f"the matrix is of type {self.matrix.dtype}; wanted real numbers")

    def forward(self, x: Tensor) -> Tensor:
        """Measure, ``(B, C, H, W) -> (B, *measurement_shape)``."""
        return _Product.apply(x, self, True)

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose, ``(B, *measurement_shape) -> (B, C, H, W)``."""
        self.check(y, self.measurement_shape, "measurement")
        return _Product.apply(y, self, False)


class _Product(torch.autograd.Function):
    """This product is with the matrix or with its transpose; the derivative of the one is the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: MatrixOperator, forward: bool) -> Tensor:  # noqa: ANN401 - keeps what is set on it
        ctx.operator, ctx.forward = operator, forward
        compute = operator.matrix.matmat if forward else operator.matrix.rmatmat
        found = np.ascontiguousarray(compute(at_least_single(x).flatten(1).cpu().numpy().T).T)
        return torch.from_numpy(found).to(x).unflatten(1, operator.measurement_shape if forward else operator.image_shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return _Product.apply(grad, ctx.operator, not ctx.forward), None, None
