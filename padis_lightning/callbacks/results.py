"""Everything that ``predict`` leaves behind: arrays, pictures, scores, a table and a page."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from scipy.stats import binom

from padis_lightning.callbacks.progress import show
from padis_lightning.ct.picture import draw_scan
from padis_lightning.data.batches import SharedItems
from padis_lightning.data.datamodule import data_of
from padis_lightning.errors import InputError, first_few, require_above, require_at_least
from padis_lightning.files import sweep_up
from padis_lightning.locks import WriteLock
from padis_lightning.priors.distance import Reference
from padis_lightning.problem import Problem
from padis_lightning.results.calibration import Calibration
from padis_lightning.results.formats import Format, check_formats, write_volumes
from padis_lightning.results.json_files import finite
from padis_lightning.results.lpips import LPIPS, read_lpips
from padis_lightning.results.pictures import ImageResult, evenly_spread, save_picture
from padis_lightning.results.provenance import origin, provenance, settings_of
from padis_lightning.results.records import Records, digest
from padis_lightning.results.scores import CALIBRATED, DISTANCE, failure, score, table
from padis_lightning.results.summary import missing_sentence, read_results, write_summary
from padis_lightning.results.writer import ResultWriter
from padis_lightning.signals import Signals
from padis_lightning.solvers import Solver
from padis_lightning.solvers.kept_state import KeptState
from padis_lightning.types import Batch, Normalisation, Reconstruction

BEGUN = ("run.json", "config.yaml")  # what a run writes when it begins


def _undo(folder: Path, kind: type[BaseException] | None, *rest: object) -> None:
    """Remove what a run has begun with where its input was refused before anything was done."""
    if kind is not None and issubclass(kind, InputError) and not any((folder / "records").glob("*")):
        for name in BEGUN:
            (folder / name).unlink(missing_ok=True)


class Results(Callback):
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
        lpips: score with LPIPS too; a file of AlexNet's published weights, ``alexnet-owt-7be5be79.pth``.
        calibrate: write how large errors are as ``calibration.npz``, from images whose truth is known.
        calibration: such a file of validation images; estimates get 90 % intervals and a map of risk by it.
        risk: the size of the errors whose probability is that risk, in the units that a reader sees (default: a fortieth of
            the range, 50 HU of 2000).
        distance: say how far estimates lie from what the prior knows, where it says what that is; three evaluations an image.
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
        lpips: str | None = None,
        calibrate: bool = False,
        calibration: str | None = None,
        risk: float | None = None,
        distance: bool = True,
    ) -> None:
        require_at_least(0, report_images=report_images, keep_every=keep_every)
        require_above(0, risk=1 if risk is None else risk)
        self.baselines: dict[str, Callable[..., Solver]] = baselines or {}
        self.window, self.error_scale = window, error_scale
        self.measurements, self.geometry, self.formats = measurements, geometry, formats or []
        self.report_images, self.overwrite, self.keep_every, self.lpips = report_images, overwrite, keep_every, lpips
        self.calibrate, self.calibration, self.risk, self.distance = calibrate, calibration, risk, distance
        #: the settings of a run of the command line
        self.config: dict[str, Any] | None = None
        #: what a finished run lacks, in one sentence
        self.lacking = ""
        self._settings: dict[str, str] | None = None
        self._lpips: LPIPS | None = None
        self._calibration: Calibration | None = None

    def check(self, folder: Path, solver: Solver, data: SharedItems) -> None:
        """Refuse formats that this data cannot be written in, and a folder with results of other settings.

        Raises:
            InputError: with what the data is, or with the difference.
        """
        check_formats(self.formats, data.whole, data.image_shape)
        if solver.operator.image_shape[0] == 2 and not solver.operator.signed:
            name = type(solver.operator).__name__
            raise InputError(f"images of 2 channels are complex and {name} is for values from 0 to 1; wanted an operator of MRI")
        if self.lpips:
            if data.image_shape is None or len(data.image_shape) != 3 or data.image_shape[0] not in (1, 3):
                raise InputError(f"results.lpips is set for images of {data.image_shape}; wanted pictures of 1 or 3 channels")
            self._lpips = read_lpips(Path(self.lpips))
        self._records, self._settings = Records(folder), settings_of(solver, self.config)
        if self.calibrate and data.whole is not None and not data.whole.has_images and not data.reference:
            raise InputError("results.calibrate is true and the data has no truth; wanted images, or --data.reference")
        if self.calibration:
            self._calibration = Calibration.read(Path(self.calibration))
            self._calibration.check(self._settings)
            self._settings["calibration"] = digest(Path(self.calibration))
        if not self.overwrite:
            self._records.refuse_other(self._settings, data.item_labels)

    def forget_other(self, data: SharedItems, require_alone: Callable[[], None]) -> None:
        """Forget results of other settings where they may be overwritten and ``require_alone`` does not raise."""
        if self.overwrite and self._settings is not None:
            self._records.forget_other(self._settings, data.item_labels, require_alone)

    def claim(self, folder: Path, solver: Solver, data: SharedItems, held: ExitStack) -> None:
        """Lock the folder for as long as ``held`` lasts, and forget the results in it that may be overwritten.

        Of a new folder nothing is left where input is refused before an image is done.

        Raises:
            InputError: another process writes there, or has written other results until now.
        """
        new = not any((folder / name).exists() for name in BEGUN)
        lock = held.enter_context(WriteLock(folder, data.shard if data.shards > 1 else None))
        if new and data.shards == 1:
            held.push(partial(_undo, folder))
        self.check(folder, solver, data)
        self.forget_other(data, lock.require_alone)
        lock.admit()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find what of the run is done already, and say what the folder is of."""
        if stage != "predict":
            return
        assert isinstance(pl_module, Solver)
        folder, data = Path(trainer.default_root_dir), data_of(trainer)
        if self._settings is None:  # the command line has checked before anything was written
            self.check(folder, pl_module, data)
        labels, prior = data.item_labels, pl_module.prior
        self._names = {item.index: item.name for item in labels}
        pictured = [item.name for item in evenly_spread(labels, self.report_images)]
        self._writer = ResultWriter(
            folder,
            pl_module.operator,
            data.normalisation or (prior and prior.normalisation) or Normalisation(0.0, 1.0),
            origin(pl_module, self._settings or {}),
            source=data.whole,
            window=self.window,
            error_scale=self.error_scale,
            formats=self.formats,
            measurements=self.measurements,
            calibrate=self.calibrate,
            risk=self.risk,
            pictured=pictured,
        )
        if trainer.is_global_zero:
            sweep_up(folder)
            self.forget_other(data, lambda: None)
            made = provenance(pl_module)
            about = {"settings": self._settings, "made": made, "shown": self._writer.display, "pictures": pictured}
            scale = self._writer.normalisation
            self._records.begin({**about, "range": [scale.lower, scale.upper], "images": labels})
        done = {place for place, item in enumerate(labels) if trainer.is_global_zero and self._records.is_whole(item.name)}
        data.done = trainer.strategy.broadcast(done)
        self._done = {labels[place].index for place in data.done}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the baselines around the solver's problem; make every loop show progress, keep its state and obey signals.

        Lightning brings back the handlers of signals that were there before.
        """
        assert isinstance(pl_module, Solver)
        self._solvers = {name: build(pl_module.problem, seed=pl_module.seed) for name, build in self.baselines.items()}
        if self._lpips is not None:
            self._lpips.to(pl_module.device)
        self._signals = Signals()
        self._signals.listen()
        visible = trainer.progress_bar_callback is not None and trainer.is_global_zero
        for name, solver in {"": pl_module, **self._solvers}.items():
            kept = KeptState(self._records.folder / "unfinished", self.keep_every, json.dumps([name, self._settings]))
            solver.loop.attach(visible, kept, self._signals)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Reconstruction, batch: Batch, batch_idx: int, *rest: int
    ) -> None:
        """Solve with the baselines, score, and write each image that is not done."""
        assert isinstance(pl_module, Solver)
        writer = replace(self._writer, operator=pl_module.for_batch(batch).operator)  # before baselines fit the problem
        measured = batch._replace(measurement=outputs.measurement)
        others = {}
        for name, solver in self._solvers.items():
            show(trainer, f"baseline {name}")
            others[name] = solver.predict_step(measured, batch_idx)
        show(trainer, "")
        scanned = data_of(trainer).normalisation if pl_module.operator.geometry else None
        rows, *theirs = (score(r, batch.image, self._lpips, scanned) for r in (outputs, *others.values()))
        compared = dict(zip(others, theirs, strict=True))
        distances = pl_module.distance(outputs.estimate, batch) if self.distance else None
        for i, index in enumerate(batch.index.tolist()):
            row: dict[str, Any] = {"index": index, "name": self._names[index], "group": batch.group[i]}
            reason = (outputs.failures and outputs.failures[i]) or failure(outputs.estimate[i])
            if index in self._done:
                continue
            if reason:
                print(f"padis_lightning: image {row['name']} failed: {reason}", file=sys.stderr)
                self._records.keep({**row, "failed": reason}, [])
                continue
            row |= {**rows[i], "baselines": {b: scores[i] for b, scores in compared.items()}}
            row |= {} if distances is None else finite([{DISTANCE: float(distances[i])}])[0]
            result = ImageResult.of(i, batch.image, {b: other.estimate for b, other in others.items()}, outputs)
            if self._calibration is not None:
                result = self._calibration.applied(result, self._writer.large)
                row[CALIBRATED] = result.held
            self._records.keep(row, writer.write(index, row["name"], result))
        for solver in (pl_module, *self._solvers.values()):
            solver.loop.end()
        self._signals.obey()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """When all devices are done, also where nothing was left to do: the scores, the summary and the page; print the table."""
        if stage != "predict":
            return
        assert isinstance(pl_module, Solver)
        trainer.strategy.barrier("results")
        self._settings = None
        if not trainer.is_global_zero:
            return
        folder, scan = self._records.folder, pl_module.operator.geometry
        if scan is not None:
            scan.save(folder / "geometry.json")
            if self.geometry:
                save_picture(folder / "geometry.png", draw_scan(scan))
        gathered = read_results(folder)
        if data_of(trainer).shards > 1 and gathered.missing:
            count = len(gathered.run["images"])
            print(f"{count - len(gathered.missing)} of {count} images are in {folder}; when all shards are done: gather {folder}")
            return
        self.lacking = missing_sentence(gathered)
        if gathered.summary is None:
            return
        write_summary(folder, gathered)
        if "nifti" in self.formats and not pl_module.operator.volumetric:  # volumes have been written already
            write_volumes(folder, gathered.rows, data_of(trainer).whole, self._writer.origin)
        print(table(gathered.summary))
        if pl_module.reference is not None and (said := far_sentence(gathered.rows, pl_module.reference)):
            print(f"padis_lightning: {said}", file=sys.stderr)
        print(f"results are in {folder}; open {folder / 'report.html'}")


def far_sentence(rows: list[dict[str, Any]], reference: Reference) -> str:
    """Return which images lie further from what the prior knows than 95 % of those that it knows.

    It is empty where so many, and none further out, would be there by chance in 99 of 100 runs.
    """
    shares = (0.95, 0.99, 1 - 0.01 / len(rows))
    far, further, alone = ([row["name"] for row in rows if (row.get(DISTANCE) or 0) > reference.limit(s)] for s in shares)
    if not alone and len(far) <= binom.ppf(0.99, len(rows), 0.05):
        return ""
    return (
        f"{len(far)} of {len(rows)} images ({first_few(far)}) lie further from what the prior knows than 95 % of images like "
        f"those of its training, {len(further)} of them than 99 %; --model.adaptation Adaptation "
        "adapts the prior to each measurement, fit --model.initial PRIOR to images"
    )
