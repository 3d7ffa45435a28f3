"""Checkpoints at intervals, and wherever training stops at a signal."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT

from padis_lightning.signals import GRACE, STOPPING, Stopped, stop

AGAIN = "run the same command with --ckpt_path auto to go on"


class Checkpoints(ModelCheckpoint):
    """Write Lightning's checkpoints, and ``last.ckpt`` after the last step and at a signal to stop.

    The signals of :data:`STOPPING` stop training at the end of the step in progress, on all devices at once; another one later
    than :data:`GRACE` ends it at once. A validation, which may be long, is broken off on a single device: its beginning has a
    checkpoint. Where another handler of SIGUSR1 is there already, as Lightning's under SLURM, which requeues the job, it is
    called after the step and training goes on.

    Attributes:
        run: digest of the run's settings, which its checkpoints name.

    Raises:
        Stopped: training was stopped by a signal.
    """

    run = ""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Name the run."""
        if self.run:
            checkpoint["run"] = self.run

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals; Lightning brings back the handlers that were there before ``fit``."""
        super().on_train_start(trainer, pl_module)
        self._received, self._since, self._requeue, self._trainer = 0, 0.0, None, trainer
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.signal(number, self._receive) for number in STOPPING}
            requeue = handlers[signal.SIGUSR1]
            self._requeue = requeue if callable(requeue) and requeue is not stop else None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        trainer, step = self._trainer, self._trainer.global_step
        if trainer.validating and trainer.world_size == 1 and not (number == signal.SIGUSR1 and self._requeue):
            raise Stopped(number, f" in the validation at step {step}; {AGAIN}")
        if self._received and time.monotonic() - self._since > GRACE:
            raise Stopped(number, f" after step {step}; {AGAIN} from the last checkpoint")
        if not self._received:
            self._since = time.monotonic()
        self._received = max(self._received, number)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before a validation within training, which a signal breaks off."""
        super().on_validation_start(trainer, pl_module)
        if self.save_last and trainer.validating:
            saved = self._last_global_step_saved
            self._save_now(trainer)
            self._last_global_step_saved = saved  # else the best of the validation would count as saved

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to end what is done after training."""
        super().on_train_end(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                signal.signal(number, stop)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Note the step before the batch."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Save at intervals and where training stops, which it does only between two steps."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == self._step:
            return  # gradients are being accumulated
        if self.save_last and trainer.global_step == trainer.max_steps:
            self._save_now(trainer)
        received = self._received
        if trainer.world_size > 1:
            ours = torch.tensor(received, device=pl_module.device)
            received = int(trainer.strategy.reduce(ours, reduce_op="max"))
        if received:
            self._received = 0
            self._obey(trainer, received)

    def _obey(self, trainer: Trainer, number: int) -> None:
        if number == signal.SIGUSR1 and self._requeue:
            self._requeue(number, None)
            return
        self._save_now(trainer)
        if not trainer.is_global_zero:
            raise SystemExit(0)  # at any other code Lightning's launcher would kill the first process before it speaks
        raise Stopped(number, f" at step {trainer.global_step}; {AGAIN}")

    def _save_now(self, trainer: Trainer) -> None:
        self.save_last = True  # a file even where it is to be a link
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
