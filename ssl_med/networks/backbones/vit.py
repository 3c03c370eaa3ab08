"""Vision transformer (Dosovitskiy et al., ICLR 2021) in 2D and 3D with the decoder of UNETR (Hatamizadeh et al., WACV 2022).

Its settings reach the transformers whose weights are published: those of timm, DINO, MAE and MoCo v3, DINOv2 with registers,
layer scale and SwiGLU, DINOv3 with rotary positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from operator import mul
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder, Level, Norm
from ssl_med.networks.unetr_parts import UnetrDecoder, lifted, residual_block
from ssl_med.networks.vit_parts import Block, Turns, prime_factors, resized, rotary_periods, rotary_turns
from ssl_med.ranges import Count, Range, Share, Side, Width
from ssl_med.setting import setting
from ssl_med.spec import DataSpec, SslMedError


@dataclass
class ViTConfig(BackboneConfig):
    """Settings of the vision transformer; the defaults are ViT-B/16, as in UNETR."""

    norm: Norm = "instance"
    """normalisation of the decoder; the transformer has layer normalisation"""
    width: Width = 768
    """channels of a token"""
    depth: Count = 12
    """transformer blocks"""
    heads: Count = 12
    """attention heads, a divisor of the width"""
    mlp: Annotated[int, Range(0, 2**20)] = 0
    """hidden channels of a block's two-layer perceptron; 0: four times the width"""
    patch: Annotated[int, Range(2, 2**14)] = 16
    """side of a token's patch along each axis, voxels; a product of 2, 3, 5 and 7"""
    thin_patch: Annotated[int, Range(2, 2**14, special=(0,))] = 0
    """side of the patch along the last axis of a volume, where scans are thin; 0: as the others"""
    positions: Literal["learned", "rotary", "rotary_bf16"] = setting(default="learned", before="learned")
    """where a token lies: a learned vector added to it, or rotations of queries and keys (2D only), in bfloat16 on request"""
    grid: Side = setting(default=14, needs={"positions": ("learned",)})
    """tokens along each axis for which positions are learned; other grids get them by interpolation"""
    resize: Literal["plain", "antialias", "offset"] = setting(
        default="plain", before="plain", needs={"positions": ("learned",)}
    )
    """interpolation of positions, bicubic in 2D and trilinear in 3D: with smoothing as in timm, or with DINO's offset of 0.1"""
    class_token: bool = True
    """a token beside those of the patches, for methods and weights that read the image's feature there"""
    registers: Annotated[int, Range(0, 1024)] = setting(default=0, before=0)
    """further tokens without a place, behind the class token"""
    qkv_bias: bool = True
    """bias of queries, keys and values; UNETR has none"""
    gated: bool = setting(default=False, before=False)
    """SwiGLU in place of GELU in the blocks' perceptrons"""
    layer_scale: Share = setting(default=0.0, before=0.0)
    """initial factor of each channel of a block's two branches, which is then learned; 0: there are no such factors"""
    norm_eps: Annotated[float, Range(above=0, high=1)] = setting(default=1e-5, before=1e-5)
    """what layer normalisation adds to the variance; 1e-6 in timm, DINO and MAE"""
    decoder_width: Width = 16
    """channels of the decoder at full resolution, doubled level by level"""

    def __post_init__(self) -> None:
        if self.norm == "group" and self.decoder_width % 8:
            raise SslMedError(
                f"backbone.norm=group needs widths divisible by 8; backbone.decoder_width is {self.decoder_width}"
            )
        if self.width % self.heads:
            raise SslMedError(f"backbone.width is {self.width}; it must be a multiple of backbone.heads={self.heads}")
        if prime_factors(self.patch)[-1] > 7:
            raise SslMedError(
                f"backbone.patch is {self.patch}; it must be a product of 2, 3, 5 and 7, such as 14 or 16"
            )
        if self.thin_patch and self.thin_patch not in self.steps():
            known = ", ".join(map(str, self.steps()[1:]))
            raise SslMedError(
                f"backbone.thin_patch is {self.thin_patch}; beside backbone.patch={self.patch} it must be one of {known}"
            )
        if self.positions != "learned" and self.width // self.heads % 4:
            raise SslMedError(
                f"backbone.positions={self.positions} needs a multiple of 4 channels for each head; "
                f"there are {self.width // self.heads}"
            )
        if self.depth < self.taps_needed:
            raise SslMedError(
                f"backbone.depth is {self.depth}; a patch of {self.patch} needs at least {self.taps_needed} blocks, one for "
                "each step of the decoder"
            )

    def for_volumes(self) -> ViTConfig:
        """Positions are smoothed in 2D only."""
        return replace(self, resize="plain") if self.resize == "antialias" else self

    def steps(self) -> tuple[int, ...]:
        """Strides from full resolution to the patch, one prime factor each: 1, 2, 4, 8, 16, or 1, 2, 14."""
        return tuple(accumulate(prime_factors(self.patch), mul, initial=1))

    @property
    def taps_needed(self) -> int:
        """Levels of the pyramid besides the image: one for each step down to the patch."""
        return len(self.steps()) - 1

    @property
    def before(self) -> int:
        """Tokens in front of those of the patches."""
        return int(self.class_token) + self.registers

    def taps(self) -> tuple[int, ...]:
        """Number of the block, counted from 1, whose tokens are each level: 4, 7, 10 and 12 of 12, as in UNETR."""
        count = self.taps_needed
        ahead = 1 if self.depth >= 2 * count else 0
        return (*(self.depth * level // count + ahead for level in range(1, count)), self.depth)

    def sides(self, spatial_dims: int) -> tuple[int, ...]:
        """Patch along each axis."""
        thin = self.thin_patch if spatial_dims == 3 else 0
        return (*[self.patch] * (spatial_dims - 1), thin or self.patch)


class ViT(Backbone):
    """Tokens of patches, and blocks of attention over all tokens.

    The pyramid holds the image and the tokens after some blocks (`ViTConfig.taps`), as maps (B, width, *grid); the last
    level is layer-normalised. `tokens` is the interface for methods that mask or sample tokens.
    """

    Config = ViTConfig
    config: ViTConfig
    image_level = True

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        _check_dims(config, spatial_dims)
        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        width, sides = config.width, config.sides(spatial_dims)
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.embed = convolution(in_channels, width, kernel_size=sides, stride=sides)
        self.positions = nn.Module()  # a module, so that it belongs to a level
        if config.positions == "learned":
            self.positions.patches = nn.Parameter(torch.zeros(1, width, *[config.grid] * spatial_dims))
        else:
            self.positions.register_buffer("periods", rotary_periods(width // config.heads))
        if config.class_token:
            self.positions.cls = nn.Parameter(torch.zeros(1, 1, width))
        if config.registers:
            self.positions.registers = nn.Parameter(torch.zeros(1, config.registers, width))
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.heads,
                config.mlp or 4 * width,
                qkv_bias=config.qkv_bias,
                gated=config.gated,
                eps=config.norm_eps,
                scale=config.layer_scale,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        for parameter in self.positions.parameters():
            nn.init.trunc_normal_(parameter, std=0.02)
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    @classmethod
    def check(cls, config: Any, spec: DataSpec) -> None:
        """Rotary positions, and smoothed ones, exist in 2D alone."""
        super().check(config, spec)
        _check_dims(config, spec.spatial_dims)

    @classmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> list[Level]:
        """All levels have the stride of the patch."""
        return [Level(config.width, config.sides(spatial_dims))] * config.taps_needed

    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Nothing for the image, then the blocks up to each tap; tokens belong to the first, the norm to the last."""
        taps = self.config.taps()
        levels: list[tuple[nn.Module, ...]] = [
            tuple(self.blocks[start:stop]) for start, stop in zip((0, *taps[:-1]), taps, strict=True)
        ]
        levels[0] = (self.embed, self.positions, *levels[0])
        levels[-1] = (*levels[-1], self.norm)
        return (), *levels

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embedded patches with their positions, before any block.

        Args:
            x: (B, C, *S), sides divisible by the patch.
            keep: (B, K) int64, numbers of the patches to keep, row-major; None: all.

        Returns:
            (B, T + K, width): class token and registers, `ViTConfig.before` of them, lie in front.
        """
        maps: Tensor = self.embed(x)
        if self.config.positions == "learned":
            maps = maps + self._positions(maps.shape[2:]).to(maps.dtype)
        found = maps.flatten(2).transpose(1, 2)
        if keep is not None:
            found = found.gather(1, keep[..., None].expand(-1, -1, found.shape[-1]))
        front = [getattr(self.positions, key, None) for key in ("cls", "registers")]
        placed = [part.to(found.dtype).expand(found.shape[0], -1, -1) for part in front if part is not None]
        return torch.cat([*placed, found], 1)

    def encode(self, tokens: Tensor, size: Sequence[int] | None = None, keep: Tensor | None = None) -> list[Tensor]:
        """Tokens (B, T, width) -> the tokens after each tap, the last one normalised.

        Args:
            tokens: those of `tokens`.
            size: grid of all patches, which rotary positions need.
            keep: as in `tokens`.
        """
        taps, found, turns = self.config.taps(), [], self._turns(size, keep)
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens, turns)
            if number in taps:
                found.append(tokens)
        return [*found[:-1], self.norm(found[-1])]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> the image and the tokens of each tap as maps (B, width, *S / patch)."""
        size = [side // by for side, by in zip(x.shape[2:], self.strides[-1], strict=True)]
        levels = self.encode(self.tokens(x), size)
        first = self.config.before
        maps = [found[:, first:].transpose(1, 2).reshape(x.shape[0], -1, *size) for found in levels]
        return [x, *maps]

    def build_decoder(self, *, skips: bool = True) -> Decoder:
        """That of UNETR: tokens of finer levels are brought to their stride by transposed convolutions."""
        dims, config, count = self.spatial_dims, self.config, self.config.taps_needed
        # stride of each step from full resolution to the patch; a thin axis becomes smaller in the first steps only
        strides = [tuple(min(step, side) for side in self.strides[-1]) for step in config.steps()]
        widths = [config.decoder_width * 2**step for step in range(count)]
        laterals: list[nn.Module] = [residual_block(dims, self.in_channels, widths[0], config.norm)]
        for step in range(1, count):
            path = strides[: step - 1 : -1]  # from the patch's stride to that of this step
            factors = [tuple(a // b for a, b in zip(coarse, fine, strict=True)) for coarse, fine in pairwise(path)]
            laterals.append(lifted(dims, config.width, widths[step], factors, config.norm))
        return UnetrDecoder(
            laterals,
            nn.Identity(),
            in_channels=config.width,
            strides=strides,
            widths=widths,
            spatial_dims=dims,
            norm=config.norm,
            skips=skips,
        )

    def _positions(self, size: torch.Size) -> Tensor:
        """Positions of a grid of tokens, (1, width, *size): as learned where it has their size, else interpolated."""
        known: Any = self.positions.patches
        if known.shape[2:] == size:
            learned: Tensor = known
            return learned
        return resized(known.float(), size, self.config.resize)

    def _turns(self, size: Sequence[int] | None, keep: Tensor | None) -> Turns | None:
        if self.config.positions == "learned":
            return None
        if size is None:
            raise ValueError("rotary positions need the grid: encode(tokens, size)")
        periods: Any = self.positions.periods
        dtype = torch.float32 if self.config.positions == "rotary" else torch.bfloat16
        return rotary_turns(periods, size, keep, dtype)


def _check_dims(config: ViTConfig, spatial_dims: int) -> None:
    for key, in_3d in (("positions", ("learned",)), ("resize", ("plain", "offset"))):
        if spatial_dims == 3 and getattr(config, key) not in in_3d:
            raise SslMedError(f"backbone.{key}={getattr(config, key)} exists in 2D only; take {' or '.join(in_3d)}")
