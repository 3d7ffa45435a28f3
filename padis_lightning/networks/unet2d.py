"""Define the U-Net of diffusers' ``UNet2DModel``, with its published parameter names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from padis_lightning.errors import require_above, require_among, require_between
from padis_lightning.networks.base import require_levels

HALVE = partial(functional.avg_pool2d, kernel_size=2)
DOUBLE = partial(functional.interpolate, scale_factor=2.0, mode="nearest")
DOWN = "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"
UP = "UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"
CHOICES: dict[str, tuple] = {  # values of settings that are known here
    "time_embedding_type": ("positional",), "mid_block_type": ("UNetMidBlock2D",), "act_fn": ("silu", "swish"),
    "center_input_sample": (False,), "class_embed_type": (None,), "num_class_embeds": (None,), "downsample_padding": (0, 1),
    "downsample_type": ("conv", "resnet"), "upsample_type": ("conv", "resnet"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}  # fmt: skip


class ResnetBlock(nn.Module):
    """Two convolutions beside a shortcut; an embedding of the time shifts, or scales and shifts, what is between them."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        embedding: int,
        groups: int,
        eps: float,
        scaled: bool,
        resample: Callable[[Tensor], Tensor] | None = None,
        divisor: float = 1.0,
    ) -> None:
        super().__init__()
        self.scaled, self.resample, self.divisor = scaled, resample or nn.Identity(), divisor
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, outputs * (1 + scaled))
        self.norm2 = nn.GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(self.resample(functional.silu(self.norm1(x))))
        shift = self.time_emb_proj(functional.silu(embedding))[..., None, None]
        if self.scaled:
            scale, shift = shift.chunk(2, 1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + shift)
        return (self.conv_shortcut(self.resample(x)) + self.conv2(functional.silu(h))) / self.divisor


class Attention(nn.Module):
    """Attention between all places of an image, added to it."""

    def __init__(self, channels: int, head: int | None, groups: int | None, eps: float, divisor: float = 1.0) -> None:
        super().__init__()
        head = head or channels
        self.heads, self.divisor = channels // head, divisor
        self.group_norm = nn.GroupNorm(groups, channels, eps) if groups else nn.Identity()
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, self.heads * head) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(self.heads * head, channels)])

    def forward(self, x: Tensor) -> Tensor:
        places = rearrange(self.group_norm(x), "b c i j -> b (i j) c")
        parts = (rearrange(to(places), "b n (h c) -> b h n c", h=self.heads) for to in (self.to_q, self.to_k, self.to_v))
        found = self.to_out[0](rearrange(functional.scaled_dot_product_attention(*parts), "b h n c -> b n (h c)"))
        return (x + found.mT.reshape(x.shape)) / self.divisor


class Downsampling(nn.Module):
    """A convolution to half the resolution."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.missing = 1 - padding  # rows below and columns on the right
        self.conv = nn.Conv2d(channels, channels, 3, 2, padding)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, self.missing, 0, self.missing)))


class Upsampling(nn.Module):
    """A convolution at twice the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(DOUBLE(x))


