"""Everything that ``predict`` leaves behind: arrays, pictures, scores, a table and a page."""

from __future__ import annotations

import csv
import io
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from padis_lightning import metrics
from padis_lightning.callbacks.pictures import error_pixels, panel, save_picture, to_pixels
from padis_lightning.callbacks.report import SAMPLED, report_page
from padis_lightning.ct import Projector
from padis_lightning.ct.picture import draw_scan
from padis_lightning.files import whole, write_text
from padis_lightning.operators import LinearOperator
from padis_lightning.solvers import Solver
from padis_lightning.types import Batch, Reconstruction

COLUMNS = ["index", "name", "psnr", "ssim", "residual", "seconds", "evaluations"]
MEANS = ["psnr", "ssim", "residual", "seconds", "evaluations"]


def score(reconstruction: Reconstruction, truth: Tensor | None) -> list[dict[str, float | None]]:
    """A row of numbers for each image of a batch; without the truth there is no PSNR and no SSIM."""
    estimate, count = reconstruction.estimate.float(), len(reconstruction.estimate)
    residual = reconstruction.residual
    scores = {
        "psnr": metrics.psnr(estimate, truth).tolist() if truth is not None else [None] * count,
        "ssim": metrics.ssim(estimate, truth).tolist() if truth is not None else [None] * count,
        "residual": residual.tolist() if residual is not None else [None] * count,
        "seconds": [reconstruction.seconds] * count,
        "evaluations": [reconstruction.evaluations] * count,
    }
    if reconstruction.samples is not None:
        scores["deviation"] = reconstruction.samples.std(1).flatten(1).mean(1).tolist()
        scores["coverage"] = metrics.coverage(reconstruction.samples, truth).tolist() if truth is not None else [None] * count
    return [dict(zip(scores, values, strict=True)) for values in zip(*scores.values(), strict=True)]


def save_array(path: Path, values: Tensor) -> None:
    """Write ``(..., C, H, W)`` whole, as ``(..., H, W)`` for one channel and ``(..., H, W, C)`` for several."""
    values = values.squeeze(-3) if values.shape[-3] == 1 else values.movedim(-3, -1)
    with whole(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, values.cpu().numpy())


