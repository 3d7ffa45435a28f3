"""Space noise levels from high to low."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from padis_lightning.errors import InputError, first_few, require_at_least, require_between


def _shares(sigma_max: float, sigma_min: float, steps: int) -> Tensor:
    """Return ``steps`` numbers from 0 to 1, after a check of the levels."""
    require_at_least(1, steps=steps)
    require_between(0, 1e6, sigma_max=sigma_max)
    if not sigma_max >= sigma_min > 0:
        raise InputError(f"sigma_max is {sigma_max:g} and sigma_min {sigma_min:g}; wanted sigma_max >= sigma_min > 0")
    return torch.linspace(0, 1, steps, dtype=torch.float64)


def geometric_sigmas(sigma_max: float, sigma_min: float, steps: int) -> Tensor:
    r"""Return levels of one ratio, :math:`\sigma_i = \sigma_{max} (\sigma_{min} / \sigma_{max})^{i / (n - 1)}`, ``(steps,)``.

    Source: Hu et al., PaDIS, NeurIPS 2024, section 4.
    """
    shares = _shares(sigma_max, sigma_min, steps)
    return sigma_max * (sigma_min / sigma_max) ** shares


def karras_sigmas(sigma_max: float, sigma_min: float, steps: int, rho: float = 7.0) -> Tensor:
    r"""Return levels :math:`(\sigma_{max}^{1/\rho} + t (\sigma_{min}^{1/\rho} - \sigma_{max}^{1/\rho}))^\rho`, ``(steps,)``.

    Source: Karras et al., EDM, NeurIPS 2022, equation 5.
    """
    t = _shares(sigma_max, sigma_min, steps)
    return (sigma_max ** (1 / rho) + t * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho


def require_falling(sigmas: Sequence[float]) -> Sequence[float]:
    """Return levels as they are.

    Raises:
        InputError: there are none, or they do not fall from at most 1e6 to above 0.
    """
    if not sigmas or not 1e6 >= sigmas[0] or not all(high > low for high, low in pairwise([*sigmas, 0.0])):
        raise InputError(f"sigmas are [{first_few(sigmas)}]; wanted levels that fall, from at most 1e6 to above 0")
    return sigmas
