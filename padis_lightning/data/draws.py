"""The data of a solver that draws from the prior: a number of images to make."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from padis_lightning.data.sources import Item, collate
from padis_lightning.errors import InputError


class Draws(LightningDataModule):
    """Numbered items with neither image nor measurement.

    Args:
        count: images to draw.
        batch_size: images drawn at once, on a device.
    """

    def __init__(self, count: int = 8, batch_size: int = 8) -> None:
        super().__init__()
        for name, value in {"count": count, "batch_size": batch_size}.items():
            if value < 1:
                raise InputError(f"{name} is {value}; wanted at least 1")
        self.count, self.batch_size = count, batch_size

    #: whatever the prior draws
    image_shape = normalisation = whole = None

    def predict_dataloader(self) -> DataLoader:
        """One item an image."""
        items = [Item(k, f"{k:04d}", f"draw {k}", None, None) for k in range(self.count)]
        return DataLoader(items, batch_size=self.batch_size, collate_fn=collate)
