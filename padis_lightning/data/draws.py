"""The data of a solver that samples from the prior: a number of images to make."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from padis_lightning.data.batches import ItemLabel, SharedItems
from padis_lightning.data.sources.base import Item
from padis_lightning.errors import require_at_least


class Draws(SharedItems, LightningDataModule):
    """Numbers items that have neither image nor measurement.

    Args:
        count: images to draw.
        batch_size: images drawn at once, on a device.
        shard: draw every ``shards``-th batch from this one on; all shards may share a folder.
        shards: parts that the work is divided into.
    """

    def __init__(self, count: int = 8, batch_size: int = 8, shard: int = 0, shards: int = 1) -> None:
        super().__init__()
        require_at_least(1, count=count)
        self.count = count
        self.share_out(batch_size, shard, shards)

    @property
    def item_labels(self) -> list[ItemLabel]:
        """Return the items to draw, of all shards."""
        return [ItemLabel(k, f"{k:04d}", f"draw {k}") for k in range(self.count)]

    def predict_dataloader(self) -> DataLoader:
        """Return what this device has left to draw."""
        return self.left_loader([Item(*label) for label in self.item_labels])
