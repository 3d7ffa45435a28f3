"""Arrays and tensors of many layouts become ``(B, C, ...)``, and what comes out is laid out as what was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padis_lightning.errors import InputError

Values = TypeVar("Values", NDArray[Any], Tensor)


class Layout(NamedTuple):
    """Says how values were given, and gives others back like them."""

    batched: bool
    channels: Literal["first", "last", "none"]
    array: bool
    complex_valued: bool = False

    def undo(self, values: Tensor, samples: bool = False) -> Any:  # noqa: ANN401 - an array or a tensor
        """Return ``(B, C, ...)``, or samples ``(B, K, C, ...)``, as what was given; a complex image has no axis of channels."""
        axis = 1 + samples
        if self.complex_valued:
            values = torch.view_as_complex(values.unflatten(axis, (-1, 2)).movedim(axis + 1, -1).contiguous()).squeeze(axis)
        elif self.channels == "last":
            values = values.movedim(axis, -1)
        elif self.channels == "none":
            values = values.squeeze(axis)
        values = values if self.batched else values[0]
        return values.cpu().numpy() if self.array else values

    def numbers(self, values: Tensor) -> float | list[float]:
        """Return a number of each measurement, or that of the only one."""
        found = values.flatten().tolist()
        return found if self.batched else found[0]


def lay_out(values: Values, shape: Sequence[int], what: str, any_size: bool) -> tuple[Tensor, Layout]:
    """Return values as ``(B, *shape)``, of any size and one or three channels where ``any_size``, and how they were given."""
    if values.is_complex() if isinstance(values, Tensor) else np.iscomplexobj(values):
        if shape[0] % 2:
            raise InputError(f"the {what} is complex; wanted real numbers {tuple(shape)}")
        half = shape[0] // 2, *shape[1:]
        (real, given_as), (imaginary, _) = (lay_out(part, half, what, any_size) for part in (values.real, values.imag))
        return torch.stack([real, imaginary], 2).flatten(1, 2), given_as._replace(complex_valued=True)
    array = not isinstance(values, Tensor)
    given = values.detach().float() if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values).astype(np.float32))
    layout: Literal["first", "last", "none"]
    channels, axes = shape[0], len(shape) - 1
    if any_size and channels == 1 and given.ndim > 2 and given.shape[-1] == 3:
        channels = 3
    if given.ndim in (axes + 1, axes + 2) and given.shape[-axes - 1] == channels:
        layout, single = "first", axes + 1
    elif given.ndim in (axes + 1, axes + 2) and given.shape[-1] == channels:
        layout, single = "last", axes + 1
        given = given.movedim(-1, -axes - 1)
    elif given.ndim in (axes, axes + 1) and channels == 1:
        layout, single = "none", axes
        given = given.unsqueeze(-axes - 1)
    else:
        raise InputError(f"the {what} is {tuple(given.shape)}; wanted {tuple(shape)}, or several of these")
    batched = np.ndim(values) > single
    given = given if batched else given[None]
    if not torch.isfinite(given).all() or not given.numel():
        raise InputError(f"the {what} has {'no values' if not given.numel() else 'NaN or infinity'}; wanted finite numbers")
    return given, Layout(batched, layout, array)


def dtype_of(values: Values) -> np.dtype:
    """Return the type of numbers as NumPy knows it; all of a tensor's that are no integers are one."""
    if not isinstance(values, Tensor):
        return np.asarray(values).dtype
    return np.dtype(float if values.is_floating_point() else str(values.dtype).removeprefix("torch."))
