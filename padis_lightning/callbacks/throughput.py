"""The speed of training, and that of the device."""

from __future__ import annotations

import time

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.benchmark import Timer

from padis_lightning.canvas import patch_shape
from padis_lightning.machine import in_bfloat16
from padis_lightning.training import PatchDiffusion

BACKWARD = 3  # a step costs about three forward passes


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Measure the floating-point operations a second of matrix products, as large ones as the time allows."""
    side, largest = 256, 8192 if device.type == "cuda" else 2048
    while True:
        a = torch.ones(side, side, device=device, dtype=dtype)
        timer = Timer("a @ a", globals={"a": a}, num_threads=torch.get_num_threads())
        if side == largest or timer.timeit(1).mean > seconds / 10:
            break
        side *= 2
    return 2 * side**3 / timer.blocked_autorange(min_run_time=seconds).median


class Throughput(Callback):
    """Log ``train/patches_per_second`` over all devices, and ``train/share_of_peak``, the used share of the measured matrix rate.

    Time spent on validation does not count.

    Args:
        peak: measure the rate of matrix products when training starts (0.3 s).
    """

    def __init__(self, peak: bool = True) -> None:
        self.peak = peak

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the operations of a patch of each size; measure the device."""
        assert isinstance(pl_module, PatchDiffusion)
        network, sizes = pl_module.denoiser.network, pl_module.patch_sizes
        shape = pl_module.image_shape[1:]
        self._operations = {size: BACKWARD * network.operations(*patch_shape(shape, size)) for size in sizes}
        dtype = torch.bfloat16 if in_bfloat16(trainer.precision) else torch.float32
        self._rate = matrix_rate(pl_module.device, dtype) if self.peak else None
        self._begin(pl_module)

    def _begin(self, pl_module: PatchDiffusion) -> None:
        self._since, self._paused, self._done = time.perf_counter(), 0.0, 0.0
        self._patches = pl_module.patches_seen

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Add a step; log and begin again where the trainer logs."""
        assert isinstance(pl_module, PatchDiffusion)
        size = pl_module.last[0]
        self._done += self._operations[size] * pl_module.patch_count(size)  # of this device
        if (batch_idx + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]  # set by Lightning
            return
        seconds = time.perf_counter() - self._since - self._paused
        speed = {"train/patches_per_second": (pl_module.patches_seen - self._patches) / seconds}
        if self._rate:
            speed["train/share_of_peak"] = self._done / seconds / self._rate
        pl_module.log_dict(speed)
        self._begin(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock, since validation does not count."""
        self._stopped = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again."""
        if hasattr(self, "_paused"):
            self._paused += time.perf_counter() - self._stopped
