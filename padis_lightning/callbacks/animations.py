"""Moving pictures, for those who ask: ``--trainer.callbacks+=Animation``."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from padis_lightning.data.datamodule import data_of
from padis_lightning.errors import require_at_least
from padis_lightning.files import whole
from padis_lightning.results.pictures import planes, to_pixels
from padis_lightning.results.voxels import spacing_of
from padis_lightning.solvers import Solver
from padis_lightning.types import Batch


class Animation(Callback):
    """Leave ``animations/<name>.gif`` of the steps of each image.

    Args:
        every: a frame after every so many steps of a solver; the last step always has one.
        milliseconds: a frame stands so long, the last one for a second.
        window: normalised values that become black and white.
    """

    def __init__(self, every: int = 1, milliseconds: int = 100, window: tuple[float, float] = (0.0, 1.0)) -> None:
        require_at_least(1, every=every, milliseconds=milliseconds)
        self.every, self.milliseconds, self.window = every, milliseconds, window

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask to see the images after each step."""
        assert isinstance(pl_module, Solver)
        self._names = {item.index: item.name for item in data_of(trainer).item_labels}
        pl_module.loop.observers.append(self._see)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int, *rest: int
    ) -> None:
        """Begin with no frames."""
        self._seen: list[Tensor] = []

    def _see(self, images: Tensor) -> None:
        self._seen.append(images.detach().to("cpu", copy=True))

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int, *rest: int
    ) -> None:
        """Write the images of a batch; of several samples the first is shown."""
        assert isinstance(pl_module, Solver)
        if not self._seen:
            return
        last = len(self._seen) - 1
        shown = [images for k, images in enumerate(self._seen) if k % self.every == 0 or k == last]
        durations = [self.milliseconds] * (len(shown) - 1) + [1000]
        for i, index in enumerate(batch.index.tolist()):
            spacing = spacing_of(data_of(trainer).whole, index, pl_module.operator)
            pictures = (planes(images[i * pl_module.samples], spacing) for images in shown)
            frames = [Image.fromarray(to_pixels(picture, self.window)) for picture in pictures]
            with whole(Path(trainer.default_root_dir) / "animations" / f"{self._names[index]}.gif") as temporary:
                frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask no longer."""
        assert isinstance(pl_module, Solver)
        pl_module.loop.observers.remove(self._see)
