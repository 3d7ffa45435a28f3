"""What is averaged, written, scored and drawn around the modules."""

from padis_lightning.callbacks.averaging import EMA
from padis_lightning.callbacks.export import PriorExport
from padis_lightning.callbacks.results import Results

__all__ = ["EMA", "PriorExport", "Results"]
