"""Everything that ``predict`` leaves behind: arrays, pictures, scores, a table and a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from padis_lightning.callbacks.formats import Format, check_formats, place_of, write_image, write_volumes
from padis_lightning.callbacks.panels import panels, save_panels
from padis_lightning.callbacks.pictures import Shown, beside, save_picture
from padis_lightning.callbacks.provenance import origin, provenance
from padis_lightning.callbacks.report import report_page
from padis_lightning.callbacks.runs import keep_run, read_run
from padis_lightning.callbacks.scores import score, summarise, table, to_csv
from padis_lightning.ct.picture import draw_scan
from padis_lightning.errors import InputError
from padis_lightning.files import whole, write_text
from padis_lightning.operators import LinearOperator
from padis_lightning.solvers import Solver
from padis_lightning.types import Batch, Reconstruction


def channels_last(values: Tensor) -> np.ndarray:
    """``(..., C, H, W)`` as ``(..., H, W)`` for one channel and ``(..., H, W, C)`` for several."""
    return (values.squeeze(-3) if values.shape[-3] == 1 else values.movedim(-3, -1)).cpu().numpy()


def save_array(path: Path, values: np.ndarray) -> None:
    """Write an array whole."""
    with whole(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, values)


class Results(BasePredictionWriter):
    """Write what a solver finds, next to what the classical baselines find on the same measurements.

    Args:
        baselines: solvers to compare with, by name; each is built around the operator of the run.
        window: normalised values that become black and white in pictures.
        error_scale: error that saturates the colours of error pictures, normalised.
        measurements: write what was measured as well, with the scan's geometry: files that ``predict`` reads.
        geometry: draw the scan.
        formats: write the estimates as these besides NumPy's: ``png16`` and ``tiff`` an image, ``nifti`` a volume a series,
            ``dicom`` a secondary series for slices that were read from DICOM.
        report_images: at most so many images are on the report's page with their pixels, evenly spread over all.
    """

    def __init__(
        self,
        baselines: dict[str, Callable[[LinearOperator], Solver]] | None = None,
        window: tuple[float, float] = (0.0, 1.0),
        error_scale: float = 0.1,
        measurements: bool = False,
        geometry: bool = False,
        formats: list[Format] | None = None,
        report_images: int = 64,
    ) -> None:
        super().__init__("batch")
        if report_images < 0:
            raise InputError(f"report_images is {report_images}; wanted at least 0")
        self.baselines, self.window, self.error_scale = baselines or {}, window, error_scale
        self.measurements, self.geometry, self.formats = measurements, geometry, formats or []
        self.report_images = report_images

    def check(self, data: LightningDataModule) -> None:
        """Refuse formats that this data cannot be written in.

        Raises:
            InputError: with what the data is.
        """
        check_formats(self.formats, getattr(data, "whole", None), data.image_shape)

    def on_predict_start(self, trainer: Trainer, pl_module: Solver) -> None:
        """Build the baselines around the solver's operator, with its noise and its seed."""
        self.check(trainer.datamodule)
        self._rows: list[dict[str, Any]] = []
        self._solvers = {name: build(pl_module.operator) for name, build in self.baselines.items()}
        for solver in self._solvers.values():
            solver.noise, solver.seed = pl_module.noise, pl_module.seed
        count = len(trainer.predict_dataloaders.dataset)
        kept = min(count, self.report_images)
        self._pictured = {k * count // kept for k in range(kept)}
        self._normalisation = trainer.datamodule.normalisation or pl_module.prior.normalisation
        self._origin = origin(Path(trainer.default_root_dir), pl_module) if self.formats else None

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Reconstruction,
        batch_indices: list[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Solve with the baselines, score, and write each image."""
        measured = batch._replace(measurement=prediction.measurement)
        others = {name: solver.predict_step(measured, batch_idx) for name, solver in self._solvers.items()}
        rows = score(prediction, batch.image)
        compared = {name: score(other, batch.image) for name, other in others.items()}
        for i, name in enumerate(batch.name):
            row = {"index": int(batch.index[i]), "name": name, **rows[i], "group": batch.group[i]}
            baselines = {b: scores[i] for b, scores in compared.items()}
            self._rows.append({**row, "baselines": baselines, "pictured": batch_indices[i] in self._pictured})
            one = Shown(
                prediction.estimate[i],
                None if batch.image is None else batch.image[i],
                {b: other.estimate[i] for b, other in others.items()},
                None if prediction.samples is None else prediction.samples[i].std(0),
                None if prediction.measurement is None else prediction.measurement[i],
            )
            samples = None if prediction.samples is None else prediction.samples[i]
            self._write(trainer, pl_module, self._rows[-1], one, samples)

    def _write(self, trainer: Trainer, solver: Solver, row: dict[str, Any], one: Shown, samples: Tensor | None) -> None:
        folder, name, restore = Path(trainer.default_root_dir), row["name"], self._normalisation.restore
        estimate = channels_last(restore(one.estimate.float()))
        save_array(folder / "arrays" / f"{name}.npy", estimate)
        if self.formats:
            place = place_of(trainer.datamodule.whole, row["index"])
            write_image(self.formats, folder, name, estimate, self._normalisation, place, self._origin)
        if self.measurements and one.measurement is not None:
            self._keep(folder / "measurements" / f"{name}.npz", solver.operator, one.measurement)
        if samples is not None:
            samples = restore(samples.float())
            save_array(folder / "samples" / f"{name}.npy", channels_last(samples))
            save_array(folder / "deviation" / f"{name}.npy", channels_last(samples.std(0)))
        save_picture(folder / "images" / f"{name}.png", beside(one, self.window, self.error_scale))
        if row["pictured"]:
            shown = panels(one, type(solver).__name__, solver.operator, self._normalisation.shown)
            save_panels(folder / "panels" / f"{name}.npz", shown)

    @staticmethod
    def _keep(path: Path, operator: LinearOperator, measurement: Tensor) -> None:
        geometry = getattr(operator, "geometry", None)
        scan = {} if geometry is None else {k: v for k, v in geometry.describe().items() if v is not None}
        with whole(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, y=measurement.cpu().numpy(), range=[0.0, 1.0], **scan)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the rows of all devices; write the scores, the summary and the page; print the table."""
        rows = self._rows
        if trainer.world_size > 1:
            gathered: list = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        if not trainer.is_global_zero or not rows:
            return
        rows = sorted(rows, key=lambda row: row["index"])
        folder = Path(trainer.default_root_dir)
        scan = getattr(pl_module.operator, "geometry", None)
        if scan is not None:
            scan.save(folder / "geometry.json")
            if self.geometry:
                save_picture(folder / "geometry.png", draw_scan(scan))
        summary = {**summarise(rows), **provenance(pl_module)}
        pictures = [row["name"] for row in rows if row.pop("pictured")]
        write_text(folder / "metrics.csv", to_csv(rows))
        write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        keep_run(folder, rows, self._shown(), pictures)
        write_text(folder / "report.html", report_page([read_run(folder)]))
        if "nifti" in self.formats:
            write_volumes(folder, rows, trainer.datamodule.whole, self._origin)
        print(table(summary))
        print(f"results are in {folder}; open {folder / 'report.html'}")

    def _shown(self) -> dict[str, Any]:
        scale = self._normalisation.shown
        return {
            "units": "HU" if self._normalisation.window else "",
            "lower": scale.lower,
            "upper": scale.upper,
            "window": [scale.lower + share * (scale.upper - scale.lower) for share in self.window],
            "error_scale": self.error_scale * (scale.upper - scale.lower),
        }
