"""Cartesian k-space of ISMRMRD's HDF5, which has a line at a time, and noise among the lines.

Source: Inati et al., ISMRM raw data format: a proposed standard for MRI raw datasets, MRM 2017; the standard's HDF5 files hold a
table ``dataset/data`` of acquisitions (``head``, ``traj``, ``data``) and the scan's description ``dataset/xml``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from padis_lightning.data.containers import HDF5, hdf5
from padis_lightning.data.notes import note
from padis_lightning.errors import InputError, first_few
from padis_lightning.inputs import reading, require_size

LINES, XML = "dataset/data", "dataset/xml"
NOISE, CALIBRATION, REVERSE = (1 << flag - 1 for flag in (19, 20, 22))
APART = sum(1 << flag - 1 for flag in (23, 24, 26, 27, 28, 29, 30, 31))  # navigators, phase corrections, feedback, dummies
IMAGES = ("slice", "contrast", "phase", "repetition", "set")  # lines that differ in one of these are of different images
WANTED = "acquisitions of ISMRMRD"


class Description:
    """Reads numbers of the XML that describes a scan.

    Raises:
        InputError: it is not XML, or has a document type of its own.
    """

    def __init__(self, text: str, path: Path) -> None:
        self.path = path
        if "<!" in text.replace("<!--", ""):
            raise InputError(f"{path} has XML with a document type; wanted plain elements")
        with reading(path, "XML as ISMRMRD has it"):
            self.root = ElementTree.fromstring(text)

    def text(self, place: str) -> str | None:
        """Return what the first element at a place like ``encodedSpace/matrixSize/x`` holds, of whatever name space."""
        found = self.root.find(".//" + "/".join(f"{{*}}{name}" for name in place.split("/")))
        return None if found is None else found.text

    def number(self, place: str) -> float | None:
        """Return a number, or None where there is no such element."""
        with reading(self.path, f"a number in {place}"):
            text = self.text(place)
            return None if text is None else float(text)

    @property
    def field(self) -> tuple[float, float] | None:
        """Return the field of view along readout and phase, in mm."""
        along, across = (self.number(f"encodedSpace/fieldOfView_mm/{axis}") for axis in "xy")
        return None if along is None or across is None else (along, across)


@dataclass(frozen=True)
class Acquisitions:
    """Says where the lines of a file lie.

    Attributes:
        path: the file.
        shape: images, coils, and the encoded points along readout and phase.
        lines: of each image, the numbers of its acquisitions.
        starts: of each acquisition, where its first sample that counts lies along the readout.
        columns: of each acquisition, where it lies along the phase.
        cut: of each acquisition, how many samples are left out at its beginning and its end.
        noise: numbers of the acquisitions without signal.
        field: of view along readout and phase, mm.
    """

    path: Path
    shape: tuple[int, int, int, int]
    lines: list[np.ndarray]
    starts: np.ndarray
    columns: np.ndarray
    cut: np.ndarray
    noise: np.ndarray
    field: tuple[float, float] | None

    def read(self, index: int) -> np.ndarray:
        """Read one image, ``(coils, readout, phase)`` complex, 0 where there is no line; what was measured twice is averaged."""
        _, coils, height, width = self.shape
        out, times = np.zeros((coils, height, width), np.complex64), np.zeros((height, width), np.float32)
        for i, values in self._samples(self.lines[index]):
            part = slice(self.starts[i], self.starts[i] + values.shape[1])
            out[:, part, self.columns[i]] += values
            times[part, self.columns[i]] += 1
        return out / np.maximum(times, 1)

    def read_noise(self) -> np.ndarray | None:
        """Read the samples without signal, ``(coils, n)``, where there are any."""
        found = [values for _, values in self._samples(self.noise)]
        return np.concatenate(found, 1) if found else None

    def _samples(self, numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        with hdf5(self.path, WANTED) as file:
            table = file[LINES]
            for i in numbers.tolist():
                line, (first, last) = table[i], self.cut[i]
                samples = int(line["head"]["number_of_samples"])
                values = np.asarray(line["data"], np.float32).view(np.complex64).reshape(self.shape[1], samples)
                yield i, values[:, first : samples - last]


def find_acquisitions(path: Path) -> Acquisitions | None:
    """Return the lines of a file, of which only headers are read; None where it has no acquisitions of ISMRMRD.

    Lines of one image differ in nothing but phase encoding, average and segment. Others than of the first encoding, and those for
    corrections, are left out in a word.

    Raises:
        InputError: they are not Cartesian, are of three dimensions or reversed, or do not fit the encoded matrix.
    """
    if path.suffix not in HDF5:
        return None
    with hdf5(path) as file:
        if LINES not in file or XML not in file:
            return None
        require_size(path, file[LINES].nbytes, path.stat().st_size)
        with reading(path, WANTED):
            heads, text = file[LINES]["head"], file[XML][0]
    about = Description(text.decode(errors="replace") if isinstance(text, bytes) else str(text), path)
    with reading(path, WANTED):
        return _arranged(path, heads, about)


def _arranged(path: Path, heads: np.ndarray, about: Description) -> Acquisitions:
    flags, at = heads["flags"], heads["idx"]
    kept = (flags & (APART | NOISE) == 0) & (heads["encoding_space_ref"] == 0)
    if about.text("parallelImaging/calibrationMode") not in (None, "embedded"):
        kept &= flags & CALIBRATION == 0
    noise = np.flatnonzero(flags & NOISE)
    apart = len(heads) - kept.sum() - len(noise)
    if apart:
        note(f"{path}: {apart} of {len(heads)} acquisitions are for corrections or of another encoding, and are left out")
    _require_cartesian(path, heads[kept], about)
    sides = [int(about.number(f"encodedSpace/matrixSize/{axis}") or 0) for axis in "xy"]
    coils = set(heads["active_channels"][[*np.flatnonzero(kept), *noise]].tolist())
    middle = about.number("encodingLimits/kspace_encoding_step_1/center")
    columns = at["kspace_encode_step_1"].astype(int) + sides[1] // 2 - int(sides[1] // 2 if middle is None else middle)
    cut = np.stack([heads["discard_pre"], heads["discard_post"]], 1).astype(int)
    starts = sides[0] // 2 - heads["center_sample"].astype(int) + cut[:, 0]
    stops = starts + heads["number_of_samples"] - cut.sum(1)
    inside = (starts >= 0) & (stops > starts) & (stops <= sides[0]) & (columns >= 0) & (columns < sides[1])
    if len(coils) > 1 or not inside[kept].all():
        odd = f"lines of {first_few(sorted(coils))} coils, or outside of the encoded {sides[0]}x{sides[1]} points"
        raise InputError(f"{path} has {odd}; wanted lines of one kind inside of them")
    keys = np.stack([at[name] for name in reversed(IMAGES)], 1)[kept]
    _, images = np.unique(keys, axis=0, return_inverse=True)
    lines = [np.flatnonzero(kept)[images.ravel() == k] for k in range(images.max() + 1)]
    shape = len(lines), coils.pop(), sides[0], sides[1]
    return Acquisitions(path, shape, lines, starts, columns, cut, noise, about.field)


def _require_cartesian(path: Path, heads: np.ndarray, about: Description) -> None:
    trajectory = about.text("encoding/trajectory")
    seen = {
        "no lines of an image": not len(heads),
        f"a trajectory that is {trajectory}": trajectory != "cartesian",
        "lines of three dimensions": heads["idx"]["kspace_encode_step_2"].any(),
        "lines read backwards": (heads["flags"] & REVERSE).any(),
    }
    odd = next((words for words, true in seen.items() if true), "")
    if odd:
        raise InputError(f"{path} has {odd}; wanted Cartesian slices, line by line in one direction")
