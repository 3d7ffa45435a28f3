"""What W&B gets besides the metrics that modules log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import require_at_least
from padis_lightning.machine import has_wandb_account, wandb_server, why_unreachable
from padis_lightning.results.pictures import evenly_spread
from padis_lightning.results.records import digest
from padis_lightning.results.report.runs import Run, read_run


class Tracking(Callback):
    """Send a run's settings, its prior and its results to W&B where that is among the loggers.

    ``fit``: the configuration, and ``prior.safetensors`` as an artifact named after its SHA-256. ``predict``: the configuration,
    the prior that is used as an artifact of the same name, the summary, a table of all images and some of their pictures.

    Args:
        pictures: at most so many images with their pictures, evenly spread over all.
    """

    def __init__(self, pictures: int = 8) -> None:
        require_at_least(0, pictures=pictures)
        self.pictures = pictures

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the configuration."""
        for logger in _wandb(trainer):
            logger.log_hyperparams(_config(trainer))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the configuration and the prior."""
        self.on_fit_start(trainer, pl_module)
        for logger in _wandb(trainer):
            checkpoint = (_config(trainer).get("prior") or {}).get("init_args", {}).get("checkpoint")
            if checkpoint is not None:
                _log_prior(logger, PatchModel.find(checkpoint), used=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log what the run left and end the W&B run, so that another one in this process is its own."""
        folder = Path(trainer.default_root_dir)
        for logger in _wandb(trainer):
            if stage == "fit" and (folder / "prior.safetensors").is_file():
                _log_prior(logger, folder / "prior.safetensors", used=False)
            elif stage == "predict" and (folder / "summary.json").is_file():
                self._log_results(logger, read_run(folder))
            logger.finalize("success")
            logger.experiment.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Mark the W&B run as failed."""
        for logger in _wandb(trainer):
            logger.experiment.finish(exit_code=1)

    def _log_results(self, logger: WandbLogger, run: Run) -> None:
        logger.experiment.summary.update(_numbers(run.summary))
        rows = [{**row, **{f"{name} psnr": scores["psnr"] for name, scores in row["baselines"].items()}} for row in run.rows]
        columns = [column for column in rows[0] if column != "baselines"]
        logger.log_table("images", columns, [[row[column] for column in columns] for row in rows])
        shown = evenly_spread([row["name"] for row in run.rows], self.pictures)
        if shown:
            logger.log_image("examples", [str(run.folder / "images" / f"{name}.png") for name in shown], caption=shown)


def complete_wandb_options(arguments: Any, output: str) -> str | None:  # noqa: ANN401 - the parser's namespace
    """Complete the options of a ``WandbLogger`` of a run into ``output``: folder, name, project; offline without an account.

    Where there is one and the server does not answer, the run is kept offline, too, and a line to say so is returned.
    """
    arguments.save_dir = output
    arguments.name = arguments.name or Path(output).resolve().name
    arguments.project = arguments.project or os.environ.get("WANDB_PROJECT", "padis_lightning")
    if os.environ.get("WANDB_MODE") or arguments.offline:
        return None
    server = wandb_server()
    reason = why_unreachable(server) if has_wandb_account() else ""
    if reason is not None:
        os.environ["WANDB_MODE"] = "offline"
    return reason and f"{server} cannot be reached ({reason}); W&B keeps the run in {output}/wandb, which 'wandb sync' sends"


def _wandb(trainer: Trainer) -> list[WandbLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)] if trainer.is_global_zero else []


def _config(trainer: Trainer) -> dict[str, Any]:
    path = Path(trainer.default_root_dir) / "config.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _log_prior(logger: WandbLogger, path: Path, used: bool) -> None:
    """Log a prior under a name that is the same wherever its bytes are, which is what links ``predict`` to ``fit``."""
    from wandb import Artifact

    key = digest(path)
    logger.log_hyperparams({"prior_file": {"path": str(path), "sha256": key}})
    artifact = Artifact(f"prior-{key[:12]}", "model", metadata={"sha256": key})
    artifact.add_file(str(path), f"prior{path.suffix}")
    run = logger.experiment
    if used and not run.offline:
        run.use_artifact(artifact)
    else:  # an offline run can only log it; the server knows it by its bytes
        run.log_artifact(artifact)


def _numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a nested summary under names with slashes; intervals as their two ends."""
    out: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, list) and len(value) == 2:
            value = dict(zip(("low", "high"), value, strict=True))
        if isinstance(value, dict):
            out |= _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)):
            out[f"{prefix}{key}"] = value
    return out
