"""Complex images whose magnitudes are in files and whose phases are simulated."""

from __future__ import annotations

import numpy as np
import torch

from padis_lightning.data.drawing import generator, smooth_phase
from padis_lightning.data.sources.base import Item, Source, Wrapped
from padis_lightning.errors import InputError

PHASE = 3  # what is drawn of the key (seed, image)


class PhaseSource(Wrapped):
    """Yields magnitudes as complex images ``(2, H, W)``, each with a smooth phase of its own, that of built-in heads.

    An image has the same phase whenever it is asked for.

    Args:
        inner: of magnitudes.
        seed: key of the phases.

    Raises:
        InputError: its images are no magnitudes.
    """

    def __init__(self, inner: Source, seed: int) -> None:
        super().__init__(inner)
        scale, (channels, *_) = inner.normalisation, inner.image_shape
        odd = {
            "are measurements": not inner.has_images,
            "are volumes": inner.volumetric,
            f"have {channels} channels": channels != 1,
            "are in Hounsfield units": scale.window is not None,
            f"have the range {scale.lower:g} to {scale.upper:g}": scale.lower != 0,
        }
        seen = next((words for words, true in odd.items() if true), "")
        if seen:
            wish = "wanted magnitudes: slices of 1 channel, from 0 on"
            raise InputError(f"random_phase is true and {inner.description} {seen}; {wish}")
        self.seed, self.image_shape = seed, (2, *inner.image_shape[1:])
        self.description = f"{inner.description} with simulated phases, seed {seed}"

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of image ``index``."""
        return 2, *self.inner.shape(index)[1:]

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """Return the shapes of the images."""
        return {(2, *rest) for _, *rest in self.inner.shapes}

    def __getitem__(self, index: int) -> Item:
        item = self.inner[index]
        assert item.image is not None
        if item.image.min() < 0:
            raise InputError(f"random_phase is true and {item.name} has values below 0; wanted magnitudes")
        down, across = (((np.arange(n) + 0.5) * 2 / n - 1).astype(np.float32) for n in item.image.shape[1:])
        phase = smooth_phase(generator(self.seed, index, PHASE), *np.meshgrid(across, down))
        turns = torch.from_numpy(np.stack([np.cos(phase), np.sin(phase)]).astype(np.float32))
        return item._replace(image=item.image * turns)
