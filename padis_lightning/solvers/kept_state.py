"""The state of a long solve, kept on disk so that a run that was killed goes on in the middle of it."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from padis_lightning.errors import RunError
from padis_lightning.files import whole
from padis_lightning.random import Generators


class Unfinished:
    """A file a batch: the tensors of its solver, its random streams and the steps that are done.

    A file that cannot be read counts as none; the solve then begins at its beginning.

    Args:
        folder: of the files.
        every: seconds between two states.
    """

    def __init__(self, folder: Path, every: float = 120.0) -> None:
        self.folder, self.every = folder, every
        self.seconds = 0.0
        #: the signal at which to stop, 0 for none
        self.signal = 0

    def begin(self, indices: Sequence[int]) -> None:
        """Turn to a batch, by the places of its images in the data set."""
        digest = hashlib.sha256(json.dumps(list(indices)).encode()).hexdigest()
        self.path = self.folder / f"{digest[:16]}.safetensors"
        self.seconds, self._started = 0.0, time.monotonic()
        self._last = self._started

    @property
    def due(self) -> bool:
        """Whether it is time to keep a state."""
        return self.signal > 0 or time.monotonic() - self._last >= self.every

    def keep(self, steps: int, state: dict[str, Tensor], generator: Generators, diverged: dict[int, str]) -> None:
        """Write the state after so many steps, whole."""
        tensors = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
        streams = torch.stack([stream.get_state() for stream in generator.generators])
        seconds = self.seconds + time.monotonic() - self._started
        about = json.dumps({"steps": steps, "seconds": seconds, "diverged": diverged})
        with whole(self.path) as temporary:
            temporary.write_bytes(save({**tensors, ".streams": streams}, {"about": about}))
        self._last = time.monotonic()

    def restore(self, state: dict[str, Tensor], generator: Generators) -> tuple[int, dict[int, str]]:
        """Bring a state and its streams to where they were kept, in place; the steps done and what had diverged."""
        try:
            with safe_open(self.path, "pt") as file:
                about = json.loads(file.metadata()["about"])
                kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError):
            return 0, {}
        for stream, numbers in zip(generator.generators, kept.pop(".streams"), strict=True):
            stream.set_state(numbers.clone())  # torch wants the bytes aligned
        state.update({name: value.to(state[name].device) for name, value in kept.items()})
        self.seconds = about["seconds"]
        return about["steps"], {int(row): reason for row, reason in about["diverged"].items()}

    def obey(self) -> None:
        """Stop at a signal; what is done is kept by now.

        Raises:
            RunError: there was one.
        """
        if self.signal:
            raise RunError(f"stopped by {signal.Signals(self.signal).name}; the same command goes on where this one stopped")

    def end(self) -> None:
        """Forget the batch, whose results are written."""
        self.path.unlink(missing_ok=True)
