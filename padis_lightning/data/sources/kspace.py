"""Measured k-space: HDF5 of fastMRI and ISMRMRD, arrays, BART's files, and samples off the grid with their trajectory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from padis_lightning.data.containers import ARRAYS, HDF5, hdf5, load_hdf5, read_pair, shapes_of
from padis_lightning.data.notes import note
from padis_lightning.data.ranges import NAME_IT
from padis_lightning.data.sources.acquisitions import Acquisitions, Description, find_acquisitions
from padis_lightning.data.sources.base import Item, Source
from padis_lightning.errors import InputError
from padis_lightning.inputs import array_names, load_array, open_array, read_header, reading, require_size
from padis_lightning.mri import to_channels
from padis_lightning.mri.coils import compression, low_resolution, whitening
from padis_lightning.mri.nufft import gridded_middle
from padis_lightning.operators.files import read_numbers
from padis_lightning.types import Normalisation

KEY, NOISE, RANGE, HEADER = "kspace", "noise", "range", "ismrmrd_header"
TRAJECTORY, SIZE = "trajectory", "size"
SLICES, LOW, EDGES = 8, 32, 1.5  # of quick images: slices, points along a side, and how much higher edges are in sharp ones
READOUT, COILS, SLICE = 3, 3, 13  # of BART's axes: those of the image, of the coils, and of the slices
AXES = "complex numbers (coils, H, W) or (slices, coils, H, W)"


class KSpace(NamedTuple):
    """Says where k-space is and how much there is: slices, coils, height and width; 1 and samples off the grid.

    Attributes:
        path: the file.
        shape: of all there is.
        sides: height and width of the image, of k-space off the grid.
    """

    path: Path
    shape: tuple[int, int, int, int]
    sides: tuple[int, int] | None = None
    acquired: Acquisitions | None = None

    def read(self, index: int) -> np.ndarray:
        """Read one slice, complex ``(coils, H, W)``, or ``(coils, samples)`` off the grid, from where it lies in the file.

        Raises:
            InputError: it does not hold finite complex numbers.
        """
        path = self.path
        if self.acquired:
            require_size(path, 16 * math.prod(self.shape[1:]), path.stat().st_size)
            values = self.acquired.read(index)
        elif path.suffix in HDF5:
            with hdf5(path) as file:
                require_size(path, file[KEY].nbytes // self.shape[0], path.stat().st_size)
                values = np.asarray(file[KEY][index])
        else:
            with reading(path, AXES):
                whole = _read_bart(path) if path.suffix == ".cfl" else load_array(path, KEY)
            values = whole.reshape(self.shape)[index]
        if values.dtype.kind != "c" or not np.isfinite(values).all():
            raise InputError(f"{path} has {values.dtype} or values that are not finite in slice {index}; wanted {AXES}")
        return values.reshape(self.shape[1:] if self.sides is None else self.shape[1::2])

    def spacing(self) -> tuple[float, float] | None:
        """Return mm from row to row and from column to column, where ISMRMRD's header, which fastMRI has, tells the field."""
        if self.acquired:
            field = self.acquired.field
        else:
            text = load_hdf5(self.path, (HEADER,))[1].get(HEADER) if self.path.suffix in HDF5 else None
            field = None if text is None else Description(str(text), self.path).field
        return field and (field[0] / self.shape[2], field[1] / self.shape[3])

    def about(self) -> dict[str, np.ndarray]:
        """Read what else the file may have: the samples of a noise scan, ``noise`` (coils, n), and ``range`` (2,)."""
        if self.acquired:
            noise = self.acquired.read_noise()
            arrays = {} if noise is None else {NOISE: noise}
        elif self.path.suffix in HDF5:
            arrays = load_hdf5(self.path, (NOISE, RANGE))[1]
        else:
            names = array_names(self.path) if self.path.suffix == ".npz" else []
            arrays = {key: load_array(self.path, key) for key in (NOISE, RANGE) if key in names}
        noise = arrays.get(NOISE)
        if noise is not None and (noise.shape[:-1] != self.shape[1:2] or noise.dtype.kind != "c" or not np.isfinite(noise).all()):
            seen = f"{noise.dtype} of shape {noise.shape}"
            raise InputError(f"{self.path} has {seen} in {NOISE}; wanted complex numbers ({self.shape[1]} coils, samples)")
        return arrays


