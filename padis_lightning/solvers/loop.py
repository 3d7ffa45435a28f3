"""The loop of a solve: progress, a watch for images that diverge, observers, kept states and signals to stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from padis_lightning.random import Generators
from padis_lightning.signals import Signals
from padis_lightning.solvers.kept_state import KeptState

WATCHED = 16  # steps between two looks at whether images are finite, so that a GPU need not wait for the host


class Loop:
    """Iterate over the steps of a solve.

    The first entry of the state is the image as it is so far: it is watched, and observers see it.

    Args:
        name: what the solver is called.

    Attributes:
        observers: are called with the images ``(B, C, H, W)`` after every step.
        diverged: says why, for each image of the last solve that is not finite, by its place in the batch.
        kept: where states are kept, or None.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.observers: list[Callable[[Tensor], None]] = []
        self.diverged: dict[int, str] = {}
        self.kept: KeptState | None = None
        self._signals, self._visible, self._said = Signals(), False, False

    def attach(self, visible: bool = False, kept: KeptState | None = None, signals: Signals | None = None) -> None:
        """Become part of a run: show a progress bar, keep states, stop at signals."""
        self._visible, self.kept, self._signals = visible, kept, signals or Signals()

    def fresh(self, name: str | None = None, observed: bool = False) -> Loop:
        """Return a loop of the same run for a part of a solve, of which nothing is kept."""
        loop = Loop(name or self.name)
        loop.attach(self._visible, None, self._signals)
        loop.observers = self.observers if observed else []
        return loop

    @property
    def seconds(self) -> float:
        """Return the seconds that earlier runs have spent on this batch."""
        return self.kept.seconds if self.kept is not None else 0.0

    @property
    def visible(self) -> bool:
        """Return whether progress is shown."""
        return self._visible

    def begin(self, indices: Sequence[int]) -> None:
        """Turn to a batch, given by the places of its images in the data set."""
        self.diverged = {}
        if self.kept is not None:
            self.kept.begin(indices)

    def end(self) -> None:
        """Forget the kept state of the batch, whose results are written."""
        if self.kept is not None:
            self.kept.end()

    def __call__(
        self,
        steps: Iterable[Any],
        state: dict[str, Tensor],
        generator: Generators,
        image: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Iterator[Any]:
        """Yield the steps that are not done yet.

        Args:
            steps: noise levels, of all images or ``(B,)``, tuples that begin with one, or numbers of iterations.
            state: all that one step leaves to the next, by name, the image first; steps replace its values.
            generator: the streams from which steps draw.
            image: what makes ``(B, C, H, W)`` of the first entry, for observers.

        Raises:
            FloatingPointError: all images have diverged; with the solver, the first such step and its level.
            Stopped: a signal came; the state is kept.
        """
        steps = list(steps)
        done, self.diverged = (0, {}) if self.kept is None else self.kept.restore(state, generator)
        watch = _Watch(self.name, done, len(steps), self.diverged)
        if self._visible and not self._said:
            self._said = True
            self._say_size(state)
        bar = tqdm(steps[done:], self.name, len(steps), leave=False, disable=not self._visible, position=1, initial=done)
        first = time.monotonic()
        for count, step in enumerate(bar, done + 1):
            began = first if count == len(steps) else time.monotonic()
            yield step
            x = next(iter(state.values()))
            watch.note(step, x)
            for observer in self.observers:
                observer(image(x))
            if self._signals.number or (self.kept is not None and self.kept.due(time.monotonic() - began)):
                self._signals.wait()
                watch.look()
                if self.kept is not None:
                    self.kept.keep(count, state, generator, self.diverged)
                self._signals.obey()
        watch.look()

    def _say_size(self, state: dict[str, Tensor]) -> None:
        """Say how much memory the state of volumes takes."""
        x = next(iter(state.values()))
        if x.ndim == 5:
            size, shape = sum(value.nbytes for value in state.values()) / 2**30, "x".join(map(str, x.shape[2:]))
            line = f"{self.name} keeps {size:.2g} GiB on {x.device} from step to step, volumes of {shape}, {len(x)} at once"
            tqdm.write(f"padis_lightning: {line}", file=sys.stderr)


class _Watch:
    """Notes whether every image is finite after each step, and looks at these notes every :data:`WATCHED` steps."""

    def __init__(self, name: str, done: int, total: int, diverged: dict[int, str]) -> None:
        self.name, self.seen, self.total, self.diverged = name, done, total, diverged
        self.notes: list[tuple[Any, Tensor]] = []

    def note(self, step: Any, x: Tensor) -> None:  # noqa: ANN401 - what the loop goes over
        self.notes.append((step, torch.isfinite(x.flatten(1).sum(1))))
        if len(self.notes) == WATCHED:
            self.look()

    def look(self) -> None:
        steps, finite = zip(*self.notes, strict=True) if self.notes else ((), ())
        self.notes, first = [], self.seen + 1
        self.seen += len(steps)
        if not finite or bool((good := torch.stack(finite)).all()):
            return
        for row, good_steps in enumerate(good.T.tolist()):
            if row not in self.diverged and not all(good_steps):
                at = good_steps.index(False)
                self.diverged[row] = (
                    f"{self.name} diverged at step {first + at} of {self.total}{_level(steps[at], row)}: "
                    "the image is not finite; wanted smaller steps or more noise"
                )
        if len(self.diverged) == len(good.T):
            raise FloatingPointError(next(iter(self.diverged.values())))


def _level(step: Any, row: int) -> str:  # noqa: ANN401
    """Return the level of an image in words, where the step begins with one."""
    level = step[0] if isinstance(step, tuple) else step
    level = float(level[row]) if isinstance(level, Tensor) else level
    return f", sigma {level:.3g}" if isinstance(level, float) else ""
