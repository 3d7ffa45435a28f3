"""Train on groups of three slices of volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from padis_lightning.diffusion import Coordinates, Positions
from padis_lightning.errors import InputError
from padis_lightning.linalg import per_image
from padis_lightning.networks import PatchNetwork
from padis_lightning.priors.groups import GROUP
from padis_lightning.training.patch_diffusion import PatchDiffusion
from padis_lightning.training.patches import Patches


class GroupPatchDiffusion(PatchDiffusion):
    r"""Train a denoiser on patches of three slices, the channels of its network, for :class:`padis_lightning.priors.GroupPrior`.

    The data are volumes. A patch's slices lie ``spacings`` apart, which the network takes as a third coordinate,
    :math:`\log_2 s`, the same over the patch.

    Source: Song, Hu, Luo, Fessler and Shen, DiffusionBlend, NeurIPS 2024, section 3.

    Args:
        network: the patch network, of three channels and three positions.
        positions: the encoding of a patch's place and spacing (default: the coordinates).
        spacings: from a slice of a group to the next; each patch draws one.
        options: those of :class:`PatchDiffusion`.
    """

    extra_coordinates = 1

    def __init__(
        self,
        network: PatchNetwork,
        positions: Positions | None = None,
        spacings: Sequence[int] = (1, 2),
        **options: Any,  # noqa: ANN401 - checked and named by the base class
    ) -> None:
        if options.get("context"):
            raise InputError("context is true; wanted false, groups of slices are trained without it")
        super().__init__(network, positions or Coordinates(3), **options)
        if not spacings or min(spacings) < 1:
            raise InputError(f"spacings is {list(spacings)}; wanted some of at least 1")
        self.spacings = tuple(spacings)

    def lay_out(self, image_shape: tuple[int, ...]) -> None:
        """Lay out the canvas for images of three channels, out of grey volumes of enough slices."""
        if len(image_shape) != 4 or image_shape[0] != 1:
            raise InputError(f"the data's images are {tuple(image_shape)}; wanted grey volumes (1, slices, height, width)")
        _, self.depth, height, width = image_shape
        least = (GROUP - 1) * max(self.spacings) + 1
        if self.depth < least:
            raise InputError(
                f"the volumes have {self.depth} slices; wanted at least {least} for groups {max(self.spacings)} apart"
            )
        super().lay_out((GROUP, height, width))

    def draw_patches(self, size: int, n: int, generator: torch.Generator) -> Patches:
        """Draw besides the first slice of each patch and its spacing, as further columns of the corners."""
        drawn, device = super().draw_patches(size, n, generator), generator.device
        choices = torch.randint(len(self.spacings), (n,), generator=generator, device=device)
        spacing = torch.tensor(self.spacings, device=device)[choices]
        share = torch.rand(n, generator=generator, device=device, dtype=torch.float64)
        first = (share * (self.depth - (GROUP - 1) * spacing)).long()
        return drawn._replace(corners=torch.cat([drawn.corners, first[:, None], spacing[:, None]], 1))

    def cut(self, volumes: Tensor, corners: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Cut patches and their coordinates with the spacing, ``(B, 1, D, H, W), (n, 4) -> (n, 3, P, P), (n, 3, P, P)``."""
        device, (first, spacing) = volumes.device, corners[:, 2:].T
        source = torch.arange(len(corners), device=device) % len(volumes)
        slices = first[:, None] + spacing[:, None] * torch.arange(GROUP, device=device)
        patches, places = super().cut(volumes[source[:, None], 0, slices], corners[:, :2], size)
        spacings = per_image(spacing.to(places).log2(), places).expand_as(places[:, :1])
        return patches, torch.cat([places, spacings], 1)
