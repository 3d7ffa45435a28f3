"""Lightning callbacks: what is averaged, kept, logged and written around the modules."""

from padis_lightning.callbacks.animations import Animation
from padis_lightning.callbacks.checkpoint_io import WholeCheckpoints
from padis_lightning.callbacks.checkpoints import Checkpoints
from padis_lightning.callbacks.ema import EMA
from padis_lightning.callbacks.export import PriorExport
from padis_lightning.callbacks.results import Results
from padis_lightning.callbacks.samples import Samples
from padis_lightning.callbacks.throughput import Throughput
from padis_lightning.callbacks.tracking import Tracking

__all__ = [
    "Animation",
    "Checkpoints",
    "EMA",
    "PriorExport",
    "Results",
    "Samples",
    "Throughput",
    "Tracking",
    "WholeCheckpoints",
]
