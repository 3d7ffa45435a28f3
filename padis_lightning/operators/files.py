"""Kernels, masks and maps from files: numbers, ``.npy``, or pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from padis_lightning.errors import InputError
from padis_lightning.inputs import load_array, open_picture, reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = Sequence[Sequence[float]] | NDArray[Any]
    Numbers = Sequence[Any] | NDArray[Any]
else:  # as a config has them
    Matrix, Numbers = Sequence[Sequence[float]], Sequence[Any]
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
OPAQUE = 127  # of 255; a mask is white above it


def is_picture(source: object) -> TypeGuard[str | Path]:
    """Return whether a source is named like a picture."""
    return isinstance(source, (str, Path)) and Path(source).suffix.lower() in PICTURES


def read_numbers(source: Numbers | str, name: str) -> np.ndarray:
    """Read finite numbers, real or complex: as given, of a .npy, or ``name`` of a .npz; raise an InputError for others."""
    file = Path(source) if isinstance(source, (str, Path)) else None
    if file and not (file.is_file() and file.suffix in (".npy", ".npz")):
        raise InputError(f"{name} is {str(source)!r}; wanted numbers or an existing .npy file, or a .npz that has {name}")
    with reading(name, f"numbers, or a .npz that has {name}"):
        values = np.asarray(load_array(file, name) if file else source)
    if values.dtype.kind not in "biufc" or not np.isfinite(values).all():
        raise InputError(f"{name} has {values.dtype} or values that are not finite; wanted finite numbers")
    return values


def read_matrix(source: Matrix | str, name: str) -> np.ndarray:
    """Read rows of finite numbers, ``(m, n)`` in float64, as given or out of a .npy file; raise an InputError for others."""
    file = Path(source) if isinstance(source, (str, Path)) else None
    if file and not (file.is_file() and file.suffix == ".npy"):
        raise InputError(f"{name} is {str(source)!r}; wanted rows of numbers or an existing .npy file or picture")
    with reading(name, "rows of numbers, all of one length"):
        content = load_array(file) if file else source
        values = np.array(content, np.float64, order="C")
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"{name} has the shape {values.shape}; wanted rows and columns")
    if not np.isfinite(values).all():
        raise InputError(f"{name} has {'NaN' if np.isnan(values).any() else 'infinity'}; wanted finite numbers")
    return values


def read_kernel(source: Matrix | str) -> np.ndarray:
    """Read a kernel ``(m, n)``: numbers as they are, or the grey values of a picture, brought to a sum of 1."""
    if not is_picture(source):
        return read_matrix(source, "kernel")
    _require_file("kernel", source)
    with reading(source, "a picture of the kernel, white on black"), open_picture(source) as picture:
        deep = picture.mode.startswith(("I", "F"))
        values = np.asarray(picture if deep else picture.convert("L"), np.float64)
    if not values.sum() > 0:
        raise InputError(f"{source} sums to {values.sum():g}; wanted a kernel, white on black")
    return values / values.sum()


def read_mask(source: Matrix | str, missing: Sequence[int] | None = None) -> np.ndarray:
    """Read which pixels are known, ``(H, W)``.

    Of a picture these are the white ones, or the opaque ones where it is transparent in places, or those of another colour than
    ``missing``; of numbers those other than 0.

    Raises:
        InputError: there is no such file, or the content is something else.
    """
    if not is_picture(source):
        if missing is not None:
            raise InputError("missing_colour is given and the mask is no picture; wanted the picture that has this colour")
        return read_matrix(source, "mask") != 0
    _require_file("mask", source)
    if missing is not None and (len(missing) != 3 or not all(0 <= value <= 255 for value in missing)):
        raise InputError(f"missing_colour is {list(missing)}; wanted red, green and blue from 0 to 255")
    with reading(source, "a picture"), open_picture(source) as picture:
        if picture.mode.startswith(("I", "F")):
            raise InputError(f"{source} has the mode {picture.mode}; wanted 8 bits")
        if missing is not None:
            return (np.asarray(picture.convert("RGB")) != np.array(missing)).any(-1)
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        return alpha > OPAQUE if alpha.min() < 255 else np.asarray(picture.convert("L")) > OPAQUE


def _require_file(name: str, source: str | Path) -> None:
    if not Path(source).is_file():
        raise InputError(f"{name} is {str(source)!r}; wanted an existing file")
