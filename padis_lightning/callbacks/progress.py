"""Show the progress of a training run, also of one that goes on."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm


class Progress(TQDMProgressBar):
    """A progress bar whose total is there where a run goes on within its one epoch, which Lightning then does not begin."""

    @property
    def total_train_batches(self) -> int | float:
        """Return the batches of the whole run; Lightning would mix steps with the batches that are accumulated in each."""
        return self.trainer.num_training_batches

    def init_train_tqdm(self) -> Tqdm:
        """Return a bar that begins where the run does."""
        bar = super().init_train_tqdm()
        bar.total = self.total_train_batches
        bar.n = bar.initial = self.trainer.global_step * self.trainer.accumulate_grad_batches
        bar.refresh()
        return bar


def show(trainer: Trainer, words: str) -> None:
    """Say beside the count of a run of ``predict`` what is being done."""
    if isinstance(trainer.progress_bar_callback, TQDMProgressBar):
        trainer.progress_bar_callback.predict_progress_bar.set_postfix_str(words)
