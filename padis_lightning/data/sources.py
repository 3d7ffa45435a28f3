"""Where images come from: arrays in a file, or a generator. Both yield single items that a batch is collated from."""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from padis_lightning.data.phantoms import ChestPhantoms
from padis_lightning.errors import InputError
from padis_lightning.types import Batch, Normalisation


class Item(NamedTuple):
    """One image or measurement of a data set; see :class:`Batch`."""

    index: int
    name: str
    group: str
    image: Tensor | None
    measurement: Tensor | None


def collate(items: Sequence[Item]) -> Batch:
    """Items to a batch; tensors are stacked, what is missing stays None."""

    def stack(parts: Sequence[Tensor | None]) -> Tensor | None:
        return None if parts[0] is None else torch.stack(list(parts))

    index, names, groups, images, measurements = zip(*items, strict=True)
    return Batch(torch.tensor(index), list(names), list(groups), stack(images), stack(measurements))


class Source(Dataset, ABC):
    """Images or measurements that can be counted and picked.

    Attributes:
        image_shape: channels, height and width.
        normalisation: what stored values became 0 and 1.
        groups: a label an item; items of one group (a patient) are never split between training and validation.
        description: a line for a checkpoint's provenance.
    """

    image_shape: tuple[int, int, int]
    normalisation: Normalisation
    groups: list[str]
    description: str

    def __len__(self) -> int:
        return len(self.groups)

    @abstractmethod
    def __getitem__(self, index: int) -> Item:
        """Item ``index``, normalised."""


class PhantomSource(Source):
    """Chest-like CT phantoms, generated when first asked for and kept.

    Args:
        count: number of phantoms.
        size: pixels along a side.
        seed: phantoms of different seeds are different.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.phantoms = ChestPhantoms(count, seed)
        self.image_shape = (1, size, size)
        lower, upper = self.phantoms.window
        self.normalisation = Normalisation(lower, upper, (lower, upper))
        self.groups = [f"phantom {index}" for index in range(count)]
        self.description = f"{count} chest phantoms, seed {seed}"
        self.kept: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> Item:
        if index not in self.kept:
            image = torch.from_numpy(self.phantoms.image(index, self.image_shape[-1]))[None]
            self.kept[index] = self.normalisation.normalise(image)
        return Item(index, f"{index:04d}", self.groups[index], self.kept[index], None)


class ArraySource(Source):
    """Images, measurements or both, held in memory.

    Args:
        images: ``(n, C, H, W)`` normalised, or None.
        measurements: ``(n, ...)`` normalised, or None.
        image_shape: channels, height and width of an image.
        normalisation: what stored values became 0 and 1.
        groups: a label an item.
        description: a line for a checkpoint's provenance.
    """

    def __init__(
        self,
        images: Tensor | None,
        measurements: Tensor | None,
        image_shape: tuple[int, int, int],
        normalisation: Normalisation,
        groups: list[str],
        description: str,
    ) -> None:
        self.images, self.measurements = images, measurements
        self.image_shape, self.normalisation = image_shape, normalisation
        self.groups, self.description = groups, description

    def __getitem__(self, index: int) -> Item:
        image = None if self.images is None else self.images[index]
        measurement = None if self.measurements is None else self.measurements[index]
        return Item(index, f"{index:04d}", self.groups[index], image, measurement)


def _open(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the arrays ``keys`` that a file has; ``images`` for a bare array.

    Raises:
        InputError: there is no such file, or it is not one of arrays, or it has neither images nor y.
    """
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; wanted data in .npz or .npy")
    if path.suffix not in (".npz", ".npy"):
        raise InputError(f"{path} ends in {path.suffix!r}; wanted .npz or .npy")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"images": content}
        names, arrays = content.files, {key: content[key] for key in keys if key in content.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); wanted arrays of numbers in .npz or .npy") from error
    if "images" not in names and "y" not in names:
        raise InputError(f"{path} has the arrays {', '.join(sorted(names)) or '(none)'}; wanted 'images' or 'y'")
    return arrays


def _normalisation(arrays: dict[str, np.ndarray], data_range: Sequence[float] | None, path: Path) -> Normalisation:
    """The file's range: as asked for, as the file says, or what its type of numbers implies."""
    window = tuple(float(v) for v in arrays["hu_window"]) if "hu_window" in arrays else None
    if data_range is not None:
        return Normalisation(*(float(v) for v in data_range), window)
    if "range" in arrays:
        return Normalisation(*(float(v) for v in arrays["range"]), window)
    if window is not None:  # values are stored as HU above the window's lower end
        return Normalisation(0.0, window[1] - window[0], window)
    images = arrays.get("images")
    if images is None:
        return Normalisation(0.0, 1.0)
    if images.dtype == np.uint8:
        return Normalisation(0.0, 255.0)
    low, high = float(images.min()), float(images.max())
    if np.issubdtype(images.dtype, np.integer) or low < 0 or high > 1:
        raise InputError(
            f"{path} has values from {low:g} to {high:g} and no 'range'; wanted values from 0 to 1, 8-bit integers, "
            "or the range named: --data.range [LOWER, UPPER]"
        )
    return Normalisation(0.0, 1.0)