class Stage(nn.Module):
    """Blocks of one resolution, attention after the first ones, and a change of resolution; any of these may be none."""

    def __init__(
        self,
        resnets: Sequence[nn.Module],
        attentions: Sequence[nn.Module],
        downsamplers: Sequence[nn.Module] = (),
        upsamplers: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.resnets, self.attentions = nn.ModuleList(resnets), nn.ModuleList(attentions)
        self.downsamplers, self.upsamplers = nn.ModuleList(downsamplers), nn.ModuleList(upsamplers)

    def step(self, k: int, x: Tensor, embedding: Tensor) -> Tensor:
        """Return what block ``k``, and the attention behind it, make of features."""
        x = self.resnets[k](x, embedding)
        return self.attentions[k](x) if k < len(self.attentions) else x


class UNet2DModel(nn.Module):
    """A U-Net of residual blocks, with attention at some resolutions, which sees a time.

    Arguments are those of diffusers, whose weights fit. Not here are Fourier and learned embeddings of the time, classes, and
    blocks with skips of images.

    Source: Ho, Jain and Abbeel, Denoising diffusion probabilistic models, NeurIPS 2020, appendix B; Dhariwal and Nichol,
    Diffusion models beat GANs on image synthesis, NeurIPS 2021, section 3.

    Raises:
        InputError: an argument has a value that is not known here.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        freq_shift: float = 0,
        flip_sin_to_cos: bool = True,
        time_embedding_dim: int | None = None,
        down_block_types: Sequence[str] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types: Sequence[str] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        block_out_channels: Sequence[int] = (224, 448, 672, 896),
        layers_per_block: int = 2,
        mid_block_scale_factor: float = 1.0,
        downsample_padding: int = 1,
        attention_head_dim: int | None = 8,
        norm_num_groups: int = 32,
        attn_norm_num_groups: int | None = None,
        norm_eps: float = 1e-5,
        add_attention: bool = True,
        **choices: object,
    ) -> None:
        super().__init__()
        widths, eps, groups, blocks = list(block_out_channels), norm_eps, norm_num_groups, layers_per_block
        require_levels(widths, blocks)
        require_between(0, 1, norm_eps=eps, freq_shift=freq_shift)
        require_above(0, mid_block_scale_factor=mid_block_scale_factor)
        choices["downsample_padding"] = downsample_padding
        for name, known in CHOICES.items():
            require_among(known, **{name: choices.get(name, known[0])})
        require_among([len(widths)], down_block_types=len(down_block_types), up_block_types=len(up_block_types))
        self.channels, self.divisor = in_channels, 2 ** (len(widths) - 1)
        self.freq_shift, self.flip = freq_shift, flip_sin_to_cos
        embedding = time_embedding_dim or 4 * widths[0]
        scaled = choices.get("resnet_time_scale_shift") == "scale_shift"
        block = partial(ResnetBlock, embedding=embedding, groups=groups, eps=eps, scaled=scaled)

        def attentions(kind: str, width: int, count: int) -> list[nn.Module]:
            return [Attention(width, attention_head_dim, groups, eps) for _ in range(count * kind.startswith("Attn"))]

        def resampled(kind: str, setting: str) -> bool:
            """Return whether a residual block, rather than a convolution, changes the resolution."""
            return kind.startswith("Resnet") or (kind.startswith("Attn") and choices.get(setting) == "resnet")

        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        layers = {"linear_1": nn.Linear(widths[0], embedding), "linear_2": nn.Linear(embedding, embedding)}
        self.time_embedding = nn.ModuleDict(layers)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips = [widths[0]]
        for level, (kind, width) in enumerate(zip(down_block_types, widths, strict=True)):
            require_among(DOWN, down_block_types=kind)
            resnets = [block(before, width) for before in [skips[-1], *[width] * (blocks - 1)][:blocks]]
            halved = block(width, width, resample=HALVE) if resampled(kind, "downsample_type") else None
            smaller = [halved or Downsampling(width, downsample_padding)] if level + 1 < len(widths) else []
            self.down_blocks.append(Stage(resnets, attentions(kind, width, blocks), downsamplers=smaller))
            skips += [width] * (blocks + len(smaller))
        deepest = partial(block, widths[-1], widths[-1], divisor=mid_block_scale_factor)
        norms = attn_norm_num_groups or (None if scaled else groups)
        middle = [Attention(widths[-1], attention_head_dim, norms, eps, mid_block_scale_factor)] if add_attention else []
        self.mid_block = Stage([deepest(), deepest()], middle)
        before = widths[-1]
        for level, (kind, width) in enumerate(zip(up_block_types, reversed(widths), strict=True)):
            require_among(UP, up_block_types=kind)
            resnets = [block(inputs + skips.pop(), width) for inputs in [before, *[width] * blocks]]
            doubled = block(width, width, resample=DOUBLE) if resampled(kind, "upsample_type") else None
            larger = [doubled or Upsampling(width)] if level + 1 < len(widths) else []
            self.up_blocks.append(Stage(resnets, attentions(kind, width, blocks + 1), upsamplers=larger))
            before = width
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)``, sides multiples of ``divisor``, and times ``(B,)`` to ``(B, out_channels, H, W)``."""
        embedding = self._embed(time.to(x.dtype))
        h = self.conv_in(x)
        skips = [h]
        for stage in self.down_blocks:
            assert isinstance(stage, Stage)
            for k in range(len(stage.resnets)):
                h = stage.step(k, h, embedding)
                skips.append(h)
            for layer in stage.downsamplers:
                h = layer(h, embedding)
                skips.append(h)
        for k in range(2):
            h = self.mid_block.step(k, h, embedding)
        for stage in self.up_blocks:
            assert isinstance(stage, Stage)
            for k in range(len(stage.resnets)):
                h = stage.step(k, torch.cat([h, skips.pop()], 1), embedding)
            for layer in stage.upsamplers:
                h = layer(h, embedding)
        return self.conv_out(functional.silu(self.conv_norm_out(h)))

    def _embed(self, time: Tensor) -> Tensor:
        r"""Return the embedding of times from their sines and cosines, of frequencies :math:`10^{-4 k / (n - shift)}`."""
        count = self.conv_in.out_channels // 2
        places = torch.arange(count, device=time.device, dtype=torch.float32)
        angles = time[:, None] * 1e4 ** (-places / (count - self.freq_shift))
        waves = [angles.sin(), angles.cos()]
        first = self.time_embedding["linear_1"](torch.cat(waves[::-1] if self.flip else waves, 1))
        return self.time_embedding["linear_2"](functional.silu(first))
