"""A finer scan simulates what a scan measures, on a grid that does not know what reconstructs it."""

from __future__ import annotations

import torch
from torch import Tensor

from padis_lightning.operators.base import LinearOperator
from padis_lightning.operators.ct import Scan


class FinerScan(LinearOperator):
    """A finer scan simulates a scan on a finer grid than it is solved on: pixels are squares, bins have a width.

    The finer grid is built when something is measured on it: what was measured already needs none.

    Args:
        scan: what is to be measured.
        factor: pixels and rays for one, along each axis.
        coarse: images have the pixels of ``scan``, each of which is a square of equal ones of the finer grid; False: images
            are on the finer grid themselves, and have detail that ``scan`` cannot reconstruct.
    """

    def __init__(self, scan: Scan, factor: int, coarse: bool = True) -> None:
        super().__init__()
        self.factor, self.coarse, self.exact_adjoint = factor, coarse, scan.exact_adjoint
        self._made_of = scan.geometry.finer(factor), scan.backend, scan.filter, scan.image_shape[0]
        self._fine: Scan | None = None
        self.register_buffer("_place", torch.empty(0), persistent=False)  # where the finer grid shall be built
        self.measurement_shape = scan.measurement_shape
        self.image_shape = scan.image_shape if coarse else (scan.image_shape[0], *self._made_of[0].size)
        self.image_axes, self.detector_axes = len(scan.geometry.size), len(scan.geometry.shape) - 1

    _place: Tensor

    @property
    def fine(self) -> Scan:
        """Return the scan of the finer grid."""
        if self._fine is None:
            geometry, backend, window, channels = self._made_of
            self._fine = Scan(geometry, backend, window, channels).to(self._place.device)  # type: ignore[arg-type]  # volumes, too
        return self._fine

    def _repeat(self, x: Tensor, axes: int) -> Tensor:
        for axis in range(-axes, 0):
            x = x.repeat_interleave(self.factor, axis)
        return x

    def _pool(self, x: Tensor, axes: int) -> Tensor:
        for axis in range(-axes, 0):
            x = x.unflatten(axis, (-1, self.factor)).sum(axis)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Project, ``(B, C, H, W) -> (B, C, views, bins)``, or what a scan of volumes takes and yields."""
        x = self._repeat(x, self.image_axes) if self.coarse else x
        return self._pool(self.fine(x), self.detector_axes) / self.factor**self.detector_axes

    def adjoint(self, y: Tensor) -> Tensor:
        """Back-project: the transpose of :meth:`forward`."""
        self.check(y, self.measurement_shape, "measurement")
        spread = self._repeat(y, self.detector_axes) / self.factor**self.detector_axes
        x = self.fine.adjoint(spread)
        return self._pool(x, self.image_axes) if self.coarse else x
