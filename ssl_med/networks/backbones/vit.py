"""Vision transformer (Dosovitskiy et al., ICLR 2021) in 2D and 3D with the decoder of UNETR (Hatamizadeh et al., WACV 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder, Level, Norm
from ssl_med.networks.unetr_parts import UnetrDecoder, lifted, residual_block
from ssl_med.ranges import Count, Range, Side, Width
from ssl_med.spec import SslMedError


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
    """side of a token's patch along each axis, voxels; a power of two"""
    thin_patch: Annotated[int, Range(2, 2**14, special=(0,))] = 0
    """side of the patch along the last axis of a volume, where scans are thin; 0: as the others"""
    grid: Side = 14
    """tokens along each axis for which positions are learned; other grids get them by interpolation"""
    class_token: bool = True
    """a token beside those of the patches, for methods and weights that read the image's feature there"""
    qkv_bias: bool = True
    """bias of queries, keys and values; UNETR has none"""
    decoder_width: Width = 16
    """channels of the decoder at full resolution, doubled level by level"""

    def __post_init__(self) -> None:
        if self.norm == "group" and self.decoder_width % 8:
            raise SslMedError(
                f"backbone.norm=group needs widths divisible by 8; backbone.decoder_width is {self.decoder_width}"
            )
        if self.width % self.heads:
            raise SslMedError(f"backbone.width is {self.width}; it must be a multiple of backbone.heads={self.heads}")
        for key in ("patch", "thin_patch"):
            side = getattr(self, key)
            if side & (side - 1):
                raise SslMedError(f"backbone.{key} is {side}; it must be a power of two")
        if self.thin_patch > self.patch:
            raise SslMedError(
                f"backbone.thin_patch is {self.thin_patch}; it must not exceed backbone.patch={self.patch}"
            )
        if self.depth < self.taps_needed:
            raise SslMedError(
                f"backbone.depth is {self.depth}; a patch of {self.patch} needs at least {self.taps_needed} blocks, one for "
                "each halving that the decoder undoes"
            )

    @property
    def taps_needed(self) -> int:
        """Levels of the pyramid besides the image: one per halving down to the patch."""
        return int(math.log2(self.patch))

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
    """Tokens of patches with learned positions, and blocks of attention over all tokens.

    The pyramid holds the image and the tokens after some blocks (`ViTConfig.taps`), as maps (B, width, *grid); the last
    level is layer-normalised. `tokens` is the interface for methods that mask or sample tokens.
    """

    Config = ViTConfig
    config: ViTConfig
    image_level = True

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        from monai.networks.blocks.transformerblock import TransformerBlock  # seconds to import

        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        width, sides = config.width, config.sides(spatial_dims)
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.embed = convolution(in_channels, width, kernel_size=sides, stride=sides)
        self.positions = nn.Module()  # a module, so that it belongs to a level
        self.positions.patches = nn.Parameter(torch.zeros(1, width, *[config.grid] * spatial_dims))
        if config.class_token:
            self.positions.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.mlp or 4 * width, config.heads, qkv_bias=config.qkv_bias)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        for parameter in self.positions.parameters():
            nn.init.trunc_normal_(parameter, std=0.02)
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        for block in self.blocks:
            block.norm_cross_attn.requires_grad_(False)  # MONAI never uses it

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
            (B, 1 + K, width) with a class token in front, (B, K, width) without one.
        """
        maps: Tensor = self.embed(x)
        maps = maps + self._positions(maps.shape[2:]).to(maps.dtype)
        found = maps.flatten(2).transpose(1, 2)
        if keep is not None:
            found = found.gather(1, keep[..., None].expand(-1, -1, found.shape[-1]))
        if self.config.class_token:
            cls: Any = self.positions.cls
            found = torch.cat([cls.to(found.dtype).expand(len(found), -1, -1), found], 1)
        return found

    def encode(self, tokens: Tensor) -> list[Tensor]:
        """Tokens (B, T, width) -> the tokens after each tap, the last one normalised."""
        taps, found = self.config.taps(), []
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if number in taps:
                found.append(tokens)
        return [*found[:-1], self.norm(found[-1])]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> the image and the tokens of each tap as maps (B, width, *S / patch)."""
        first = 1 if self.config.class_token else 0
        size = [side // by for side, by in zip(x.shape[2:], self.strides[-1], strict=True)]
        levels = self.encode(self.tokens(x))
        maps = [found[:, first:].transpose(1, 2).reshape(len(x), -1, *size) for found in levels]
        return [x, *maps]

    def build_decoder(self, *, skips: bool = True) -> Decoder:
        """That of UNETR: tokens of finer levels are brought to their stride by transposed convolutions."""
        dims, config, count = self.spatial_dims, self.config, self.config.taps_needed
        # stride of each step from full resolution to the patch; a thin axis is halved in the first steps only
        strides = [tuple(min(2**step, side) for side in self.strides[-1]) for step in range(count + 1)]
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
        mode = "bicubic" if self.spatial_dims == 2 else "trilinear"
        found: Tensor = F.interpolate(known.float(), size=list(size), mode=mode, align_corners=False)
        return found
