"""Checkpoints at intervals, and wherever training stops at a signal."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from padis_lightning.errors import RunError
from padis_lightning.signals import STOPPING, Stopped, stop


class Checkpoints(ModelCheckpoint):
    """Write Lightning's checkpoints, and ``last.ckpt`` after the last step and at a signal to stop.

    SIGTERM and SIGUSR1 stop training at the end of the step in progress, on all devices at once. A validation, which may be
    long, is broken off on a single device, and the last checkpoint is that at intervals. Where another handler of
    SIGUSR1 is there already, as Lightning's under SLURM, which requeues the job, it is called then and training goes on.

    Raises:
        RunError: training was stopped by a signal.
        Stopped: a validation was.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals; Lightning brings back the handlers that were there before ``fit``."""
        super().on_train_start(trainer, pl_module)
        self._received, self._requeue, self._trainer = 0, None, trainer
        if threading.current_thread() is threading.main_thread():
            handlers = [signal.signal(number, self._receive) for number in STOPPING]
            self._requeue = handlers[-1] if callable(handlers[-1]) and handlers[-1] is not stop else None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = max(self._received, number)
        trainer = self._trainer
        if trainer.validating and trainer.world_size == 1 and not (number == signal.SIGUSR1 and self._requeue):
            raise Stopped(
                f"stopped by {signal.Signals(number).name} in the validation at step {trainer.global_step}; "
                "run the same command with --ckpt_path auto to go on from the last checkpoint"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Note the step before the batch."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
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
        raise RunError(
            f"stopped by {signal.Signals(number).name} at step {trainer.global_step}; "
            "run the same command with --ckpt_path auto to go on"
        )

    def _save_now(self, trainer: Trainer) -> None:
        self.save_last = True  # a file even where it is to be a link
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
