"""What a patch network has to be."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from padis_lightning.errors import InputError


class PatchNetwork(nn.Module, ABC):
    """A network from a noisy patch with position channels to a clean one.

    Subclasses take plain numbers and lists; these are remembered in ``config``, so that a checkpoint can name the class
    and its arguments and hold no code.
    """

    config: dict[str, Any]
    channels: int

    def __new__(cls, *args: Any, **kwargs: Any) -> PatchNetwork:  # noqa: ANN401 - any subclass's arguments
        self = super().__new__(cls)
        if args or kwargs:  # copying and unpickling call this without any, and restore the attribute themselves
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.__dict__["config"] = {k: v for k, v in bound.arguments.items() if k != "self"}
        else:
            parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
            self.__dict__["config"] = {p.name: p.default for p in parameters}
        return self

    @abstractmethod
    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """``(B, channels + 2, P, P)`` and the noise label ``(B,)`` to ``(B, channels, P, P)``."""

    @property
    @abstractmethod
    def divisor(self) -> int:
        """A patch's side has to be a multiple of this."""


def _subclasses(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def build_network(name: str, config: dict[str, Any]) -> PatchNetwork:
    """Build a network from its class name and arguments; only subclasses of PatchNetwork that are imported can be named."""
    known = {sub.__name__: sub for sub in _subclasses(PatchNetwork) if not inspect.isabstract(sub)}
    if name not in known:
        raise InputError(f"the checkpoint names the network {name!r}; wanted one of {', '.join(sorted(known))}")
    return known[name](**config)
