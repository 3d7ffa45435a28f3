"""The interface of all backends that compute a scan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from padis_lightning.ct.geometry import Geometry


class Projector(nn.Module, ABC):
    """Line integrals of images and their transpose, computed by one backend.

    Args:
        geometry: the scan.

    Attributes:
        exact_adjoint: whether :meth:`backproject` is the transpose of :meth:`project` up to rounding.
    """

    name: ClassVar[str]
    exact_adjoint: bool = True

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    @classmethod
    @abstractmethod
    def version(cls) -> str | None:
        """Return the version of the library behind it, or None where it is not installed."""

    @classmethod
    def obstacle(cls, geometry: Geometry) -> str | None:
        """Say why it cannot compute this scan here; None where it can."""
        return None

    @classmethod
    def comfortable(cls, geometry: Geometry) -> bool:
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
    """A projection or a back-projection; the derivative of the one is the other."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, projector: Projector, forward: bool) -> Tensor:
        ctx.projector, ctx.forward = projector, forward
        with torch.autocast(x.device.type, enabled=False):  # data terms keep their precision
            return projector.project(x) if forward else projector.backproject(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(grad, ctx.projector, not ctx.forward), None, None