def find_kspace(path: Path) -> KSpace | None:
    """Return the k-space of a file, of which only headers are read; None for other files.

    It is ``kspace`` of HDF5, as fastMRI has it with axes (slices, coils, H, W) or, of one coil, (slices, H, W); ``kspace`` of a
    ``.npz`` or complex numbers in a ``.npy`` with the axes (slices, coils, H, W) or (coils, H, W); BART's ``.cfl``; or the
    acquisitions of ISMRMRD, whose slices, contrasts, phases, repetitions and sets are slices here. Beside a ``trajectory``
    (samples, 2) and the ``size`` of the image, in a ``.npz``, it has (slices, coils, samples) or (coils, samples).

    Raises:
        InputError: it has other axes.
    """
    if not path.is_file() or path.suffix not in (".npz", ".npy", ".cfl", *HDF5):
        return None
    if path.suffix == ".cfl":
        return KSpace(path, _read_bart(path).shape)
    if acquired := find_acquisitions(path):
        return KSpace(path, acquired.shape, acquired=acquired)
    if path.suffix == ".npy":
        with reading(path, ARRAYS):
            stream, length = open_array(path)
            with stream:
                found, _, dtype = read_header(stream, length)
        shape = found if dtype.kind == "c" else None
    else:
        shapes = shapes_of(path, (KEY, TRAJECTORY, SIZE))
        shape = shapes.get(KEY)
        if shape is not None and TRAJECTORY in shapes:
            return _off_grid(path, shape, shapes)
    if shape is None:
        return None
    if len(shape) not in (3, 4) or 0 in shape:
        raise InputError(f"{path} has k-space of shape {tuple(shape)}; wanted {AXES}")
    first, *coils, height, width = shape
    if coils:
        return KSpace(path, (first, coils[0], height, width))
    return KSpace(path, (first, 1, height, width) if path.suffix in HDF5 else (1, first, height, width))


def _off_grid(path: Path, shape: tuple[int, ...], shapes: dict[str, tuple[int, ...]]) -> KSpace:
    """Return k-space of the ``shape`` that has a trajectory."""
    if path.suffix in HDF5:
        raise InputError(f"{path} has k-space off the grid in HDF5; wanted kspace, trajectory and size in .npz")
    if len(shape) not in (2, 3) or 0 in shape or shapes[TRAJECTORY] != (shape[-1], 2):
        seen = f"{path} has k-space of shape {tuple(shape)} and a trajectory of {shapes[TRAJECTORY]}"
        raise InputError(f"{seen}; wanted (coils, samples) or (slices, coils, samples), and (samples, 2)")
    if SIZE not in shapes:
        raise InputError(f"{path} has k-space off the grid and no size; wanted size, height and width of the image in pixels")
    sides = load_array(path, SIZE)
    if sides.shape != (2,) or sides.dtype.kind not in "ui" or sides.min() < 1:
        raise InputError(
            f"{path} has {sides.dtype} of shape {sides.shape} in size; wanted height and width, whole numbers above 0"
        )
    *slices, coils, samples = shape
    return KSpace(path, (slices[0] if slices else 1, coils, 1, samples), (int(sides[0]), int(sides[1])))


def _read_bart(path: Path) -> np.ndarray:
    """Map a ``.cfl`` with the ``.hdr`` beside it as ``(slices, coils, H, W)``; one of its three axes of space is 1.

    Source: BART's documentation of its file format; its axes are readout, two of phase, coils, ..., slices, fastest first.
    """
    header = path.with_suffix(".hdr")
    wanted = "the line of dimensions of a .hdr beside the .cfl"
    with reading(header, wanted):
        lines = header.read_text(encoding="utf-8").splitlines()
        sides = [int(word) for word in lines[lines.index("# Dimensions") + 1].split()]
    sides += [1] * (SLICE + 1 - len(sides))
    space, coils, slices = sides[:READOUT], sides[COILS], sides[SLICE]
    plane = [n for n in space if n > 1]
    if min(sides) < 1 or len(plane) != 2 or math.prod(sides) != math.prod(space) * coils * slices:
        raise InputError(f"{header} has the dimensions {sides}; wanted two of space, coils and slices above 1")
    held, needed = path.stat().st_size, 8 * math.prod(sides)
    if held != needed:
        raise InputError(f"{path} has {held} bytes; wanted {needed}, those of {sides}")
    return np.memmap(path, "<c8", "r").reshape(slices, coils, *plane[::-1]).swapaxes(2, 3)


