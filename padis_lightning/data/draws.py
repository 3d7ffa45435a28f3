"""The data of a solver that draws from the prior: a number of images to make."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from padis_lightning.data.batches import Listed, check_shard, left_loader
from padis_lightning.data.sources.base import Item
from padis_lightning.errors import InputError


class Draws(LightningDataModule):
    """Numbered items with neither image nor measurement.

    Args:
        count: images to draw.
        batch_size: images drawn at once, on a device.
        shard: draw every ``shards``-th batch from this one on; all shards may share a folder.
        shards: parts that the work is divided into.
    """

    def __init__(self, count: int = 8, batch_size: int = 8, shard: int = 0, shards: int = 1) -> None:
        super().__init__()
        for name, value in {"count": count, "batch_size": batch_size}.items():
            if value < 1:
                raise InputError(f"{name} is {value}; wanted at least 1")
        check_shard(shard, shards)
        self.count, self.batch_size, self.shard, self.shards = count, batch_size, shard, shards
        self.allow_zero_length_dataloader_with_multiple_devices = True  # of what is left there may be less than devices
        #: places of what :attr:`listed` has and need not be drawn
        self.done: set[int] = set()

    #: whatever the prior draws
    image_shape = normalisation = whole = None

    @property
    def listed(self) -> list[Listed]:
        """The items to draw, of all shards."""
        return [Listed(k, f"{k:04d}", f"draw {k}") for k in range(self.count)]

    def predict_dataloader(self) -> DataLoader:
        """What this device has left to draw."""
        items = [Item(*listed, None, None) for listed in self.listed]
        return left_loader(self, items)
