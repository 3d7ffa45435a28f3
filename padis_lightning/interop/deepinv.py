"""deepinv: our priors as its denoisers, our operators as its physics, and its physics as our operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from deepinv.models import Denoiser as TheirDenoiser
from deepinv.physics import LinearPhysics
from torch import Tensor

from padis_lightning.errors import InputError
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.random import Generators
from padis_lightning.solvers.base import SOLVE


class Denoiser(TheirDenoiser):
    """A prior denoises for deepinv's algorithms, on images from 0 to 1; partitions into patches are seeded.

    Each image of a batch has a stream of its own, which goes on from call to call as it does in our solvers. So the same
    calls after :meth:`restart` give the same bits, whatever else is in the batch.

    Args:
        prior: denoiser of whole images; it follows their size where it can.
        seed: key of the streams, with an image's place in the batch.

    Attributes:
        streams: one of each image so far. A sampler that draws from them, too, draws what our solvers draw.
    """

    def __init__(self, prior: Prior, seed: int = 0) -> None:
        super().__init__()
        self.prior, self.seed = prior, seed
        self.restart()

    def restart(self) -> None:
        """Begin the streams anew, as for another run."""
        self.streams: Sequence[torch.Generator] = []

    def forward(self, x: Tensor, sigma: float | Tensor | Sequence[float], **kwargs: Any) -> Tensor:  # noqa: ANN401 - deepinv's
        """Denoise ``(B, C, H, W)`` of noise ``sigma``, one number, or ``(B,)``."""
        further = Generators.keyed(self.seed, range(len(self.streams), len(x)), SOLVE).generators
        self.streams = [*self.streams, *further]
        self.prior = self.prior.for_shape(tuple(x.shape[1:]))
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).flatten().expand(len(x))
        return self.prior.on_images(x, levels, Generators(self.streams[: len(x)]))


class Physics(LinearPhysics):
    """An operator measures for deepinv; where its inverse and its proximal step have a closed form, they are exact.

    Args:
        operator: A.
        options: deepinv's, such as ``noise_model``, ``max_iter`` and ``tol``.
    """

    def __init__(self, operator: LinearOperator, **options: Any) -> None:  # noqa: ANN401 - checked by deepinv
        super().__init__(img_size=tuple(operator.image_shape), **options)
        self.operator = operator

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:  # noqa: ANN401 - deepinv's
        """Measure, ``(B, C, H, W) -> (B, ...)``."""
        return self.operator(x)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:  # noqa: ANN401 - deepinv's
        """Apply the transpose."""
        return self.operator.adjoint(y)

    def A_dagger(self, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - deepinv's
        """Return the minimum-norm least-squares solution."""
        return self.operator.pinv(y)

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        r"""Return :math:`\arg\min_x \gamma \|A x - y\|^2 / 2 + \|x - z\|^2 / 2`."""
        if not self.operator.closed_form or not isinstance(z, Tensor):
            return super().prox_l2(z, y, gamma, *args, **kwargs)
        return self.operator.prox(z, y, 1 / gamma)


class PhysicsOperator(LinearOperator):
    """A linear physics of deepinv measures images, without its noise; it computes in the precision of its buffers.

    Args:
        physics: A, whose measurements are tensors.
        image_shape: channels, height and width (default: the physics' own ``img_size``).

    Raises:
        InputError: the physics is not linear, has no such shape, or measures something else than real tensors.
    """

    def __init__(self, physics: LinearPhysics, image_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        if not isinstance(physics, LinearPhysics):
            raise InputError(f"the physics is {type(physics).__name__}; wanted a LinearPhysics")
        shape = image_shape or getattr(physics, "img_size", None)
        if shape is None:
            raise InputError(f"{type(physics).__name__} has no img_size; wanted image_shape")
        self.physics, self.image_shape = physics, tuple(shape)
        like = next((b for b in physics.buffers() if b.is_floating_point()), torch.empty(0))
        with torch.no_grad():
            y = physics.A(torch.zeros(1, *self.image_shape, dtype=like.dtype, device=like.device))
        if not isinstance(y, Tensor) or not y.is_floating_point():
            raise InputError(f"{type(physics).__name__} measures {getattr(y, 'dtype', type(y).__name__)}; wanted real tensors")
        self.measurement_shape, self.precision = tuple(y.shape[1:]), like.dtype

    def forward(self, x: Tensor) -> Tensor:
        """Measure, ``(B, C, H, W) -> (B, *measurement_shape)``."""
        return self.physics.A(x.to(self.precision)).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose, ``(B, *measurement_shape) -> (B, C, H, W)``."""
        self.check(y, self.measurement_shape, "measurement")
        return self.physics.A_adjoint(y.to(self.precision)).to(y.dtype)