class KSpaceSource(Source):
    """Yields k-space ``(2 coils, H, W)`` as :class:`padis_lightning.operators.mri.CartesianMRI` has it, a slice at a time.

    Coils are whitened by the noise scan that a file may have, and combined to fewer where the user wants it. 1 is half as
    much again as the largest value of low-resolution images, unless user or file name it.

    Args:
        found: the file.
        data_range: 0 and the stored value that becomes 1.
        coils: number that coils are combined to (default: all).

    Raises:
        InputError: the range does not begin at 0, or everything is 0.
    """

    has_images = False
    singly = True
    takes = ("coils",)

    def __init__(self, found: KSpace, data_range: Sequence[float] | None = None, coils: int | None = None) -> None:
        self.found, (count, held, height, width), path = found, found.shape, found.path
        arrays = found.about()
        noise, data_range = arrays.get(NOISE), read_pair(arrays, RANGE, path) if data_range is None else data_range
        require_size(path, 16 * held**2, path.stat().st_size)
        self.mix = np.eye(held) if noise is None else whitening(noise)
        if noise is not None:
            note(f"{path}: its coils are whitened by {noise.shape[1]} samples of noise")
        if coils is not None:
            self.mix = compression(self._coils(count // 2), coils) @ self.mix
        self.image_shape, self.groups = (2, *(found.sides or (height, width))), [path.stem] * count
        self.description = f"{count} slices of k-space of {path.name}"
        if data_range is not None and data_range[0] != 0:
            raise InputError(f"range is {list(data_range)}; wanted 0 first: k-space cannot be shifted")
        self.normalisation = Normalisation(0.0, self._largest() if data_range is None else float(data_range[1]))

    def _coils(self, index: int) -> np.ndarray:
        """Read a slice and mix its coils."""
        return np.einsum("ab,b...->a...", self.mix, self.found.read(index).astype(np.complex128))

    def _quick(self, index: int) -> torch.Tensor:
        """Return the coils' images of a slice at low resolution, complex ``(coils, H, W)``."""
        return low_resolution(torch.from_numpy(self._coils(index)), [min(n, LOW) for n in self.image_shape[1:]])

    def _largest(self) -> float:
        """Return what magnitudes hardly exceed, to three digits: that of low-resolution images, and room for edges."""
        count, largest = self.found.shape[0], 0.0
        for index in np.unique(np.linspace(0, count - 1, min(count, SLICES)).round().astype(int)):
            largest = max(largest, float(torch.linalg.vector_norm(self._quick(index), dim=0).max()))
        if not largest > 0:
            raise InputError(f"{self.found.path} has a k-space of 0 around its middle; wanted what was measured")
        largest = float(f"{EDGES * largest:.3g}")
        note(
            f"{self.found.path}: 1 stands for {largest:g}, 1.5 times the largest value at low resolution; {NAME_IT} names another"
        )
        return largest

    def name(self, index: int) -> str:
        """Return the name of the file, and the slice where there are several."""
        return self.found.path.stem if len(self) == 1 else f"{self.found.path.stem}_{index:04d}"

    def __getitem__(self, index: int) -> Item:
        kspace = torch.from_numpy(self._coils(index))[None] / self.normalisation.upper
        return Item(index, self.name(index), self.groups[index], None, to_channels(kspace)[0].float())


class SamplesSource(KSpaceSource):
    """Yields k-space off the grid, ``(2 coils, samples)``, as NonCartesianMRI has it."""

    def _quick(self, index: int) -> torch.Tensor:
        """Return the coils' images of a slice at low resolution, complex ``(coils, H, W)``, by gridding."""
        height, width = self.image_shape[1:]
        points, reach = read_numbers(str(self.found.path), TRAJECTORY), min(height, width, LOW) / 2
        window = 0.5 + 0.5 * np.cos(np.pi * np.minimum(np.hypot(*(points * (height, width)).T) / reach, 1))
        return gridded_middle(torch.from_numpy(self._coils(index) * window), points, (height, width), reach)[0]
