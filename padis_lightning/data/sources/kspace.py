"""Measured k-space of Cartesian MRI: HDF5 of fastMRI and ISMRMRD, arrays of complex numbers, and BART's files."""

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
from padis_lightning.mri import inverse_fourier, to_channels
from padis_lightning.mri.coils import compression, whitening
from padis_lightning.mri.masks import middle
from padis_lightning.types import Normalisation

KEY, NOISE, RANGE, HEADER = "kspace", "noise", "range", "ismrmrd_header"
SLICES, LOW, EDGES = 8, 32, 1.5  # of quick images: slices, points along a side, and how much higher edges are in sharp ones
READOUT, COILS, SLICE = 3, 3, 13  # of BART's axes: those of the image, of the coils, and of the slices
AXES = "complex numbers (coils, H, W) or (slices, coils, H, W)"


class KSpace(NamedTuple):
    """Says where k-space is and how much there is: slices, coils, height and width."""

    path: Path
    shape: tuple[int, int, int, int]
    acquired: Acquisitions | None = None

    def read(self, index: int) -> np.ndarray:
        """Read one slice, ``(coils, H, W)`` complex, from where it lies in the file.

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
        return values.reshape(self.shape[1:])

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
    acquisitions of ISMRMRD, whose slices, contrasts, phases, repetitions and sets are slices here.

    Raises:
        InputError: it has other axes.
    """
    if not path.is_file() or path.suffix not in (".npz", ".npy", ".cfl", *HDF5):
        return None
    if path.suffix == ".cfl":
        return KSpace(path, _read_bart(path).shape)
    if acquired := find_acquisitions(path):
        return KSpace(path, acquired.shape, acquired)
    if path.suffix == ".npy":
        with reading(path, ARRAYS):
            stream, length = open_array(path)
            with stream:
                found, _, dtype = read_header(stream, length)
        shape = found if dtype.kind == "c" else None
    else:
        shape = shapes_of(path, (KEY,)).get(KEY)
    if shape is None:
        return None
    if len(shape) not in (3, 4) or 0 in shape:
        raise InputError(f"{path} has k-space of shape {tuple(shape)}; wanted {AXES}")
    first, *coils, height, width = shape
    if coils:
        return KSpace(path, (first, coils[0], height, width))
    return KSpace(path, (first, 1, height, width) if path.suffix in HDF5 else (1, first, height, width))


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
        self.image_shape, self.groups = (2, height, width), [path.stem] * count
        self.description = f"{count} slices of k-space of {path.name}"
        if data_range is not None and data_range[0] != 0:
            raise InputError(f"range is {list(data_range)}; wanted 0 first: k-space cannot be shifted")
        self.normalisation = Normalisation(0.0, self._largest() if data_range is None else float(data_range[1]))

    def _coils(self, index: int) -> np.ndarray:
        """Read a slice and mix its coils."""
        return np.einsum("ab,bhw->ahw", self.mix, self.found.read(index).astype(np.complex128))

    def _largest(self) -> float:
        """Return what magnitudes hardly exceed, to three digits: that of low-resolution images, and room for edges."""
        count, _, *sides = self.found.shape
        inner = [middle(n, min(n, LOW)) for n in sides]
        window = np.outer(*(np.hanning(min(n, LOW) + 2)[1:-1] for n in sides))
        largest = 0.0
        for index in np.unique(np.linspace(0, count - 1, min(count, SLICES)).round().astype(int)):
            low = torch.zeros(len(self.mix), *sides, dtype=torch.complex128)
            low[:, inner[0], inner[1]] = torch.from_numpy(self._coils(index)[:, inner[0], inner[1]] * window)
            largest = max(largest, float(torch.linalg.vector_norm(inverse_fourier(low), dim=0).max()))
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
