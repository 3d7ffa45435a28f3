"""Images and measurements: generators, files, and the one data module that serves them."""

from padis_lightning.data.arrays import read_arrays
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.draws import Draws
from padis_lightning.data.opening import open_source, read_geometry
from padis_lightning.data.readers import open_series
from padis_lightning.data.sources import ArraySource, PhantomSource, Source

__all__ = [
    "ArraySource",
    "Draws",
    "ImageData",
    "PhantomSource",
    "Source",
    "open_series",
    "open_source",
    "read_arrays",
    "read_geometry",
]
