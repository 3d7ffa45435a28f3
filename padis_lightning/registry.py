"""Find classes by their name, and remember what modules were built from."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from torch import nn

from padis_lightning.errors import InputError, one_line


def import_submodules(package: str, path: Iterable[str]) -> None:
    """Import every file of a package, so that its classes are known by their names."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def needed(module: str, sentence: str, extra: str, remark: str = "") -> ModuleType:
    """Import an optional library; where it is not installed, say what needs it, what installs it, and a remark."""
    try:
        return importlib.import_module(module)
    except ImportError:
        wanted = f"pip install 'padis_lightning[{extra}]'{remark}"
        raise InputError(f"{sentence}, which is not installed; wanted {wanted}") from None


def subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    """Yield all classes below ``cls`` that are imported."""
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


class Configured(nn.Module):
    """Remember a module's arguments in ``config``, so that a file can name its class and hold no code.

    Subclasses take plain numbers and lists.
    """

    config: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Configured:  # noqa: ANN401 - any subclass's arguments
        self = super().__new__(cls)
        if args or kwargs:  # copying and unpickling call this without any, and restore the attribute themselves
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.__dict__["config"] = {k: v for k, v in bound.arguments.items() if k != "self"}
        else:
            parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
            named = (p for p in parameters if p.kind.name not in ("VAR_POSITIONAL", "VAR_KEYWORD"))
            self.__dict__["config"] = {p.name: p.default for p in named}
        return self

    @property
    def plain_config(self) -> dict[str, Any]:
        """Return the arguments as JSON would give them back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in self.config.items()}

    @classmethod
    def build(cls, name: str, config: dict[str, Any]) -> Any:  # noqa: ANN401 - an instance of the class it is called on
        """Build a subclass from its name and arguments; only subclasses that are imported can be named.

        Raises:
            InputError: there is no such subclass, or it takes other arguments.
        """
        known = {sub.__name__: sub for sub in subclasses(cls) if not inspect.isabstract(sub)}
        if name not in known:
            raise InputError(f"the checkpoint names the {cls.__name__} {name!r}; wanted one of {', '.join(sorted(known))}")
        try:
            return known[name](**config)
        except TypeError as error:
            reason = one_line(error)[:160]
            raise InputError(f"the checkpoint has arguments that {name} does not take ({reason}); wanted its own") from error
