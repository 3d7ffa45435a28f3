"""Everything that ``predict`` leaves behind: arrays, pictures, scores, a table and a page."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from padis_lightning.ct.picture import draw_scan
from padis_lightning.data.batches import Listed
from padis_lightning.errors import InputError
from padis_lightning.files import sweep_up
from padis_lightning.problem import Problem
from padis_lightning.results.formats import Format, check_formats, write_volumes
from padis_lightning.results.pictures import ImageResult, save_picture
from padis_lightning.results.provenance import origin, provenance, settings_of
from padis_lightning.results.records import Records
from padis_lightning.results.scores import failure, score, table
from padis_lightning.results.summary import missing_sentence, read_results, write_summary
from padis_lightning.results.writer import ResultWriter
from padis_lightning.solvers import Solver
from padis_lightning.solvers.kept_state import KeptState
from padis_lightning.solvers.loop import Signals
from padis_lightning.types import Batch, Reconstruction


class Results(BasePredictionWriter):
    """Write what a solver finds, next to what the classical baselines find on the same measurements.

    Args:
        baselines: solvers to compare with, by name; each is built around the problem of the run.
        window: normalised values that become black and white in pictures.
        error_scale: error that saturates the colours of error pictures, normalised.
        measurements: write what was measured as well, with the scan's geometry: files that ``predict`` reads.
        geometry: draw the scan.
        formats: write the estimates as these besides NumPy's: ``png16`` and ``tiff`` an image, ``nifti`` a volume a series,
            ``dicom`` a secondary series for slices that were read from DICOM.
        report_images: at most so many images are on the report's page with their pixels, evenly spread over all.
        overwrite: where the folder holds results of other settings, forget them; otherwise they are refused.
        keep_every: seconds after which a solve that is not finished keeps its state, from which a rerun goes on.
    """

    def __init__(
        self,
        baselines: dict[str, Callable[[Problem], Solver]] | None = None,
        window: tuple[float, float] = (0.0, 1.0),
        error_scale: float = 0.1,
        measurements: bool = False,
        geometry: bool = False,
        formats: list[Format] | None = None,
        report_images: int = 64,
        overwrite: bool = False,
        keep_every: float = 120.0,
    ) -> None:
        super().__init__("batch")
        for key, value in {"report_images": report_images, "keep_every": keep_every}.items():
            if not value >= 0:
                raise InputError(f"{key} is {value}; wanted at least 0")
        self.baselines, self.window, self.error_scale = baselines or {}, window, error_scale
        self.measurements, self.geometry, self.formats = measurements, geometry, formats or []
        self.report_images, self.overwrite, self.keep_every = report_images, overwrite, keep_every
        #: the settings of a run of the command line
        self.config: dict[str, Any] | None = None
        #: what a finished run lacks, in one sentence
        self.lacking = ""

    def check(self, folder: Path, solver: Solver, data: LightningDataModule) -> None:
        """Refuse formats that this data cannot be written in, and a folder with results of other settings.

        Raises:
            InputError: with what the data is, or with the difference.
        """
        check_formats(self.formats, getattr(data, "whole", None), data.image_shape)
        if not self.overwrite:
            Records(folder).refuse_other(settings_of(solver, self.config), data.listed)

    def setup(self, trainer: Trainer, pl_module: Solver, stage: str) -> None:
        """Find what of the run is done already, and say what the folder is of."""
        if stage != "predict":
            return
        folder, data = Path(trainer.default_root_dir), trainer.datamodule
        self.check(folder, pl_module, data)
        self._records = Records(folder)
        listed = data.listed
        kept = min(len(listed), self.report_images)
        self._pictured = {listed[k * len(listed) // kept].name for k in range(kept)}
        self._writer = ResultWriter(
            folder,
            type(pl_module).__name__,
            pl_module.operator,
            data.normalisation or pl_module.prior.normalisation,
            getattr(data, "whole", None),
            self.window,
            self.error_scale,
            self.formats,
            origin(folder, pl_module) if self.formats else None,
            self.measurements,
            self._pictured,
        )
        done = self._begin(pl_module, listed) if trainer.is_global_zero else None
        data.done = trainer.strategy.broadcast(done)
        self._done = {listed[place].name for place in data.done}

    def _begin(self, solver: Solver, listed: list[Listed]) -> set[int]:
        """Write what the folder is of; the places of items that are done."""
        records, settings = self._records, settings_of(solver, self.config)
        sweep_up(records.folder)
        try:
            records.refuse_other(settings, listed)
        except InputError:  # with overwrite; without it the check has refused
            records.forget()
        done = {place for place, item in enumerate(listed) if records.is_whole(item.name)}
        pictures = [item.name for item in listed if item.name in self._pictured]
        made = {key: value for key, value in provenance(solver).items() if key != "finished"}
        records.begin({"settings": settings, "made": made, "shown": self._writer.display, "pictures": pictures, "images": listed})
        return done

    def on_predict_start(self, trainer: Trainer, pl_module: Solver) -> None:
        """Build the baselines around the solver's problem; make every loop show progress, keep its state and obey signals.

        Lightning brings back the handlers of signals that were there before.
        """
        self._solvers = {name: build(pl_module.problem, seed=pl_module.seed) for name, build in self.baselines.items()}
        self._signals = Signals()
        self._signals.listen()
        visible = trainer.progress_bar_callback is not None and trainer.is_global_zero
        unfinished, settings = Path(trainer.default_root_dir) / "unfinished", settings_of(pl_module, self.config)
        for name, solver in {"": pl_module, **self._solvers}.items():
            kept = KeptState(unfinished, self.keep_every, json.dumps([name, settings]))
            solver.loop.attach(visible, kept, self._signals)

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
        """Solve with the baselines, score, and write each image that is not done."""
        measured = batch._replace(measurement=prediction.measurement)
        others = {name: solver.predict_step(measured, batch_idx) for name, solver in self._solvers.items()}
        rows = score(prediction, batch.image)
        compared = {name: score(other, batch.image) for name, other in others.items()}
        for i, name in enumerate(batch.name):
            row = {"index": int(batch.index[i]), "name": name, "group": batch.group[i]}
            reason = (prediction.failures and prediction.failures[i]) or failure(prediction.estimate[i])
            if name in self._done:
                continue
            if reason:
                print(f"padis_lightning: image {name} failed: {reason}", file=sys.stderr)
                self._records.keep({**row, "failed": reason}, [])
                continue
            row |= {**rows[i], "baselines": {b: scores[i] for b, scores in compared.items()}}
            one = ImageResult(
                prediction.estimate[i],
                None if batch.image is None else batch.image[i],
                {b: other.estimate[i] for b, other in others.items()},
                None if prediction.samples is None else prediction.samples[i].std(0),
                None if prediction.measurement is None else prediction.measurement[i],
                None if prediction.samples is None else prediction.samples[i],
            )
            self._records.keep(row, self._writer.write(row["index"], name, one))
        for solver in (pl_module, *self._solvers.values()):
            solver.loop.end()
        self._signals.obey()

    def teardown(self, trainer: Trainer, pl_module: Solver, stage: str) -> None:
        """When all devices are done, also where nothing was left to do: the scores, the summary and the page; print the table."""
        if stage != "predict":
            return
        trainer.strategy.barrier("results")
        if not trainer.is_global_zero:
            return
        folder, data = Path(trainer.default_root_dir), trainer.datamodule
        scan = pl_module.operator.geometry
        if scan is not None:
            scan.save(folder / "geometry.json")
            if self.geometry:
                save_picture(folder / "geometry.png", draw_scan(scan))
        gathered = read_results(folder)
        if data.shards > 1 and gathered.missing:
            count = len(gathered.run["images"])
            print(f"{count - len(gathered.missing)} of {count} images are in {folder}; when all shards are done: gather {folder}")
            return
        self.lacking = missing_sentence(gathered)
        if gathered.summary is None:
            return
        write_summary(folder, gathered)
        if "nifti" in self.formats and len(pl_module.operator.image_shape) == 3:  # volumes have been written already
            write_volumes(folder, gathered.rows, data.whole, origin(folder, pl_module))
        print(table(gathered.summary))
        print(f"results are in {folder}; open {folder / 'report.html'}")
