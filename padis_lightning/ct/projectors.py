"""All backends that compute a scan share this interface."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor, nn

from padis_lightning.ct.geometry import G
from padis_lightning.linalg import at_least_single


def installed(module: str, *distributions: str) -> str | None:
    """Return the version of a package without importing it, or None where it is not installed.

    Args:
        module: its name in an import.
        distributions: the names under which it may have been installed.
    """
    if importlib.util.find_spec(module) is None:
        return None
    for name in distributions:
        with suppress(PackageNotFoundError):
            return version(name)
    return "of an unknown version"  # from a build of one's own


class Projector(nn.Module, ABC, Generic[G]):
    """A projector computes line integrals of images and their transpose, by one backend.

    Args:
        geometry: the scan.

    Attributes:
        exact_adjoint: whether :meth:`backproject` is the transpose of :meth:`project` up to rounding.
    """

    name: ClassVar[str]
    exact_adjoint: bool = True

    def __init__(self, geometry: G) -> None:
        super().__init__()
        self.geometry = geometry

    @classmethod
    @abstractmethod
    def version(cls) -> str | None:
        """Return the version of the library behind it, or None where it is not installed."""

    @classmethod
    def obstacle(cls, geometry: G) -> str | None:
        """Say why it cannot compute this scan here; None where it can."""
        return None

    @classmethod
    def comfortable(cls, geometry: G) -> bool:
        """Tell whether it is a good choice for a scan of this size, where there are others."""
        return True

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """Project without derivatives, ``(B, H, W) -> (B, views, bins)``."""

    @abstractmethod
    def backproject(self, y: Tensor) -> Tensor:
        """Back-project without derivatives, ``(B, views, bins) -> (B, H, W)``."""

    def describe(self) -> str:
        """Return a line for the start of a run."""
        kind = "" if self.exact_adjoint else ", its adjoint is approximate"
        return f"{self.name} {self.version()}{kind}"

    def forward(self, x: Tensor) -> Tensor:
        """Compute :meth:`project`, differentiable."""
        return _Product.apply(x, self, True)

    def adjoint(self, y: Tensor) -> Tensor:
        """Compute :meth:`backproject`, differentiable."""
        return _Product.apply(y, self, False)


class _Product(torch.autograd.Function):
    """This product is a projection or a back-projection; the derivative of the one is the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, projector: Projector, forward: bool) -> Tensor:  # noqa: ANN401 - keeps what is set on it
        ctx.projector, ctx.forward = projector, forward
        with torch.autocast(x.device.type, enabled=False):  # data terms keep their precision
            compute = projector.project if forward else projector.backproject
            return compute(at_least_single(x)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return _Product.apply(grad, ctx.projector, not ctx.forward), None, None