class Results(BasePredictionWriter):
    """Write what a solver finds, next to what the classical baselines find on the same measurements.

    Args:
        baselines: solvers to compare with, by name; each is built around the operator of the run.
        window: normalised values that become black and white in pictures.
        error_scale: error that saturates the colours of error pictures, normalised.
        measurements: write what was measured as well, with the scan's geometry: files that ``predict`` reads.
        geometry: draw the scan.
    """

    def __init__(
        self,
        baselines: dict[str, Callable[[LinearOperator], Solver]] | None = None,
        window: tuple[float, float] = (0.0, 1.0),
        error_scale: float = 0.1,
        measurements: bool = False,
        geometry: bool = False,
    ) -> None:
        super().__init__("batch")
        self.baselines, self.window, self.error_scale = baselines or {}, window, error_scale
        self.measurements, self.geometry = measurements, geometry

    def on_predict_start(self, trainer: Trainer, pl_module: Solver) -> None:
        """Build the baselines around the solver's operator, with its noise and its seed."""
        self._rows: list[dict[str, Any]] = []
        self._solvers = {name: build(pl_module.operator) for name, build in self.baselines.items()}
        for solver in self._solvers.values():
            solver.noise, solver.seed = pl_module.noise, pl_module.seed

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
        folder = Path(trainer.default_root_dir)
        normalisation = trainer.datamodule.normalisation or pl_module.prior.normalisation
        for i, name in enumerate(batch.name):
            row = {"index": int(batch.index[i]), "name": name, **rows[i], "group": batch.group[i]}
            self._rows.append({**row, "baselines": {b: scores[i] for b, scores in compared.items()}})
            save_array(folder / "arrays" / f"{name}.npy", normalisation.restore(prediction.estimate[i].float()))
            if self.measurements and prediction.measurement is not None:
                self._keep(folder / "measurements" / f"{name}.npz", pl_module.operator, prediction.measurement[i])
            if prediction.samples is not None:
                self._keep_samples(folder, name, normalisation.restore(prediction.samples[i].float()))
            truth = None if batch.image is None else batch.image[i]
            spread = None if prediction.samples is None else prediction.samples[i].std(0)
            picture = self._draw(prediction.estimate[i], truth, {b: o.estimate[i] for b, o in others.items()}, spread)
            save_picture(folder / "images" / f"{name}.png", picture)

    @staticmethod
    def _keep(path: Path, operator: LinearOperator, measurement: Tensor) -> None:
        geometry = getattr(operator, "geometry", None)
        scan = {} if geometry is None else {k: v for k, v in geometry.describe().items() if v is not None}
        with whole(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, y=measurement.cpu().numpy(), range=[0.0, 1.0], **scan)

    @staticmethod
    def _keep_samples(folder: Path, name: str, samples: Tensor) -> None:
        """All samples and their deviation, in the units of the data."""
        for kind, values in (("samples", samples), ("deviation", samples.std(0))):
            save_array(folder / kind / f"{name}.npy", values)

    def _draw(self, estimate: Tensor, truth: Tensor | None, baselines: dict[str, Tensor], spread: Tensor | None) -> Any:  # noqa: ANN401
        tiles = {} if truth is None else {"truth": to_pixels(truth, self.window)}
        tiles |= {name: to_pixels(image, self.window) for name, image in baselines.items()}
        tiles["estimate"] = to_pixels(estimate, self.window)
        if truth is not None:
            tiles[f"error (colours end at {self.error_scale:g})"] = error_pixels(estimate - truth, self.error_scale)
        if spread is not None:
            tiles[f"deviation (white: {self.error_scale:g})"] = to_pixels(spread.mean(0, keepdim=True), (0.0, self.error_scale))
        return panel(tiles)

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
        summary = {**summarise(rows), **self._provenance(pl_module)}
        write_text(folder / "metrics.csv", to_csv(rows))
        write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_text(folder / "report.html", report_page(folder, rows, summary))
        print(table(summary))
        print(f"results are in {folder}; open {folder / 'report.html'}")

    def _provenance(self, solver: Solver) -> dict[str, Any]:
        prior = getattr(solver, "prior", None)
        return {
            "solver": type(solver).__name__,
            "operator": {
                "name": type(solver.operator).__name__,
                "measurement": list(solver.operator.measurement_shape),
                "projections": [part.describe() for part in solver.operator.modules() if isinstance(part, Projector)],
            },
            "prior": None if prior is None else type(prior).__name__,
            "noise": solver.noise.describe(),
            "simulation": solver.simulation,
            "seed": solver.seed,
            "versions": {
                "padis_lightning": version("padis_lightning"),
                "torch": torch.__version__,
                "lightning": version("lightning"),
                "python": platform.python_version(),
            },
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means with 95 % bootstrap intervals, for the solver and each baseline, and the gain over each in PSNR."""
    groups = [row["group"] for row in rows]
    summary = _means(rows, groups) | {"n": len(rows), "groups": len(set(groups)), "baselines": {}, "gain": {}}
    for name in rows[0]["baselines"]:
        theirs = [row["baselines"][name] for row in rows]
        summary["baselines"][name] = _means(theirs, groups)
        if rows[0]["psnr"] is not None:
            gains = [row["psnr"] - other["psnr"] for row, other in zip(rows, theirs, strict=True)]
            summary["gain"][name] = {"psnr": float(np.mean(gains)), "interval": metrics.interval(gains, groups)}
    return summary


def _means(rows: list[dict[str, Any]], groups: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {"intervals": {}}
    for key in [*MEANS, *(k for k in SAMPLED if k in rows[0])]:
        values = [row[key] for row in rows]
        known = values[0] is not None
        out["seconds_per_image" if key == "seconds" else key] = float(np.mean(values)) if known else None
        if known and key in ("psnr", "ssim", "residual", "coverage"):
            out["intervals"][key] = metrics.interval(values, groups)
    return out


def to_csv(rows: list[dict[str, Any]]) -> str:
    """The scores of the solver, one line an image; empty where there is no ground truth."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, COLUMNS + [key for key in SAMPLED if key in rows[0]], extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table(summary: dict[str, Any]) -> str:
    """The baselines and the solver, one line each."""
    lines = [f"{'method':<16}{'PSNR (dB)':>22}{'SSIM':>8}{'residual':>10}{'s/image':>9}{'evaluations':>13}"]
    for name, means in [*summary["baselines"].items(), (summary["solver"], summary)]:
        spread = means["intervals"].get("psnr")
        quality = "-" if spread is None else f"{means['psnr']:.2f} [{spread[0]:.2f}, {spread[1]:.2f}]"
        similar = "-" if means["ssim"] is None else f"{means['ssim']:.4f}"
        residual = "-" if means["residual"] is None else f"{means['residual']:.1e}"
        lines.append(
            f"{name:<16}{quality:>22}{similar:>8}{residual:>10}{means['seconds_per_image']:>9.2f}{means['evaluations']:>13.0f}"
        )
    if summary.get("coverage") is not None:
        low, high = (100 * end for end in summary["intervals"]["coverage"])
        lines.append(f"90 % intervals hold {100 * summary['coverage']:.1f} % [{low:.1f}, {high:.1f}] of the truth")
    lines.append(f"means of {summary['n']} images of {summary['groups']} groups, 95 % bootstrap intervals over groups")
    return "\n".join(lines)
