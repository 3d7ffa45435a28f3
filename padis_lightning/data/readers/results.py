"""A results folder: the images that ``predict`` has reconstructed, with their names, groups and range."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np

from padis_lightning.data.containers import ARRAYS
from padis_lightning.data.ranges import Scale, file_scale
from padis_lightning.data.readers.npz import StoredImages
from padis_lightning.data.sources.series import Reader, Series, odd_series
from padis_lightning.errors import InputError
from padis_lightning.inputs import reading

RUN = "run.json"
COLOURS = 3


def is_results(folder: Path) -> bool:
    """Return whether ``predict`` has written into a folder."""
    return (folder / RUN).is_file() and (folder / "arrays").is_dir()


def read(path: Path) -> list[Series]:
    """Return a series for each image of the run that ``run.json`` is of: one slice, of a volume all of them.

    Values are in Hounsfield units where the run knew them, else in the units of its data. An image that is not there is odd.
    """
    with reading(path, "what this version of predict writes"):
        run = json.loads(path.read_text(encoding="utf-8"))
        shown, images = run["shown"], [(str(name), str(group)) for _, name, group in run["images"]]
        pairs = {"range": np.asarray(run["range"])}
        if shown["units"] == "HU":
            pairs["hu_window"] = np.asarray([shown["lower"], shown["upper"]])
    scale = file_scale(pairs, np.dtype(np.float32), path)
    return [_reconstructed(path, name, group, scale) for name, group in images]


def _reconstructed(path: Path, name: str, group: str, scale: Scale) -> Series:
    """Return what was reconstructed of one image; odd where there is nothing."""
    if Path(name).name != name:
        raise InputError(f"{path} lists the image {name!r:.60}; wanted a name without folders")
    file = path.parent / "arrays" / f"{name}.npy"
    if not file.is_file():
        return odd_series(name, f"there is no {file}; wanted a run that has solved all its images", file)
    with reading(file, ARRAYS):
        stored = StoredImages(file)
    if stored.shape[-1] == COLOURS:  # one picture
        stored.shape = (1, *stored.shape)
    if len(stored.shape) != 3 + (stored.shape[-1] == COLOURS) or stored.dtype.kind not in "fc":
        raise InputError(f"{file} has numbers of type {stored.dtype} and shape {stored.shape}; wanted an image or a volume")
    shape = (*stored.shape[1:], 2) if stored.dtype.kind == "c" else stored.shape[1:]
    values = partial(_values, stored, scale)
    return Series(name, group, stored.shape[0], shape, values, scale.units, scale.range, files=(file,))


def _values(stored: StoredImages, scale: Scale, k: int) -> np.ndarray:
    values = stored[k]
    return scale.apply(np.stack([values.real, values.imag], -1) if np.iscomplexobj(values) else values)


READER = Reader("results of predict", (RUN,), read, "never")
