"""The files of one image: its arrays, pictures, panels, measurement, and formats of other programs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padis_lightning.data.sources.base import Source
from padis_lightning.files import whole
from padis_lightning.mri import to_complex
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.ct import Scan
from padis_lightning.operators.inpainting import Inpainting
from padis_lightning.operators.mri import CoilOperator
from padis_lightning.operators.non_cartesian import NonCartesianMRI
from padis_lightning.operators.slices import Slices
from padis_lightning.results.calibration import Calibration, count_errors
from padis_lightning.results.formats import Format, write_image
from padis_lightning.results.formats.as_read import write_as_read
from padis_lightning.results.pictures import ImageResult, comparison, save_picture
from padis_lightning.results.provenance import Origin
from padis_lightning.results.report.panels import image_panels, save_panels
from padis_lightning.results.voxels import spacing_of
from padis_lightning.types import Normalisation

RISK = 1 / 40  # of the range: the size of the errors whose probability is mapped


def channels_last(values: Tensor, axis: int = 0) -> np.ndarray:
    """Return ``(C, H, W)`` as ``(H, W)`` for one channel and ``(H, W, C)`` for several, volumes alike; ``axis`` is that of C.

    The two channels of complex images become complex numbers ``(H, W)``.
    """
    if values.shape[axis] == 2:
        return torch.view_as_complex(values.movedim(axis, -1).contiguous()).cpu().numpy()
    return (values.squeeze(axis) if values.shape[axis] == 1 else values.movedim(axis, -1)).cpu().numpy()


def save_array(path: Path, values: np.ndarray) -> Path:
    """Write an array whole and return its path."""
    with whole(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, values)
    return path


def save_measurement(path: Path, operator: LinearOperator, measurement: Tensor) -> Path:
    """Write what was measured whole, with its scan, as a file that ``predict`` reads; return its path."""
    scan = {} if operator.geometry is None else {k: v for k, v in operator.geometry.describe().items() if v is not None}
    scanned, kspace = operator.operator if isinstance(operator, Slices) else operator, isinstance(operator, CoilOperator)
    if isinstance(scanned, Scan):  # so that it is solved alike when it is read
        scan["pixels"] = scanned.pixels or "points"
    if isinstance(operator, NonCartesianMRI):
        measurement = measurement / operator.density.sqrt().to(measurement)
        scan = {"trajectory": operator.points, "size": np.array(operator.sides)}
    elif scan and isinstance(operator, Slices):  # as slices of a patient, one above the other
        scan |= {"patient": [path.stem] * len(measurement), "z": range(len(measurement))}
        measurement = measurement[:, 0]
    elif not scan and measurement.ndim == 3 and not kspace:  # a picture
        measurement = measurement.movedim(0, -1)[None]
    with whole(path) as temporary, open(temporary, "wb") as handle:
        if kspace:
            np.savez(handle, kspace=to_complex(measurement[None].float())[0].cpu().numpy(), range=[0.0, 1.0], **scan)
        else:
            np.savez(handle, y=measurement.cpu().numpy(), range=[0.0, 1.0], **scan)
    return path


@dataclass(frozen=True)
class ResultWriter:
    """Writer of all files of an image or a volume into a result folder.

    Attributes:
        folder: that of the results.
        operator: what was measured with.
        normalisation: what brings normalised values into the units of the data.
        origin: what made the estimates.
        source: where the images come from, or None where they are drawn.
        window: normalised values that become black and white in pictures.
        error_scale: error that saturates the colours of error pictures, normalised.
        formats: write the estimates as these besides NumPy's.
        measurements: write what was measured as well.
        calibrate: write how large the errors are, where the truth is known.
        risk: the size of an error whose probability is mapped, in the units that a reader sees (None: a fortieth of the range).
        pictured: names of the images that the report's page shows with their pixels.
    """

    folder: Path
    operator: LinearOperator
    normalisation: Normalisation
    origin: Origin
    source: Source | None = None
    window: tuple[float, float] = (0.0, 1.0)
    error_scale: float = 0.1
    formats: Sequence[Format] = ()
    measurements: bool = False
    calibrate: bool = False
    risk: float | None = None
    pictured: Collection[str] = ()

    def write(self, index: int, name: str, result: ImageResult) -> list[Path]:
        """Write what item ``index`` of the data set leaves under a name that is fit for files, and return the files."""
        folder, restore = self.folder, self.normalisation.restore
        estimate = channels_last(restore(result.estimate.float()))
        files = [save_array(folder / "arrays" / f"{name}.npy", estimate)]
        rest = (self.normalisation, self.source, index, self.origin, self.operator.volumetric)
        files += write_image(self.formats, folder, name, estimate, *rest)
        if self.source is not None and self.source.pictured and (place := self.source.place(index)):
            filled = isinstance(self.operator, Inpainting)
            stored = estimate / np.float32(self.source.step(index))
            files.append(write_as_read(folder, name, stored, *place, filled=filled, crop=self.source.crop))
        if self.measurements and result.measurement is not None:
            files.append(save_measurement(folder / "measurements" / f"{name}.npz", self.operator, result.measurement))
        if result.samples is not None:
            samples = restore(result.samples.float())
            files.append(save_array(folder / "samples" / f"{name}.npy", channels_last(samples, 1)))
            files.append(save_array(folder / "deviation" / f"{name}.npy", channels_last(samples.std(0))))
        if result.interval is not None and result.risk is not None:
            width = self.normalisation.upper - self.normalisation.lower
            for kind, values in (("interval", width * result.interval), ("risk", result.risk)):
                array = channels_last(values)
                files.append(save_array(folder / kind / f"{name}.npy", array))
                files += write_image([f for f in self.formats if f == "nifti"], folder, f"{name}_{kind}", array, *rest)
        seen = result.shown
        if self.calibrate and seen.truth is not None:
            files.append(folder / "calibration" / f"{name}.npz")
            Calibration(count_errors(seen.estimate.float(), seen.samples, seen.truth), {}).save(files[-1])
        spacing = spacing_of(self.source, index, self.operator)
        files.append(folder / "images" / f"{name}.png")
        save_picture(files[-1], comparison(seen, self.window, self.error_scale, spacing))
        if name in self.pictured:
            files.append(folder / "panels" / f"{name}.npz")
            save_panels(files[-1], image_panels(result, self.origin.solver, self.operator, self.normalisation.shown, spacing))
        return files

    @property
    def large(self) -> float:
        """Return the normalised size of the errors whose probability is mapped."""
        scale = self.normalisation.shown
        return RISK if self.risk is None else self.risk / (scale.upper - scale.lower)

    @property
    def display(self) -> dict[str, Any]:
        """Return the ends of the data, the window and the scale of errors of the page, in the units that a reader sees."""
        scale = self.normalisation.shown
        return {
            "units": "HU" if self.normalisation.window else "",
            "lower": scale.lower,
            "upper": scale.upper,
            "window": [scale.lower + share * (scale.upper - scale.lower) for share in self.window],
            "error_scale": self.error_scale * (scale.upper - scale.lower),
        }