def _check_finite(values: np.ndarray, name: str, path: Path) -> None:
    broken = ~np.isfinite(values).reshape(len(values), -1).all(1)
    if broken.any():
        kind = "NaN" if np.isnan(values[broken]).any() else "infinity"
        raise InputError(f"{path} has {kind} in {name}[{int(broken.argmax())}]; wanted finite numbers")


def _images(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """``(n, H, W)`` or ``(n, H, W, C)`` to ``(n, C, H, W)``."""
    images = arrays["images"]
    if not (np.issubdtype(images.dtype, np.number) and images.ndim in (3, 4) and len(images)):
        raise InputError(
            f"{path} has images of type {images.dtype} and shape {images.shape}; wanted numbers, (n, H, W) or (n, H, W, C)"
        )
    _check_finite(images, "images", path)
    return images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)


def resize(images: Tensor, size: int) -> Tensor:
    """Shrink ``(n, C, H, W)`` to ``size`` squared: box means for whole factors, anti-aliased bilinear for others."""
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    if height == width and height % size == 0:
        return functional.avg_pool2d(images, height // size)
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


def read_arrays(path: str | Path, size: int | None = None, data_range: Sequence[float] | None = None) -> ArraySource:
    """Read a ``.npz`` or ``.npy`` file.

    Keys of a ``.npz``: ``images`` ``(n, H, W)`` or ``(n, H, W, C)``; or a measured sinogram ``y`` ``(n, views, bins)`` with
    its geometry (see :func:`read_geometry`); or both. ``patient`` ``(n,)`` labels groups. ``range`` (2,) names the values that
    become 0 and 1; ``hu_window`` (2,) says that values are HU above the window's lower end.

    Args:
        path: the file.
        size: side that images are brought to (default: as they are).
        data_range: in place of the file's ``range``.

    Raises:
        InputError: there is no such file, it has neither images nor y, or values that are not finite or have no range.
    """
    path = Path(path)
    arrays = _open(path, ("images", "y", "patient", "range", "hu_window"))
    raw = _images(arrays, path) if "images" in arrays else None
    normalisation = _normalisation(arrays, data_range, path)
    images = measurements = None
    if raw is not None:
        images = normalisation.normalise(torch.from_numpy(raw.astype(np.float32)))
        images = resize(images, size) if size else images
    if "y" in arrays:
        measurements = _measurements(arrays, normalisation, path)
    count = len(images if images is not None else measurements)
    for key in ("y", "patient"):
        if key in arrays and len(arrays[key]) != count:
            raise InputError(f"{path} has {len(arrays[key])} entries in {key}; wanted {count}, one an image")
    groups = [str(p) for p in arrays["patient"]] if "patient" in arrays else [str(i) for i in range(count)]
    side = read_geometry(path)["size"] if images is None else 0
    shape = (1, side, side) if images is None else tuple(images.shape[1:])
    return ArraySource(images, measurements, shape, normalisation, groups, f"{count} items of {path.name}")


def _measurements(arrays: dict[str, np.ndarray], normalisation: Normalisation, path: Path) -> Tensor:
    y = arrays["y"]
    if y.ndim != 3 or not np.issubdtype(y.dtype, np.number):
        raise InputError(f"{path} has y of type {y.dtype} and shape {y.shape}; wanted numbers, (n, views, bins)")
    _check_finite(y, "y", path)
    if normalisation.lower != 0:
        raise InputError(f"{path} has a range from {normalisation.lower:g}; wanted one from 0, the sinogram of vacuum")
    return torch.from_numpy(y.astype(np.float32))[:, None] / normalisation.upper


def read_geometry(path: str | Path) -> dict[str, Any] | None:
    """The scan that a file's ``y`` was measured with, as arguments of ``ParallelBeam``; None where there is no ``y``.

    Keys: ``angles`` (views,) in radians, ``size`` of the image in pixels, ``pixel_spacing``, ``bin_spacing``.

    Raises:
        InputError: a key is missing, or the angles are not as many as the views.
    """
    path = Path(path)
    scan = ("angles", "size", "pixel_spacing", "bin_spacing")
    arrays = _open(path, ("y", *scan))
    if "y" not in arrays:
        return None
    missing = [key for key in scan if key not in arrays]
    if missing:
        raise InputError(f"{path} has y without {', '.join(missing)}; wanted its geometry beside it")
    angles, views = arrays["angles"], arrays["y"].shape[1]
    if angles.shape != (views,):
        raise InputError(f"{path} has angles of shape {angles.shape}; wanted ({views},), one a view of y")
    return {
        "size": int(arrays["size"]),
        "views": views,
        "angles": [float(a) for a in angles],
        "bins": int(arrays["y"].shape[-1]),
        "pixel_spacing": float(arrays["pixel_spacing"]),
        "bin_spacing": float(arrays["bin_spacing"]),
    }
