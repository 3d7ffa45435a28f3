"""The state of a long solve on disk, from which a run that was killed goes on in the middle of it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from padis_lightning.files import whole
from padis_lightning.random import Generators
from padis_lightning.signals import GRACE


class KeptState:
    """Keep the tensors of a solver, its random streams and the number of steps that are done, in one file a batch.

    A state is found by the settings and the images that it belongs to. A file that is damaged, or holds anything else than
    the state that is asked for, counts as none: the solve then begins at its beginning.

    Args:
        folder: where the files are.
        every: seconds between two states. A step or a whole solve of more than :data:`GRACE` is kept in any case, unless
            that takes a twentieth of its time: a signal does not wait for the next one.
        settings: what the state depends on besides the images, in words or as a digest.
    """

    def __init__(self, folder: Path, every: float = 120.0, settings: str = "") -> None:
        self.folder, self.every, self.settings = folder, every, settings
        self.seconds = self._cost = 0.0

    def begin(self, indices: Sequence[int]) -> None:
        """Turn to a batch, given by the places of its images in the data set."""
        digest = hashlib.sha256(json.dumps([self.settings, list(indices)]).encode()).hexdigest()
        self.path = self.folder / f"{digest[:16]}.safetensors"
        self.seconds, self._started = 0.0, time.monotonic()
        self._last = self._started

    def due(self, lasted: float) -> bool:
        """Return whether it is time to keep a state, after a step that has ``lasted`` so many seconds."""
        return time.monotonic() - self._last >= self.every or lasted > max(GRACE, 20 * self._cost)

    def keep(self, steps: int, state: dict[str, Tensor], generator: Generators, diverged: dict[int, str]) -> None:
        """Write the state after so many steps, whole."""
        began = time.monotonic()
        tensors = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
        streams = torch.stack([stream.get_state() for stream in generator.generators])
        seconds = self.seconds + began - self._started
        about = json.dumps({"steps": steps, "seconds": seconds, "diverged": diverged})
        with whole(self.path) as temporary:
            temporary.write_bytes(save({**tensors, ".streams": streams}, {"about": about}))
        self._last = time.monotonic()
        self._cost = self._last - began

    def restore(self, state: dict[str, Tensor], generator: Generators) -> tuple[int, dict[int, str]]:
        """Bring a state and its streams to where they were kept, in place; return the steps done and what had diverged."""
        try:
            with safe_open(self.path, "pt") as file:
                about = json.loads(file.metadata()["about"])
                kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            steps, seconds = int(about["steps"]), float(about["seconds"])
            diverged = {int(row): str(reason) for row, reason in about["diverged"].items()}
            streams = kept.pop(".streams")
        except (OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
            return 0, {}
        shapes = [{name: value.shape for name, value in one.items()} for one in (kept, state)]
        possible = steps >= 0 and 0 <= seconds < math.inf and diverged.keys() <= {*range(len(generator))}
        if shapes[0] != shapes[1] or not possible or not _take_up(streams, generator):
            return 0, {}
        state.update({name: value.to(state[name]) for name, value in kept.items()})
        self.seconds = seconds
        return steps, diverged

    def end(self) -> None:
        """Forget the batch, whose results are written."""
        self.path.unlink(missing_ok=True)


def _take_up(streams: Tensor, generator: Generators) -> bool:
    """Bring random streams to their states, all or none; return whether they are states of these streams."""
    before = [stream.get_state() for stream in generator.generators]
    if streams.dtype != torch.uint8 or streams.shape != (len(before), *before[0].shape):
        return False
    try:
        for stream, numbers in zip(generator.generators, streams, strict=True):
            stream.set_state(numbers.clone())  # torch wants the bytes aligned
    except RuntimeError:
        for stream, numbers in zip(generator.generators, before, strict=True):
            stream.set_state(numbers)
        return False
    return True
