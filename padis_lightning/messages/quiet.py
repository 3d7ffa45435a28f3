"""Warnings of the libraries that are about choices made on purpose; all others are shown."""

from __future__ import annotations

import logging
import warnings

HARMLESS = (
    ".*does not have many workers",
    ".*Sparse CSR tensor support is in beta",
    ".*Sparse invariant checks are implicitly disabled",
    ".*Checkpoint directory .* exists and is not empty",
    ".*isinstance.*LeafSpec",
    ".*`use_distributed_sampler`",
    ".*Couldn't infer the batch indices fetched from your dataloader: `DataLoader`",  # of predict; nothing asks for them
    ".*Total length of .* across ranks is zero",
    ".*have overridden `transfer_batch_to_device` in `LightningModule`",
    ".*`srun` command is available on your system but is not used",
)


def quieten() -> None:
    """Silence the framework's chatter; warnings about anything unexpected stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message)
