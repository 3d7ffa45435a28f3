"""What a trainer gets that the command line does not name, what it keeps of that, and lines above its progress bar."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from tqdm.auto import tqdm

from padis_lightning.callbacks.checkpoint_io import WholeCheckpoints
from padis_lightning.callbacks.csv_log import Log
from padis_lightning.callbacks.progress import Progress
from padis_lightning.callbacks.tracking import complete_wandb_options
from padis_lightning.errors import InputError, RunError
from padis_lightning.files import write_text
from padis_lightning.machine import fast_precision


class SaveConfig(SaveConfigCallback):
    """Keep the configuration in the run's folder, where it replays the run."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml`` whole, over that of an earlier run."""
        write_text(Path(trainer.default_root_dir) / "config.yaml", self.parser.dump(self.config, skip_none=False))


@contextmanager
def in_folder(output: str, trainer: Trainer) -> Iterator[None]:
    """Run what is in the block; a folder that is removed meanwhile is not the input's fault.

    Raises:
        RunError: what the run wrote when it began is gone.
    """
    try:
        yield
    except (OSError, InputError) as error:
        begun = any(isinstance(callback, SaveConfig) and callback.already_saved for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if begun and not (Path(output) / "config.yaml").exists():
            raise RunError(f"{output} was removed while the run went on; wanted a folder that stays") from error
        raise


def trainer_parts(wanted: dict[str, Any], output: str, fits: bool, volumetric: bool) -> dict[str, Any]:
    """Return the trainer's arguments in which logs, checkpoints, precision and one kind of progress bar are filled in.

    Args:
        wanted: the trainer's arguments.
        output: the folder of the run.
        fits: whether it trains.
        volumetric: whether the network is one of volumes.
    """
    plugins, callbacks, filled = as_list(wanted["plugins"]), as_list(wanted["callbacks"]), dict[str, Any]()
    if wanted["logger"] in (None, True):
        filled["logger"] = Log(output, name="log") if fits else False
    if wanted["precision"] is None and fits and wanted["accelerator"] in ("auto", "cpu", "gpu"):
        filled["precision"] = fast_precision(wanted["accelerator"], volumetric)
    if fits and not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        filled["plugins"] = [*plugins, WholeCheckpoints()]
    if wanted["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
        callbacks.append(Progress(refresh_rate=10 if fits else 1, leave=True))
    return {**filled, "callbacks": callbacks}


def as_list(value: Any) -> list:  # noqa: ANN401 - one or several of anything
    """Return the values that there are as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def name_wandb_run(loggers: Any, output: str) -> None:  # noqa: ANN401 - the parser's
    """Fill in folder and name of each ``WandbLogger`` among the loggers that a config names."""
    for logger in as_list(loggers):
        if getattr(logger, "class_path", "").endswith("WandbLogger"):
            tell(complete_wandb_options(logger.init_args, output))


def leave_requeueing_to_lightning() -> None:
    """Under SLURM give SIGUSR1 back: Lightning takes it, to requeue the job, only where nobody has."""
    if SLURMEnvironment.detect():
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


@rank_zero_only
def tell(line: str | None) -> None:
    """Say what was decided, once, above the progress bar."""
    if line:
        tqdm.write(f"padis_lightning: {line}", file=sys.stderr)
